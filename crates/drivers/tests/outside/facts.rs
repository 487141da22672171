//! What a measurement knows beside its timings, against real servers: the answer, the certificate, the race
//! of families, caches of resolvers, and the line under load.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use caelum_drivers::{
    netinfo::{Hosts, ResolverConfig},
    probe::{Extras, Measurement, Names, Prober, measure, measure_with},
    tls::{self, Authority},
};
use caelum_model::{
    event::{ErrorStage, Family},
    id::TargetId,
    target::{Families, Target},
};
use caelum_testkit::stalls;
use rustls::{RootCertStore, pki_types::CertificateDer};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use crate::servers::{Dns, Web};

fn target(url: impl Into<String>) -> Target {
    Target::usual(TargetId::parse("t").unwrap(), url.into(), 0)
}

fn prober(resolver: Option<SocketAddr>, trusted: Option<&Authority>) -> Prober {
    let mut roots = RootCertStore::empty();
    if let Some(authority) = trusted {
        roots.add(CertificateDer::from(authority.certificate_der().to_vec())).unwrap();
    }
    let servers = resolver.into_iter().collect();
    let resolver = ResolverConfig { servers, ..ResolverConfig::default() };
    Prober::with_names(roots, Names { resolver, hosts: Hosts::default() }).unwrap()
}

async fn one(target: &Target, prober: &Prober) -> Measurement {
    measure(target, prober).await.unwrap().remove(0)
}

// --- the answer ----------------------------------------------------------------------------------------

#[tokio::test]
async fn the_answer_and_its_certificate_are_known_whatever_the_status() {
    let authority = Authority::create("test authority").unwrap();
    let names = ["box.example".to_owned(), "second.example".to_owned()];
    let issued = authority.issue_server(&names, &["127.0.0.1".parse().unwrap()], 30).unwrap();
    let cases = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, 0),
        ("HTTP/1.1 301 X\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n", 301, 1),
        ("HTTP/1.1 304 X\r\n\r\n", 304, 0),
        ("HTTP/1.0 503 X\r\nContent-Length: 0\r\n\r\n", 503, 0),
    ];
    for (answer, status, redirects) in cases {
        let web = Web::new(answer).secured(&issued).start().await;
        let measured = one(&target(format!("https://{web}/")), &prober(None, Some(&authority))).await;
        let facts = measured.details.web.unwrap();
        assert_eq!((facts.status, facts.redirects), (Some(status), redirects));
        assert_eq!(facts.http_version.as_deref(), Some(&answer[..8]));
        assert_eq!(facts.tls_version.as_deref(), Some("1.3"));
        let certificate = facts.certificate.unwrap();
        assert_eq!(certificate.expires_at_ms, tls::expires_at_ms(&issued.chain_pem).unwrap());
        assert!(certificate.starts_at_ms < certificate.expires_at_ms);
        assert!(!certificate.subject.is_empty(), "{certificate:?}");
        assert_eq!(certificate.issuer, "test authority");
        assert_eq!(measured.error_stage.is_some(), status >= 400);
    }
}

#[tokio::test]
async fn a_race_is_run_where_both_families_have_addresses_and_one_that_fails_loses() {
    let web = Web { ip: "::".parse().unwrap(), ..Web::ok() }.start().await;
    let only_v4 = Web::ok().start().await;
    let dns = Dns::with("both.example", &["127.0.0.1", "::1"]).and("four.example", &["127.0.0.1"]);
    let prober = prober(Some(dns.start().await), None);
    let race = async |name: &str, port: u16| {
        let both = Target { families: Families::Both, ..target(format!("http://{name}:{port}/")) };
        let measured = measure(&both, &prober).await.unwrap();
        let races = measured.into_iter().map(|one| one.details.web.and_then(|web| web.race));
        let races: Vec<_> = races.collect();
        assert_eq!(races[0], races[1], "both measurements say the same");
        races[0].clone()
    };
    let both = race("both.example", web.port()).await.unwrap();
    assert!(both.ipv4_us.is_some() && both.ipv6_us.is_some());
    assert_eq!(both.winner, Family::V6);
    let refused = race("both.example", only_v4.port()).await.unwrap();
    assert_eq!((refused.ipv6_us, refused.winner), (None, Family::V4));
    assert_eq!(race("four.example", only_v4.port()).await, None, "there was nobody to race with");
}

// --- resolvers -----------------------------------------------------------------------------------------

/// A resolver behind TLS or TCP that answers by the scripted one.
async fn over_tls(to: SocketAddr, config: Arc<rustls::ServerConfig>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = TlsAcceptor::from(Arc::clone(&config));
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                // The scripted one takes one question a connection; this one takes many.
                while let Ok(length) = stream.read_u16().await {
                    let mut question = vec![0; usize::from(length)];
                    stream.read_exact(&mut question).await.unwrap();
                    let mut plain = TcpStream::connect(to).await.unwrap();
                    plain.write_u16(length).await.unwrap();
                    plain.write_all(&question).await.unwrap();
                    let mut answer = vec![0; usize::from(plain.read_u16().await.unwrap())];
                    plain.read_exact(&mut answer).await.unwrap();
                    stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                    stream.flush().await.unwrap();
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_resolver_is_asked_over_tcp_and_over_tls_and_each_stage_has_its_time() {
    let dns = Dns::with("box.example", &["192.0.2.7"]).start().await;
    let tcp = one(&target(format!("dns+tcp://{dns}/box.example")), &prober(None, None)).await;
    assert_eq!(tcp.error_detail, None);
    assert!(tcp.timings.dns_ms.is_some() && tcp.timings.tcp_ms.is_some() && tcp.timings.tls_ms.is_none());

    let authority = Authority::create("test authority").unwrap();
    let issued = authority.issue_server(&[], &["127.0.0.1".parse().unwrap()], 30).unwrap();
    let mut config = tls::server_config(&issued.chain_pem, &issued.key_pem).unwrap();
    config.alpn_protocols = vec![b"dot".to_vec()];
    let dot = over_tls(dns, Arc::new(config)).await;
    let url = format!("dns+tls://{dot}/box.example");
    let trusted = one(&target(&*url), &prober(None, Some(&authority))).await;
    assert_eq!(trusted.error_detail, None);
    assert!(trusted.timings.dns_ms.is_some() && trusted.timings.tls_ms.is_some());
    assert_eq!(trusted.details.web.unwrap().tls_version.as_deref(), Some("1.3"));

    let stranger = one(&target(&*url), &prober(None, None)).await;
    assert_eq!(stranger.error_stage, Some(ErrorStage::Tls), "{stranger:?}");
    assert_eq!(stranger.timings.dns_ms, None);
}

#[tokio::test]
async fn answers_too_long_for_a_datagram_are_fetched_over_tcp() {
    let dns = Dns { truncates: true, ..Dns::with("box.example", &["192.0.2.7"]) }.start().await;
    let measured = one(&target(format!("dns://{dns}/box.example")), &prober(None, None)).await;
    assert_eq!((measured.error_stage, measured.error_detail), (None, None));
}

#[tokio::test]
async fn an_answer_whose_time_to_live_has_been_running_is_from_the_cache() {
    let ttl = Arc::new(AtomicUsize::new(60));
    let dns = Dns { ttl: Some(Arc::clone(&ttl)), ..Dns::with("box.example", &["192.0.2.7"]) };
    let dns = dns.start().await;
    let (asked, prober) = (target(format!("dns://{dns}/box.example")), prober(None, None));
    let cached = async |ttl_s| {
        ttl.store(ttl_s, Ordering::SeqCst);
        let measured = one(&asked, &prober).await;
        assert_eq!(measured.error_stage, None);
        measured.details.dns_cached
    };
    assert_ne!(cached(60).await, Some(true), "nothing to compare with");
    assert_eq!(cached(50).await, Some(true));
    assert_ne!(cached(60).await, Some(true), "fetched anew");
    let fresh = one(&target(format!("dns://{dns}/example?fresh=1")), &prober).await;
    assert_eq!(
        (fresh.error_stage, fresh.details.dns_cached),
        (None, Some(false)),
        "a name that is not there"
    );
}

// --- the line under load -------------------------------------------------------------------------------

/// Keeps connections, sends an object, and takes what is posted if it likes.
async fn store(takes_posts: bool) -> SocketAddr {
    const OBJECT: usize = 256 << 10;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                loop {
                    let (mut method, mut length) = (String::new(), 0);
                    loop {
                        let mut line = String::new();
                        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                            return;
                        }
                        if method.is_empty() {
                            method = line.split(' ').next().unwrap_or_default().to_owned();
                        }
                        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                            length = value.trim().parse().unwrap();
                        }
                        if line == "\r\n" {
                            break;
                        }
                    }
                    let mut posted = vec![0; length];
                    stream.read_exact(&mut posted).await.unwrap();
                    let (status, body) = match method.as_str() {
                        "GET" => ("200 OK", OBJECT),
                        "HEAD" => ("200 OK", 0),
                        _ if takes_posts => ("204 No Content", 0),
                        _ => ("405 Method Not Allowed", 0),
                    };
                    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {body}\r\n\r\n");
                    let head =
                        if status.starts_with("204") { "HTTP/1.1 204 X\r\n\r\n".to_owned() } else { head };
                    let mut answer = head.into_bytes();
                    answer.resize(answer.len() + body, b'x');
                    if stream.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_loaded_line_has_round_trips_in_both_directions_and_a_responsiveness() {
    for takes_posts in [true, false] {
        let store = store(takes_posts).await;
        let target = Target {
            throughput_url: Some(format!("http://{store}/object")),
            ..target(format!("http://{store}/"))
        };
        let extras = Extras { load: true, ..Extras::default() };
        let measured = measure_with(&target, &prober(None, None), extras).await.unwrap().remove(0);
        assert_eq!((measured.error_stage, &measured.error_detail), (None, &None));
        let loaded = measured.details.loaded.unwrap();
        assert!(loaded.idle_us > 0 && loaded.down_us.is_some_and(|us| us > 0), "{loaded:?}");
        assert_eq!((loaded.up_us.is_some(), loaded.upload_kbps.is_some()), (takes_posts, takes_posts));
        let rpm = measured.rpm.unwrap();
        assert!(rpm > 0.0, "{rpm}");
    }
}

#[tokio::test]
async fn a_server_that_closes_each_connection_is_loaded_all_the_same_and_has_no_responsiveness() {
    let mut object = Web::new("HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n");
    object.pieces.push((Duration::ZERO, vec![b'x'; 65_536]));
    let object = object.start().await;
    let target = Target {
        throughput_url: Some(format!("http://{object}/object")),
        ..target(format!("http://{object}/"))
    };
    let extras = Extras { load: true, ..Extras::default() };
    let measured = measure_with(&target, &prober(None, None), extras).await.unwrap().remove(0);
    assert!(measured.details.loaded.is_some_and(|loaded| loaded.down_us.is_some()));
    assert_eq!(measured.rpm, None);
}

// --- accuracy ------------------------------------------------------------------------------------------

/// The quickest of several measurements: a busy machine makes stages longer, never shorter.
#[tokio::test]
async fn each_stage_takes_what_the_server_takes_within_two_milliseconds_or_a_twentieth() {
    const ROUNDS: usize = 5;
    let authority = Authority::create("test authority").unwrap();
    let names = ["box.example".to_owned()];
    let issued = authority.issue_server(&names, &["127.0.0.1".parse().unwrap()], 30).unwrap();
    let delays = [60, 120, 90].map(Duration::from_millis);
    let web = Web { before_handshake: delays[1], before_answer: delays[2], ..Web::ok() };
    let web = web.secured(&issued).start().await;
    let dns = Dns { delay: delays[0], ..Dns::with("box.example", &["127.0.0.1"]) }.start().await;
    let prober = prober(Some(dns), Some(&authority));
    let target = target(format!("https://box.example:{}/", web.port()));
    let mut quickest = [f64::INFINITY; 3];
    let watch = stalls::Watch::start();
    for _ in 0..ROUNDS {
        let timings = one(&target, &prober).await.timings;
        for (best, took) in quickest.iter_mut().zip([timings.dns_ms, timings.tls_ms, timings.http_ttfb_ms]) {
            *best = best.min(took.expect("every stage was reached"));
        }
    }
    for (took, delay) in quickest.into_iter().zip(delays) {
        let delay_ms = delay.as_secs_f64() * 1_000.0;
        // A handshake has work of its own beside the wait: in a development profile some milliseconds.
        let allowed_ms = (delay_ms * 0.05).max(2.0) + if delay == delays[1] { 10.0 } else { 0.0 };
        let said = format!("{took} ms for {delay_ms} ms");
        assert!(took >= delay_ms - 0.5, "{said}");
        watch.judge(took <= delay_ms + allowed_ms, &said);
    }
}
