//! The line under load: round trips while several connections download, then while they upload, and what
//! that means for people (responsiveness, draft-ietf-ippm-responsiveness).
//!
//! Foreign round trips are taken on connections of their own: connect, handshake, first byte. Loaded ones are
//! those of further requests on the connections that load the line, which needs a server that keeps
//! connections; where it does not, there is no rate of round trips. Uploads happen only where the server
//! answers a POST to the object with success. All ends within eight seconds and some hundred megabytes.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use caelum_engine::{score, stamp::percentile};
use caelum_model::details::Loaded;
use futures_util::future::join_all;
use http::{Request, header};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;

use super::{Measurement, Task, WebUrl, ms, web};

/// Everything together.
const WHOLE_MAX: Duration = Duration::from_secs(8);
/// One direction.
const PHASE: Duration = Duration::from_millis(3_200);
/// The line counts as loaded after this time.
const RAMP: Duration = Duration::from_millis(400);
const CONNECTIONS: usize = 4;
/// Connects before the load, and the time between foreign round trips.
const IDLE_CONNECTS: usize = 5;
const FOREIGN_GAP: Duration = Duration::from_millis(100);
/// A request under load asks for so much, so that there are several on one connection.
const PIECE_BYTES: u64 = 4 << 20;
const UPLOAD_BYTES: usize = 256 << 10;
const DOWN_BYTES_MAX: u64 = 256 << 20;
const UP_BYTES_MAX: u64 = 128 << 20;
/// Times of one kind that are kept.
const TIMES_MAX: usize = 10_000;

/// Loads the line and leaves what was seen in the measurement; nothing where the server cannot be used.
pub(super) async fn measure(task: &Task<'_>, measurement: &mut Measurement) {
    let Some(object) = task.throughput else { return };
    let seen = Seen::default();
    let load = Load { task, object, family: measurement, seen: &seen };
    let ended = tokio::time::timeout(WHOLE_MAX, Box::pin(load.run())).await;
    if ended.is_err() {
        tracing::debug!(code = "probe.load_cut", url = %measurement.target, "loading took too long and was cut");
    }
    let seen = seen.lock();
    if seen.idle.is_empty() || seen.down.tcp.is_empty() {
        return;
    }
    let us = |times: &[f64]| (!times.is_empty()).then(|| (percentile(times, 0.5) * 1_000.0) as u32);
    let down = &seen.down;
    measurement.rpm = score::responsiveness(&down.tcp, &down.tls, &down.http, &seen.loaded)
        .map(|responsiveness| responsiveness.both);
    measurement.details.loaded = Some(Loaded {
        idle_us: us(&seen.idle).unwrap_or(0),
        down_us: us(&down.tcp),
        up_us: us(&seen.up.tcp),
        upload_kbps: seen.upload_kbps,
    });
}

/// Times of connections that load nothing, ms.
#[derive(Debug, Default)]
struct Foreign {
    tcp: Vec<f64>,
    tls: Vec<f64>,
    http: Vec<f64>,
}

impl Foreign {
    fn note(&mut self, one: &Measurement) {
        let timings = one.timings;
        let kinds = [
            (&mut self.tcp, timings.tcp_ms),
            (&mut self.tls, timings.tls_ms),
            (&mut self.http, timings.http_ttfb_ms),
        ];
        for (times, time) in kinds {
            times.extend(time.filter(|_| times.len() < TIMES_MAX));
        }
    }
}

#[derive(Debug, Default)]
struct Times {
    idle: Vec<f64>,
    down: Foreign,
    up: Foreign,
    loaded: Vec<f64>,
    upload_kbps: Option<u64>,
}

#[derive(Debug, Default)]
struct Seen(Mutex<Times>);

impl Seen {
    fn lock(&self) -> std::sync::MutexGuard<'_, Times> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Copy)]
struct Load<'a> {
    task: &'a Task<'a>,
    object: &'a WebUrl,
    family: &'a Measurement,
    seen: &'a Seen,
}

impl Load<'_> {
    fn aside(&self) -> Measurement {
        Measurement { family: self.family.family, ..Measurement::default() }
    }

    async fn run(&self) {
        for _ in 0..IDLE_CONNECTS {
            let mut aside = self.aside();
            if web::connect(self.task, self.object, &mut aside).await.is_err() {
                return;
            }
            self.seen.lock().idle.extend(aside.timings.tcp_ms);
        }
        let bytes = AtomicU64::new(0);
        let until = Instant::now() + PHASE;
        let pulls = join_all((0..CONNECTIONS).map(|_| self.pull(until, &bytes)));
        tokio::join!(pulls, self.look(until, true));
        if self.takes_posts().await {
            bytes.store(0, Ordering::Relaxed);
            let began = Instant::now();
            let until = began + PHASE;
            let pushes = join_all((0..CONNECTIONS).map(|_| self.push(until, &bytes)));
            tokio::join!(pushes, self.look(until, false));
            let bits = bytes.load(Ordering::Relaxed) * 8;
            let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
            self.seen.lock().upload_kbps = (bits > 0).then(|| bits / took_ms);
        }
    }

    /// Foreign round trips, one after the other.
    async fn look(&self, until: Instant, is_down: bool) {
        tokio::time::sleep(RAMP).await;
        while Instant::now() < until {
            let mut aside = self.aside();
            let glance = web::glance(self.task, self.object, &mut aside);
            if let Ok(Ok(())) = tokio::time::timeout_at(until.into(), glance).await {
                let mut seen = self.seen.lock();
                if is_down { seen.down.note(&aside) } else { seen.up.note(&aside) }
            }
            tokio::time::sleep(FOREIGN_GAP).await;
        }
    }

    /// Downloads on one connection, and on another when the server closes it.
    async fn pull(&self, until: Instant, bytes: &AtomicU64) {
        while Instant::now() < until && bytes.load(Ordering::Relaxed) < DOWN_BYTES_MAX {
            let pulled = tokio::time::timeout_at(until.into(), self.pull_on_one(bytes)).await;
            if !matches!(pulled, Ok(Some(()))) {
                return;
            }
        }
    }

    /// None where there is no point in trying again.
    async fn pull_on_one(&self, bytes: &AtomicU64) -> Option<()> {
        let stream = web::open(self.task, self.object, &mut self.aside()).await.ok()?;
        let (mut sender, mut wire) = web::begin(stream).await.ok()?;
        let range = format!("bytes=0-{}", PIECE_BYTES - 1);
        let mut is_first = true;
        while bytes.load(Ordering::Relaxed) < DOWN_BYTES_MAX {
            let request = web::request_for(self.object, "GET")
                .header(header::RANGE, &range)
                .body(Empty::<Bytes>::new())
                .expect("host and path were checked when the URL was read");
            let asked = Instant::now();
            let Ok(response) = wire.drive(sender.send_request(request)).await else { return Some(()) };
            let took = ms(asked.elapsed());
            if !response.status().is_success() {
                return None;
            }
            if !is_first {
                let mut seen = self.seen.lock();
                if seen.loaded.len() < TIMES_MAX {
                    seen.loaded.push(took);
                }
            }
            is_first = false;
            wire.drive(drain(response.into_body(), bytes)).await?;
            if wire.drive(sender.ready()).await.is_err() {
                return Some(());
            }
        }
        Some(())
    }

    async fn takes_posts(&self) -> bool {
        let aside = &mut self.aside();
        let post = async {
            let stream = web::open(self.task, self.object, aside).await.ok()?;
            let (mut sender, mut wire) = web::begin(stream).await.ok()?;
            let response = wire.drive(sender.send_request(self.post(1))).await.ok()?;
            Some(response.status().is_success())
        };
        matches!(tokio::time::timeout(RAMP, post).await, Ok(Some(true)))
    }

    fn post(&self, length: usize) -> Request<Full<Bytes>> {
        web::request_for(self.object, "POST")
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .body(Full::new(Bytes::from(vec![0; length])))
            .expect("host and path were checked when the URL was read")
    }

    async fn push(&self, until: Instant, bytes: &AtomicU64) {
        while Instant::now() < until && bytes.load(Ordering::Relaxed) < UP_BYTES_MAX {
            let pushed = tokio::time::timeout_at(until.into(), self.push_on_one(bytes)).await;
            if !matches!(pushed, Ok(Some(()))) {
                return;
            }
        }
    }

    async fn push_on_one(&self, bytes: &AtomicU64) -> Option<()> {
        let stream = web::open(self.task, self.object, &mut self.aside()).await.ok()?;
        let (mut sender, mut wire) = web::begin(stream).await.ok()?;
        while bytes.load(Ordering::Relaxed) < UP_BYTES_MAX {
            let sent = wire.drive(sender.send_request(self.post(UPLOAD_BYTES))).await;
            let Ok(response) = sent else { return Some(()) };
            if !response.status().is_success() {
                return None;
            }
            bytes.fetch_add(UPLOAD_BYTES as u64, Ordering::Relaxed);
            wire.drive(drain(response.into_body(), &AtomicU64::new(0))).await?;
            if wire.drive(sender.ready()).await.is_err() {
                return Some(());
            }
        }
        Some(())
    }
}

/// Reads an answer to its end, counting.
async fn drain(mut body: Incoming, bytes: &AtomicU64) -> Option<()> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            let so_far = bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
            if so_far >= DOWN_BYTES_MAX {
                return None;
            }
        }
    }
    Some(())
}
