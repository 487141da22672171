//! One suite for links over a pipe and over real TCP, and what only a real socket shows.

use std::{future::Future, net::SocketAddr, time::Duration};

use caelum_model::{
    cluster::{NodePass, NodeRole},
    id::NodeId,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;

/// A dialled and an accepted end, over real TCP on loopback.
async fn over_tcp() -> (Link, Link) {
    let (addr, server) = listen(Answer::Upgrade).await;
    let dialled = dial(addr, None).await.expect("the listener upgrades");
    let (stream, peer) = server.await.expect("the listener lives").expect("it upgraded");
    (dialled, accepted(stream, peer, None))
}

enum Answer {
    Upgrade,
    Text(&'static str),
    Nothing,
}

type Server = tokio::task::JoinHandle<Option<(TcpStream, SocketAddr)>>;

/// A listener that reads one request and answers it.
async fn listen(answer: Answer) -> (SocketAddr, Server) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("bound");
    let server = tokio::spawn(async move {
        let (mut stream, peer) = listener.accept().await.ok()?;
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.ok()?);
        }
        let request = String::from_utf8(request).ok()?;
        assert!(request.starts_with("GET /cluster HTTP/1.1\r\n"), "{request}");
        let text = match answer {
            Answer::Upgrade => {
                let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))?;
                let accept = accept_key(key);
                format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Accept: {accept}\r\n\r\n"
                )
            }
            Answer::Text(text) => text.to_owned(),
            Answer::Nothing => return None,
        };
        stream.write_all(text.as_bytes()).await.ok()?;
        Some((stream, peer))
    });
    (addr, server)
}

async fn on_both<F: Future<Output = ()>>(story: impl Fn(Link, Link) -> F) {
    let (first, second) = Link::pair(None, None);
    story(first, second).await;
    let (first, second) = over_tcp().await;
    story(first, second).await;
}

async fn next(link: &mut Link) -> Incoming {
    link.incoming.recv().await.expect("a link says how it ended before it is gone")
}

#[tokio::test]
async fn text_passes_both_ways_in_order() {
    on_both(|mut first, mut second| async move {
        for n in 0..200 {
            first.outgoing.send(Outgoing::Text(format!("to {n}"))).await.expect("open");
            second.outgoing.send(Outgoing::Text(format!("fro {n}"))).await.expect("open");
            assert_eq!(next(&mut second).await, Incoming::Text(format!("to {n}")));
            assert_eq!(next(&mut first).await, Incoming::Text(format!("fro {n}")));
        }
    })
    .await;
}

#[tokio::test]
async fn a_ping_is_answered_by_itself_with_its_payload() {
    on_both(|mut first, second| async move {
        for payload in [0, 7, u64::MAX] {
            first.outgoing.send(Outgoing::Ping(payload)).await.expect("open");
            let pong = next(&mut first).await;
            assert!(matches!(pong, Incoming::Pong { payload: answered, .. } if answered == payload));
        }
        drop(second);
    })
    .await;
}

#[tokio::test]
async fn closing_is_a_goodbye_on_both_ends_and_comes_after_what_was_said() {
    on_both(|mut first, mut second| async move {
        first.outgoing.send(Outgoing::Text("last words".into())).await.expect("open");
        first.outgoing.send(Outgoing::Close).await.expect("open");
        assert_eq!(next(&mut second).await, Incoming::Text("last words".into()));
        assert_eq!(next(&mut second).await, Incoming::Closed(How::Goodbye));
        assert_eq!(next(&mut first).await, Incoming::Closed(How::Goodbye));
        assert_eq!(first.incoming.recv().await, None);
    })
    .await;
}

#[tokio::test]
async fn dropping_a_link_closes_it() {
    on_both(|first, mut second| async move {
        drop(first);
        assert_eq!(next(&mut second).await, Incoming::Closed(How::Goodbye));
    })
    .await;
}

#[tokio::test]
async fn frames_up_to_the_limit_pass_while_both_ends_talk() {
    on_both(|mut first, mut second| async move {
        let big = "x".repeat(FRAME_MAX);
        let (one, other) = (first.outgoing.clone(), second.outgoing.clone());
        let text = big.clone();
        let sending = tokio::spawn(async move {
            for _ in 0..5 {
                one.send(Outgoing::Text(text.clone())).await.expect("open");
                other.send(Outgoing::Text(text.clone())).await.expect("open");
            }
        });
        for _ in 0..5 {
            assert_eq!(next(&mut second).await, Incoming::Text(big.clone()));
            assert_eq!(next(&mut first).await, Incoming::Text(big.clone()));
        }
        sending.await.expect("all was sent");
    })
    .await;
}

#[tokio::test]
async fn a_frame_beyond_the_limit_ends_the_link() {
    on_both(|first, mut second| async move {
        first.outgoing.send(Outgoing::Text("x".repeat(FRAME_MAX + 1))).await.expect("open");
        assert!(matches!(next(&mut second).await, Incoming::Closed(How::Failed(_))));
    })
    .await;
}

#[tokio::test]
async fn a_process_that_is_gone_is_told_from_one_that_said_goodbye() {
    let (addr, server) = listen(Answer::Upgrade).await;
    let mut link = dial(addr, None).await.expect("the listener upgrades");
    drop(server.await.expect("the listener lives"));
    assert_eq!(next(&mut link).await, Incoming::Closed(How::Ended));
    let (addr, server) = listen(Answer::Upgrade).await;
    let mut link = dial(addr, None).await.expect("the listener upgrades");
    let (stream, _) = server.await.expect("the listener lives").expect("it upgraded");
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a reset instead of an end");
    drop(stream);
    assert_eq!(next(&mut link).await, Incoming::Closed(How::Ended));
}

#[tokio::test]
async fn who_never_reads_stalls_the_link_until_the_queue_was_full_for_ten_seconds() {
    tokio::time::pause();
    let (ours, theirs) = tokio::io::duplex(1 << 10);
    let mut link = raw(ours, Role::Client, ([127, 0, 0, 1], 1).into(), None);
    let began = tokio::time::Instant::now();
    let outgoing = link.outgoing.clone();
    let filling =
        tokio::spawn(
            async move { while outgoing.send(Outgoing::Text("x".repeat(1 << 10))).await.is_ok() {} },
        );
    assert!(matches!(next(&mut link).await, Incoming::Closed(How::Failed(_))));
    assert!(began.elapsed() >= Duration::from_secs(10));
    filling.await.expect("the queue closes");
    drop(theirs);
}

#[tokio::test]
async fn a_link_that_stalls_with_room_in_its_queue_stays() {
    tokio::time::pause();
    let (ours, theirs) = tokio::io::duplex(1 << 10);
    let mut link = raw(ours, Role::Client, ([127, 0, 0, 1], 1).into(), None);
    for _ in 0..10 {
        link.outgoing.send(Outgoing::Text("x".repeat(1 << 10))).await.expect("open");
    }
    let waited = tokio::time::timeout(Duration::from_secs(600), next(&mut link)).await;
    assert!(waited.is_err(), "a stall is no end");
    drop(theirs);
}

#[tokio::test]
async fn a_refusal_says_its_status_and_reason() {
    let (addr, _server) =
        listen(Answer::Text("HTTP/1.1 403 Forbidden\r\ncontent-length: 6\r\n\r\nclosed")).await;
    let error = dial(addr, None).await.expect_err("it is refused");
    assert!(error.is_refusal());
    assert!(error.to_string().contains("refused with status 403"), "{error}");
    let (addr, _server) = listen(Answer::Nothing).await;
    let error = dial(addr, None).await.expect_err("nobody answers");
    assert!(!error.is_refusal());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("bound");
    drop(listener);
    assert!(matches!(dial(addr, None).await, Err(DialError::Connect { .. })));
}

#[tokio::test]
async fn a_dial_that_is_not_answered_ends_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("bound");
    let dialling = tokio::spawn(async move { dial(addr, None).await.map(|_| ()) });
    let (_stream, _) = listener.accept().await.expect("it dials");
    tokio::time::pause();
    assert!(matches!(dialling.await.expect("it ends"), Err(DialError::TimedOut { .. })));
}

#[tokio::test]
async fn sockets_of_links_are_watched_by_the_kernel() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let stream = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connects");
    watch_socket(&stream);
    let socket = SockRef::from(&stream);
    assert!(socket.keepalive().expect("readable"));
    assert!(stream.nodelay().expect("readable"));
    #[cfg(target_os = "linux")]
    {
        assert_eq!(socket.tcp_keepalive_time().expect("readable"), PROBE_AFTER);
        assert_eq!(socket.tcp_keepalive_retries().expect("readable"), PROBES);
        assert_eq!(socket.tcp_user_timeout().expect("readable"), Some(UNACKNOWLEDGED_MAX));
    }
}

#[tokio::test]
async fn each_end_of_a_pair_has_the_other_ends_pass() {
    let pass = |id: &str| {
        let node_id = NodeId::parse(id).expect("valid");
        Some(NodePass { node_id, role: NodeRole::Agent, expires_at_ms: 1 })
    };
    let (first, second) = Link::pair(pass("a"), pass("b"));
    assert_eq!((first.pass, second.pass), (pass("b"), pass("a")));
}

#[test]
fn the_accept_key_is_that_of_the_standard() {
    assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}
