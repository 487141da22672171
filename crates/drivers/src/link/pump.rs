//! Moves frames between a WebSocket and the two queues of its link.
//!
//! Reading and writing wait for each other nowhere: two ends that both have much to say would otherwise stand
//! still, each waiting for the other to read.

use std::{
    io::ErrorKind,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error, Message, error::ProtocolError},
};

use super::{How, Incoming, Outgoing};

/// How long a closing frame may take to be answered.
const GOODBYE_MAX: Duration = Duration::from_secs(2);
/// How often a write that does not end is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks at a full queue in a row after which the link is given up.
const FULL_LOOKS: u32 = 10;

/// The ping under way.
type Pinged = Mutex<Option<(u64, Instant)>>;

/// Runs until the link is gone, and says how it ended.
pub(super) async fn run<S>(
    socket: WebSocketStream<S>,
    incoming: mpsc::Sender<Incoming>,
    mut outgoing: mpsc::Receiver<Outgoing>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sink, mut stream) = socket.split();
    let pinged = Pinged::default();
    let how = {
        let reading = read(&mut stream, &incoming, &pinged);
        let writing = write(&mut sink, &mut outgoing, &pinged);
        tokio::pin!(reading, writing);
        tokio::select! {
            how = &mut reading => how,
            // What was read last says better how the link ended than a write that failed.
            written = &mut writing => match timeout(GOODBYE_MAX, reading).await {
                Ok(how) => how,
                Err(_) => written.err().unwrap_or(How::Goodbye),
            },
        }
    };
    let is_goodbye = how == How::Goodbye;
    drop(incoming.send(Incoming::Closed(how)).await);
    if is_goodbye {
        // The answer to a closing frame goes out with the next read.
        let drained = async { while let Some(Ok(_)) = stream.next().await {} };
        drop(timeout(GOODBYE_MAX, drained).await);
    }
}

async fn read<S>(
    stream: &mut SplitStream<WebSocketStream<S>>,
    incoming: &mpsc::Sender<Incoming>,
    pinged: &Pinged,
) -> How
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let what = match stream.next().await {
            None => return How::Ended,
            Some(Err(error)) => return ended_by(&error),
            Some(Ok(Message::Text(text))) => Incoming::Text(text.as_str().to_owned()),
            Some(Ok(Message::Pong(payload))) => match answered(&payload, pinged) {
                Some(pong) => pong,
                None => continue,
            },
            Some(Ok(Message::Close(_))) => return How::Goodbye,
            Some(Ok(Message::Binary(_))) => return How::Failed("a binary frame came in".to_owned()),
            // Pings are answered by the library.
            Some(Ok(Message::Ping(_) | Message::Frame(_))) => continue,
        };
        // Nobody listens any more: what there is still to be written may end in peace.
        drop(incoming.send(what).await);
    }
}

fn answered(payload: &[u8], pinged: &Pinged) -> Option<Incoming> {
    let payload = u64::from_be_bytes(payload.try_into().ok()?);
    let mut pinged = pinged.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, at) = pinged.take_if(|(last, _)| *last == payload)?;
    Some(Incoming::Pong { payload, rtt: at.elapsed() })
}

async fn write<S>(
    sink: &mut SplitSink<WebSocketStream<S>, Message>,
    outgoing: &mut mpsc::Receiver<Outgoing>,
    pinged: &Pinged,
) -> Result<(), How>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(what) = outgoing.recv().await {
        let message = match what {
            Outgoing::Text(text) => Message::text(text),
            Outgoing::Ping(payload) => {
                let last = Some((payload, Instant::now()));
                *pinged.lock().unwrap_or_else(PoisonError::into_inner) = last;
                Message::Ping(payload.to_be_bytes().to_vec().into())
            }
            Outgoing::Close => break,
        };
        let sending = sink.send(message);
        tokio::pin!(sending);
        let mut full_looks = 0;
        loop {
            match timeout(LOOK_EVERY, &mut sending).await {
                Ok(Ok(())) => break,
                Ok(Err(error)) => return Err(ended_by(&error)),
                Err(_) if outgoing.len() < outgoing.max_capacity() => full_looks = 0,
                Err(_) => full_looks += 1,
            }
            if full_looks >= FULL_LOOKS {
                return Err(How::Failed("the peer does not take what is sent to it".to_owned()));
            }
        }
    }
    match timeout(GOODBYE_MAX, sink.send(Message::Close(None))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(ended_by(&error)),
        Err(_) => Err(How::Failed("the closing frame could not be sent".to_owned())),
    }
}

fn ended_by(error: &Error) -> How {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => How::Goodbye,
        Error::Protocol(ProtocolError::SendAfterClosing | ProtocolError::ReceivedAfterClosing) => {
            How::Goodbye
        }
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => How::Ended,
        Error::Io(cause) => match cause.kind() {
            // Without an answer the kernel ends with the last thing that it was told, if there was any.
            ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => How::TimedOut,
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::NotConnected
            | ErrorKind::UnexpectedEof => How::Ended,
            _ => How::Failed(cause.to_string()),
        },
        other => How::Failed(other.to_string()),
    }
}
