//! Links as sockets: one WebSocket between two nodes, with a queue in each direction.
//!
//! What is said over a link, and what its end means, is the engine's. Here are only frames, and how a link
//! ended as far as the socket can tell: with a closing frame, without one, or by the kernel giving up on a
//! host that no longer answers.
//!
//! [`Link::pair`] joins two links in memory. They run the same code over a pipe instead of a socket.

mod dial;
mod pump;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, time::Duration};

use caelum_model::{cluster::NodePass, envelope::FRAME_MAX};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};

pub use dial::{DialError, Tls, dial};

/// Messages in a queue.
const QUEUE: usize = 64;
/// A connection without traffic is probed after this …
const PROBE_AFTER: Duration = Duration::from_secs(1);
/// … this often …
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// … and given up after so many probes without an answer.
const PROBES: u32 = 2;
/// Sent bytes that the other host's kernel does not acknowledge end the connection after this.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_millis(3_500);
/// What is read from a socket at once. Links are many and mostly quiet.
const READ_BYTES: usize = 8 << 10;

/// One link.
#[derive(Debug)]
pub struct Link {
    /// What comes in; ends with [`Incoming::Closed`].
    pub incoming: mpsc::Receiver<Incoming>,
    /// What goes out. Dropping it closes the link as [`Outgoing::Close`] does.
    pub outgoing: mpsc::Sender<Outgoing>,
    /// The other end.
    pub peer: SocketAddr,
    /// What its certificate says; none of a stranger.
    pub pass: Option<NodePass>,
}

/// What comes in.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    /// A text frame.
    Text(String),
    /// The answer to the last ping.
    Pong {
        /// The ping's payload.
        payload: u64,
        /// Time from sending it to reading the answer.
        rtt: Duration,
    },
    /// The link is gone. Nothing comes after it.
    Closed(How),
}

/// How a link ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// With a closing frame.
    Goodbye,
    /// The connection was closed or reset without one: the other process is gone.
    Ended,
    /// The other host no longer answers, says the kernel.
    TimedOut,
    /// It broke otherwise.
    Failed(String),
}

/// What goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// A text frame.
    Text(String),
    /// A ping with this payload.
    Ping(u64),
    /// A closing frame, and the end.
    Close,
}

/// The value of `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455, section 4.2.2).
pub fn accept_key(key: &str) -> String {
    derive_accept_key(key.as_bytes())
}

/// A link over a connection whose client has been told that it is upgraded. Must be called in a runtime.
pub fn accepted<S>(io: S, peer: SocketAddr, pass: Option<NodePass>) -> Link
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    raw(io, Role::Server, peer, pass)
}

impl Link {
    /// Two links joined in memory, the first as if it had dialled the second. Must be called in a runtime.
    pub fn pair(pass_of_first: Option<NodePass>, pass_of_second: Option<NodePass>) -> (Self, Self) {
        let (first, second) = tokio::io::duplex(64 << 10);
        let addr = |port| SocketAddr::from(([127, 0, 0, 1], port));
        (raw(first, Role::Client, addr(2), pass_of_second), raw(second, Role::Server, addr(1), pass_of_first))
    }
}

fn raw<S>(io: S, role: Role, peer: SocketAddr, pass: Option<NodePass>) -> Link
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let socket = WebSocketStream::from_raw_socket(io, role, Some(config()));
    join(peer, pass, |incoming, outgoing| {
        tokio::spawn(async move { pump::run(socket.await, incoming, outgoing).await });
    })
}

fn join(
    peer: SocketAddr,
    pass: Option<NodePass>,
    start: impl FnOnce(mpsc::Sender<Incoming>, mpsc::Receiver<Outgoing>),
) -> Link {
    let (to_us, incoming) = mpsc::channel(QUEUE);
    let (outgoing, from_us) = mpsc::channel(QUEUE);
    start(to_us, from_us);
    Link { incoming, outgoing, peer, pass }
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(FRAME_MAX))
        .max_frame_size(Some(FRAME_MAX))
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * FRAME_MAX)
}

/// Lets the kernel notice within about four seconds that the other host is gone. A process that is merely
/// frozen goes on being acknowledged by its kernel, so that its links stay. Options that a system does not
/// know are left as they are.
pub fn watch_socket(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let keepalive =
        TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY).with_retries(PROBES);
    let kept = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    let kept = kept.and(socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX)));
    if let Err(error) = kept.and(stream.set_nodelay(true)) {
        tracing::debug!(code = "link.not_watched", %error, "a connection cannot be watched by the kernel");
    }
}
