//! What notices say, to whom they go, and when an attempt that failed is made again.

use caelum_model::{
    UnixMs,
    alert::{Alert, Notice, NoticeChannel, NoticeKind, NoticeSubject},
    incident::{Incident, Severity},
    node::{Level, Metric},
};

use crate::hash::fnv1a;

/// Waits after failed attempts, ms; the last one again and again.
const WAITS_MS: [i64; 6] = [1_000, 5_000, 30_000, 120_000, 600_000, 1_800_000];
/// Attempts after which a notice is given up: a day after the first.
const ATTEMPTS_MAX: u32 = 53;

/// The notices of one change of an alert, one for each channel that wants it.
pub(super) fn notices(
    alert: &Alert,
    kind: NoticeKind,
    by: Option<&str>,
    now_ms: UnixMs,
    hush_until_ms: Option<UnixMs>,
    channels: &[NoticeChannel],
) -> Vec<Notice> {
    let text = match kind {
        NoticeKind::Failure | NoticeKind::Escalation => {
            format!("{}: {} ({})", alert.node_name, alert.message, alert.severity.as_str())
        }
        NoticeKind::Recovery => {
            let lasted = lasting(now_ms - alert.raised_at_ms);
            let what = subject(alert.metric);
            match by {
                None => format!("{}: {what} again, after {lasted}", alert.node_name),
                Some(by) => format!(
                    "{}: {} is resolved by {by}, after {lasted}",
                    alert.node_name,
                    alert.metric.as_str()
                ),
            }
        }
    };
    let draft = Notice {
        notice_id: String::new(),
        subject: NoticeSubject::Alert,
        subject_id: alert.alert_id.clone(),
        kind,
        severity: alert.worst,
        node_id: Some(alert.node_id.clone()),
        place: alert.node_name.clone(),
        text,
        channel: String::new(),
        created_at_ms: now_ms,
        next_at_ms: hush_until_ms.unwrap_or(now_ms),
        attempts: 0,
        sent_at_ms: None,
        given_up_at_ms: None,
        error: None,
    };
    for_channels(&draft, channels)
}

/// The notices of an incident that was found or is over.
pub fn of_incident(
    incident: &Incident,
    kind: NoticeKind,
    now_ms: UnixMs,
    hush_until_ms: Option<UnixMs>,
    channels: &[NoticeChannel],
) -> Vec<Notice> {
    let severity = match incident.severity {
        Severity::Minor | Severity::Major => Level::Warning,
        Severity::Critical => Level::Critical,
    };
    let text = match kind {
        NoticeKind::Failure | NoticeKind::Escalation => incident.sentence.clone(),
        NoticeKind::Recovery => {
            let to_ms = incident.closed_window_ms.unwrap_or(now_ms);
            let lasted = lasting(to_ms - incident.opened_window_ms);
            format!("{} is no longer {}, after {lasted}.", incident.place, incident.label.as_str())
        }
    };
    let draft = Notice {
        notice_id: String::new(),
        subject: NoticeSubject::Incident,
        subject_id: incident.id.clone(),
        kind,
        severity,
        node_id: None,
        place: incident.place.clone(),
        text,
        channel: String::new(),
        created_at_ms: now_ms,
        next_at_ms: hush_until_ms.unwrap_or(now_ms),
        attempts: 0,
        sent_at_ms: None,
        given_up_at_ms: None,
        error: None,
    };
    for_channels(&draft, channels)
}

fn for_channels(draft: &Notice, channels: &[NoticeChannel]) -> Vec<Notice> {
    channels
        .iter()
        .filter(|channel| draft.severity >= channel.least)
        .map(|channel| {
            let kind = draft.kind.as_str();
            // An alert is told of once for each level, an incident once.
            let severity = match draft.subject {
                NoticeSubject::Alert => draft.severity.as_str(),
                NoticeSubject::Incident | NoticeSubject::Test => "",
            };
            let tail = fnv1a(&format!("{severity}/{}", channel.name));
            Notice {
                notice_id: format!("{}-{kind}-{tail:016x}", draft.subject_id),
                channel: channel.name.clone(),
                ..draft.clone()
            }
        })
        .collect()
}

fn subject(metric: Metric) -> &'static str {
    match metric {
        Metric::Cpu => "CPU is below its threshold",
        Metric::Memory => "memory is below its threshold",
        Metric::Disk => "the fullest disk is below its threshold",
        Metric::Load => "load is below its threshold",
        Metric::Heartbeat => "it reports",
    }
}

fn lasting(ms: i64) -> String {
    let seconds = ms.max(0) / 1_000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3_600),
    }
}

/// When a notice is tried again that could not be sent, after so many attempts; none where it is given up.
pub fn next_attempt(attempts: u32, now_ms: UnixMs) -> Option<UnixMs> {
    let index = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX);
    (attempts < ATTEMPTS_MAX).then(|| now_ms + WAITS_MS[index.min(WAITS_MS.len() - 1)])
}
