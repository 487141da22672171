//! Whether what is asked for is a task: bounds, the shape of its data, and what it waits for.
//!
//! # Rules
//! - `python`, `git`, `test`, `build` and `deploy` are scripts; the word is kept as the task's preset.
//! - Tasks that are asked for in one breath may wait for each other by keys. A circle is refused, and named.
//! - What is left out has its usual value; what is out of bounds is refused, never bent.

use std::collections::{BTreeMap, BTreeSet};

use caelum_model::{
    id::{NodeId, TaskId},
    task::{
        DATA_MAX, DEPENDENCIES_MAX, PRIORITY_MAX, PRIORITY_MIN, PRIORITY_USUAL, REQUIREMENTS_MAX,
        RETRIES_MAX, TIMEOUT_MAX_S, TIMEOUT_USUAL_S, TaskAsk, TaskKind, TaskOrder,
    },
};
use serde_json::{Map, Value};

/// Most tasks that are asked for in one breath.
pub const BATCH_MAX: usize = 1_000;
/// How often a task is tried again for which nothing was asked.
pub const RETRIES_USUAL: u32 = 3;
/// Longest word of a requirement, key or name, bytes.
pub const WORD_MAX: usize = 128;

/// Longest that all requirements of a task are together, bytes: what sets tasks apart is looked up by them.
const WORDS_MAX: usize = 1_000;

/// The word of servers that run commands on other machines: tasks of the kind `ssh` need it.
pub const SSH_POOL: &str = "ssh-pool";

/// Why it is no task.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// No such kind.
    #[error(
        "task_type `{0}` is none of shell, script, http, fetch, probe, ssh, python, git, test, build, deploy"
    )]
    Kind(String),
    /// Something is out of its bounds.
    #[error("{field} {problem}")]
    Bounds {
        /// What.
        field: &'static str,
        /// In which way.
        problem: String,
    },
    /// The data lacks something, or has something that does not belong there.
    #[error("task_data of a task of type `{kind}` {problem}")]
    Data {
        /// Of which kind.
        kind: &'static str,
        /// In which way.
        problem: String,
    },
    /// Tasks wait for each other in a circle.
    #[error("tasks wait for each other in a circle: {}", .0.join(" → "))]
    Circle(Vec<String>),
}

/// What each field of the data of a kind must be.
#[derive(Clone, Copy)]
enum Shape {
    Text,
    Number,
    Texts,
    TextByText,
}

/// Fields of a kind: name, what it is, whether it must be there.
fn fields(kind: TaskKind) -> &'static [(&'static str, Shape, bool)] {
    use Shape::{Number, Text, TextByText, Texts};
    match kind {
        TaskKind::Shell => &[("command", Text, true), ("cwd", Text, false), ("env", TextByText, false)],
        TaskKind::Script => &[
            ("script", Text, true),
            ("interpreter", Text, false),
            ("args", Texts, false),
            ("cwd", Text, false),
            ("env", TextByText, false),
        ],
        TaskKind::Http => &[
            ("url", Text, true),
            ("method", Text, false),
            ("expect_status", Number, false),
            ("expect_text", Text, false),
            ("body", Text, false),
            ("headers", TextByText, false),
        ],
        TaskKind::Fetch => {
            &[("url", Text, true), ("path", Text, true), ("sha256", Text, false), ("mode", Text, false)]
        }
        TaskKind::Probe => &[("url", Text, true)],
        TaskKind::Ssh => &[
            ("host", Text, true),
            ("command", Text, true),
            ("user", Text, false),
            ("port", Number, false),
            ("env", TextByText, false),
        ],
    }
}

/// What a name stands for: a kind, and the interpreter where the name is that of a script.
fn kind_of(name: &str) -> Option<(TaskKind, Option<&'static str>)> {
    Some(match name {
        "python" => (TaskKind::Script, Some("python3")),
        "git" | "test" | "build" | "deploy" => (TaskKind::Script, Some("sh")),
        name => (TaskKind::parse(name)?, None),
    })
}

/// Checks what is asked for in one breath. `ids` are the ids that the tasks are to have, in the same order.
pub fn check(asked: Vec<TaskAsk>, ids: Vec<TaskId>) -> Result<Vec<(TaskId, TaskOrder)>, OrderError> {
    if asked.is_empty() || asked.len() > BATCH_MAX || ids.len() != asked.len() {
        return Err(bounds("tasks", format!("must be 1 to {BATCH_MAX}")));
    }
    let mut keys: BTreeMap<&str, &TaskId> = BTreeMap::new();
    for (ask, id) in asked.iter().zip(&ids) {
        if let Some(key) = &ask.key {
            word("key", key)?;
            if keys.insert(key, id).is_some() {
                return Err(bounds("key", format!("`{key}` is used twice")));
            }
        }
    }
    circle(&asked)?;
    let known: BTreeMap<String, TaskId> =
        keys.into_iter().map(|(key, id)| (key.to_owned(), id.clone())).collect();
    asked.into_iter().zip(ids).map(|(ask, id)| Ok((id, one(ask, &known)?))).collect()
}

/// Tasks of one breath that wait for each other in a circle.
fn circle(asked: &[TaskAsk]) -> Result<(), OrderError> {
    let by_key: BTreeMap<&str, &TaskAsk> =
        asked.iter().filter_map(|ask| Some((ask.key.as_deref()?, ask))).collect();
    // Whoever waits for nobody left is taken away, until nobody can be.
    let mut left: BTreeSet<&str> = by_key.keys().copied().collect();
    loop {
        let free: Vec<&str> = left
            .iter()
            .copied()
            .filter(|key| !by_key[key].depends_on.iter().any(|other| left.contains(other.as_str())))
            .collect();
        if free.is_empty() {
            break;
        }
        for key in free {
            left.remove(key);
        }
    }
    let Some(first) = left.first().copied() else { return Ok(()) };
    // Following any that is left ends in a circle.
    let mut way = vec![first];
    loop {
        let last = way[way.len() - 1];
        let Some(next) = by_key[last].depends_on.iter().find(|other| left.contains(other.as_str())) else {
            return Ok(());
        };
        if let Some(start) = way.iter().position(|key| *key == next) {
            let mut circle: Vec<String> = way[start..].iter().map(|key| (*key).to_owned()).collect();
            circle.push(next.clone());
            return Err(OrderError::Circle(circle));
        }
        way.push(next);
    }
}

/// Checks one. Keys of others that are asked for with it are looked up in `known`.
fn one(ask: TaskAsk, known: &BTreeMap<String, TaskId>) -> Result<TaskOrder, OrderError> {
    let Some((kind, interpreter)) = kind_of(&ask.task_type) else {
        return Err(OrderError::Kind(ask.task_type.chars().take(WORD_MAX).collect()));
    };
    let task_data = data(kind, interpreter, ask.task_data)?;
    let priority = ask.priority.unwrap_or(PRIORITY_USUAL);
    if !(PRIORITY_MIN..=PRIORITY_MAX).contains(&priority) {
        return Err(bounds("priority", format!("must be {PRIORITY_MIN} to {PRIORITY_MAX}")));
    }
    let max_retries = ask.max_retries.unwrap_or(RETRIES_USUAL);
    if max_retries > RETRIES_MAX {
        return Err(bounds("max_retries", format!("must be at most {RETRIES_MAX}")));
    }
    let timeout_seconds = ask.timeout_seconds.unwrap_or(TIMEOUT_USUAL_S);
    if !(1..=TIMEOUT_MAX_S).contains(&timeout_seconds) {
        return Err(bounds("timeout_seconds", format!("must be 1 to {TIMEOUT_MAX_S}")));
    }
    if ask.requirements.len() > REQUIREMENTS_MAX {
        return Err(bounds("requirements", format!("must be at most {REQUIREMENTS_MAX}")));
    }
    let mut requirements = ask.requirements;
    if kind == TaskKind::Ssh {
        requirements.push(SSH_POOL.to_owned());
    }
    for requirement in &requirements {
        word("requirements", requirement)?;
    }
    requirements.sort();
    requirements.dedup();
    if requirements.iter().map(String::len).sum::<usize>() > WORDS_MAX {
        return Err(bounds("requirements", format!("must be at most {WORDS_MAX} bytes in all")));
    }
    if ask.depends_on.len() > DEPENDENCIES_MAX {
        return Err(bounds("depends_on", format!("must be at most {DEPENDENCIES_MAX}")));
    }
    let mut depends_on = Vec::with_capacity(ask.depends_on.len());
    for other in &ask.depends_on {
        let id = match known.get(other) {
            Some(id) => id.clone(),
            None => TaskId::parse(other).map_err(|error| bounds("depends_on", error.to_string()))?,
        };
        if !depends_on.contains(&id) {
            depends_on.push(id);
        }
    }
    if let Some(key) = &ask.idempotency_key {
        word("idempotency_key", key)?;
    }
    let assigned_node = ask.assigned_node.filter(|node| !node.is_empty());
    let assigned_node = assigned_node
        .map(|node| NodeId::parse(&node).map_err(|error| bounds("assigned_node", error.to_string())))
        .transpose()?;
    Ok(TaskOrder {
        task_type: kind,
        preset: interpreter.map(|_| ask.task_type),
        task_data,
        priority,
        max_retries,
        timeout_seconds,
        requirements,
        assigned_node,
        depends_on,
        idempotency_key: ask.idempotency_key,
        promise: ask.promise,
        not_before_ms: ask.not_before_ms.max(0),
    })
}

/// Checks one that stands alone, such as that of a schedule: it waits for nobody and has no key.
pub fn alone(ask: TaskAsk) -> Result<TaskOrder, OrderError> {
    if !ask.depends_on.is_empty() || ask.idempotency_key.is_some() {
        return Err(bounds("depends_on", "and idempotency_key make no sense for a task at times".to_owned()));
    }
    one(ask, &BTreeMap::new())
}

fn data(kind: TaskKind, interpreter: Option<&'static str>, data: Value) -> Result<Value, OrderError> {
    let wrong = |problem: String| OrderError::Data { kind: kind.as_str(), problem };
    let mut given = match data {
        Value::Object(given) => given,
        // The shortest form: what is to be done, and nothing else.
        Value::String(text) => {
            let (first, ..) = fields(kind)[0];
            Map::from_iter([(first.to_owned(), Value::String(text))])
        }
        _ => return Err(wrong("must be an object".to_owned())),
    };
    if let Some(interpreter) = interpreter {
        // A preset may say `command` where a script has `script`.
        if !given.contains_key("script")
            && let Some(command) = given.remove("command").or_else(|| given.remove("code"))
        {
            given.insert("script".to_owned(), command);
        }
        given.entry("interpreter").or_insert_with(|| interpreter.into());
    }
    for (name, shape, is_needed) in fields(kind) {
        match given.get(*name) {
            None | Some(Value::Null) if *is_needed => return Err(wrong(format!("needs `{name}`"))),
            None | Some(Value::Null) => {
                given.remove(*name);
            }
            Some(value) => {
                fits(value, *shape).map_err(|expected| wrong(format!("`{name}` must be {expected}")))?
            }
        }
    }
    if let Some(stranger) = given.keys().find(|key| !fields(kind).iter().any(|(name, ..)| name == key)) {
        let stranger: String = stranger.chars().take(WORD_MAX).collect();
        return Err(wrong(format!("has no `{stranger}`")));
    }
    let is_empty =
        |name: &str| given.get(name).and_then(Value::as_str).is_some_and(|text| text.trim().is_empty());
    if let Some((name, ..)) = fields(kind).iter().find(|(name, _, is_needed)| *is_needed && is_empty(name)) {
        return Err(wrong(format!("`{name}` is empty")));
    }
    let path = given.get("path").and_then(Value::as_str);
    if path.is_some_and(|path| !path.starts_with('/')) {
        return Err(wrong("`path` must begin with /".to_owned()));
    }
    let data = Value::Object(given);
    if data.to_string().len() > DATA_MAX {
        return Err(bounds("task_data", format!("is longer than {DATA_MAX} bytes")));
    }
    Ok(data)
}

fn fits(value: &Value, shape: Shape) -> Result<(), &'static str> {
    let has_no_nul = |value: &Value| value.as_str().is_some_and(|text| !text.contains('\0'));
    let (fits, expected) = match shape {
        Shape::Text => (has_no_nul(value), "a text without NUL"),
        Shape::Number => (value.as_u64().is_some(), "a whole number"),
        Shape::Texts => (value.as_array().is_some_and(|list| list.iter().all(has_no_nul)), "a list of texts"),
        Shape::TextByText => (
            value.as_object().is_some_and(|map| {
                map.iter()
                    .all(|(name, value)| !name.is_empty() && !name.contains(['=', '\0']) && has_no_nul(value))
            }),
            "an object of texts",
        ),
    };
    if fits { Ok(()) } else { Err(expected) }
}

fn word(field: &'static str, text: &str) -> Result<(), OrderError> {
    if text.is_empty() || text.len() > WORD_MAX || text.chars().any(char::is_control) {
        return Err(bounds(field, format!("must be 1 to {WORD_MAX} bytes without control characters")));
    }
    Ok(())
}

fn bounds(field: &'static str, problem: String) -> OrderError {
    OrderError::Bounds { field, problem }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ask(kind: &str, data: Value) -> TaskAsk {
        TaskAsk { task_type: kind.to_owned(), task_data: data, ..TaskAsk::default() }
    }

    fn keyed(key: &str, depends_on: &[&str]) -> TaskAsk {
        TaskAsk {
            key: Some(key.to_owned()),
            depends_on: depends_on.iter().map(|key| (*key).to_owned()).collect(),
            ..ask("shell", json!({"command": "true"}))
        }
    }

    fn ids(count: usize) -> Vec<TaskId> {
        (0..count).map(|n| TaskId::parse(&format!("id-{n}")).unwrap()).collect()
    }

    #[test]
    fn what_is_left_out_has_its_usual_value() {
        let order = alone(ask("shell", json!({"command": "uptime"}))).unwrap();
        assert_eq!((order.priority, order.max_retries, order.timeout_seconds), (50, 3, 3_600));
    }

    #[test]
    fn names_of_the_guide_are_scripts() {
        let order = alone(ask("python", json!({"code": "print(1)"}))).unwrap();
        assert_eq!((order.task_type, order.preset.as_deref()), (TaskKind::Script, Some("python")));
        assert_eq!(order.task_data, json!({"script": "print(1)", "interpreter": "python3"}));
        let order = alone(ask("git", json!({"command": "git status"}))).unwrap();
        assert_eq!(order.task_data, json!({"script": "git status", "interpreter": "sh"}));
    }

    #[test]
    fn data_that_does_not_fit_its_kind_is_refused_by_name() {
        let refused = |kind: &str, data: Value| alone(ask(kind, data)).unwrap_err().to_string();
        assert!(refused("shell", json!({})).ends_with("needs `command`"));
        assert!(refused("shell", json!({"command": 7})).contains("`command` must be a text"));
        assert!(refused("shell", json!({"command": "ls", "sudo": "yes"})).ends_with("has no `sudo`"));
        assert!(refused("fetch", json!({"url": "http://a/", "path": "etc/x"})).contains("begin with /"));
        assert!(refused("teleport", json!({})).starts_with("task_type `teleport` is none of"));
        assert!(refused("shell", json!({"command": "ls", "env": {"A=B": "c"}})).contains("object of texts"));
        assert!(refused("shell", json!({"command": " "})).ends_with("`command` is empty"));
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        let shell = || ask("shell", json!("true"));
        let is_refused = |ask: TaskAsk| matches!(alone(ask), Err(OrderError::Bounds { .. }));
        assert!(is_refused(TaskAsk { priority: Some(101), ..shell() }));
        assert!(is_refused(TaskAsk { timeout_seconds: Some(0), ..shell() }));
        assert!(is_refused(TaskAsk { max_retries: Some(101), ..shell() }));
        assert!(is_refused(TaskAsk { requirements: vec![String::new()], ..shell() }));
        assert!(is_refused(ask("shell", json!({"command": "x".repeat(DATA_MAX)}))));
    }

    #[test]
    fn tasks_of_one_breath_wait_for_each_other_by_keys() {
        let orders = check(vec![keyed("b", &["a", "old"]), keyed("a", &[])], ids(2)).unwrap();
        let waits: Vec<&str> = orders[0].1.depends_on.iter().map(TaskId::as_str).collect();
        assert_eq!(waits, ["id-1", "old"]);
    }

    #[test]
    fn a_circle_is_refused_and_named() {
        let asked = vec![keyed("x", &["a"]), keyed("a", &["b"]), keyed("b", &["c"]), keyed("c", &["a"])];
        let refused = check(asked, ids(4)).unwrap_err();
        assert_eq!(refused.to_string(), "tasks wait for each other in a circle: a → b → c → a");
        assert!(check(vec![keyed("a", &["a"])], ids(1)).is_err(), "nothing waits for itself");
    }
}
