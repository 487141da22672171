//! STAMP over real sockets: our sender and our reflector, and each with a peer that shares no code with it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use caelum_drivers::{
    netinfo::{Hosts, ResolverConfig},
    probe::{Measurement, Names, Prober, measure},
    stamp::{Allow, Counters, StampReflector},
};
use caelum_engine::stamp::Limits;
use caelum_model::{event::ErrorStage, id::TargetId, target::Target};
use rustls::RootCertStore;
use tokio::{net::UdpSocket, process::Command};

const EVERYBODY: fn(IpAddr) -> bool = |_| true;

fn reflect(ip: &str, allow: impl Fn(IpAddr) -> bool + Send + Sync + 'static) -> (SocketAddr, Arc<Counters>) {
    let bind = SocketAddr::new(ip.parse().unwrap(), 0);
    let reflector = StampReflector::bind(bind, Limits::default()).unwrap();
    let told = (reflector.local_addr().unwrap(), reflector.counters());
    let allow: Allow = Arc::new(allow);
    tokio::spawn(reflector.run(allow));
    told
}

async fn train(to: SocketAddr, packets: u16, timeout_ms: u32) -> Measurement {
    let names = Names { resolver: ResolverConfig::default(), hosts: Hosts::default() };
    let prober = Prober::with_names(RootCertStore::empty(), names).unwrap();
    let usual = Target::usual(TargetId::parse("t").unwrap(), format!("stamp://{to}"), 0);
    let target = Target { packets: Some(packets), timeout_ms, ..usual };
    measure(&target, &prober).await.unwrap().remove(0)
}

#[tokio::test]
async fn a_train_comes_back_whole_over_both_families() {
    for ip in ["127.0.0.1", "::1"] {
        let (address, counters) = reflect(ip, EVERYBODY);
        let measured = train(address, 6, 5_000).await;
        assert_eq!((measured.error_stage, measured.error_detail), (None, None));
        let rtt = measured.rtt.unwrap();
        assert_eq!((rtt.sent, rtt.received, rtt.loss_pct), (6, 6, 0.0));
        assert!(rtt.min_ms >= 0.0 && rtt.min_ms <= rtt.avg_ms && rtt.avg_ms <= rtt.max_ms);
        let one_way = measured.details.one_way.unwrap();
        assert_eq!((one_way.sent, one_way.reached, one_way.returned), (6, 6, 6));
        // One clock: neither way can take longer than the whole, nor less than nothing.
        let whole_us = (rtt.max_ms * 1_000.0) as i64 + 1;
        assert!((-1..=whole_us).contains(&one_way.out_us), "{one_way:?}, {rtt:?}");
        assert!((-1..=whole_us).contains(&one_way.back_us), "{one_way:?}, {rtt:?}");
        assert_eq!(counters.reflected.load(Ordering::Relaxed), 6);
    }
}

#[tokio::test]
async fn strangers_and_short_packets_get_no_answer_and_are_counted() {
    let (address, counters) = reflect("127.0.0.1", |_| false);
    let measured = train(address, 2, 300).await;
    assert_eq!(measured.error_stage, Some(ErrorStage::Tcp));
    assert_eq!(measured.error_detail.as_deref(), Some("none of 2 packets came back within 300 ms"));
    assert_eq!((measured.rtt.unwrap().loss_pct, measured.details.one_way), (100.0, None));
    assert_eq!(counters.strangers.load(Ordering::Relaxed), 2);

    let (address, counters) = reflect("127.0.0.1", EVERYBODY);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&[0; 40], address).await.unwrap();
    socket.send_to(&[0; 44], address).await.unwrap();
    let mut answer = [0; 100];
    assert_eq!(socket.recv(&mut answer).await.unwrap(), 44, "the first answer is the second packet's");
    assert_eq!(counters.too_short.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_port_where_nothing_reflects_is_named() {
    let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let measured = train(closed, 2, 5_000).await;
    let said = measured.error_detail.unwrap();
    assert_eq!(said, format!("nothing reflects STAMP packets at {closed}"));
}

/// A stateless reflector written by the offsets of RFC 8762 alone, which loses every third packet on the way
/// back and answers one packet twice.
async fn stateless() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut packet = [0; 100];
        for number in 0.. {
            let (length, from) = socket.recv_from(&mut packet).await.unwrap();
            assert_eq!((length, &packet[14..44]), (44, &[0; 30][..]));
            let mut answer = packet[..44].to_vec();
            answer[24..38].copy_from_slice(&packet[..14]);
            answer[16..24].copy_from_slice(&packet[4..12]);
            answer[40] = 255;
            let copies = [1, 2, 0][number % 3];
            for _ in 0..copies {
                socket.send_to(&answer, from).await.unwrap();
            }
        }
    });
    address
}

#[tokio::test]
async fn a_strangers_stateless_reflector_is_understood() {
    let measured = train(stateless().await, 6, 5_000).await;
    assert_eq!(measured.error_stage, None);
    let rtt = measured.rtt.unwrap();
    assert_eq!((rtt.sent, rtt.received), (6, 4));
    let one_way = measured.details.one_way.unwrap();
    assert_eq!((one_way.reached, one_way.returned), (4, 4));
}

#[tokio::test]
async fn a_strangers_sender_is_answered_as_the_standard_says() {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/outside/programs/twamp_light.py");
    for (ip, size) in [("127.0.0.1", 41), ("127.0.0.1", 44), ("127.0.0.1", 1_400), ("::1", 100)] {
        let (address, _) = reflect(ip, EVERYBODY);
        let asked = Command::new("python3")
            .args([program, ip, &address.port().to_string(), &size.to_string()])
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(Duration::from_secs(60), asked).await.unwrap();
        let output = output.expect("the sender runs: apt-get install python3");
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        let expected: String = (0..3).map(|seq| format!("{seq} {seq} {size} 64 1\n")).collect();
        assert_eq!(lines, expected, "{}", String::from_utf8_lossy(&output.stderr));
    }
}
