//! Numbers in Prometheus' text format, version 0.0.4.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
};

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use caelum_drivers::traces::Tracer;
use caelum_model::diagnosis::Label;
use caelum_roles::{
    aggregator::Progress,
    diagnoser, ingest, probe,
    tasks::{Desk, Waits},
};

/// A page of numbers under construction.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
    last_name: String,
}

impl Exposition {
    /// A number that only grows.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.sample("counter", name, help, "", value as f64);
    }

    /// A number that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.sample("gauge", name, help, "", value);
    }

    /// A number of one kind among few; samples of one name follow each other. The label's value must be one
    /// that needs no escape.
    pub fn labelled(&mut self, kind: &str, name: &str, help: &str, label: (&str, &str), value: f64) {
        debug_assert!(!label.1.contains(['"', '\\', '\n']), "a label is a plain word");
        self.sample(kind, name, help, &format!("{{{}=\"{}\"}}", label.0, label.1), value);
    }

    fn sample(&mut self, kind: &str, name: &str, help: &str, labels: &str, value: f64) {
        if self.last_name != name {
            self.last_name = name.to_owned();
            // Writing to a String cannot fail.
            let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        }
        let _ = writeln!(self.text, "{name}{labels} {value}");
    }

    /// What a probe has done.
    pub fn probe(&mut self, counters: &probe::Counters) {
        let grown = [
            ("caelum_probe_measurements_total", "Measurements made since the start.", &counters.measured),
            ("caelum_probe_measurements_failed_total", "Of those, failed ones.", &counters.failed),
            (
                "caelum_probe_measurements_skipped_total",
                "Measurements that did not begin because the one before still ran.",
                &counters.skipped,
            ),
            ("caelum_probe_events_acknowledged_total", "Events the ingest took.", &counters.acknowledged),
        ];
        for (name, help, value) in grown {
            self.counter(name, help, read(value));
        }
        let now = [
            ("caelum_probe_spool_events", "Events that wait to be taken.", &counters.spooled),
            ("caelum_probe_send_failures", "Tries to send that failed since one did not.", &counters.failing),
        ];
        for (name, help, value) in now {
            self.gauge(name, help, read(value) as f64);
        }
    }

    /// What became of the spans of this process; nothing where no collector is set.
    pub fn traces(&mut self, tracer: &Tracer) {
        if tracer.is_on() {
            self.counter("caelum_trace_spans_sent_total", "Spans that the collector took.", tracer.sent());
            self.counter(
                "caelum_trace_spans_dropped_total",
                "Spans dropped because too many waited or the collector did not take them.",
                tracer.dropped(),
            );
        }
    }

    /// What ingest has done.
    pub fn ingest(&mut self, counters: &ingest::Counters) {
        self.counter(
            "caelum_ingest_events_accepted_total",
            "Events accepted since the start.",
            read(&counters.accepted),
        );
        self.counter(
            "caelum_ingest_events_duplicate_total",
            "Of those, events known to have been accepted before.",
            read(&counters.duplicate),
        );
        self.counter(
            "caelum_ingest_events_rejected_total",
            "Events refused since the start.",
            read(&counters.rejected),
        );
        self.counter(
            "caelum_ingest_requests_turned_away_total",
            "Requests turned away because of rate or load.",
            read(&counters.turned_away),
        );
        let seconds = read(&counters.append_us) as f64 / 1e6;
        let help = "Time that requests waited for the queue to say durable.";
        self.sample("counter", "caelum_ingest_append_seconds_total", help, "", seconds);
    }

    /// How many tasks there are, and how long they waited for a node of this server.
    pub fn tasks(&mut self, by_status: &BTreeMap<&'static str, u64>, desk: &Desk) {
        for (status, count) in by_status {
            let help = "Tasks by state.";
            self.labelled("gauge", "caelum_tasks", help, ("status", status), *count as f64);
        }
        let name = "caelum_task_wait_seconds";
        let help = "Time from when a task could be given to a node until it was.";
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} histogram\n");
        let mut sum = 0;
        for (at, count) in desk.waits.counts.iter().enumerate() {
            sum += read(count);
            let bound =
                Waits::BOUNDS_MS.get(at).map_or("+Inf".to_owned(), |ms| (*ms as f64 / 1e3).to_string());
            let _ = writeln!(self.text, "{name}_bucket{{le=\"{bound}\"}} {sum}");
        }
        let _ = writeln!(self.text, "{name}_sum {}", read(&desk.waits.total_ms) as f64 / 1e3);
        let _ = writeln!(self.text, "{name}_count {sum}");
        let (workers, held) = desk.workers_here();
        self.gauge("caelum_workers", "Workers that ask this server for work.", workers as f64);
        self.gauge("caelum_worker_tasks", "Tasks that they have.", held as f64);
    }

    /// What this process's aggregator has done.
    pub fn aggregator(&mut self, progress: &Progress) {
        for (name, help, counter) in [
            ("events_counted", "Distinct events counted since the start.", &progress.counted),
            ("events_duplicate", "Duplicates left out since the start.", &progress.duplicates),
            ("events_too_late", "Events too old to be counted since the start.", &progress.too_late),
            ("events_replayed", "Events kept aside that were counted after all.", &progress.replayed),
            ("rows_written", "Rows written, longer windows included.", &progress.rows),
            ("commits", "Commits done.", &progress.commits),
            (
                "commits_retried",
                "Commits that were refused for the moment and tried again.",
                &progress.commits_retried,
            ),
            ("records_damaged", "Records that could not be read.", &progress.damaged),
            ("partitions_taken", "Times that a partition was taken.", &progress.taken),
        ] {
            self.counter(&format!("caelum_aggregator_{name}_total"), help, read(counter));
        }
        let seconds = read(&progress.commit_us) as f64 / 1e6;
        self.sample(
            "counter",
            "caelum_aggregator_commit_seconds_total",
            "Time spent in commits.",
            "",
            seconds,
        );
        let held = progress.held();
        let windows: usize = held.values().map(|held| held.windows).sum();
        self.gauge("caelum_aggregator_partitions", "Partitions in hand.", held.len() as f64);
        self.gauge("caelum_aggregator_windows", "Windows in memory.", windows as f64);
    }

    /// What the diagnoser has done, and how it stands.
    pub fn diagnoser(&mut self, progress: &diagnoser::progress::Progress) {
        let (looks, spent) = progress.looks();
        let standing = progress.standing();
        self.gauge(
            "caelum_diagnoser_is_leading",
            "1 while it is this process's turn to judge, where several share the records.",
            f64::from(u8::from(progress.is_leading())),
        );
        self.counter("caelum_diagnoser_looks_total", "Looks at what was counted since the start.", looks);
        self.counter(
            "caelum_diagnoser_look_microseconds_total",
            "Time that those looks took.",
            u64::try_from(spent.as_micros()).unwrap_or(u64::MAX),
        );
        self.counter(
            "caelum_diagnoser_windows_total",
            "Windows looked at as a whole since the start, those read again then among them.",
            standing.windows,
        );
        self.gauge("caelum_diagnoser_pairs", "Pairs of probe and target in memory.", standing.pairs as f64);
        if let Some(behind_ms) = standing.behind_ms {
            self.gauge(
                "caelum_diagnoser_behind_seconds",
                "Time since the end of the newest window that was looked at.",
                behind_ms as f64 / 1_000.0,
            );
        }
        for label in Label::ALL {
            let open = standing.open.get(&label).copied().unwrap_or(0);
            let help = "Open incidents by what they are bound by.";
            self.labelled("gauge", "caelum_incidents_open", help, ("label", label.as_str()), open as f64);
        }
    }

    /// What waits in the queue.
    pub fn queue(&mut self, depth: caelum_queue::Depth) {
        self.gauge("caelum_queue_records", "Records in the queue.", depth.records as f64);
        self.gauge("caelum_queue_events", "Events in the queue.", depth.events as f64);
        self.gauge("caelum_queue_bytes", "Bytes in the queue.", depth.bytes as f64);
    }

    /// The page.
    pub fn answer(self) -> Response {
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], self.text).into_response()
    }
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_and_type_are_said_once_for_all_samples_of_a_name() {
        let mut page = Exposition::default();
        page.labelled("gauge", "a", "What it is.", ("partition", "1"), 2.0);
        page.labelled("gauge", "a", "What it is.", ("partition", "2"), 0.5);
        page.counter("b", "Another.", 3);
        assert_eq!(
            page.text,
            "# HELP a What it is.\n# TYPE a gauge\na{partition=\"1\"} 2\na{partition=\"2\"} 0.5\n\
             # HELP b Another.\n# TYPE b counter\nb 3\n"
        );
    }
}
