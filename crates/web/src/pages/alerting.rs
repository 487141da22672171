//! Settings, alerts: which stand, who is told of them and when, and what makes them.

use askama::Template;
use caelum_model::{
    alert::{Alert, AlertEnd, AlertStatus, ChannelKind, Notice, NoticeSettings, QuietHours, WebhookForm},
    node::{Level, Thresholds},
};

use super::{
    alerting_forms::{ChannelForm, QuietForm, ThresholdForm},
    block::Block,
    format::{self, counted},
    frame::{self, Frame, Moment, Place, Reader, Theme},
    mark::Status,
    picture::Picture,
    pipeline,
    words::{self, Verdict},
};

/// Blocks of this page, by their names in live updates.
pub const TOPICS: &str = "alert-log,notices";
/// Where it is.
pub const PATH: &str = "/settings/alerts";
/// Rows of alerts that are over.
const PAST_ROWS: usize = 20;
/// Rows of notices.
const NOTICE_ROWS: usize = 20;

/// An alert as a row.
pub struct Row {
    /// Its id.
    pub id: String,
    status: Status,
    word: &'static str,
    /// The node's name.
    pub name: String,
    href: String,
    text: String,
    since: Moment,
    lasted: String,
    note: String,
    is_active: bool,
    is_open: bool,
}

/// An alert as a row, here and on other pages.
pub fn row(picture: &Picture, alert: &Alert) -> Row {
    let scene = &picture.scene;
    let until_ms = alert.resolved_at_ms.unwrap_or(scene.now_ms);
    let is_open = alert.resolved_at_ms.is_none();
    let note = match (alert.status, alert.resolved_because) {
        (AlertStatus::Acknowledged, _) => match &alert.acknowledged_by {
            Some(who) => format!("{who} looks into it"),
            None => "somebody looks into it".to_owned(),
        },
        (AlertStatus::Resolved, Some(AlertEnd::Superseded)) => "the machine could not be reached".to_owned(),
        (AlertStatus::Resolved, Some(AlertEnd::Resolved)) => "ended by hand".to_owned(),
        (AlertStatus::Resolved, Some(AlertEnd::Removed)) => "the machine was removed".to_owned(),
        _ => String::new(),
    };
    Row {
        id: alert.alert_id.clone(),
        status: if is_open { alert.severity.into() } else { Status::Ok },
        word: if is_open { alert.severity.as_str() } else { "over" },
        name: alert.node_name.clone(),
        href: scene.span.link(&frame::machine_link(&alert.node_name)),
        text: words::nonbreaking(&alert.message),
        since: Moment::new(&scene.zone, alert.raised_at_ms, scene.now_ms),
        lasted: format::duration(until_ms - alert.raised_at_ms),
        note,
        is_active: alert.status == AlertStatus::Active,
        is_open,
    }
}

#[derive(Template)]
#[template(path = "blocks/answer.html")]
struct Answer<'a> {
    id: &'a str,
    name: &'a str,
    /// Where the browser goes back to.
    from: &'static str,
    is_active: bool,
}

/// The buttons that answer an alert, beside it wherever it is shown: for who may, and while it stands.
pub fn answer(alert: &Alert, from: &'static str, may_operate: bool) -> Block {
    if !may_operate || alert.resolved_at_ms.is_some() {
        return Block::none();
    }
    let template = Answer {
        id: &alert.alert_id,
        name: &alert.node_name,
        from,
        is_active: alert.status == AlertStatus::Active,
    };
    Block::render("answer", "Answer", &template)
}

#[derive(Template)]
#[template(path = "blocks/alert_log.html")]
struct AlertLog {
    open: usize,
    rows: Vec<Row>,
    may_operate: bool,
}

fn alert_log(picture: &Picture, may_operate: bool) -> Block {
    let open = picture.open_alerts();
    let past = picture.alerts.iter().filter(|alert| alert.resolved_at_ms.is_some()).take(PAST_ROWS);
    let rows = open.iter().copied().chain(past).map(|alert| row(picture, alert)).collect();
    Block::render("alert-log", "Alerts", &AlertLog { open: open.len(), rows, may_operate })
}

struct NoticeRow {
    key: String,
    status: Status,
    word: String,
    text: String,
    channel: String,
    at: Moment,
    error: String,
}

#[derive(Template)]
#[template(path = "blocks/notices.html")]
struct Notices {
    rows: Vec<NoticeRow>,
}

fn notices(picture: &Picture) -> Block {
    let rows = picture.notices.iter().take(NOTICE_ROWS).map(|notice| notice_row(picture, notice)).collect();
    Block::render("notices", "Notices", &Notices { rows })
}

fn notice_row(picture: &Picture, notice: &Notice) -> NoticeRow {
    let scene = &picture.scene;
    let wait = notice.next_at_ms - scene.now_ms;
    let (status, word) = match (notice.sent_at_ms, notice.given_up_at_ms) {
        (Some(_), _) => (Status::Ok, "sent".to_owned()),
        (None, Some(_)) => (Status::Crit, "given up".to_owned()),
        (None, None) if notice.attempts > 0 => {
            (Status::Warn, format!("tried {}", counted(notice.attempts as usize, "time", "times")))
        }
        (None, None) if wait > 0 => (Status::Queue, format!("held back for {}", format::duration(wait))),
        (None, None) => (Status::Queue, "waits".to_owned()),
    };
    NoticeRow {
        key: notice.notice_id.clone(),
        status,
        word,
        text: words::nonbreaking(&notice.text),
        channel: notice.channel.clone(),
        at: Moment::new(&scene.zone, notice.created_at_ms, scene.now_ms),
        error: notice.error.clone().filter(|_| notice.sent_at_ms.is_none()).unwrap_or_default(),
    }
}

struct ChannelRow {
    name: String,
    what: String,
    least: &'static str,
}

struct QuietRow {
    index: usize,
    what: String,
}

/// What the page shows beside the picture.
pub struct Beside {
    /// Who is told, and when not.
    pub settings: NoticeSettings,
    /// What was typed.
    pub channel: ChannelForm,
    /// What was typed.
    pub quiet: QuietForm,
    /// What is wrong with what was typed, or what became of a test.
    pub said: Option<(bool, String)>,
}

impl Beside {
    /// Nothing was typed yet.
    pub fn fresh(settings: NoticeSettings) -> Self {
        Self { settings, channel: ChannelForm::default(), quiet: QuietForm::default(), said: None }
    }
}

#[derive(Template)]
#[template(path = "pages/alerts.html")]
struct Page {
    frame: Frame,
    theme: Theme,
    tabs: Block,
    log: Block,
    notices: Block,
    channels: Vec<ChannelRow>,
    quiet_hours: Vec<QuietRow>,
    thresholds: ThresholdForm,
    channel: ChannelForm,
    quiet: QuietForm,
    said: Option<(bool, String)>,
    may_operate: bool,
}

/// The page.
pub fn page(
    picture: &Picture,
    thresholds: &Thresholds,
    reader: Reader,
    beside: Beside,
) -> impl Template + use<> {
    let (theme, may_operate) = (reader.theme, reader.may_operate);
    let heading = frame::heading(&verdict(picture));
    let channels = beside.settings.channels.iter().map(|channel| ChannelRow {
        name: channel.name.clone(),
        what: channel_words(&channel.kind),
        least: match channel.least {
            Level::Critical => "critical and offline",
            Level::Offline => "offline only",
            Level::Healthy | Level::Warning => "everything",
        },
    });
    let quiet_hours = beside.settings.quiet_hours.iter().enumerate();
    Page {
        frame: Frame::new(picture, reader, Place::Settings, "Alerts", heading, PATH, TOPICS),
        theme,
        tabs: pipeline::settings_tabs(PATH),
        log: alert_log(picture, may_operate),
        notices: notices(picture),
        channels: channels.collect(),
        quiet_hours: quiet_hours.map(|(index, quiet)| QuietRow { index, what: quiet_words(quiet) }).collect(),
        thresholds: ThresholdForm::of(thresholds),
        channel: beside.channel,
        quiet: beside.quiet,
        said: beside.said,
        may_operate,
    }
}

fn verdict(picture: &Picture) -> Verdict {
    let open = picture.open_alerts();
    let worst = open.first().map_or(Status::Ok, |alert| alert.severity.into());
    let sentence = match open.len() {
        0 => "No alert stands.".to_owned(),
        count => format!("{}.", counted(count, "alert stands", "alerts stand")),
    };
    let lede =
        "An alert is raised when a threshold has been reached for a while, and ends by itself. Each change \
                is told once on every channel."
            .to_owned();
    Verdict { status: worst, sentence, lede }
}

/// A channel in words, without its secrets.
fn channel_words(kind: &ChannelKind) -> String {
    match kind {
        ChannelKind::Webhook { url, form } => {
            let form = if *form == WebhookForm::Slack { "chat" } else { "webhook" };
            format!("{form} at {}", caelum_drivers::notify::place_of(url))
        }
        ChannelKind::Mail { server, to, .. } => format!("mail to {} by {server}", to.join(", ")),
        ChannelKind::Log => "log of the server".to_owned(),
    }
}

fn quiet_words(quiet: &QuietHours) -> String {
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    let days: Vec<&str> =
        quiet.days.iter().filter_map(|day| DAYS.get(usize::from(*day).wrapping_sub(1)).copied()).collect();
    let days = if days.is_empty() { "every day".to_owned() } else { days.join(", ") };
    let time = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
    let mut words =
        format!("{} to {}, {days}, {}", time(quiet.from_minute), time(quiet.to_minute), quiet.time_zone);
    if !quiet.tags.is_empty() {
        words.push_str(&format!(", for {}", quiet.tags.join(" ")));
    }
    words
}

/// Renders one block of this page by its live name.
pub fn block(name: &str, picture: &Picture, may_operate: bool) -> Option<Block> {
    Some(match name {
        "verdict" => frame::heading(&verdict(picture)),
        "alert-log" => alert_log(picture, may_operate),
        "notices" => notices(picture),
        _ => return None,
    })
}
