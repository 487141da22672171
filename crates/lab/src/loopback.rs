//! One question to a process on this machine, by the oldest version of HTTP: one answer, and then the end.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

/// Most time for an answer.
const ANSWER: Duration = Duration::from_secs(4);

/// Asks at `host:port`; none if there is no answer. Status and body.
pub fn get(place: &str, path: &str) -> Option<(u16, String)> {
    let mut socket = TcpStream::connect(place).ok()?;
    socket.set_read_timeout(Some(ANSWER)).ok()?;
    socket.write_all(format!("GET {path} HTTP/1.0\r\nhost: {place}\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}
