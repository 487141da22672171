//! One suite for every kind of air.

use std::time::Duration;

use tokio::time::timeout;

use super::*;

async fn next(air: &dyn Air) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; DATAGRAM_ACCEPTED_MAX];
    let received = timeout(Duration::from_secs(5), air.receive(&mut buffer)).await;
    let (length, from) = received.expect("something arrives").expect("it can be read");
    (buffer[..length].to_vec(), from)
}

/// Skips what others on this network say meanwhile.
async fn next_of(air: &dyn Air, wanted: &[u8]) -> SocketAddr {
    loop {
        let (bytes, from) = next(air).await;
        if bytes == wanted {
            return from;
        }
    }
}

async fn what_is_sent_to_one_address_arrives_and_can_be_answered(a: &dyn Air, b: &dyn Air, at: SocketAddr) {
    assert_eq!(a.send(Destination::One(at), b"hello").await.sent, 1);
    let from = next_of(b, b"hello").await;
    b.send(Destination::One(from), b"answer").await;
    next_of(a, b"answer").await;
}

async fn what_is_sent_to_everyone_reaches_everybody(a: &dyn Air, b: &dyn Air) {
    let report = a.send(Destination::Everyone, b"all").await;
    assert!(report.sent >= 1, "{report:?}");
    next_of(b, b"all").await;
}

async fn a_datagram_that_is_too_large_is_not_sent(a: &dyn Air, at: SocketAddr) {
    let report = a.send(Destination::One(at), &[7; DATAGRAM_SENT_MAX + 1]).await;
    assert_eq!((report.sent, report.failures.len()), (0, 1));
}

#[tokio::test]
async fn the_network_in_memory_keeps_the_contract() {
    let ether = Ether::default();
    let (here, there) = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:1".parse().unwrap());
    let (a, b) = (ether.air(here, 1), ether.air(there, 1));
    what_is_sent_to_one_address_arrives_and_can_be_answered(&a, &b, there).await;
    what_is_sent_to_everyone_reaches_everybody(&a, &b).await;
    a_datagram_that_is_too_large_is_not_sent(&a, there).await;
    assert_eq!(ether.bytes(), 5 + 6 + 3);
}

fn plan(port: u16) -> Plan {
    Plan { port, second_dialect: false, multicast: true, broadcast: true }
}

#[tokio::test]
async fn the_sockets_of_this_host_keep_the_contract_and_share_the_port() {
    let a = UdpAir::open(plan(0)).unwrap();
    let b = UdpAir::open(plan(a.port())).unwrap();
    let b_source = SocketAddr::new([127, 0, 0, 1].into(), b.source().port());
    what_is_sent_to_one_address_arrives_and_can_be_answered(&a, &b, b_source).await;
    what_is_sent_to_everyone_reaches_everybody(&a, &b).await;
    what_is_sent_to_everyone_reaches_everybody(&b, &a).await;
    a_datagram_that_is_too_large_is_not_sent(&a, b_source).await;
}

#[tokio::test]
async fn a_port_that_another_program_keeps_for_itself_names_it() {
    let alone = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = alone.local_addr().unwrap().port();
    let error = UdpAir::open(plan(port)).err().unwrap();
    let BindError::Busy { holder, .. } = &error else { panic!("{error}") };
    if cfg!(target_os = "linux") {
        assert_eq!(holder.as_ref().map(|holder| holder.pid), Some(std::process::id()), "{error}");
    }
}
