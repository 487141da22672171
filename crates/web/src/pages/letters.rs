//! Events that were kept aside instead of being counted: the list with its filter, and one of them closer.
//!
//! Counting after all is asked for by forms that need no script; whoever may not ask sees no button.

use askama::Template;
use caelum_engine::window::DeadReason;
use serde::Deserialize;

use super::{
    block::Block,
    format::counted,
    frame::{self, Moment},
    mark::Status,
    picture::Picture,
    pipeline::Sight,
    words,
};
use crate::api::pipeline::{DeadLetterJson, DeadLettersQuery};

/// Rows of one page of the list.
const ROWS: usize = 50;
/// Longest event that is shown, characters.
const EVENT_MAX: usize = 16_384;

/// What the address says. Numbers are read leniently: one that is none is as if it were not there.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Choice {
    /// Only of this probe.
    pub client_id: Option<String>,
    /// Only for this reason.
    pub reason: Option<String>,
    /// Only in this state.
    pub state: Option<String>,
    /// Where a list before ended.
    pub cursor: Option<String>,
    /// The one that is looked at closer.
    pub letter: Option<String>,
    /// How many were asked for just now.
    pub asked: Option<String>,
    /// How many of those wished for were not.
    pub skipped: Option<String>,
}

fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().map(str::trim).filter(|text| !text.is_empty())
}

/// The query for a list that begins with this one.
pub fn one(id: i64) -> DeadLettersQuery {
    let cursor = Some(id.saturating_add(1));
    DeadLettersQuery { client_id: None, reason: None, state: None, limit: Some(1), cursor }
}

impl Choice {
    /// The chosen one.
    pub fn letter(&self) -> Option<i64> {
        given(&self.letter)?.parse().ok()
    }

    /// The query of the list.
    pub fn query(&self) -> DeadLettersQuery {
        DeadLettersQuery {
            client_id: given(&self.client_id).map(str::to_owned),
            reason: given(&self.reason).map(str::to_owned),
            state: given(&self.state).map(str::to_owned),
            limit: Some(ROWS),
            cursor: given(&self.cursor).and_then(|cursor| cursor.parse().ok()),
        }
    }

    /// The page's address with this choice, without what was said just now.
    pub fn path(&self) -> String {
        let query: Vec<String> = [
            ("client_id", &self.client_id),
            ("reason", &self.reason),
            ("state", &self.state),
            ("cursor", &self.cursor),
            ("letter", &self.letter),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", frame::encode(given(value)?))))
        .collect();
        let path = "/network/pipeline";
        if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) }
    }

    /// What became of a wish, in words.
    pub fn said(&self) -> Option<String> {
        let number = |text| given(text)?.parse::<usize>().ok();
        let (asked, skipped) = (number(&self.asked)?, number(&self.skipped).unwrap_or(0));
        let done = match asked {
            0 => "Nothing is to be counted after all.".to_owned(),
            asked => format!("{} counted within seconds.", counted(asked, "event is", "events are")),
        };
        Some(match skipped {
            0 => done,
            skipped => format!(
                "{done} {} left out: counted or asked for before, too old for the minutes that are kept, or not \
                 an event.",
                counted(skipped, "other was", "others were")
            ),
        })
    }

    fn is_filtered(&self) -> bool {
        [&self.client_id, &self.reason, &self.state].into_iter().any(|value| given(value).is_some())
    }

    fn with_letter(&self, id: Option<i64>) -> Self {
        Self { letter: id.map(|id| id.to_string()), ..self.clone() }
    }
}

struct Row {
    id: i64,
    href: String,
    probe: String,
    measured: Moment,
    kept: Moment,
    reason: String,
    status: Status,
    word: &'static str,
    chosen: bool,
}

struct Entry {
    value: String,
    label: String,
    selected: bool,
}

#[derive(Template)]
#[template(path = "blocks/letters.html")]
struct List {
    rows: Vec<Row>,
    all: String,
    client_id: String,
    reasons: Vec<Entry>,
    states: Vec<Entry>,
    span: Vec<(&'static str, String)>,
    is_filtered: bool,
    clear: String,
    older: Option<String>,
    newest: Option<String>,
    bulk: Option<Bulk>,
    is_bulk_possible: bool,
}

/// All that match, counted after all at once.
struct Bulk {
    client_id: String,
    reason: String,
    back: String,
    number: String,
    which: String,
}

/// Draws the list.
pub fn list(picture: &Picture, sight: &Sight, choice: &Choice, may_operate: bool) -> Block {
    let span = &picture.scene.span;
    let counts = &sight.health.dead_letters;
    let sum = |of: &dyn Fn(&str, &str) -> bool| -> u64 {
        counts.iter().filter(|count| of(&count.reason, &count.state)).map(|count| count.count).sum()
    };
    let entry = |value: &str, label: String, chosen: Option<&str>| Entry {
        value: value.to_owned(),
        selected: chosen == Some(value),
        label,
    };
    let chosen_reason = given(&choice.reason);
    let mut known: Vec<&str> = counts.iter().map(|count| count.reason.as_str()).collect();
    known.extend(chosen_reason);
    known.sort_unstable();
    known.dedup();
    let reasons =
        known.into_iter().map(|reason| entry(reason, words::reason(reason).0, chosen_reason)).collect();
    let states = ["kept", "requested", "replayed"]
        .map(|state| entry(state, words::letter_state(state).1.to_owned(), given(&choice.state)))
        .into();
    let rows: Vec<Row> =
        sight.letters.dead_letters.iter().map(|letter| row(picture, letter, choice)).collect();
    let older = sight.letters.next_cursor.map(|cursor| {
        span.link(&Choice { cursor: Some(cursor.to_string()), ..choice.with_letter(None) }.path())
    });
    let first = || span.link(&Choice { cursor: None, ..choice.clone() }.path());
    let kept = sum(&|_, state| state == "kept");
    let template = List {
        bulk: bulk(picture, sight, choice).filter(|_| may_operate),
        is_bulk_possible: may_operate && kept > 0,
        all: super::format::count(sum(&|_, _| true)),
        client_id: given(&choice.client_id).unwrap_or_default().to_owned(),
        reasons,
        states,
        span: parts_of(&span.query()),
        is_filtered: choice.is_filtered(),
        clear: span.link("/network/pipeline#b-letters"),
        older,
        newest: given(&choice.cursor).map(|_| first()),
        rows,
    };
    Block::render("letters", "Kept aside", &template)
}

/// The span as fields of a form, so that filtering keeps it.
fn parts_of(query: &str) -> Vec<(&'static str, String)> {
    ["range", "from", "to"]
        .into_iter()
        .filter_map(|name| {
            let part = query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))?;
            Some((name, part.to_owned()))
        })
        .collect()
}

/// What the filter stands for, if it says enough to act on all of it.
fn bulk(picture: &Picture, sight: &Sight, choice: &Choice) -> Option<Bulk> {
    let (client_id, reason) = (given(&choice.client_id), given(&choice.reason));
    if reason.is_some_and(|reason| DeadReason::parse(reason).is_none()) {
        return None;
    }
    let of_reason: u64 = sight
        .health
        .dead_letters
        .iter()
        .filter(|count| count.state == "kept" && Some(count.reason.as_str()) == reason)
        .map(|count| count.count)
        .sum();
    let shown = sight.letters.dead_letters.iter().filter(|letter| letter.state == "kept").count();
    // Of one probe nobody has counted them; those shown are all of them where the list has one page.
    let is_all_shown = sight.letters.next_cursor.is_none() && given(&choice.cursor).is_none();
    let number = match (client_id, reason) {
        (None, None) => return None,
        (None, Some(_)) => counted(usize::try_from(of_reason).unwrap_or(usize::MAX), "event", "events"),
        _ if is_all_shown && given(&choice.state).is_none_or(|state| state == "kept") => {
            counted(shown, "event", "events")
        }
        _ => "all events".to_owned(),
    };
    if (client_id.is_none() && of_reason == 0) || (client_id.is_some() && is_all_shown && shown == 0) {
        return None;
    }
    let of = client_id.map_or_else(String::new, |id| format!(" of {}", picture.probe_name(id)));
    let why = reason.map_or_else(String::new, |word| format!(" for being {}", words::reason(word).0));
    Some(Bulk {
        client_id: client_id.unwrap_or_default().to_owned(),
        reason: reason.unwrap_or_default().to_owned(),
        back: picture.scene.span.link(&choice.path()),
        which: format!(
            "that {} kept aside{why}{of}",
            if number.starts_with("1\u{a0}") { "is" } else { "are" }
        ),
        number,
    })
}

fn row(picture: &Picture, letter: &DeadLetterJson, choice: &Choice) -> Row {
    let scene = &picture.scene;
    let (status, word) = words::letter_state(&letter.state);
    let link = choice.with_letter(Some(letter.id)).path();
    Row {
        id: letter.id,
        href: format!("{}#b-letter", scene.span.link(&link)),
        probe: picture.probe_name(letter.client_id.as_str()).to_owned(),
        measured: Moment::new(&scene.zone, letter.ts_ms, scene.now_ms),
        kept: Moment::new(&scene.zone, letter.kept_at_ms, scene.now_ms),
        reason: words::reason(&letter.reason).0,
        status,
        word,
        chosen: choice.letter() == Some(letter.id),
    }
}

#[derive(Template)]
#[template(path = "blocks/letter.html")]
struct Panel {
    is_asked: bool,
    chosen: Option<Chosen>,
    clear: String,
    may_operate: bool,
}

struct Chosen {
    id: i64,
    status: Status,
    word: &'static str,
    probe: String,
    probe_href: String,
    measured: String,
    kept: String,
    reason: String,
    meaning: &'static str,
    target: String,
    event: String,
    /// Why it cannot be counted after all; none where it can.
    hindrance: Option<&'static str>,
    back: String,
}

/// Draws the chosen one, or says how to choose one.
pub fn panel(picture: &Picture, sight: &Sight, choice: &Choice, may_operate: bool) -> Block {
    let scene = &picture.scene;
    let chosen = sight.letter.as_ref().map(|letter| {
        let (status, word) = words::letter_state(&letter.state);
        let (reason, meaning) = words::reason(&letter.reason);
        let event = serde_json::to_string_pretty(&letter.event).unwrap_or_default();
        let cut: String = event.chars().take(EVENT_MAX).collect();
        Chosen {
            id: letter.id,
            status,
            word,
            probe: picture.probe_name(letter.client_id.as_str()).to_owned(),
            probe_href: scene.span.link(&frame::probe_link(letter.client_id.as_str())),
            measured: scene.zone.exact(letter.ts_ms),
            kept: scene.zone.exact(letter.kept_at_ms),
            reason,
            meaning,
            target: letter.event["target"].as_str().unwrap_or_default().to_owned(),
            event: if cut.len() < event.len() { format!("{cut}…") } else { cut },
            hindrance: hindrance(letter, sight.oldest_ms),
            back: scene.span.link(&choice.path()),
        }
    });
    let template = Panel {
        is_asked: choice.letter().is_some(),
        chosen,
        clear: scene.span.link(&choice.with_letter(None).path()),
        may_operate,
    };
    Block::render("letter", "Selected event", &template)
}

fn hindrance(letter: &DeadLetterJson, oldest_ms: i64) -> Option<&'static str> {
    match letter.state.as_str() {
        "requested" => Some("It is asked for and will be counted within seconds."),
        "replayed" => Some("It is counted."),
        _ if DeadReason::parse(&letter.reason).is_none() => {
            Some("It cannot be counted: what was kept is no event.")
        }
        _ if letter.ts_ms < oldest_ms => {
            Some("It cannot be counted any more: it is older than the minutes that are kept.")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_keeps_its_filter_and_drops_what_was_said_once() {
        let choice = Choice {
            client_id: Some(" a&b ".into()),
            state: Some(String::new()),
            letter: Some("7".into()),
            asked: Some("3".into()),
            skipped: Some("1".into()),
            ..Choice::default()
        };
        assert_eq!(choice.path(), "/network/pipeline?client_id=a%26b&letter=7");
        assert_eq!(choice.query().state, None);
        let said = choice.said().expect("something was asked for").replace('\u{a0}', " ");
        assert!(said.starts_with("3 events are counted within seconds. 1 other was left out:"), "{said}");
        assert_eq!(Choice { asked: Some("x".into()), ..Choice::default() }.said(), None);
        assert_eq!(Choice { cursor: Some("x".into()), ..Choice::default() }.query().cursor, None);
    }

    #[test]
    fn a_form_keeps_the_span() {
        assert_eq!(
            parts_of("range=24h&from=1&to=2"),
            [("range", "24h".to_owned()), ("from", "1".into()), ("to", "2".into())]
        );
        assert!(parts_of("").is_empty());
    }
}
