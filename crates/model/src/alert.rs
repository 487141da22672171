//! What is the matter with a node for a while, and what people are told of it.
//!
//! An alert is the state, a notice is a message about a change of it. Notices wait in the store until a server
//! has sent them, one for each channel. Who decides when either comes to be is `engine::alert`.

use serde::{Deserialize, Serialize};

use crate::{
    UnixMs,
    id::NodeId,
    node::{Level, Metric},
};

/// How an alert stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AlertStatus {
    /// It stands, and nobody has said that they saw it.
    Active,
    /// It stands, and somebody looks into it.
    Acknowledged,
    /// It is over.
    Resolved,
}

impl AlertStatus {
    /// Every status.
    pub const ALL: [Self; 3] = [Self::Active, Self::Acknowledged, Self::Resolved];

    /// The wire spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Acknowledged => "acknowledged",
            Self::Resolved => "resolved",
        }
    }

    /// Reads that spelling.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }
}

/// Why an alert is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AlertEnd {
    /// The value was below its bound for long enough.
    Recovered,
    /// The node cannot be reached: what it said last no longer counts.
    Superseded,
    /// Somebody said so.
    Resolved,
    /// The node is no longer one.
    Removed,
}

/// Something that is the matter with a node, from when to when. One of a (node, metric) stands at a time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Alert {
    /// Identity.
    pub alert_id: String,
    /// The node.
    pub node_id: NodeId,
    /// Its name when the alert changed last.
    pub node_name: String,
    /// What is the matter.
    pub metric: Metric,
    /// How bad it is.
    pub severity: Level,
    /// The worst it has been.
    pub worst: Level,
    /// How it stands.
    pub status: AlertStatus,
    /// A sentence fragment for people.
    pub message: String,
    /// The value at the last change.
    pub value: f64,
    /// The threshold that it reached.
    pub threshold: f64,
    /// When it was raised.
    pub raised_at_ms: UnixMs,
    /// When it changed last.
    pub changed_at_ms: UnixMs,
    /// When somebody said that they saw it.
    pub acknowledged_at_ms: Option<UnixMs>,
    /// Who.
    pub acknowledged_by: Option<String>,
    /// When it was over.
    pub resolved_at_ms: Option<UnixMs>,
    /// Why it was over.
    pub resolved_because: Option<AlertEnd>,
    /// Until when its notice is held back: recovered before, it is never told.
    pub held_until_ms: Option<UnixMs>,
    /// Grows with each change; a write names the one that it has seen.
    pub revision: u64,
}

/// What a notice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NoticeSubject {
    /// An alert.
    Alert,
    /// An incident of the network.
    Incident,
    /// Nothing but the channel itself.
    Test,
}

/// Which change a notice tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NoticeKind {
    /// Something broke.
    Failure,
    /// It got worse.
    Escalation,
    /// It is well again.
    Recovery,
}

impl NoticeKind {
    /// The wire spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failure => "failure",
            Self::Escalation => "escalation",
            Self::Recovery => "recovery",
        }
    }
}

/// A message about one change, for one channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Notice {
    /// Identity; the same for every attempt to send it.
    pub notice_id: String,
    /// What it is about.
    pub subject: NoticeSubject,
    /// The alert's or incident's id.
    pub subject_id: String,
    /// Which change.
    pub kind: NoticeKind,
    /// How bad.
    pub severity: Level,
    /// The node, where it is about one.
    pub node_id: Option<NodeId>,
    /// Where it happened, for people.
    pub place: String,
    /// What happened, in a sentence.
    pub text: String,
    /// Name of the channel.
    pub channel: String,
    /// When the change was.
    pub created_at_ms: UnixMs,
    /// Not to be sent before.
    pub next_at_ms: UnixMs,
    /// How often it was tried to send it.
    #[serde(default)]
    pub attempts: u32,
    /// When it was sent.
    #[serde(default)]
    pub sent_at_ms: Option<UnixMs>,
    /// When it was given up.
    #[serde(default)]
    pub given_up_at_ms: Option<UnixMs>,
    /// What went wrong last.
    #[serde(default)]
    pub error: Option<String>,
}

/// Body of a webhook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum WebhookForm {
    /// The notice as it is.
    #[default]
    Caelum,
    /// `{"text": …}`, as chat programs take it.
    Slack,
}

/// How mail is protected on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MailTls {
    /// TLS from the first byte, usually port 465.
    #[default]
    Tls,
    /// TLS before the login, usually port 587.
    Starttls,
    /// Not at all: for a mail server on this machine.
    None,
}

/// How a channel reaches people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ChannelKind {
    /// An HTTP request.
    Webhook {
        /// Where to. Scheme and host are answered, with `/…` for the rest; given like that in a change, the old one
        /// stays.
        url: String,
        /// In which form.
        #[serde(default)]
        form: WebhookForm,
    },
    /// A mail.
    Mail {
        /// Host of the mail server.
        server: String,
        /// Its port; the usual one of the protection unless given.
        #[serde(default)]
        port: Option<u16>,
        /// Sender.
        from: String,
        /// Receivers.
        to: Vec<String>,
        /// Who logs in, if somebody does.
        #[serde(default)]
        user: Option<String>,
        /// Their password. Never answered; absent in a change, the old one stays.
        #[serde(default)]
        password: Option<String>,
        /// How it is protected.
        #[serde(default)]
        tls: MailTls,
    },
    /// A line in the log of the server that sends it.
    Log,
}

fn warning() -> Level {
    Level::Warning
}

/// Where notices go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NoticeChannel {
    /// What it is called.
    pub name: String,
    /// How it reaches people.
    #[serde(flatten)]
    pub kind: ChannelKind,
    /// Nothing less bad goes there.
    #[serde(default = "warning")]
    pub least: Level,
    /// In answers: whether a secret is set, which is the rest of a webhook's address, or a mail's password. It is
    /// never answered itself. What is given here counts for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<bool>,
}

/// Hours in which notices wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct QuietHours {
    /// Days on which they begin, 1 is Monday and 7 Sunday; empty: every day.
    #[serde(default)]
    pub days: Vec<u8>,
    /// When they begin, minutes after midnight.
    pub from_minute: u16,
    /// When they end; not after the beginning: on the next day.
    pub to_minute: u16,
    /// Time zone by its IANA name, such as `Europe/Berlin`.
    pub time_zone: String,
    /// For nodes with one of these tags; empty: for all.
    #[serde(default)]
    pub tags: Vec<String>,
}

/// Who is told, and when not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NoticeSettings {
    /// Where notices go.
    pub channels: Vec<NoticeChannel>,
    /// When they wait.
    #[serde(default)]
    pub quiet_hours: Vec<QuietHours>,
}

impl Default for NoticeSettings {
    /// The log, so that nothing goes by unsaid.
    fn default() -> Self {
        let log = NoticeChannel {
            name: "log".to_owned(),
            kind: ChannelKind::Log,
            least: Level::Warning,
            set: None,
        };
        Self { channels: vec![log], quiet_hours: Vec::new() }
    }
}
