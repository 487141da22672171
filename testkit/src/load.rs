//! A load of events for benches: batches of numbered events as a probe sends them, ready to post.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{api::Api, event::now_ms};

/// The shape of a load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Events in a request.
    pub batch: u64,
    /// Probes that take turns.
    pub probes: u64,
    /// Targets of each.
    pub targets: u64,
    /// Connections that post at the same time.
    pub connections: u64,
    /// How long.
    pub time: Duration,
    /// Events to post in all; none for as many as the time allows.
    pub events: Option<u64>,
    /// Events a second; none for as many as go.
    pub rate: Option<u64>,
}

/// What one connection did.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// Events that were answered as durable.
    pub accepted: u64,
    /// Requests that were told to come back later.
    pub turned_away: u64,
    /// Time of each answer.
    pub answered_in: Vec<Duration>,
}

impl Load {
    /// Posts by all connections, the nth to the nth of `writers` and on from the first, and adds up what they
    /// did.
    pub async fn post(self, writers: &[Api]) -> Result<Done> {
        let begin = Instant::now();
        let connections: Vec<_> = writers
            .iter()
            .cycle()
            .zip(0..self.connections)
            .map(|(writer, nth)| tokio::spawn(self.connection(writer.clone(), nth, begin)))
            .collect();
        let mut done = Done::default();
        for connection in connections {
            let one = connection.await.context("wait for a connection")??;
            done.accepted += one.accepted;
            done.turned_away += one.turned_away;
            done.answered_in.extend(one.answered_in);
        }
        done.answered_in.sort_unstable();
        Ok(done)
    }

    /// One connection: its probes take turns, so that each probe's events arrive in order.
    async fn connection(self, writer: Api, nth: u64, begin: Instant) -> Result<Done> {
        let mut done = Done::default();
        let own: Vec<u64> = (0..self.probes).filter(|probe| probe % self.connections == nth).collect();
        let share = self.events.map_or(u64::MAX, |events| events.div_ceil(self.connections));
        let mut next_seq = vec![1_u64; own.len()];
        let mut body = String::new();
        // A turn that is late is made up for by the next ones.
        let mut pace = self.rate.map(|rate| {
            let turn = (self.batch * self.connections) as f64 / rate.max(1) as f64;
            tokio::time::interval(Duration::from_secs_f64(turn.max(1e-6)))
        });
        for turn in (0..own.len()).cycle() {
            if begin.elapsed() >= self.time || done.accepted >= share {
                break;
            }
            if let Some(pace) = &mut pace {
                pace.tick().await;
            }
            self.write_batch(&mut body, own[turn], next_seq[turn]);
            let asked = Instant::now();
            let (status, answer) = writer.post_events("application/x-ndjson", body.clone()).await?;
            match status {
                202 => {
                    done.answered_in.push(asked.elapsed());
                    done.accepted += answer["accepted"].as_u64().unwrap_or(0);
                    next_seq[turn] += self.batch;
                }
                // The same batch comes again at this probe's next turn.
                429 | 503 => done.turned_away += 1,
                other => bail!("a batch was answered with {other}: {answer}"),
            }
        }
        Ok(done)
    }

    /// Events of one probe, its targets in turn, with times that vary as real ones do.
    fn write_batch(&self, body: &mut String, probe: u64, first_seq: u64) {
        body.clear();
        let now_ms = now_ms();
        for seq in first_seq..first_seq + self.batch {
            // A cheap spread over about a factor of two; the numbers need not be random, only not all equal.
            let spread = 1.0 + (seq.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f64 / f64::from(1 << 24);
            let target = seq % self.targets;
            writeln!(
                body,
                "{{\"event_id\":\"{probe:08x}-0000-7000-8000-{seq:012x}\",\"client_id\":\"bench-{probe}\",\
                 \"ts_ms\":{now_ms},\"schema_version\":\"1.1\",\"target\":\"https://target-{target}.example/\",\
                 \"network_context\":{{\"interface_type\":\"ethernet\",\"vpn_enabled\":false}},\
                 \"timings\":{{\"dns_ms\":{:.2},\"tcp_ms\":{:.2},\"tls_ms\":{:.2},\"http_ttfb_ms\":{:.2}}},\
                 \"throughput_kbps\":{:.0},\"epoch\":1,\"seq\":{seq}}}",
                8.0 * spread,
                20.0 * spread,
                25.0 * spread,
                60.0 * spread,
                40_000.0 / spread,
            )
            .expect("a string takes everything");
        }
    }
}

/// The time below which a share of sorted times lies, in ms.
pub fn quantile_ms(sorted: &[Duration], share: f64) -> f64 {
    let at = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_times_is_found_and_no_times_have_none() {
        let times: Vec<Duration> = (0..100).map(Duration::from_millis).collect();
        assert_eq!((quantile_ms(&times, 0.5), quantile_ms(&times, 1.0)), (50.0, 99.0));
        assert!(quantile_ms(&[], 0.5).is_nan());
    }
}
