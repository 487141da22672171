//! Icons and statuses: the one place where a level gets its silhouette, its word and its data attribute.
//!
//! Both print HTML themselves and are the only such types beside [`super::block::Block`]. They print nothing
//! but text that is part of the program, so nothing that came from outside can pass unescaped.

use std::{borrow::Borrow, fmt};

use askama::filters::HtmlSafe;
use caelum_model::node::Level;

use super::assets;

/// One of the statuses that the product knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// Every threshold is met; as usual.
    Ok,
    /// One threshold is passed, nothing has failed.
    Warn,
    /// Something people rely on does not work.
    Crit,
    /// No heartbeat within the time limit; no data.
    Off,
    /// The value is older than twice its interval.
    Stale,
    /// Waiting, or not known yet.
    Queue,
    /// Worth knowing, neither good nor bad.
    Info,
}

impl Status {
    /// The value of `data-level`.
    pub fn level(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Crit => "crit",
            Self::Off => "off",
            Self::Stale => "stale",
            Self::Queue => "queue",
            Self::Info => "info",
        }
    }

    /// The icon's name in the sprite.
    pub fn icon_name(self) -> &'static str {
        match self {
            Self::Ok => "s-ok",
            Self::Warn => "s-warn",
            Self::Crit => "s-crit",
            Self::Off => "s-off",
            Self::Stale => "s-stale",
            Self::Queue => "s-queue",
            Self::Info => "s-info",
        }
    }

    /// The word, for machines.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "Healthy",
            Self::Warn => "Warning",
            Self::Crit => "Critical",
            Self::Off => "Offline",
            Self::Stale => "Stale",
            Self::Queue => "Waiting",
            Self::Info => "Note",
        }
    }

    /// Whether somebody should look.
    pub fn needs_attention(self) -> bool {
        matches!(self, Self::Warn | Self::Crit | Self::Off)
    }
}

impl From<Level> for Status {
    fn from(level: Level) -> Self {
        match level {
            Level::Healthy => Self::Ok,
            Level::Warning => Self::Warn,
            Level::Critical => Self::Crit,
            Level::Offline => Self::Off,
        }
    }
}

/// An icon of the sprite.
#[derive(Clone, Copy, Debug)]
pub struct Icon {
    name: &'static str,
    class: &'static str,
    label: Option<&'static str>,
}

/// An icon that only repeats the words beside it.
pub fn icon(name: &'static str) -> Icon {
    Icon { name, class: "icon", label: None }
}

/// The same, smaller.
pub fn small_icon(name: &'static str) -> Icon {
    Icon { name, class: "icon icon--s", label: None }
}

/// An icon that stands alone and therefore says what it means.
pub fn told_icon(name: &'static str, label: &'static str) -> Icon {
    Icon { name, class: "icon", label: Some(label) }
}

impl fmt::Display for Icon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let href = assets::href("icons.svg");
        match self.label {
            None => write!(
                f,
                "<svg class=\"{}\" aria-hidden=\"true\"><use href=\"{href}#{}\"/></svg>",
                self.class, self.name
            ),
            Some(label) => write!(
                f,
                "<svg class=\"{}\" role=\"img\" aria-label=\"{label}\"><use href=\"{href}#{}\"/></svg>",
                self.class, self.name
            ),
        }
    }
}

impl HtmlSafe for Icon {}

/// A status as icon alone, for places where the word stands elsewhere or would not fit.
#[derive(Clone, Copy, Debug)]
pub struct Mark(Status, &'static str);

/// The icon of a status with its word for those who listen.
pub fn mark(status: impl Borrow<Status>) -> Mark {
    let status = *status.borrow();
    Mark(status, status.word())
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let drawn = told_icon(self.0.icon_name(), self.1);
        write!(f, "<span class=\"mark\" data-level=\"{}\">{drawn}</span>", self.0.level())
    }
}

impl HtmlSafe for Mark {}

/// A status as icon and word.
#[derive(Clone, Copy, Debug)]
pub struct StatusWord(Status, &'static str);

/// A machine's status.
pub fn status(status: impl Borrow<Status>) -> StatusWord {
    let status = *status.borrow();
    StatusWord(status, status.word())
}

/// A status with a word of its own, such as *As usual*.
pub fn status_as(status: impl Borrow<Status>, word: &'static str) -> StatusWord {
    StatusWord(*status.borrow(), word)
}

impl fmt::Display for StatusWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let drawn = icon(self.0.icon_name());
        write!(f, "<span class=\"status\" data-level=\"{}\">{drawn}{}</span>", self.0.level(), self.1)
    }
}

impl HtmlSafe for StatusWord {}

/// A status as icon, number and word, for legends.
#[derive(Clone, Copy, Debug)]
pub struct StatusCount(Status, usize, &'static str);

/// `9 healthy`.
pub fn status_count(status: impl Borrow<Status>, number: usize, word: &'static str) -> StatusCount {
    StatusCount(*status.borrow(), number, word)
}

impl fmt::Display for StatusCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let drawn = icon(self.0.icon_name());
        write!(
            f,
            "<span class=\"status\" data-level=\"{}\">{drawn}{}\u{a0}{}</span>",
            self.0.level(),
            self.1,
            self.2
        )
    }
}

impl HtmlSafe for StatusCount {}
