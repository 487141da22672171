//! What every air does, tried on each. A sentence of the contract of [`Air`] is a function here.

use std::{net::SocketAddr, time::Duration};

use caelum_model::beacon::DATAGRAM_SENT_MAX;

use super::{Air, Destination, Ether, OpenConfig, Plan, Reach, UdpAir};
use crate::ports::BindError;

/// Three airs on one network.
type Three<'a> = [&'a dyn Air; 3];

async fn hear(air: &dyn Air) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; super::BUFFER_BYTES];
    let heard = tokio::time::timeout(Duration::from_secs(20), air.receive(&mut buffer));
    let (length, from) = heard.await.expect("something is heard in time").expect("the air is open");
    buffer.truncate(length);
    (buffer, from)
}

/// Listens until this is heard.
async fn hear_that(air: &dyn Air, wanted: &[u8]) -> SocketAddr {
    loop {
        let (bytes, from) = hear(air).await;
        if bytes == wanted {
            return from;
        }
    }
}

async fn say(air: &dyn Air, to: Destination, bytes: &[u8]) {
    let report = air.send(to, bytes).await;
    assert!(report.sent > 0 && report.failures.is_empty(), "{report:?}");
}

async fn everyone_hears_what_is_sent_to_everyone(airs: Three<'_>) {
    for (n, speaker) in airs.into_iter().enumerate() {
        let words = format!("everyone {n}").into_bytes();
        say(speaker, Destination::Everyone, &words).await;
        for listener in airs {
            hear_that(listener, &words).await;
        }
    }
}

async fn the_source_is_where_its_sender_and_nobody_else_is_reached([a, b, c]: Three<'_>) {
    say(a, Destination::Everyone, b"where am I").await;
    let source = hear_that(b, b"where am I").await;
    for n in 0..5_u8 {
        say(b, Destination::One(source), &[b'a', n]).await;
        let back = hear_that(a, &[b'a', n]).await;
        say(a, Destination::One(back), &[b'b', n]).await;
        assert_eq!(hear_that(b, &[b'b', n]).await, source, "a source stays the same");
    }
    // Had the third heard any of it, it would hear it before this.
    say(b, Destination::Everyone, b"end").await;
    loop {
        let (bytes, _) = hear(c).await;
        if bytes == b"end" {
            break;
        }
        assert_eq!(bytes, b"where am I", "what was sent to one is heard by that one");
    }
}

async fn everyone_of_the_second_dialect_hears_it(airs: Three<'_>) {
    say(airs[0], Destination::EveryoneSecond, b"second").await;
    for listener in airs {
        hear_that(listener, b"second").await;
    }
}

async fn nothing_too_large_is_sent([a, b, _]: Three<'_>) {
    let report = a.send(Destination::Everyone, &vec![b'x'; DATAGRAM_SENT_MAX + 1]).await;
    assert!(report.sent == 0 && report.failures.len() == 1, "{report:?}");
    let largest = vec![b'y'; DATAGRAM_SENT_MAX];
    say(a, Destination::Everyone, &largest).await;
    loop {
        let (bytes, _) = hear(b).await;
        assert_ne!(bytes[0], b'x');
        if bytes == largest {
            break;
        }
    }
}

async fn what_does_not_fit_the_buffer_is_cut_off([a, b, _]: Three<'_>) {
    say(a, Destination::Everyone, b"cut here").await;
    let mut buffer = [0; 3];
    while buffer != *b"cut" {
        b.receive(&mut buffer).await.expect("the air is open");
    }
}

async fn suite(airs: Three<'_>) {
    everyone_hears_what_is_sent_to_everyone(airs).await;
    the_source_is_where_its_sender_and_nobody_else_is_reached(airs).await;
    everyone_of_the_second_dialect_hears_it(airs).await;
    nothing_too_large_is_sent(airs).await;
    what_does_not_fit_the_buffer_is_cut_off(airs).await;
}

fn on_loopback(port: u16, second: u16) -> OpenConfig {
    OpenConfig {
        port,
        second_ports: vec![second],
        reach: Reach::Named(vec![loopback()]),
        ..OpenConfig::default()
    }
}

fn loopback() -> String {
    let all = super::interfaces::list(&Reach::All).expect("interfaces can be listed");
    all.into_iter().find(|interface| interface.is_loopback).expect("a loopback interface").name
}

fn three_on_loopback() -> [UdpAir; 3] {
    let first = UdpAir::open(on_loopback(0, 0)).expect("opens");
    let bound = first.bound().clone();
    let second_port = bound.second_port.expect("any port will do");
    let more = || UdpAir::open(on_loopback(bound.port, second_port)).expect("ports are shared");
    let (second, third) = (more(), more());
    [first, second, third]
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    let ether = Ether::new();
    let [a, b, c] =
        ["10.0.0.1:1", "10.0.0.2:1", "[fe80::3]:1"].map(|addr| ether.air(addr.parse().unwrap(), 0));
    suite([&a, &b, &c]).await;
}

#[tokio::test]
async fn sockets_keep_the_contract() {
    let [a, b, c] = three_on_loopback();
    suite([&a, &b, &c]).await;
}

#[tokio::test]
async fn processes_of_one_host_share_the_ports_and_each_has_one_of_its_own() {
    let airs = three_on_loopback();
    let bounds = airs.each_ref().map(UdpAir::bound);
    assert!(bounds.iter().all(|bound| bound.port == bounds[0].port));
    assert!(bounds.iter().all(|bound| bound.second_port == bounds[0].second_port));
    let own: std::collections::BTreeSet<_> = bounds.iter().map(|bound| bound.own_v4).collect();
    assert!(own.len() == 3 && !own.contains(&Some(bounds[0].port)) && !own.contains(&None));
}

#[tokio::test]
async fn a_port_that_another_program_keeps_to_itself_names_its_holder() {
    let keeper = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = keeper.local_addr().unwrap().port();
    let error = UdpAir::open(OpenConfig { ipv6: false, ..on_loopback(port, 0) }).unwrap_err();
    let BindError::Busy { holder, .. } = &error else { panic!("{error}") };
    if cfg!(target_os = "linux") {
        assert_eq!(holder.as_ref().expect("our own sockets can be looked into").pid, std::process::id());
    }
    let text = error.to_string();
    assert!(text.contains(&port.to_string()) && text.contains("taken"), "{text}");
}

#[tokio::test]
async fn the_second_dialect_takes_the_next_port_or_goes_without() {
    let keeper = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let taken = keeper.local_addr().unwrap().port();
    let open = |second_ports: Vec<u16>| {
        UdpAir::open(OpenConfig { second_ports, ..on_loopback(0, 0) }).expect("opens").bound().clone()
    };
    assert!(open(vec![taken, 0]).second_port.is_some_and(|port| port != taken));
    assert_eq!(open(vec![taken]).second_port, None);
    assert_eq!(open(Vec::new()).second_port, None);
}

#[tokio::test]
async fn without_a_family_there_is_no_air() {
    let config = OpenConfig { ipv4: false, ipv6: false, ..on_loopback(0, 0) };
    assert!(matches!(UdpAir::open(config), Err(BindError::Io { .. })));
}

#[tokio::test]
async fn a_way_that_fails_is_reported_with_its_address() {
    let air = UdpAir::open(OpenConfig { ipv6: false, ..on_loopback(0, 0) }).unwrap();
    let to: SocketAddr = "[::1]:9".parse().unwrap();
    let report = air.send(Destination::One(to), b"x").await;
    assert_eq!((report.sent, report.failures.len(), report.failures[0].to), (0, 1, to));
    assert!(report.failures[0].to_string().starts_with("send a beacon to [::1]:9: IPv6"));
}

#[tokio::test]
async fn a_source_is_an_address_of_this_host_and_the_port_of_this_process() {
    let air = UdpAir::open(on_loopback(0, 0)).unwrap();
    assert!(air.source().ip().is_loopback());
    assert_eq!(Some(air.source().port()), air.bound().own_v4);
}

#[test]
fn a_plan_leaves_the_rest_as_usual() {
    let plan = Plan { port: 8181, second_dialect: true, multicast: true, broadcast: true };
    assert_eq!(OpenConfig::from(plan.clone()), OpenConfig::default());
    assert!(OpenConfig::from(Plan { second_dialect: false, ..plan }).second_ports.is_empty());
}
