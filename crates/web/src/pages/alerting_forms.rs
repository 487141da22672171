//! What is typed into the forms of the page about alerts, and what it asks for.

use caelum_model::{
    alert::{ChannelKind, MailTls, NoticeChannel, QuietHours, WebhookForm},
    node::{Level, Threshold, Thresholds},
};
use serde::Deserialize;

/// What was typed into the form of a channel.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ChannelForm {
    /// What it is called.
    pub name: String,
    /// `webhook`, `slack`, `mail` or `log`.
    pub kind: String,
    /// Where a webhook goes.
    pub url: String,
    /// Host of the mail server, with its port where that is not the usual one.
    pub server: String,
    /// Sender of mails.
    pub from: String,
    /// Their receivers, with commas between them.
    pub to: String,
    /// Who logs in at the mail server.
    pub user: String,
    /// Their password.
    pub password: String,
    /// `tls`, `starttls` or `none`.
    pub tls: String,
    /// `warning`, `critical` or `offline`.
    pub least: String,
}

impl ChannelForm {
    /// What the form asks for, or what is wrong with it.
    pub fn channel(&self) -> Result<NoticeChannel, String> {
        let given = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let webhook = |form| ChannelKind::Webhook { url: self.url.trim().to_owned(), form };
        let kind = match self.kind.as_str() {
            "webhook" => webhook(WebhookForm::Caelum),
            "slack" => webhook(WebhookForm::Slack),
            "log" => ChannelKind::Log,
            "mail" => {
                let (server, port) = match self.server.trim().rsplit_once(':') {
                    None => (self.server.trim(), None),
                    Some((server, port)) => {
                        let port = port.parse().map_err(|_| format!("{port} is no port"))?;
                        (server, Some(port))
                    }
                };
                ChannelKind::Mail {
                    server: server.to_owned(),
                    port,
                    from: self.from.trim().to_owned(),
                    to: self.to.split(',').filter_map(given).collect(),
                    user: given(&self.user),
                    password: given(&self.password),
                    tls: match self.tls.as_str() {
                        "starttls" => MailTls::Starttls,
                        "none" => MailTls::None,
                        _ => MailTls::Tls,
                    },
                }
            }
            other => return Err(format!("there is no kind {other}")),
        };
        let least = match self.least.as_str() {
            "critical" => Level::Critical,
            "offline" => Level::Offline,
            _ => Level::Warning,
        };
        Ok(NoticeChannel { name: self.name.trim().to_owned(), kind, least, set: None })
    }
}

/// What was typed into the form of quiet hours.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct QuietForm {
    /// When they begin, `22:00`.
    pub from: String,
    /// When they end.
    pub to: String,
    /// `all`, `weekdays` or `weekends`.
    pub days: String,
    /// Time zone.
    pub time_zone: String,
    /// Tags, with white space or commas between them.
    pub tags: String,
}

impl Default for QuietForm {
    fn default() -> Self {
        let text = str::to_owned;
        Self {
            from: text("22:00"),
            to: text("06:00"),
            days: text("all"),
            time_zone: text("UTC"),
            tags: text(""),
        }
    }
}

impl QuietForm {
    /// What the form asks for, or what is wrong with it.
    pub fn hours(&self) -> Result<QuietHours, String> {
        let minute = |text: &str| {
            let wrong = || format!("{text} is no time of day, such as 22:00");
            let (hour, minute) = text.trim().split_once(':').ok_or_else(wrong)?;
            let (hour, minute): (u16, u16) =
                (hour.parse().map_err(|_| wrong())?, minute.parse().map_err(|_| wrong())?);
            (hour < 24 && minute < 60).then_some(hour * 60 + minute).ok_or_else(wrong)
        };
        let days = match self.days.as_str() {
            "weekdays" => vec![1, 2, 3, 4, 5],
            "weekends" => vec![6, 7],
            _ => Vec::new(),
        };
        Ok(QuietHours {
            days,
            from_minute: minute(&self.from)?,
            to_minute: minute(&self.to)?,
            time_zone: self.time_zone.trim().to_owned(),
            tags: words(&self.tags),
        })
    }
}

/// Words, with white space or commas between them.
pub fn words(text: &str) -> Vec<String> {
    let parts = text.split([',', ' ', '\t', '\n', '\r']);
    parts.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// What was typed into the form of thresholds.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ThresholdForm {
    /// Processor use, percent.
    pub cpu_warning: String,
    /// The same, critical.
    pub cpu_critical: String,
    /// Memory use, percent.
    pub memory_warning: String,
    /// The same, critical.
    pub memory_critical: String,
    /// Use of the fullest file system, percent.
    pub disk_warning: String,
    /// The same, critical.
    pub disk_critical: String,
    /// Load.
    pub load_warning: String,
    /// The same, critical.
    pub load_critical: String,
    /// `on` where load is meant per processor.
    #[serde(default)]
    pub load_per_core: String,
    /// Silence after which a machine is offline, s.
    pub heartbeat_timeout_s: String,
    /// How long a threshold must be reached, s.
    pub alert_hold_s: String,
    /// How long a value must be below its bound, s.
    pub alert_clear_s: String,
    /// How far below a threshold that bound is, points.
    pub alert_margin: String,
}

impl ThresholdForm {
    /// The form with what holds.
    pub fn of(thresholds: &Thresholds) -> Self {
        let text = |value: f64| value.to_string();
        Self {
            cpu_warning: text(thresholds.cpu.warning),
            cpu_critical: text(thresholds.cpu.critical),
            memory_warning: text(thresholds.memory.warning),
            memory_critical: text(thresholds.memory.critical),
            disk_warning: text(thresholds.disk.warning),
            disk_critical: text(thresholds.disk.critical),
            load_warning: text(thresholds.load.warning),
            load_critical: text(thresholds.load.critical),
            load_per_core: if thresholds.load_per_core { "on".to_owned() } else { String::new() },
            heartbeat_timeout_s: thresholds.heartbeat_timeout_s.to_string(),
            alert_hold_s: thresholds.alert_hold_s.to_string(),
            alert_clear_s: thresholds.alert_clear_s.to_string(),
            alert_margin: text(thresholds.alert_margin),
        }
    }

    /// What the form asks for, or what is wrong with it.
    pub fn thresholds(&self) -> Result<Thresholds, String> {
        let number = |text: &str| text.trim().parse::<f64>().map_err(|_| format!("{text} is no number"));
        let whole = |text: &str| text.trim().parse::<u64>().map_err(|_| format!("{text} is no whole number"));
        let pair = |warning: &str, critical: &str| {
            Ok::<_, String>(Threshold { warning: number(warning)?, critical: number(critical)? })
        };
        Ok(Thresholds {
            cpu: pair(&self.cpu_warning, &self.cpu_critical)?,
            memory: pair(&self.memory_warning, &self.memory_critical)?,
            disk: pair(&self.disk_warning, &self.disk_critical)?,
            load: pair(&self.load_warning, &self.load_critical)?,
            load_per_core: self.load_per_core == "on",
            heartbeat_timeout_s: whole(&self.heartbeat_timeout_s)?,
            alert_hold_s: whole(&self.alert_hold_s)?,
            alert_clear_s: whole(&self.alert_clear_s)?,
            alert_margin: number(&self.alert_margin)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_thresholds_that_is_sent_back_unchanged_changes_nothing() {
        let thresholds = Thresholds { load_per_core: true, ..Thresholds::default() };
        assert_eq!(ThresholdForm::of(&thresholds).thresholds(), Ok(thresholds));
        let typed = ThresholdForm { cpu_warning: "much".into(), ..ThresholdForm::of(&thresholds) };
        assert!(typed.thresholds().is_err());
    }

    #[test]
    fn a_night_is_typed_as_people_write_it() {
        let form = QuietForm { days: "weekdays".into(), tags: "lab, web".into(), ..QuietForm::default() };
        let hours = form.hours().expect("reads");
        assert_eq!((hours.from_minute, hours.to_minute, hours.days.len()), (1_320, 360, 5));
        assert_eq!(hours.tags, ["lab", "web"]);
        assert!(QuietForm { from: "25:00".into(), ..QuietForm::default() }.hours().is_err());
    }

    #[test]
    fn a_mail_server_may_name_its_port() {
        let form = ChannelForm {
            name: "mail".into(),
            kind: "mail".into(),
            server: "mail.example.net:2525".into(),
            to: "a@example.net, b@example.net".into(),
            ..ChannelForm::default()
        };
        let ChannelKind::Mail { server, port, to, .. } = form.channel().expect("reads").kind else {
            unreachable!("it is a mail")
        };
        assert_eq!((server.as_str(), port, to.len()), ("mail.example.net", Some(2525), 2));
        assert!(ChannelForm::default().channel().is_err());
    }
}
