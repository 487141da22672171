//! Settings, join tokens: who may join by token, and a new token with the command to type.

use askama::Template;
use caelum_model::cluster::NodeRole;
use serde::Deserialize;

use super::{
    block::Block,
    format,
    frame::{self, Frame, Moment, Place, Reader, Theme},
    mark::Status,
    picture::Picture,
    pipeline, words,
};
use crate::api::enrol::{JoinTokenJson, MadeJoinTokenJson, NewJoinTokenJson};

/// Blocks of this page, by their names in live updates.
pub const TOPICS: &str = "join-tokens";
/// Where it is.
pub const PATH: &str = "/settings/join-tokens";

/// What was typed into the form for a new token.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Form {
    /// What it makes of a machine.
    pub role: String,
    /// How many machines it admits.
    pub uses: String,
    /// For how long it is valid, hours.
    pub hours: String,
}

impl Default for Form {
    fn default() -> Self {
        Self { role: "agent".into(), uses: "1".into(), hours: "24".into() }
    }
}

impl Form {
    /// What the form asks for, or what is wrong with it.
    pub fn wish(&self) -> Result<NewJoinTokenJson, String> {
        let number = |text: &str, what: &str| {
            text.trim().parse::<u32>().map_err(|_| format!("{what} is not a whole number: {}", text.trim()))
        };
        let role = NodeRole::parse(&self.role).ok_or_else(|| format!("there is no role {}", self.role))?;
        Ok(NewJoinTokenJson {
            role: Some(role),
            uses: Some(number(&self.uses, "the number of machines")?),
            expires_s: Some(i64::from(number(&self.hours, "the time of validity")?) * 3_600),
        })
    }
}

/// What became of the form.
#[derive(Debug, Default)]
pub enum Outcome {
    /// It was not sent.
    #[default]
    None,
    /// A token was made, to be shown this once.
    Made(MadeJoinTokenJson),
    /// It was refused, with the reason.
    Fault(String),
}

struct Row {
    id: String,
    status: Status,
    word: &'static str,
    is_valid: bool,
    role: &'static str,
    used: String,
    expires: Moment,
    left: String,
    /// What the time is, where no heading says it.
    label: &'static str,
    made: Moment,
}

#[derive(Template)]
#[template(path = "blocks/join_tokens.html")]
struct List {
    rows: Vec<Row>,
    may_operate: bool,
}

struct Made {
    command: String,
    role: &'static str,
    uses: String,
    expires: Moment,
}

#[derive(Template)]
#[template(path = "pages/tokens.html")]
struct Page {
    frame: Frame,
    theme: Theme,
    tabs: Block,
    tokens: Block,
    form: Form,
    made: Option<Made>,
    fault: Option<String>,
    may_operate: bool,
    may_admin: bool,
}

/// The page. `tokens` is absent for whoever may not see them.
pub fn page(
    picture: &Picture,
    reader: Reader,
    tokens: Option<Vec<JoinTokenJson>>,
    may_admin: bool,
    form: Form,
    outcome: Outcome,
) -> impl Template + use<> {
    let scene = &picture.scene;
    let (theme, may_operate) = (reader.theme, reader.may_operate);
    let verdict = frame::heading(&words::tokens(tokens.as_deref()));
    let (made, fault) = match outcome {
        Outcome::None => (None, None),
        Outcome::Fault(fault) => (None, Some(fault)),
        Outcome::Made(made) => {
            let made = Made {
                command: made.command,
                role: made.role.as_str(),
                uses: format::counted(made.uses as usize, "machine", "machines"),
                expires: Moment::new(&scene.zone, made.expires_at_ms, scene.now_ms),
            };
            (Some(made), None)
        }
    };
    Page {
        frame: Frame::new(picture, reader, Place::Settings, "Join tokens", verdict, PATH, TOPICS),
        theme,
        tabs: pipeline::settings_tabs(PATH),
        tokens: list(picture, tokens.as_deref(), may_operate),
        form,
        made,
        fault,
        may_operate,
        may_admin,
    }
}

fn list(picture: &Picture, tokens: Option<&[JoinTokenJson]>, may_operate: bool) -> Block {
    let scene = &picture.scene;
    let rows = tokens
        .unwrap_or_default()
        .iter()
        .map(|token| {
            let (status, word) = words::token_state(token.state);
            let is_valid = token.state == "valid";
            Row {
                id: token.token_id.clone(),
                status,
                word,
                is_valid,
                role: token.role.as_str(),
                used: format!("{} of {}", token.uses.saturating_sub(token.uses_left), token.uses),
                expires: Moment::new(&scene.zone, token.expires_at_ms, scene.now_ms),
                left: match is_valid {
                    true => format!("in {}", format::duration(token.expires_at_ms - scene.now_ms)),
                    false => String::new(),
                },
                label: if token.expires_at_ms > scene.now_ms { "expires " } else { "expired " },
                made: Moment::new(&scene.zone, token.created_at_ms, scene.now_ms),
            }
        })
        .collect();
    Block::render("join-tokens", "Join tokens", &List { rows, may_operate })
}

/// Renders one block of this page by its live name.
pub fn block(
    name: &str,
    picture: &Picture,
    tokens: Option<&[JoinTokenJson]>,
    may_operate: bool,
) -> Option<Block> {
    Some(match name {
        "verdict" => frame::heading(&words::tokens(tokens)),
        "join-tokens" => list(picture, tokens, may_operate),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_asks_for_hours_and_says_what_is_no_number() {
        let form = Form { hours: " 2 ".into(), ..Form::default() };
        let wish = form.wish().expect("is fine");
        assert_eq!((wish.role, wish.uses, wish.expires_s), (Some(NodeRole::Agent), Some(1), Some(7_200)));
        let fault = Form { uses: "many".into(), ..Form::default() }.wish().expect_err("is none");
        assert_eq!(fault, "the number of machines is not a whole number: many");
        assert!(Form { role: "king".into(), ..Form::default() }.wish().is_err());
    }
}
