//! One task: what was asked for, every attempt and why there, what it wrote.

use askama::Template;
use caelum_model::task::{Attempt, OutputChunk, Promise, Task, TaskState};

use super::{
    block::Block,
    format::{self, counted},
    frame::{self, Frame, Place, Reader, Theme},
    mark::Status,
    picture::Picture,
    tasks::{self, Standing, standing},
    words::Verdict,
};
use crate::{api::tasks as api, error::ApiError, state::State};

/// Blocks of the page, by their names in live updates.
pub const TOPICS: &str = "task,attempts,output";
/// Chunks of output that the page shows; the newest.
const CHUNKS_MAX: usize = 256;
/// Bytes of output that the page shows; the newest.
const SHOWN_MAX: usize = 96 << 10;

/// What the page shows beside the picture.
#[derive(Clone, Debug)]
pub struct Sight {
    task: Task,
    output: Vec<OutputChunk>,
    /// Why it is not with a node.
    waits_for: Vec<String>,
}

impl Sight {
    /// Reads a task and the newest attempt's output.
    pub async fn read(state: &State, id: &str) -> Result<Self, ApiError> {
        let task = api::find(state, id).await?;
        let mut output: Vec<OutputChunk> = Vec::new();
        loop {
            let after = output.last().map(|chunk| chunk.seq);
            let page = state.store.task_output(&task.task_id, task.fence, after, CHUNKS_MAX).await?;
            let is_last = page.len() < CHUNKS_MAX;
            output.extend(page);
            // Of a long one only the end is shown; what is kept of an attempt is bounded.
            let surplus = output.len().saturating_sub(CHUNKS_MAX * 2);
            output.drain(..surplus);
            if is_last {
                let waits_for = api::waits_for(state, &task).await?;
                return Ok(Self { task, output, waits_for });
            }
        }
    }
}

struct Fact {
    name: &'static str,
    value: String,
}

#[derive(Template)]
#[template(path = "blocks/task.html")]
struct Facts {
    facts: Vec<Fact>,
    data: String,
}

fn facts(picture: &Picture, sight: &Sight) -> Block {
    let (scene, task) = (&picture.scene, &sight.task);
    let moment = |at: i64| scene.zone.moment(at, scene.now_ms);
    let order = &task.order;
    let mut facts = vec![
        Fact { name: "Kind", value: tasks::kind(order).to_owned() },
        Fact { name: "Asked for", value: format!("{} by {}", moment(task.created_at), task.created_by) },
        Fact {
            name: "Limits",
            value: format!(
                "{}, {}, priority {}",
                format::duration(i64::try_from(order.timeout_seconds * 1_000).unwrap_or(i64::MAX)),
                counted(order.max_retries as usize + 1, "attempt", "attempts"),
                order.priority
            ),
        },
        Fact {
            name: "Promise",
            value: match order.promise {
                Promise::AtMostOnce => "never begun a second time; lost with its node",
                Promise::AtLeastOnce => "begun again elsewhere if its node goes away",
            }
            .to_owned(),
        },
    ];
    if !order.requirements.is_empty() {
        facts.push(Fact { name: "Needs", value: order.requirements.join(", ") });
    }
    if let Some(node) = &order.assigned_node {
        facts.push(Fact { name: "Only on", value: tasks::node_name(picture, node.as_str()) });
    }
    if let Some(why) = task.attempts.last().map(|last| last.reasons.join("; ")).filter(|why| !why.is_empty())
    {
        facts.push(Fact { name: "Why there", value: why });
    }
    if !sight.waits_for.is_empty() {
        facts.push(Fact { name: "Waits for", value: sight.waits_for.join("; ") });
    }
    if let Some(error) = &task.error {
        facts.push(Fact { name: "Error", value: error.clone() });
    }
    facts.push(Fact { name: "Id", value: task.task_id.to_string() });
    let data = serde_json::to_string_pretty(&order.task_data).unwrap_or_default();
    Block::render("task", "The task", &Facts { facts, data })
}

struct AttemptRow {
    n: u32,
    standing: Standing,
    node: String,
    times: String,
    exit: String,
    why: String,
}

#[derive(Template)]
#[template(path = "blocks/attempts.html")]
struct Attempts {
    rows: Vec<AttemptRow>,
}

fn attempts(picture: &Picture, sight: &Sight) -> Block {
    let scene = &picture.scene;
    let row = |one: &Attempt| {
        let clock = |at: i64| scene.zone.second(at);
        let began = one.started_at.unwrap_or(one.leased_at);
        AttemptRow {
            n: one.n,
            standing: match one.outcome {
                Some(TaskState::Queued) => Standing { word: "Given back", ..standing(TaskState::Queued) },
                Some(outcome) => standing(outcome),
                None if one.started_at.is_some() => standing(TaskState::Running),
                None => standing(TaskState::Leased),
            },
            node: tasks::node_name(picture, one.node_id.as_str()),
            times: match one.finished_at {
                Some(ended) => {
                    format!(
                        "{} to {}, {}",
                        clock(began),
                        clock(ended),
                        format::duration((ended - began).max(0))
                    )
                }
                None => format!("since {}", clock(began)),
            },
            exit: one.exit_code.map_or_else(String::new, |code| format!("exit {code}")),
            why: one.error.clone().unwrap_or_default(),
        }
    };
    let rows = sight.task.attempts.iter().rev().map(row).collect();
    Block::render("attempts", "Attempts", &Attempts { rows })
}

struct Stretch {
    is_error: bool,
    text: String,
}

#[derive(Template)]
#[template(path = "blocks/output.html")]
struct Output {
    stretches: Vec<Stretch>,
    note: String,
    is_cut: bool,
    is_running: bool,
    whole: String,
}

fn output(sight: &Sight) -> Block {
    let task = &sight.task;
    let mut left = SHOWN_MAX;
    let mut stretches: Vec<Stretch> = Vec::new();
    let mut is_cut = sight.output.first().is_some_and(|first| first.seq > 0);
    for chunk in sight.output.iter().rev() {
        if chunk.text.len() > left {
            is_cut = true;
            break;
        }
        left -= chunk.text.len();
        stretches.push(Stretch { is_error: chunk.is_error, text: chunk.text.clone() });
    }
    stretches.reverse();
    let last = task.attempts.last();
    let bytes = last.map_or(0, |last| last.output_bytes);
    let note = match last {
        Some(last) if bytes > 0 => format!("attempt {}, {}", last.n, format::memory(bytes as f64)),
        Some(last) => format!("attempt {}", last.n),
        None => String::new(),
    };
    let whole = format!("/api/tasks/{}/output", frame::encode(task.task_id.as_str()));
    let is_running = task.status == TaskState::Running;
    Block::render("output", "Output", &Output { stretches, note, is_cut, is_running, whole })
}

#[derive(Template)]
#[template(path = "pages/task.html")]
struct Page {
    frame: Frame,
    theme: Theme,
    facts: Block,
    attempts: Block,
    output: Block,
    href: String,
    can_cancel: bool,
    can_retry: bool,
}

/// The page of a task.
pub fn page(picture: &Picture, sight: &Sight, reader: Reader) -> impl Template + use<> {
    let (theme, task) = (reader.theme, &sight.task);
    let href = tasks::link(task.task_id.as_str());
    let may = reader.may_operate;
    let is_unhappy = task.status.is_final() && task.status != TaskState::Succeeded;
    Page {
        frame: Frame::new(picture, reader, Place::Tasks, "Task", heading(picture, sight), &href, TOPICS),
        theme,
        facts: facts(picture, sight),
        attempts: attempts(picture, sight),
        output: output(sight),
        href,
        can_cancel: may && !task.status.is_final() && task.cancelled_by.is_none(),
        can_retry: may && is_unhappy,
    }
}

fn heading(picture: &Picture, sight: &Sight) -> Block {
    let (scene, task) = (&picture.scene, &sight.task);
    let status = match task.status {
        TaskState::Queued | TaskState::Leased => Status::Queue,
        TaskState::Running => Status::Info,
        TaskState::Succeeded => Status::Ok,
        TaskState::Cancelled => Status::Off,
        TaskState::Failed | TaskState::TimedOut | TaskState::Lost => Status::Crit,
    };
    let verdict = Verdict { status, sentence: tasks::what(&task.order), lede: String::new() };
    let mut facts = Vec::new();
    if let Some(last) = task.attempts.last() {
        facts.push(format!("on {}", tasks::node_name(picture, last.node_id.as_str())));
    }
    facts.push(tasks::timing(task, scene.now_ms));
    if task.status.is_held() && task.cancelled_by.is_some() {
        facts.push("being called off".to_owned());
    }
    facts.retain(|fact| !fact.is_empty());
    let word = standing(task.status).word;
    frame::detail_heading_as(&verdict, word, ("Tasks", scene.span.link("/tasks")), &facts)
}

/// Renders one block of the page by its live name.
pub fn block(name: &str, picture: &Picture, sight: &Sight) -> Option<Block> {
    Some(match name {
        "verdict" => heading(picture, sight),
        "task" => facts(picture, sight),
        "attempts" => attempts(picture, sight),
        "output" => output(sight),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_shown_with_a_word_of_its_own() {
        let words: std::collections::BTreeSet<&str> =
            TaskState::ALL.iter().map(|state| standing(*state).word).collect();
        assert_eq!(words.len(), TaskState::ALL.len());
    }
}
