//! From the spool to the ingest: stores first, sends then, forgets what is acknowledged.

use std::{
    future::pending,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use caelum_drivers::{
    clock::Clock,
    poster::{EventPoster, PostError},
    random,
    spool::{Entry, Spool, SpoolError},
};
use caelum_engine::drain::{Drain, Refused};
use caelum_model::{
    UnixMs,
    id::ClientId,
    wire::{AcceptedJson, EventJson, RejectedJson, SCHEMA_1_1},
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::Counters;

/// Most bytes of events in a request.
const REQUEST_BYTES_MAX: usize = 512 << 10;
/// Most measurements stored with one sync.
const GROUP_MAX: usize = 256;
/// About what an event takes in a request.
const LINE_BYTES: usize = 640;
/// How long measurements wait for others before they are stored and sent together.
const GATHER: Duration = Duration::from_millis(200);
/// Time allowed for a last request when told to stop.
const LAST_REQUEST_MAX: Duration = Duration::from_millis(1500);

pub(super) struct Sender {
    pub(super) client_id: ClientId,
    /// Taken out only while a blocking thread works on it.
    pub(super) spool: Option<Spool>,
    pub(super) poster: watch::Receiver<EventPoster>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) backoff_max: Duration,
    pub(super) measured: mpsc::Receiver<EventJson<'static>>,
    pub(super) counters: Arc<Counters>,
}

impl Sender {
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let Some((trimmed_through, epoch)) =
            self.spool.as_ref().map(|spool| (spool.trimmed_through(), spool.epoch()))
        else {
            return;
        };
        let wait_max_ms = i64::try_from(self.backoff_max.as_millis()).unwrap_or(i64::MAX);
        let mut drain = Drain::new(trimmed_through, wait_max_ms);
        let mut group = Vec::new();
        let mut has_more = true;
        loop {
            if has_more {
                if stop.is_cancelled() {
                    break;
                }
                has_more = self.send_next(&mut drain, epoch, stop.cancelled()).await;
                // What was measured meanwhile is stored before the next request.
                while group.len() < GROUP_MAX
                    && let Ok(event) = self.measured.try_recv()
                {
                    group.push(event);
                }
            } else {
                let wakeup = drain.next_wakeup().map(|at_ms| at_ms - self.clock.now_ms());
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = sleep_ms(wakeup) => has_more = true,
                    received = self.measured.recv_many(&mut group, GROUP_MAX) => {
                        if received == 0 {
                            break;
                        }
                        self.gather(&mut group, &stop).await;
                    }
                }
            }
            if !group.is_empty() {
                let is_sent_next = !drain.is_waiting(self.clock.now_ms());
                self.store(std::mem::take(&mut group), is_sent_next).await;
                has_more = true;
            }
        }
        while let Ok(event) = self.measured.try_recv() {
            group.push(event);
        }
        self.store(group, false).await;
        // What does not get through now is sent at the next start.
        self.send_next(&mut drain, epoch, tokio::time::sleep(LAST_REQUEST_MAX)).await;
    }

    /// Waits a moment for more: a sync and a request cost more than the measurements they are for. They are
    /// taken together at the end, so that nothing wakes for each.
    async fn gather(&mut self, group: &mut Vec<EventJson<'static>>, stop: &CancellationToken) {
        if group.len() >= GROUP_MAX {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(GATHER) => {}
        }
        while group.len() < GROUP_MAX
            && let Ok(event) = self.measured.try_recv()
        {
            group.push(event);
        }
    }

    /// Stores measurements with one sync: here, or where they are read at once to be sent, there. A full spool
    /// keeps what is older; what is refused is said aloud.
    async fn store(&mut self, events: Vec<EventJson<'static>>, is_sent_next: bool) {
        let stored = self
            .with_spool(move |spool| {
                for event in &events {
                    let payload = serde_json::to_vec(event).expect("an event in memory has a JSON form");
                    spool.append(&payload)?;
                }
                if is_sent_next { Ok(()) } else { spool.sync() }
            })
            .await;
        if let Some(Err(error)) = stored {
            tracing::error!(code = "probe.not_spooled", %error, "measurements were lost before they could be stored");
        }
    }

    /// Sends the next request, or gives up on it when `enough` is over: only the request is cut short, never
    /// the work on the spool. Answers whether there may be more to send at once.
    async fn send_next(&mut self, drain: &mut Drain, epoch: u64, enough: impl Future<Output = ()>) -> bool {
        let newest = self.spool.as_ref().map_or(0, |spool| spool.trimmed_through() + spool.len());
        let Some((after, batch)) = drain.next(self.clock.now_ms(), newest) else { return false };
        let read = self.with_spool(move |spool| spool.read(after, batch, REQUEST_BYTES_MAX)).await;
        let entries = match read {
            Some(Ok(entries)) => entries,
            Some(Err(error)) => {
                tracing::error!(code = "probe.spool_unreadable", %error, "the spool cannot be read; trying again");
                drain.failed(None, random_share(), self.clock.now_ms());
                return false;
            }
            None => return false,
        };
        let Some(last) = entries.last().map(|entry| entry.seq) else { return false };
        let lines = to_lines(&entries, &self.client_id, epoch);
        let poster = self.poster.borrow().clone();
        let posted = tokio::select! {
            () = enough => return false,
            posted = poster.post(lines) => posted,
        };
        match posted {
            Ok(accepted) => {
                Counters::add(&self.counters.acknowledged, accepted.accepted as u64);
                self.counters.failing.store(0, Ordering::Relaxed);
                self.forget(drain, &entries, last, &accepted).await;
                true
            }
            Err(error) => {
                Counters::add(&self.counters.failing, 1);
                self.give_way(drain, &entries, last, error).await
            }
        }
    }

    async fn forget(&mut self, drain: &mut Drain, entries: &[Entry], last: u64, accepted: &AcceptedJson) {
        set_aside(entries, &accepted.rejected);
        let through = drain.accepted(last, accepted.ack_through, self.clock.now_ms());
        self.trim(through).await;
    }

    async fn trim(&mut self, through: Option<u64>) {
        let Some(through) = through else { return };
        if let Some(Err(error)) = self.with_spool(move |spool| spool.trim(through)).await {
            tracing::warn!(code = "probe.not_trimmed", %error, "the spool keeps more than it has to");
        }
    }

    /// Answers whether to send again at once.
    async fn give_way(&mut self, drain: &mut Drain, entries: &[Entry], last: u64, error: PostError) -> bool {
        let now_ms = self.clock.now_ms();
        let is_every_one_judged = error.rejected().len() == entries.len();
        if error.is_transient() || (error.is_about_the_sender() && !is_every_one_judged) {
            let retry_after_ms = error.retry_after().and_then(|wait| i64::try_from(wait.as_millis()).ok());
            tracing::warn!(code = "probe.not_sent", %error, waiting = entries.len(), "events stay in the spool");
            drain.failed(retry_after_ms, random_share(), now_ms);
            return false;
        }
        if drain.fall_back() {
            return true;
        }
        if is_every_one_judged {
            set_aside(entries, error.rejected());
            drain.skip(last);
            let through = drain.accepted(last, Some(last), now_ms);
            self.trim(through).await;
            return true;
        }
        match drain.refused(entries.len()) {
            Refused::Halve => {}
            Refused::SetAside => {
                tracing::error!(code = "probe.event_set_aside", seq = last, %error, "an event is refused and set aside");
                let through = drain.accepted(last, Some(last), now_ms);
                self.trim(through).await;
            }
        }
        true
    }

    /// Works on the spool outside the async threads. None when that work panicked: the spool is gone, and
    /// the probe goes on measuring nothing it could keep.
    async fn with_spool<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Spool) -> Result<T, SpoolError> + Send + 'static,
    ) -> Option<Result<T, SpoolError>> {
        let mut spool = self.spool.take()?;
        let worked = tokio::task::spawn_blocking(move || {
            let result = work(&mut spool);
            (spool, result)
        })
        .await;
        match worked {
            Ok((spool, result)) => {
                self.counters.spooled.store(spool.len(), Ordering::Relaxed);
                self.spool = Some(spool);
                Some(result)
            }
            Err(error) => {
                tracing::error!(code = "probe.spool_lost", %error, "the spool's work panicked");
                None
            }
        }
    }
}

/// The body of a request. An event was stored as an object without its number, which goes before its other
/// members. One that was lost to damage is sent as an empty one under its number: the ingest refuses it and gives
/// the number up, so that the sequence has no gap for ever.
fn to_lines(entries: &[Entry], client_id: &ClientId, epoch: u64) -> Vec<u8> {
    let mut lines = Vec::with_capacity(entries.len() * LINE_BYTES);
    for entry in entries {
        let seq = entry.seq;
        match entry.payload.as_deref().and_then(|payload| payload.strip_prefix(b"{")) {
            Some(members) => {
                lines.extend_from_slice(format!("{{\"epoch\":{epoch},\"seq\":{seq},").as_bytes());
                lines.extend_from_slice(members);
            }
            None => {
                let lost: EventJson<'_> = EventJson {
                    client_id: client_id.as_str().into(),
                    schema_version: SCHEMA_1_1.into(),
                    epoch: Some(epoch),
                    seq: Some(seq),
                    ..EventJson::default()
                };
                serde_json::to_writer(&mut lines, &lost).expect("an event in memory has a JSON form");
            }
        }
        lines.push(b'\n');
    }
    lines
}

fn set_aside(entries: &[Entry], rejected: &[RejectedJson]) {
    for refusal in rejected {
        let seq = entries.get(refusal.index).map(|entry| entry.seq);
        tracing::error!(
            code = "probe.event_set_aside",
            seq,
            reason_code = refusal.code,
            reason = refusal.message,
            "the ingest refuses an event; it is not sent again"
        );
    }
}

/// A number between 0 and 1, for jitter.
fn random_share() -> f64 {
    (random::number() >> 11) as f64 / (1u64 << 53) as f64
}

async fn sleep_ms(wait_ms: Option<UnixMs>) {
    match wait_ms {
        Some(wait_ms) => tokio::time::sleep(Duration::from_millis(wait_ms.max(1).cast_unsigned())).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_the_stored_event_with_its_number_and_a_lost_one_has_nothing_else() {
        let client_id = ClientId::parse("p").expect("valid");
        let event =
            EventJson { client_id: "p".into(), ts_ms: 7, target: "tcp://a:1".into(), ..EventJson::default() };
        let payload = serde_json::to_vec(&event).expect("JSON");
        let entries = [Entry { seq: 4, payload: Some(payload) }, Entry { seq: 5, payload: None }];
        let lines = to_lines(&entries, &client_id, 9);
        let read: Vec<EventJson<'_>> =
            lines.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        assert_eq!(read[0], EventJson { epoch: Some(9), seq: Some(4), ..event });
        assert_eq!(
            (read[1].epoch, read[1].seq, &*read[1].client_id, read[1].ts_ms),
            (Some(9), Some(5), "p", 0)
        );
        assert_eq!(read.len(), 2);
    }
}
