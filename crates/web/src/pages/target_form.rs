//! The form of a target, as it is typed and as it is meant.

use caelum_engine::{selector, target as rules};
use caelum_model::target::{Families, Objective, Target, TargetChange};
use serde::Deserialize;

/// What was typed into the form of a target. Everything is text: what is wrong with it is said beside it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Form {
    /// What to measure.
    pub url: String,
    /// Kind of service whose template fills what is left empty.
    pub template: String,
    /// What people call it.
    pub name: String,
    /// Time between measurements, s.
    pub interval_s: String,
    /// Time after which a measurement is given up, ms.
    pub timeout_ms: String,
    /// Object whose download gives the throughput.
    pub throughput_url: String,
    /// IP versions.
    pub families: String,
    /// Words, with white space or commas between them.
    pub tags: String,
    /// Site, provider or service.
    pub group: String,
    /// Which probes measure it.
    pub probes: String,
    /// Time of a good measurement, ms.
    pub within_ms: String,
    /// Share that is promised, percent.
    pub promised: String,
    /// Days over which it is counted.
    pub days: String,
    /// Packets of a train.
    pub packets: String,
    /// Time between traces of the path, s.
    pub trace_every_s: String,
    /// Time between measurements under load, s.
    pub load_every_s: String,
    /// `on` or `off`; only where a target is changed.
    pub enabled: String,
}

fn number<T: std::str::FromStr>(text: &str, what: &str) -> Result<Option<T>, String> {
    match text.trim() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| format!("{what} is not a whole number: {text}")),
    }
}

fn words(text: &str) -> Vec<String> {
    let parts = text.split(|letter: char| letter == ',' || letter.is_whitespace());
    parts.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn given(text: &str) -> Option<String> {
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

impl Form {
    /// The form as it is offered for a new target.
    pub fn fresh() -> Self {
        Self { families: "any".to_owned(), ..Self::default() }
    }

    /// The form of a target that there is.
    pub fn of(target: &Target) -> Self {
        let text = |number: Option<u32>| number.map_or_else(String::new, |number| number.to_string());
        let objective = target.objective;
        Self {
            url: target.url.clone(),
            template: String::new(),
            name: target.name.clone(),
            interval_s: target.interval_s.to_string(),
            timeout_ms: target.timeout_ms.to_string(),
            throughput_url: target.throughput_url.clone().unwrap_or_default(),
            families: match target.families {
                Families::Any => "any",
                Families::Ipv4 => "ipv4",
                Families::Ipv6 => "ipv6",
                Families::Both => "both",
            }
            .to_owned(),
            tags: target.tags.join(" "),
            group: target.group.clone().unwrap_or_default(),
            probes: target.probes.0.join(" "),
            within_ms: text(objective.map(|objective| objective.within_ms)),
            promised: objective
                .map_or_else(String::new, |objective| rules::percent_text(objective.promised_bp)),
            days: text(objective.map(|objective| objective.days.into())),
            packets: text(target.packets.map(u32::from)),
            trace_every_s: text(target.trace_every_s),
            load_every_s: text(target.load_every_s),
            enabled: if target.enabled { "on" } else { "off" }.to_owned(),
        }
    }

    /// What the form asks for, or what is wrong with it. In the form of a new target what is empty is left to
    /// the template; in that of one that there is, it is taken away.
    pub fn change(&self, is_new: bool) -> Result<TargetChange, String> {
        let objective = match (given(&self.within_ms), given(&self.promised)) {
            (None, None) => None,
            (Some(_), Some(promised)) => Some(Objective {
                within_ms: number(&self.within_ms, "the time of a good measurement")?.unwrap_or_default(),
                promised_bp: rules::parse_percent(promised.trim_end_matches('%').trim())
                    .ok_or_else(|| format!("the promise is not a share such as 99.9: {promised}"))?,
                days: number(&self.days, "the number of days")?.unwrap_or(28),
            }),
            _ => return Err("an objective needs both a time and a promised share".to_owned()),
        };
        let probes = selector::parse(&self.probes).map_err(|error| error.to_string())?;
        let families = match self.families.as_str() {
            "ipv4" => Families::Ipv4,
            "ipv6" => Families::Ipv6,
            "both" => Families::Both,
            _ => Families::Any,
        };
        fn maybe<T>(value: Option<T>, is_new: bool) -> Option<Option<T>> {
            if is_new && value.is_none() { None } else { Some(value) }
        }
        Ok(TargetChange {
            name: if is_new { given(&self.name) } else { Some(self.name.clone()) },
            interval_s: number(&self.interval_s, "the interval")?,
            timeout_ms: number(&self.timeout_ms, "the time-out")?,
            throughput_url: maybe(given(&self.throughput_url), is_new),
            families: Some(families),
            enabled: given(&self.enabled).map(|enabled| enabled == "on"),
            tags: Some(words(&self.tags)),
            group: maybe(given(&self.group), is_new),
            probes: Some(probes),
            objective: maybe(objective, is_new),
            packets: maybe(number(&self.packets, "the number of packets")?, is_new),
            trace_every_s: maybe(number(&self.trace_every_s, "the time between traces")?, is_new),
            load_every_s: maybe(number(&self.load_every_s, "the time between loads")?, is_new),
        })
    }
}

/// What was typed into the form of a probe.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ProbeForm {
    /// Site, region or uplink.
    pub group: String,
    /// Words, with white space or commas between them.
    pub tags: String,
    /// `on` where it takes part in the mesh.
    pub mesh: String,
    /// `on` where it measures at all.
    pub enabled: String,
}

impl ProbeForm {
    /// What the form asks for. A box that is not ticked is not sent.
    pub fn change(&self) -> crate::api::probes::ProbeChangeJson {
        crate::api::probes::ProbeChangeJson {
            group: Some(given(&self.group)),
            tags: Some(words(&self.tags)),
            mesh: Some(self.mesh == "on"),
            enabled: Some(self.enabled == "on"),
        }
    }
}

#[cfg(test)]
mod tests {
    use caelum_model::id::TargetId;

    use super::*;

    #[test]
    fn the_form_of_a_target_that_is_sent_back_unchanged_changes_nothing() {
        let target = Target {
            tags: vec!["web".into(), "front".into()],
            group: Some("berlin".into()),
            probes: selector::parse("tag:wifi !lab-3").expect("a selector"),
            objective: Some(Objective { within_ms: 300, promised_bp: 9_990, days: 28 }),
            packets: Some(20),
            trace_every_s: Some(300),
            enabled: false,
            ..Target::usual(TargetId::parse("t").expect("an id"), "icmp://a.example".into(), 0)
        };
        let change = Form::of(&target).change(false).expect("reads");
        assert_eq!(rules::changed(&target, change), Ok(target));
    }

    #[test]
    fn what_is_wrong_with_a_form_is_said_in_its_own_words() {
        let fault = |form: Form| form.change(true).expect_err("refused");
        assert!(fault(Form { interval_s: "soon".into(), ..Form::fresh() }).contains("interval"));
        assert!(fault(Form { within_ms: "300".into(), ..Form::fresh() }).contains("promised share"));
        let promise = Form { within_ms: "300".into(), promised: "99.999".into(), ..Form::fresh() };
        assert!(fault(promise).contains("99.999"));
        assert!(fault(Form { probes: "site:x".into(), ..Form::fresh() }).contains("site"));
        let fresh = Form::fresh().change(true).expect("reads");
        assert_eq!((fresh.packets, fresh.objective, fresh.interval_s), (None, None, None));
    }
}
