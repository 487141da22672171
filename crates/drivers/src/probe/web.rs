//! `http` and `https` targets: the visit stage by stage, and the throughput of an object.
//!
//! HTTP/1.1 on a fresh connection, no redirects, no compression, no caches. The first byte is caught on the
//! connection itself, because a client library only reports a whole head.

use std::{
    convert::Infallible,
    error::Error,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use caelum_model::event::ErrorStage;
use http::{Request, header, request};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::{Body, Incoming},
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Failure, Measurement, Task, WebUrl, ms, secure, words};
use crate::fault::describe;

const USER_AGENT: &str = concat!("caelum-probe/", env!("CARGO_PKG_VERSION"));
/// Bytes of a page that are read; the rest says nothing about the stages.
const MAX_PAGE_BYTES: u64 = 1 << 20;
/// Bytes of a throughput object that are read: five seconds at 400 Mbit/s.
const MAX_OBJECT_BYTES: u64 = 256 << 20;
/// Bytes behind the first read from which the rate is taken from these alone.
const STEADY_BYTES: u64 = 16 << 10;

/// Visits a page: resolve, connect, TLS, request to first byte, then the rest of the page.
pub(super) async fn visit(
    task: &Task<'_>,
    url: &WebUrl,
    measurement: &mut Measurement,
) -> Result<(), Failure> {
    let stream = open(task, url, measurement).await?;
    let failed = |detail: String| Failure::new(ErrorStage::Http, detail);
    let (mut sender, mut wire) = begin(stream).await.map_err(failed)?;

    let head = wire.drive(sender.send_request(request(url)));
    let head = tokio::time::timeout(task.timeout, head).await;
    measurement.timings.http_ttfb_ms = wire.first_byte().map(ms);
    let response = head
        .map_err(|_| failed(format!("no answer within {}", words(task.timeout))))?
        .map_err(|error| failed(explain(&error)))?;
    let web = measurement.details.web.get_or_insert_default();
    web.status = Some(response.status().as_u16());
    web.http_version = Some(format!("{:?}", response.version()));
    let is_redirect = response.status().is_redirection() && response.headers().contains_key(header::LOCATION);
    web.redirects = u8::from(is_redirect);
    if response.status().as_u16() >= 400 {
        return Err(failed(format!("HTTP {}", response.status().as_u16())));
    }

    let mut progress = Progress::default();
    let body = wire.drive(progress.read(response.into_body(), MAX_PAGE_BYTES));
    match tokio::time::timeout(task.timeout, body).await {
        Ok(read) => read.map_err(|error| failed(format!("the answer broke off: {}", explain(&error)))),
        Err(_) => Err(failed(format!("the answer was not complete within {}", words(task.timeout)))),
    }
}

/// Downloads an object on a connection of its own and leaves the rate in the measurement. Its own
/// resolution, connect and handshake are no stages of the target.
pub(super) async fn download(
    task: &Task<'_>,
    object: &WebUrl,
    measurement: &mut Measurement,
) -> Result<(), Failure> {
    let failed = |detail: String| Failure::new(ErrorStage::Throughput, detail);
    let mut aside = Measurement { family: measurement.family, ..Measurement::default() };
    let stream = open(task, object, &mut aside).await.map_err(|failure| failed(failure.detail))?;
    let (mut sender, mut wire) = begin(stream).await.map_err(failed)?;

    let started = Instant::now();
    let head = wire.drive(sender.send_request(request(object)));
    let response = tokio::time::timeout(task.timeout, head)
        .await
        .map_err(|_| failed(format!("no answer within {}", words(task.timeout))))?
        .map_err(|error| failed(explain(&error)))?;
    if response.status().as_u16() >= 400 {
        return Err(failed(format!("HTTP {}", response.status().as_u16())));
    }

    let mut progress = Progress::default();
    let body = wire.drive(progress.read(response.into_body(), MAX_OBJECT_BYTES));
    let read = tokio::time::timeout(task.timeout, body).await;
    measurement.throughput_kbps = progress.kbps(started);
    match read {
        Ok(Ok(())) if progress.bytes == 0 => Err(failed("the object is empty".to_owned())),
        Ok(read) => read.map_err(|error| failed(format!("the download broke off: {}", explain(&error)))),
        Err(_) => Err(failed(format!(
            "not complete within {} ({} bytes came)",
            words(task.timeout),
            progress.bytes
        ))),
    }
}

/// A connection, whatever it runs over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// The stages before HTTP.
pub(super) async fn open(
    task: &Task<'_>,
    url: &WebUrl,
    measurement: &mut Measurement,
) -> Result<Box<dyn Stream>, Failure> {
    let address = task.resolve(&url.host, url.port, measurement).await?;
    let stream = task.connect(address, measurement).await?;
    if url.secure {
        Ok(Box::new(secure::handshake(task, task.tls, &url.host, stream, measurement).await?))
    } else {
        Ok(Box::new(stream))
    }
}

/// The stages before TLS alone: a round trip.
pub(super) async fn connect(
    task: &Task<'_>,
    url: &WebUrl,
    measurement: &mut Measurement,
) -> Result<(), Failure> {
    let address = task.resolve(&url.host, url.port, measurement).await?;
    task.connect(address, measurement).await.map(drop)
}

/// Visits a page as far as the first byte of its head.
pub(super) async fn glance(
    task: &Task<'_>,
    url: &WebUrl,
    measurement: &mut Measurement,
) -> Result<(), Failure> {
    let failed = |detail: String| Failure::new(ErrorStage::Http, detail);
    let stream = open(task, url, measurement).await?;
    let (mut sender, mut wire) = begin(stream).await.map_err(failed)?;
    let request = request_for(url, "HEAD")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .expect("host and path were checked when the URL was read");
    let head = wire.drive(sender.send_request(request)).await;
    measurement.timings.http_ttfb_ms = wire.first_byte().map(ms);
    head.map(drop).map_err(|error| failed(explain(&error)))
}

/// A request with what every request of ours says.
pub(super) fn request_for(url: &WebUrl, method: &str) -> request::Builder {
    Request::builder()
        .method(method)
        .uri(url.path.clone())
        .header(header::HOST, url.authority())
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::ACCEPT, "*/*")
        .header(header::ACCEPT_ENCODING, "identity")
        .header(header::CACHE_CONTROL, "no-cache")
}

fn request(url: &WebUrl) -> Request<Empty<Bytes>> {
    request_for(url, "GET")
        .header(header::CONNECTION, "close")
        .body(Empty::new())
        .expect("host and path were checked when the URL was read")
}

pub(super) async fn begin<B>(stream: Box<dyn Stream>) -> Result<(SendRequest<B>, Wire), String>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let marks = Arc::new(Mutex::new(Marks::default()));
    let marked = Marked { inner: stream, marks: Arc::clone(&marks) };
    let (sender, connection) =
        http1::handshake(TokioIo::new(marked)).await.map_err(|error| explain(&error))?;
    let work = Box::pin(async move {
        // An error of the connection is told to whoever waits for the answer, too.
        drop(connection.await);
    });
    Ok((sender, Wire { work: Some(work), marks }))
}

/// The connection's own work, which goes on while its user waits for something.
pub(super) struct Wire {
    work: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    marks: Arc<Mutex<Marks>>,
}

impl Wire {
    pub(super) async fn drive<T>(&mut self, wait: impl Future<Output = T>) -> T {
        let mut wait = pin!(wait);
        poll_fn(|context| {
            if let Some(work) = &mut self.work
                && work.as_mut().poll(context).is_ready()
            {
                self.work = None;
            }
            wait.as_mut().poll(context)
        })
        .await
    }

    /// From the request's last byte to the answer's first.
    fn first_byte(&self) -> Option<Duration> {
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        Some(marks.first_read?.saturating_duration_since(marks.last_write?))
    }
}

#[derive(Debug, Default)]
struct Marks {
    /// The last write before the first read.
    last_write: Option<Instant>,
    first_read: Option<Instant>,
}

/// A connection that notes when the request went out and when the answer began.
struct Marked {
    inner: Box<dyn Stream>,
    marks: Arc<Mutex<Marks>>,
}

impl Marked {
    fn mark(&self, mark: impl FnOnce(&mut Marks)) {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        if marks.first_read.is_none() {
            mark(&mut marks);
        }
    }
}

impl AsyncRead for Marked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            self.mark(|marks| marks.first_read = Some(Instant::now()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Marked {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(context, bytes))?;
        self.mark(|marks| marks.last_write = Some(Instant::now()));
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// How far a download has come; kept outside the read, so that a time-out leaves what was reached.
#[derive(Debug, Default)]
struct Progress {
    bytes: u64,
    /// When the first burst was there, and its size.
    first: Option<(Instant, u64)>,
    last: Option<Instant>,
}

/// Most of a TLS record (RFC 8446 §5.1): it is read in pieces, and all of it came when its last byte did.
const RECORD_BYTES: u64 = 16 << 10;
/// Pieces that follow each other faster than this are of one record.
const RECORD_PAUSE: Duration = Duration::from_millis(1);

impl Progress {
    async fn read(&mut self, mut body: Incoming, limit: u64) -> Result<(), hyper::Error> {
        while self.bytes < limit {
            let Some(frame) = body.frame().await else { break };
            let Ok(data) = frame?.into_data() else { continue };
            self.take(Instant::now(), data.len() as u64);
        }
        Ok(())
    }

    fn take(&mut self, now: Instant, bytes: u64) {
        let is_of_first = match self.last {
            None => true,
            Some(last) => self.bytes + bytes <= RECORD_BYTES && now.duration_since(last) < RECORD_PAUSE,
        };
        self.bytes += bytes;
        if is_of_first {
            self.first = Some((now, self.bytes));
        }
        self.last = Some(now);
    }

    /// The rate between the first and the last burst, so that the server's thinking time is not in it. A
    /// small object comes in one piece: there the rate is taken over the whole request.
    fn kbps(&self, started: Instant) -> Option<f64> {
        let ((first, first_bytes), last) = (self.first?, self.last?);
        let steady = self.bytes - first_bytes;
        let (bytes, took) = if steady >= STEADY_BYTES && last > first {
            (steady, last - first)
        } else {
            (self.bytes, last - started)
        };
        let seconds = took.as_secs_f64();
        (seconds > 0.0).then(|| bytes as f64 * 8.0 / seconds / 1_000.0)
    }
}

fn explain(error: &hyper::Error) -> String {
    if let Some(source) = error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        return describe(source);
    }
    if error.is_incomplete_message() {
        "connection closed before the whole answer".to_owned()
    } else if error.is_parse() {
        "the answer is not HTTP".to_owned()
    } else {
        error.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rate of bursts of 16 KiB, one each 16 ms, each read in this many pieces.
    fn kbps(pieces: u64) -> f64 {
        let (started, mut progress) = (Instant::now(), Progress::default());
        for burst in 1..=8 {
            for piece in 0..pieces {
                let at = started + Duration::from_millis(60 + 16 * burst) + Duration::from_micros(20 * piece);
                progress.take(at, RECORD_BYTES / pieces);
            }
        }
        progress.kbps(started).expect("there is a rate")
    }

    #[test]
    fn a_rate_is_the_same_however_many_pieces_a_record_is_read_in() {
        let real = 16.0 * 1024.0 * 8.0 / 16.0;
        for pieces in [1, 2, 4, 8] {
            assert!((kbps(pieces) / real - 1.0).abs() < 1e-3, "{pieces}: {} for {real}", kbps(pieces));
        }
    }
}
