//! Datagrams that nobody should believe: forged, replayed, malformed, and of machines that do not exist.
//!
//! What is replayed and forged begins with real beacons, which whoever is on the network can have by asking.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use caelum_engine::{discovery::instance_of, hash::mix};
use caelum_model::beacon::{BEACON_PORT, DATAGRAM_ACCEPTED_MAX};
use serde_json::{Value, json};

use crate::wait;

/// What a flood consists of, one kind after the other.
const KINDS: u64 = 8;
/// Sent at once between two pauses.
const PAUSE: Duration = Duration::from_millis(10);

/// Asks everybody who is there, as any machine may, and returns the answers: real beacons, with their seals.
/// To be called on a host of the network; see [`crate::lab::Host::inside`].
pub fn overhear(everybody: IpAddr, time: Duration) -> Result<Vec<Vec<u8>>> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("open a socket")?;
    socket.set_broadcast(true)?;
    let question = json!({
        "message_type": "CAELUM_BEACON", "machine_id": "n-curious", "hostname": "curious", "primary_ip": "",
        "cluster_id": "", "cluster_name": "", "websocket_port": 9, "services": [],
        "timestamp": "2026-01-01T00:00:00Z", "kind": "solicit", "instance": instance_of(1), "seq": 1,
    });
    socket.send_to(question.to_string().as_bytes(), SocketAddr::new(everybody, BEACON_PORT))?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let (mut heard, mut buffer) = (Vec::new(), [0; DATAGRAM_ACCEPTED_MAX]);
    let end = Instant::now() + time;
    while Instant::now() < end {
        // Nothing within the time-out is no fault: there may be nobody else.
        if let Ok((length, _)) = socket.recv_from(&mut buffer) {
            heard.push(buffer[..length].to_vec());
        }
    }
    Ok(heard)
}

/// The datagram with this number.
pub fn datagram(number: u64, real: &[Vec<u8>]) -> Vec<u8> {
    let chance = mix(number.wrapping_add(0x9e37_79b9_7f4a_7c15));
    let noise = |length: u64| (0..length).map(|at| mix(chance ^ at) as u8).collect::<Vec<u8>>();
    let sample = real.get(usize::try_from(chance % 64).unwrap_or(0) % real.len().max(1));
    let sample = sample.cloned().unwrap_or_else(|| b"{}".to_vec());
    match number % KINDS {
        0 => noise(chance % 1_200),
        1 => [&[0xca, 0xe1, 1, 0, 0, 0, 0, 1][..], &noise(64)].concat(),
        2 => sample,
        3 => sample[..sample.len() * 3 / 4].to_vec(),
        // Of another run, with a seal that was made for this one.
        4 => changed(&sample, &[("instance", json!(instance_of(u64::MAX - number))), ("seq", json!(number))]),
        5 => changed(&sample, &[("kind", json!("goodbye")), ("auth", json!(format!("{chance:064x}")))]),
        6 => b"{\"a\":[".repeat(1 + usize::try_from(chance % 900).unwrap_or(0)),
        _ => changed(
            &sample,
            &[
                ("machine_id", json!(format!("n-ghost-{number}"))),
                ("hostname", json!(format!("ghost-{number}"))),
                ("auth", Value::Null),
            ],
        ),
    }
}

fn changed(beacon: &[u8], fields: &[(&str, Value)]) -> Vec<u8> {
    let mut beacon: Value = serde_json::from_slice(beacon).unwrap_or_else(|_| json!({}));
    for (name, value) in fields {
        beacon[*name] = value.clone();
    }
    beacon.to_string().into_bytes()
}

/// Sends so many to a host, so many a second, from each of these addresses in turn. To be called on the host
/// that has them.
pub fn send(
    target: IpAddr,
    from: &[IpAddr],
    real: &[Vec<u8>],
    count: u64,
    per_second: u64,
) -> Result<Duration> {
    let bind = |from: &IpAddr| UdpSocket::bind((*from, 0)).with_context(|| format!("send from {from}"));
    let sockets = from.iter().map(bind).collect::<Result<Vec<_>>>()?;
    anyhow::ensure!(!sockets.is_empty(), "a flood needs an address to come from");
    let target = SocketAddr::new(target, BEACON_PORT);
    let began = Instant::now();
    for number in 0..count {
        let due = Duration::from_secs_f64(number as f64 / per_second.max(1) as f64);
        if due > began.elapsed() {
            wait::pass(PAUSE);
        }
        let turn = usize::try_from(number / KINDS).unwrap_or(0) % sockets.len();
        // A full buffer loses a datagram, as a network does.
        drop(sockets[turn].send_to(&datagram(number, real), target));
    }
    Ok(began.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_holds_what_was_overheard_and_what_was_made_of_it() {
        let real = vec![br#"{"machine_id":"n-1","auth":"ab","seq":9}"#.to_vec()];
        assert_eq!(datagram(2, &real), real[0], "replayed");
        let forged: Value = serde_json::from_slice(&datagram(4, &real)).expect("json");
        assert_eq!((forged["machine_id"].as_str(), forged["auth"].as_str()), (Some("n-1"), Some("ab")));
        assert_ne!(forged["seq"], 9);
        let ghost: Value = serde_json::from_slice(&datagram(7, &real)).expect("json");
        assert!(ghost["auth"].is_null() && ghost["machine_id"] == "n-ghost-7");
        assert!((0..1_000).all(|number| datagram(number, &[]).len() < 8_192));
    }
}
