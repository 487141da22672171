//! Finding servers of the Model Context Protocol on this machine, by the handshake that they all answer.
//!
//! A port counts only if it answers `initialize` (MCP 2025-06-18, "Lifecycle"; streamable HTTP, "Sending
//! Messages to the Server"), whether as JSON or as the first event of a stream. Only loopback is asked.

use std::{
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use bytes::Bytes;
use caelum_model::cluster::Service;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, body::Incoming};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

/// Ports that are looked at.
pub const PORTS: RangeInclusive<u16> = 8100..=8199;
/// Time for a port to accept.
const CONNECT_MAX: Duration = Duration::from_millis(300);
/// Time for the handshake on one path.
const HANDSHAKE_MAX: Duration = Duration::from_secs(2);
/// Most that is read of an answer, bytes.
const ANSWER_MAX: usize = 64 * 1024;
/// Where servers listen for messages.
const PATHS: [&str; 2] = ["/mcp", "/"];
/// Longest name that is taken over, characters.
const NAME_MAX: usize = 64;

/// Every MCP server that listens on loopback in the range, by port.
pub async fn find(ports: RangeInclusive<u16>) -> Vec<Service> {
    let mut found = Vec::new();
    for port in ports {
        if let Some(name) = identify(port).await {
            found.push(Service { name, kind: "mcp".to_owned(), port, status: "running".to_owned() });
        }
    }
    found
}

/// The name that a server on this port gives itself; none where no MCP server listens.
pub async fn identify(port: u16) -> Option<String> {
    for path in PATHS {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = timeout(CONNECT_MAX, TcpStream::connect(addr)).await.ok()?.ok()?;
        if let Ok(Some(name)) = timeout(HANDSHAKE_MAX, shake(stream, port, path)).await {
            return Some(name);
        }
    }
    None
}

async fn shake(stream: TcpStream, port: u16, path: &str) -> Option<String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    let driving = tokio::spawn(connection);
    let hello = serde_json::json!({
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18", "capabilities": {},
            "clientInfo": { "name": "caelum", "version": env!("CARGO_PKG_VERSION") },
        },
    });
    let request = Request::post(path)
        .header("host", format!("127.0.0.1:{port}"))
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .body(Full::new(Bytes::from(hello.to_string())))
        .ok()?;
    let answer = sender.send_request(request).await.ok();
    let name = match answer {
        Some(answer) if answer.status().is_success() => read(answer.into_body()).await,
        _ => None,
    };
    driving.abort();
    name
}

/// A stream may stay open: reading ends with the first answer in it.
async fn read(body: Incoming) -> Option<String> {
    let mut body = Limited::new(body, ANSWER_MAX);
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        text.extend_from_slice(&frame.ok()?.into_data().ok()?);
        if let Some(name) = name_in(&text) {
            return Some(name);
        }
    }
    None
}

/// The server's name, once the whole answer is there.
fn name_in(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let whole = std::iter::once(text);
    let events = text.lines().filter_map(|line| line.strip_prefix("data:"));
    whole.chain(events).find_map(|json| {
        let answer: Value = serde_json::from_str(json.trim()).ok()?;
        let result = answer.get("result")?;
        result.get("protocolVersion")?.as_str()?;
        let name = result.pointer("/serverInfo/name").and_then(Value::as_str).unwrap_or("mcp");
        Some(name.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect())
    })
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// Answers every connection with the same text and keeps it open.
    async fn server(head: &str, body: &str) -> u16 {
        let answer = format!("HTTP/1.1 {head}\r\n\r\n{body}");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 2048];
                drop(stream.read(&mut request).await);
                drop(stream.write_all(answer.as_bytes()).await);
                open.push(stream);
            }
        });
        port
    }

    #[tokio::test]
    async fn a_server_that_answers_as_json_is_found() {
        let body = r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-06-18","serverInfo":{"name":"files"}}}"#;
        let port = server(&format!("200 OK\r\ncontent-length: {}", body.len()), body).await;
        let found = find(port..=port).await;
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].kind.as_str(), found[0].port), ("files", "mcp", port));
    }

    #[tokio::test]
    async fn a_server_that_answers_in_a_stream_which_stays_open_is_found() {
        let event = concat!(
            "event: message\ndata: ",
            r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"x","serverInfo":{"name":"a\u0007b"}}}"#,
            "\n"
        );
        let head = "200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked";
        let port = server(head, &format!("{:x}\r\n{event}\r\n", event.len())).await;
        assert_eq!(identify(port).await.as_deref(), Some("ab"), "and its name has no control characters");
    }

    #[tokio::test]
    async fn other_servers_and_closed_ports_are_not() {
        let web = server("200 OK\r\ncontent-length: 16", "<html>mcp</html>").await;
        let error = server("404 Not Found\r\ncontent-length: 0", "").await;
        assert!(identify(web).await.is_none() && identify(error).await.is_none());
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        assert!(identify(closed).await.is_none());
    }
}
