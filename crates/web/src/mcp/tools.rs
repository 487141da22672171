//! Which operations of the API are tools, and how arguments become a request.
//!
//! The table has names and routes; everything else of a tool is read from the OpenAPI document, so that it
//! cannot tell another story than the API's own.

use std::{borrow::Cow, sync::Arc};

use axum::http::Method;
use caelum_model::access::Role;
use rmcp::model::{JsonObject, Tool, ToolAnnotations};
use serde_json::{Map, Value, json};

/// How deep descriptions of nested values are followed.
const DEPTH_MAX: usize = 8;

/// What a tool does to the cluster.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// Nothing.
    Reads,
    /// It adds to it, or answers something that waits for an answer.
    Adds,
    /// It runs what somebody wrote, or ends what runs.
    Acts,
}

use Effect::{Acts, Adds, Reads};

/// Name, method and route.
#[rustfmt::skip]
const TABLE: [(&str, &str, &str, Effect); 32] = [
    ("overview", "get", "/api/stats", Reads),
    ("nodes", "get", "/api/nodes", Reads),
    ("node", "get", "/api/nodes/{id}", Reads),
    ("node_history", "get", "/api/nodes/{id}/history", Reads),
    ("cluster_health", "get", "/api/nodes/health", Reads),
    ("alerts", "get", "/api/nodes/alerts", Reads),
    ("acknowledge_alert", "post", "/api/nodes/alerts/{alert_id}/acknowledge", Adds),
    ("resolve_alert", "post", "/api/nodes/alerts/{alert_id}/resolve", Adds),
    ("recommend_nodes", "get", "/api/nodes/recommend", Reads),
    ("topology", "get", "/api/cluster/topology", Reads),
    ("discovered_machines", "get", "/api/discovered-machines", Reads),
    ("discover", "post", "/api/cluster/discover", Adds),
    ("incidents", "get", "/api/incidents", Reads),
    ("incident", "get", "/api/incidents/{id}", Reads),
    ("diagnoses", "get", "/api/diagnoses", Reads),
    ("targets", "get", "/api/targets", Reads),
    ("target", "get", "/api/targets/{id}", Reads),
    ("add_target", "post", "/api/targets", Adds),
    ("probes", "get", "/api/probes", Reads),
    ("rollups", "get", "/api/rollups", Reads),
    ("pipeline", "get", "/api/pipeline", Reads),
    ("tasks", "get", "/api/tasks", Reads),
    ("task", "get", "/api/tasks/{id}", Reads),
    ("task_output", "get", "/api/tasks/{id}/output", Reads),
    ("run_task", "post", "/api/tasks", Acts),
    ("cancel_task", "post", "/api/tasks/{id}/cancel", Acts),
    ("retry_task", "post", "/api/tasks/{id}/retry", Acts),
    ("schedules", "get", "/api/schedules", Reads),
    ("ssh_targets", "get", "/api/ssh/targets", Reads),
    ("ssh_execute", "post", "/api/ssh/execute", Acts),
    ("ssh_broadcast", "post", "/api/ssh/broadcast", Acts),
    ("servers", "get", "/api/fleet/cluster/status", Reads),
];

/// One tool.
pub(super) struct Offer {
    pub(super) name: &'static str,
    effect: Effect,
    method: Method,
    route: String,
    description: String,
    /// Names that are part of the path, and of what follows the question mark. All others are of the body.
    in_path: Vec<String>,
    in_query: Vec<String>,
    has_body: bool,
    schema: Arc<JsonObject>,
}

/// A request that arguments make.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Option<Value>,
}

/// All tools, by the document that describes the API. An operation that is not in it is no tool.
pub(super) fn offers(document: &utoipa::openapi::OpenApi) -> Vec<Offer> {
    // It is made of strings and maps; were it not to become JSON, the API would have no description either.
    let document = serde_json::to_value(document).unwrap_or_default();
    TABLE
        .iter()
        .filter_map(|(name, method, route, effect)| Offer::new(name, method, route, *effect, &document))
        .collect()
}

impl Offer {
    fn new(name: &'static str, method: &str, route: &str, effect: Effect, document: &Value) -> Option<Self> {
        let operation = document["paths"].get(route)?.get(method)?;
        let (mut properties, mut required) = (Map::new(), Vec::new());
        let (mut in_path, mut in_query) = (Vec::new(), Vec::new());
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let Some(called) = parameter["name"].as_str() else { continue };
            match parameter["in"].as_str() {
                Some("path") => in_path.push(called.to_owned()),
                Some("query") => in_query.push(called.to_owned()),
                _ => continue,
            }
            let mut schema = resolved(&parameter["schema"], document, 0);
            if let (Some(schema), Some(text)) = (schema.as_object_mut(), parameter["description"].as_str()) {
                schema.insert("description".to_owned(), text.into());
            }
            if parameter["required"] == true {
                required.push(Value::from(called));
            }
            properties.insert(called.to_owned(), schema);
        }
        let content = &operation["requestBody"]["content"]["application/json"];
        let body = content.get("schema").map(|schema| resolved(schema, document, 0));
        if let Some(body) = &body {
            fields(body, &mut properties, &mut required);
        }
        let said = |field: &str| operation[field].as_str().unwrap_or_default().trim().to_owned();
        let description = [said("summary"), said("description")];
        let description = description.iter().filter(|text| !text.is_empty());
        let mut schema = Map::new();
        schema.insert("type".to_owned(), "object".into());
        schema.insert("properties".to_owned(), properties.into());
        schema.insert("required".to_owned(), required.into());
        schema.insert("additionalProperties".to_owned(), false.into());
        Some(Self {
            name,
            effect,
            method: if method == "post" { Method::POST } else { Method::GET },
            route: route.to_owned(),
            description: description.map(String::as_str).collect::<Vec<_>>().join("\n"),
            in_path,
            in_query,
            has_body: body.is_some(),
            schema: Arc::new(schema),
        })
    }

    /// Whether somebody of this role is shown it. The route decides whether they may.
    pub(super) fn is_for(&self, role: Role) -> bool {
        self.effect == Reads || role >= Role::Operator
    }

    pub(super) fn tool(&self) -> Tool {
        let hints = ToolAnnotations::new()
            .read_only(self.effect == Reads)
            .destructive(self.effect == Acts)
            .open_world(false);
        Tool::new(self.name, Cow::Owned(self.description.clone()), Arc::clone(&self.schema))
            .with_annotations(hints)
    }

    /// The request of a call. Names that do not exist are refused with those that do: a filter that is not
    /// understood would otherwise be an answer about something else.
    pub(super) fn request(&self, arguments: JsonObject) -> Result<Wish, String> {
        let known = self.schema.get("properties").and_then(Value::as_object);
        let is_known = |name: &String| known.is_some_and(|known| known.contains_key(name));
        if let Some(unknown) = arguments.keys().find(|name| !is_known(name)) {
            let known: Vec<&str> = known.into_iter().flat_map(Map::keys).map(String::as_str).collect();
            return Err(match known.is_empty() {
                true => format!("{} has no arguments, and {unknown:?} was given", self.name),
                false => format!("{} has no argument {unknown:?}; it has {}", self.name, known.join(", ")),
            });
        }
        let mut path = self.route.clone();
        let (mut query, mut body) = (Vec::new(), Map::new());
        for (name, value) in arguments {
            if self.in_path.contains(&name) {
                path = path.replace(&format!("{{{name}}}"), &escaped(&plain(&name, &value)?));
            } else if self.in_query.contains(&name) {
                if !value.is_null() {
                    query.push(format!("{name}={}", escaped(&plain(&name, &value)?)));
                }
            } else {
                body.insert(name, value);
            }
        }
        if let Some(missing) = self.in_path.iter().find(|name| path.contains(&format!("{{{name}}}"))) {
            return Err(format!("{} needs {missing:?}", self.name));
        }
        if !query.is_empty() {
            path = format!("{path}?{}", query.join("&"));
        }
        let body = self.has_body.then_some(Value::Object(body));
        Ok(Wish { method: self.method.clone(), path, body })
    }
}

/// A value that stands in an address.
fn plain(name: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(_) | Value::Bool(_) => Ok(value.to_string()),
        _ => Err(format!("{name:?} is a text or a number")),
    }
}

/// Everything but letters, digits and `-_~` as `%XX`; the dot too, so that no argument is a step upwards.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => escaped.push(char::from(byte)),
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}

/// A description without references to others, as who calls tools wants it.
fn resolved(schema: &Value, document: &Value, depth: usize) -> Value {
    if depth >= DEPTH_MAX {
        return json!({});
    }
    match schema {
        Value::Object(map) => {
            let target = map.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix('#'));
            if let Some(target) = target.and_then(|pointer| document.pointer(pointer)) {
                return resolved(target, document, depth + 1);
            }
            let inner =
                |(name, value): (&String, &Value)| (name.clone(), resolved(value, document, depth + 1));
            Value::Object(map.iter().map(inner).collect())
        }
        Value::Array(list) => {
            Value::Array(list.iter().map(|value| resolved(value, document, depth)).collect())
        }
        other => other.clone(),
    }
}

/// What a body has, of all the parts that it is made of.
fn fields(body: &Value, properties: &mut Map<String, Value>, required: &mut Vec<Value>) {
    for part in body["allOf"].as_array().into_iter().flatten() {
        fields(part, properties, required);
    }
    // A body that may be left out, too: what it may have, nothing of which must be there.
    for part in body["oneOf"].as_array().into_iter().flatten() {
        fields(part, properties, &mut Vec::new());
    }
    for (name, schema) in body["properties"].as_object().into_iter().flatten() {
        properties.insert(name.clone(), schema.clone());
    }
    required.extend(body["required"].as_array().into_iter().flatten().cloned());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Offer> {
        offers(&crate::api::router().1)
    }

    fn wish(name: &str, arguments: Value) -> Result<Wish, String> {
        let Value::Object(arguments) = arguments else { panic!("an object") };
        let all = all();
        all.iter().find(|offer| offer.name == name).expect("a tool").request(arguments)
    }

    #[test]
    fn every_tool_of_the_table_is_an_operation_that_says_what_it_is_for() {
        let all = all();
        let missing: Vec<&str> = TABLE
            .iter()
            .map(|(name, ..)| *name)
            .filter(|name| !all.iter().any(|offer| offer.name == *name))
            .collect();
        assert_eq!(missing, Vec::<&str>::new(), "no such operation");
        for offer in &all {
            assert!(offer.description.len() > 10, "{} does not say what it is for", offer.name);
            let text = serde_json::to_string(offer.schema.as_ref()).expect("JSON");
            assert!(!text.contains("$ref"), "{}: {text}", offer.name);
            let has_some = offer.schema["properties"].as_object().is_some_and(|all| !all.is_empty());
            assert!(has_some || !offer.has_body, "{} has a body of nothing", offer.name);
        }
    }

    #[test]
    fn arguments_become_path_query_and_body() {
        let asked = wish("task_output", json!({ "id": "a/../b?c" })).expect("fits");
        assert_eq!(asked.path, "/api/tasks/a%2F%2E%2E%2Fb%3Fc/output");
        let asked =
            wish("tasks", json!({ "status": "active,failed", "limit": 5, "node": null })).expect("fits");
        assert!(asked.path.contains("status=active%2Cfailed") && asked.path.contains("limit=5"), "{asked:?}");
        assert!(asked.body.is_none() && !asked.path.contains("node"), "{asked:?}");
        let asked = wish("run_task", json!({ "task_type": "shell", "task_data": { "command": "true" } }));
        let asked = asked.expect("fits");
        assert_eq!((asked.method, asked.path.as_str()), (Method::POST, "/api/tasks"));
        assert_eq!(asked.body, Some(json!({ "task_type": "shell", "task_data": { "command": "true" } })));
    }

    #[test]
    fn a_name_that_does_not_exist_is_refused_with_those_that_do() {
        let why = wish("incidents", json!({ "stat": "open" })).expect_err("refused");
        assert!(why.contains("\"stat\"") && why.contains("status"), "{why}");
        assert!(wish("task", json!({})).expect_err("refused").contains("\"id\""));
        assert!(wish("task", json!({ "id": ["a"] })).is_err());
    }

    #[test]
    fn who_may_only_look_is_shown_what_only_looks() {
        for offer in all() {
            assert_eq!(offer.is_for(Role::Viewer), offer.method == Method::GET, "{}", offer.name);
            assert!(offer.is_for(Role::Operator));
        }
    }
}
