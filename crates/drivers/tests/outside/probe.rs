//! The probe against real servers on this machine: which stage took the time, which one failed, and how.
//!
//! Delays are injected and must show up in their own stage. Upper bounds are not asserted, because a busy
//! machine slows every stage; that the delayed stage is the longest is.

use std::{net::SocketAddr, time::Duration};

use caelum_drivers::{
    netinfo::{Hosts, ResolverConfig},
    probe::{Measurement, Names, Prober, UrlError, check_icmp, measure},
    tls::{Authority, Issued},
};
use caelum_model::{
    event::{ErrorStage, Family},
    id::TargetId,
    target::{Families, Target, TargetOrigin},
};
use hickory_proto::op::ResponseCode;
use rustls::{RootCertStore, pki_types::CertificateDer};

use crate::servers::{Dns, Web, expired};

const DELAY: Duration = Duration::from_millis(250);
const DELAY_MS: f64 = 250.0;
/// Where something must *not* show the delay, it is so long that no busy machine can take it by itself.
const LONG: Duration = Duration::from_secs(1);
const LONG_MS: f64 = 1_000.0;

fn target(url: impl Into<String>) -> Target {
    Target { origin: TargetOrigin::Config, ..Target::usual(TargetId::parse("t").unwrap(), url.into(), 0) }
}

fn resolved_by(servers: &[SocketAddr]) -> Names {
    let resolver = ResolverConfig { servers: servers.to_vec(), ..ResolverConfig::default() };
    Names { resolver, hosts: Hosts::default() }
}

fn prober(names: Names, trusted: Option<&Authority>) -> Prober {
    let mut roots = RootCertStore::empty();
    if let Some(authority) = trusted {
        roots.add(CertificateDer::from(authority.certificate_der().to_vec())).unwrap();
    }
    Prober::with_names(roots, names).unwrap()
}

async fn one(target: &Target, prober: &Prober) -> Measurement {
    let mut measurements = measure(target, prober).await.unwrap();
    assert_eq!(measurements.len(), 1);
    measurements.remove(0)
}

/// Measures a URL with nothing to resolve and nothing to trust.
async fn plain(url: impl Into<String>, timeout_ms: u32) -> Measurement {
    one(&Target { timeout_ms, ..target(url) }, &prober(resolved_by(&[]), None)).await
}

fn failure(measurement: &Measurement) -> (Option<ErrorStage>, &str) {
    (measurement.error_stage, measurement.error_detail.as_deref().unwrap_or(""))
}

/// Resolution, connect, TLS, first byte.
fn stages(measurement: &Measurement) -> [Option<f64>; 4] {
    let timings = measurement.timings;
    [timings.dns_ms, timings.tcp_ms, timings.tls_ms, timings.http_ttfb_ms]
}

fn assert_longest(measurement: &Measurement, slow: usize) {
    let stages = stages(measurement);
    assert_eq!(failure(measurement), (None, ""));
    let took = stages[slow].expect("the delayed stage was measured");
    assert!(took >= DELAY_MS - 1.0, "{stages:?}");
    assert!(stages.iter().flatten().all(|stage| *stage <= took), "{stages:?}");
}

fn authority_for(name: &str) -> (Authority, Issued) {
    let authority = Authority::create("test authority").unwrap();
    let issued = authority.issue_server(&[name.to_owned()], &["127.0.0.1".parse().unwrap()], 30).unwrap();
    (authority, issued)
}

// --- stages ------------------------------------------------------------------------------------------

#[tokio::test]
async fn an_https_visit_has_every_stage_and_says_what_was_asked_and_reached() {
    let (authority, issued) = authority_for("box.example");
    let web = Web::ok().secured(&issued).start().await;
    let dns = Dns::with("box.example", &["127.0.0.1"]).start().await;
    let prober = prober(resolved_by(&[dns]), Some(&authority));
    let measured = one(&target(format!("https://box.example:{}/", web.port())), &prober).await;
    assert_eq!(failure(&measured), (None, ""));
    assert!(stages(&measured).iter().all(|stage| stage.is_some_and(|ms| ms > 0.0)), "{measured:?}");
    assert_eq!(measured.resolver, Some(dns.to_string()));
    assert_eq!(measured.remote_ip.as_deref(), Some("127.0.0.1"));
    assert_eq!(measured.throughput_kbps, None);
}

#[tokio::test]
async fn a_plain_visit_to_an_address_has_neither_resolution_nor_tls() {
    for ip in ["127.0.0.1", "::1"] {
        let web = Web { ip: ip.parse().unwrap(), ..Web::ok() }.start().await;
        let measured = plain(format!("http://{web}/"), 5_000).await;
        assert_eq!(failure(&measured), (None, ""));
        let has = stages(&measured).map(|stage| stage.is_some());
        assert_eq!(has, [false, true, false, true]);
        assert_eq!((measured.remote_ip.as_deref(), measured.resolver), (Some(ip), None));
    }
}

#[tokio::test]
async fn a_name_from_the_hosts_file_has_no_resolution_stage() {
    let web = Web::ok().start().await;
    let names = Names { hosts: Hosts::parse("127.0.0.1 box.example"), ..resolved_by(&[]) };
    let measured = one(&target(format!("http://box.example:{}/", web.port())), &prober(names, None)).await;
    assert_eq!(failure(&measured), (None, ""));
    assert_eq!(measured.timings.dns_ms, None);
}

#[tokio::test]
async fn a_delay_shows_up_in_its_own_stage() {
    let (authority, issued) = authority_for("box.example");
    for slow in [0, 2, 3] {
        let delay = |stage: usize| if stage == slow { DELAY } else { Duration::ZERO };
        let web = Web { before_handshake: delay(2), before_answer: delay(3), ..Web::ok() };
        let web = web.secured(&issued).start().await;
        let dns = Dns { delay: delay(0), ..Dns::with("box.example", &["127.0.0.1"]) }.start().await;
        let prober = prober(resolved_by(&[dns]), Some(&authority));
        let measured = one(&target(format!("https://box.example:{}/", web.port())), &prober).await;
        assert_longest(&measured, slow);
    }
}

#[tokio::test]
async fn a_slow_page_behind_a_quick_first_byte_is_no_slow_stage() {
    let mut web = Web::new("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe");
    web.pieces.push((LONG, b"llo".to_vec()));
    let web = web.start().await;
    let measured = plain(format!("http://{web}/"), 5_000).await;
    assert_eq!(failure(&measured), (None, ""));
    assert!(measured.timings.total_ms().unwrap() < LONG_MS, "{measured:?}");
}

#[tokio::test]
async fn the_first_byte_counts_even_when_the_head_trickles_in() {
    let mut web = Web::new("HTTP/1.1 200 OK\r\n");
    web.pieces.push((LONG, b"Content-Length: 0\r\n\r\n".to_vec()));
    let web = web.start().await;
    let measured = plain(format!("http://{web}/"), 5_000).await;
    assert_eq!(failure(&measured), (None, ""));
    assert!(measured.timings.http_ttfb_ms.unwrap() < LONG_MS, "{measured:?}");
}

// --- resolution --------------------------------------------------------------------------------------

#[tokio::test]
async fn resolvers_that_say_no_or_nothing_fail_the_first_stage_with_their_word() {
    let cases = [
        (5_000, Dns::default(), "NXDOMAIN"),
        (5_000, Dns { code: Some(ResponseCode::ServFail), ..Dns::default() }, "SERVFAIL"),
        (5_000, Dns { code: Some(ResponseCode::Refused), ..Dns::default() }, "REFUSED"),
        (5_000, Dns::with("box.example", &[]), "no address"),
        (200, Dns { silent: true, ..Dns::default() }, "no answer from"),
    ];
    for (timeout_ms, dns, detail) in cases {
        let dns = dns.start().await;
        let target = Target { timeout_ms, ..target("https://box.example/") };
        let measured = one(&target, &prober(resolved_by(&[dns]), None)).await;
        let (stage, said) = failure(&measured);
        assert_eq!(stage, Some(ErrorStage::Dns));
        assert!(said.starts_with(detail), "{said}");
        assert_eq!(stages(&measured), [None; 4]);
        assert_eq!(measured.resolver, Some(dns.to_string()));
    }
}

#[tokio::test]
async fn a_silent_or_broken_resolver_is_passed_over_and_the_one_that_answered_is_named() {
    let web = Web::ok().start().await;
    let silent = Dns { silent: true, ..Dns::default() }.start().await;
    let broken = Dns { code: Some(ResponseCode::ServFail), ..Dns::default() }.start().await;
    let good = Dns::with("box.example", &["127.0.0.1"]).start().await;
    let prober = prober(resolved_by(&[silent, broken, good]), None);
    let target = Target { timeout_ms: 2_000, ..target(format!("http://box.example:{}/", web.port())) };
    let measured = one(&target, &prober).await;
    assert_eq!(failure(&measured), (None, ""));
    assert_eq!(measured.resolver, Some(good.to_string()));
    assert!(measured.timings.dns_ms.unwrap() >= 999.0, "the wait for the silent one counts: {measured:?}");
}

#[tokio::test]
async fn truncated_forged_and_old_fashioned_answers_still_lead_to_the_address() {
    let web = Web::ok().start().await;
    let base = Dns::with("box.example", &["127.0.0.1"]);
    let oddities = [
        Dns { truncates: true, ..base.clone() },
        Dns { forges: true, ..base.clone() },
        Dns { without_edns: true, ..base },
    ];
    for dns in oddities {
        let prober = prober(resolved_by(&[dns.start().await]), None);
        let measured = one(&target(format!("http://box.example:{}/", web.port())), &prober).await;
        assert_eq!(failure(&measured), (None, ""));
    }
}

#[tokio::test]
async fn short_names_are_looked_up_in_the_search_list() {
    let web = Web::ok().start().await;
    let dns = Dns::with("box.b.example", &["127.0.0.1"]).start().await;
    let mut names = resolved_by(&[dns]);
    names.resolver.search = vec!["a.example".to_owned(), "b.example".to_owned()];
    let measured = one(&target(format!("http://box:{}/", web.port())), &prober(names, None)).await;
    assert_eq!(failure(&measured), (None, ""));
}

#[tokio::test]
async fn each_family_is_measured_by_itself_and_a_missing_one_is_named() {
    let web = Web { ip: "::".parse().unwrap(), ..Web::ok() }.start().await;
    let dns = Dns::with("both.example", &["127.0.0.1", "::1"]).and("six.example", &["::1"]).start().await;
    let prober = prober(resolved_by(&[dns]), None);
    let url = |name: &str| format!("http://{name}:{}/", web.port());

    let both = Target { families: Families::Both, ..target(url("both.example")) };
    let measured = measure(&both, &prober).await.unwrap();
    let reached: Vec<_> = measured.iter().map(|one| (one.family, one.remote_ip.as_deref())).collect();
    assert_eq!(reached, [(Family::V4, Some("127.0.0.1")), (Family::V6, Some("::1"))]);

    let any = one(&target(url("six.example")), &prober).await;
    assert_eq!((any.family, any.remote_ip.as_deref()), (Family::Any, Some("::1")));

    let v4 = Target { families: Families::Ipv4, ..target(url("six.example")) };
    let v4 = one(&v4, &prober).await;
    assert_eq!(failure(&v4), (Some(ErrorStage::Dns), "no A record"));
    assert_eq!(v4.family, Family::V4);
}

// --- connect and TLS ---------------------------------------------------------------------------------

#[tokio::test]
async fn a_closed_port_fails_at_connect_and_an_open_one_is_timed() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let open = plain(format!("tcp://{address}"), 5_000).await;
    assert_eq!(failure(&open), (None, ""));
    assert!(open.timings.tcp_ms.is_some());
    drop(listener);
    let closed = plain(format!("tcp://{address}"), 5_000).await;
    assert_eq!(failure(&closed), (Some(ErrorStage::Tcp), "connection refused"));
    assert_eq!(closed.remote_ip.as_deref(), Some("127.0.0.1"));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_connect_that_nobody_answers_ends_at_the_time_out() {
    // A listener that accepts nothing and whose queue is full drops further requests silently.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    for _ in 0..2 {
        let connecting = tokio::net::TcpStream::connect(address);
        queued.push(tokio::time::timeout(Duration::from_millis(100), connecting).await);
    }
    let measured = plain(format!("tcp://{address}"), 200).await;
    assert_eq!(failure(&measured), (Some(ErrorStage::Tcp), "connect timed out after 200 ms"));
    assert_eq!(measured.timings.tcp_ms, None);
}

#[tokio::test]
async fn each_fault_of_a_certificate_is_told_apart_and_the_connect_time_is_kept() {
    let (authority, good) = authority_for("box.example");
    let other = authority.issue_server(&["other.example".to_owned()], &[], 30).unwrap();
    let (_, renewed) = authority_for("box.example");
    let stranger = Authority::create("another authority").unwrap();
    let unknown = stranger.issue_server(&["box.example".to_owned()], &[], 30).unwrap();
    let cases = [
        (expired(&authority, "box.example"), "certificate expired 3 days ago"),
        (other, "certificate for another name: other.example"),
        (unknown, "certificate from an unknown authority"),
        (renewed, "certificate not signed by the authority it names"),
    ];
    let dns = Dns::with("box.example", &["127.0.0.1"]).start().await;
    let prober = prober(resolved_by(&[dns]), Some(&authority));
    for (issued, detail) in cases {
        let web = Web::ok().secured(&issued).start().await;
        let measured = one(&target(format!("https://box.example:{}/", web.port())), &prober).await;
        assert_eq!(failure(&measured), (Some(ErrorStage::Tls), detail));
        assert!(measured.timings.tcp_ms.is_some());
        assert_eq!(measured.timings.tls_ms, None);
    }
    let by_address = Web::ok().secured(&good).start().await;
    assert_eq!(failure(&one(&target(format!("https://{by_address}/")), &prober).await), (None, ""));
}

#[tokio::test]
async fn a_port_that_speaks_no_tls_or_keeps_silent_fails_in_the_tls_stage() {
    let web = Web { pieces: Vec::new(), ..Web::ok() }.start().await;
    let measured = plain(format!("https://{web}/"), 200).await;
    assert_eq!(failure(&measured), (Some(ErrorStage::Tls), "handshake timed out after 200 ms"));

    let rude = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = rude.local_addr().unwrap();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        for answer in [&b"SSH-2.0-x\r\n"[..], b""] {
            let (mut stream, _) = rude.accept().await.unwrap();
            stream.write_all(answer).await.unwrap();
            stream.shutdown().await.unwrap();
            // Reads the rest, so that closing sends no reset.
            drop(tokio::io::copy(&mut stream, &mut tokio::io::sink()).await);
        }
    });
    let details = ["the other side does not speak TLS", "connection closed during the handshake"];
    for detail in details {
        let measured = plain(format!("https://{address}/"), 5_000).await;
        assert_eq!(failure(&measured), (Some(ErrorStage::Tls), detail));
    }
}

// --- HTTP --------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_status_of_400_and_above_is_a_failure_and_a_redirect_is_an_answer() {
    for (status, detail) in [(204, None), (302, None), (404, Some("HTTP 404")), (503, Some("HTTP 503"))] {
        let web = Web::new(&format!("HTTP/1.1 {status} X\r\nLocation: /y\r\nContent-Length: 0\r\n\r\n"));
        let web = web.start().await;
        let measured = plain(format!("http://{web}/"), 5_000).await;
        assert_eq!(measured.error_detail.as_deref(), detail);
        assert_eq!(measured.error_stage, detail.map(|_| ErrorStage::Http));
        assert!(measured.timings.http_ttfb_ms.is_some(), "the time of a bad answer is kept");
    }
}

#[tokio::test]
async fn answers_that_are_missing_broken_or_foreign_fail_in_the_http_stage() {
    let late = Web { hangs: true, pieces: Vec::new(), ..Web::ok() };
    let stuck = Web { hangs: true, ..Web::new("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhe") };
    let cases = [
        (5_000, Web::new(""), "connection closed before the whole answer"),
        (5_000, Web::new("220 mail.example ESMTP\r\n\r\n"), "the answer is not HTTP"),
        (5_000, Web::new("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhe"), "the answer broke off: "),
        (200, late, "no answer within 200 ms"),
        (200, stuck, "the answer was not complete within 200 ms"),
    ];
    for (timeout_ms, web, detail) in cases {
        let web = web.start().await;
        let measured = plain(format!("http://{web}/"), timeout_ms).await;
        let (stage, said) = failure(&measured);
        assert_eq!(stage, Some(ErrorStage::Http));
        assert!(said.starts_with(detail), "{said}");
        assert!(measured.timings.tcp_ms.is_some());
    }
}

// --- throughput --------------------------------------------------------------------------------------

const PIECE: usize = 64 << 10;

fn object(pieces: usize, wait: Duration) -> Web {
    let mut web = Web::new(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", pieces * PIECE));
    web.pieces.extend((0..pieces).map(|_| (wait, vec![b'x'; PIECE])));
    web
}

async fn download(object: Web, timeout_ms: u32) -> Measurement {
    let page = Web::ok().start().await;
    let object = object.start().await;
    let target = Target {
        throughput_url: Some(format!("http://{object}/1mb")),
        timeout_ms,
        ..target(format!("http://{page}/"))
    };
    one(&target, &prober(resolved_by(&[]), None)).await
}

#[tokio::test]
async fn throughput_is_the_rate_of_the_object_without_the_servers_thinking_time() {
    let web = Web { before_answer: LONG, ..object(10, Duration::from_millis(20)) };
    let measured = download(web, 5_000).await;
    assert_eq!(failure(&measured), (None, ""));
    // Nine pieces arrive in at least nine waits after the first.
    let fastest_kbps = PIECE as f64 * 8.0 / 20.0;
    let kbps = measured.throughput_kbps.unwrap();
    assert!(kbps > 0.0 && kbps <= fastest_kbps * 1.3, "{kbps} of at most {fastest_kbps}");
    assert!(measured.timings.http_ttfb_ms.unwrap() < LONG_MS, "the object's wait is not the page's");
}

#[tokio::test]
async fn a_download_that_does_not_end_in_time_keeps_the_rate_so_far() {
    let measured = download(object(100, Duration::from_millis(20)), 400).await;
    let (stage, detail) = failure(&measured);
    assert_eq!(stage, Some(ErrorStage::Throughput));
    assert!(detail.starts_with("not complete within 400 ms"), "{detail}");
    assert!(measured.throughput_kbps.unwrap() > 0.0);
    assert!(measured.timings.http_ttfb_ms.is_some());
}

#[tokio::test]
async fn a_small_object_still_has_a_rate_and_a_missing_or_empty_one_is_a_failure() {
    let small = download(Web::ok(), 5_000).await;
    assert_eq!(failure(&small), (None, ""));
    assert!(small.throughput_kbps.unwrap() > 0.0);
    let gone = download(Web::new("HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n"), 5_000).await;
    assert_eq!(failure(&gone), (Some(ErrorStage::Throughput), "HTTP 404"));
    assert_eq!(gone.throughput_kbps, None);
    let empty = download(Web::new("HTTP/1.1 200 X\r\nContent-Length: 0\r\n\r\n"), 5_000).await;
    assert_eq!(failure(&empty), (Some(ErrorStage::Throughput), "the object is empty"));
}

#[tokio::test]
async fn an_object_that_cannot_be_reached_is_a_failure_of_throughput_alone() {
    let page = Web::ok().start().await;
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let target =
        Target { throughput_url: Some(format!("http://{closed}/")), ..target(format!("http://{page}/")) };
    let measured = one(&target, &prober(resolved_by(&[]), None)).await;
    assert_eq!(failure(&measured), (Some(ErrorStage::Throughput), "connection refused"));
    assert!(measured.timings.http_ttfb_ms.is_some());
}

// --- dns, icmp, nonsense -----------------------------------------------------------------------------

#[tokio::test]
async fn a_resolver_is_timed_by_one_question() {
    let dns = Dns { delay: DELAY, ..Dns::with("box.example", &["192.0.2.7"]) }.start().await;
    let measured = plain(format!("dns://{dns}/box.example"), 5_000).await;
    assert_eq!(failure(&measured), (None, ""));
    assert!(measured.timings.dns_ms.unwrap() >= DELAY_MS - 1.0);
    assert_eq!(measured.resolver, Some(dns.to_string()));
    assert_eq!(stages(&measured)[1..], [None; 3]);

    let absent = plain(format!("dns://{dns}/absent.example"), 5_000).await;
    assert_eq!(failure(&absent), (Some(ErrorStage::Dns), "NXDOMAIN"));
    assert!(absent.timings.dns_ms.is_some(), "saying no takes time, too");
    let typed = plain(format!("dns://{dns}/box.example?type=AAAA"), 5_000).await;
    assert_eq!(failure(&typed), (Some(ErrorStage::Dns), "no AAAA record"));
}

#[tokio::test]
async fn the_root_question_is_answered_by_any_resolver_that_works() {
    for (code, works) in [
        (ResponseCode::NoError, true),
        (ResponseCode::NXDomain, true),
        (ResponseCode::Refused, true),
        (ResponseCode::ServFail, false),
    ] {
        let dns = Dns { code: Some(code), ..Dns::default() }.start().await;
        let measured = plain(format!("dns://{dns}"), 5_000).await;
        assert_eq!(measured.error_stage.is_none(), works, "{code}");
    }
    let silent = Dns { silent: true, ..Dns::default() }.start().await;
    let measured = plain(format!("dns://{silent}"), 200).await;
    assert_eq!(
        failure(&measured),
        (Some(ErrorStage::Dns), &*format!("no answer from {silent} within 200 ms"))
    );
}

#[tokio::test]
async fn a_ping_of_this_machine_comes_back_whole() {
    if let Err(refused) = check_icmp() {
        // Then the measurement says so, and how to allow it.
        let measured = plain("icmp://127.0.0.1", 1_000).await;
        assert_eq!(failure(&measured), (Some(ErrorStage::Tcp), &*refused.to_string()));
        return;
    }
    for host in ["127.0.0.1", "[::1]"] {
        let measured = plain(format!("icmp://{host}"), 2_000).await;
        assert_eq!(failure(&measured), (None, ""));
        let rtt = measured.rtt.unwrap();
        assert_eq!((rtt.sent, rtt.received, rtt.loss_pct), (5, 5, 0.0));
        assert!(rtt.min_ms > 0.0 && rtt.min_ms <= rtt.avg_ms && rtt.avg_ms <= rtt.max_ms);
        assert_eq!(stages(&measured), [None; 4]);
    }
}

#[tokio::test]
async fn a_url_that_cannot_be_measured_is_an_error_and_no_measurement() {
    let error = measure(&target("gopher://x"), &prober(resolved_by(&[]), None)).await.unwrap_err();
    assert_eq!(error, UrlError::UnknownScheme("gopher".to_owned()));
}
