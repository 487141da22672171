//! Settings from the environment: our own names, and those of earlier set-ups.
//!
//! An empty variable counts as not set, since that is what an unset variable becomes in many a compose
//! file.

use super::{
    Origin,
    given::{Given, Item},
    keys::{self, KEYS},
    similar,
};

/// Names that begin like a setting and are read elsewhere.
const OWN: [&str; 8] = [
    "CAELUM_CONFIG",
    "CAELUM_DATA",
    "CAELUM_JOIN",
    "CAELUM_JOIN_FILE",
    "CAELUM_JOIN_PASSPHRASE",
    "CAELUM_LAB_CLOCK",
    "CAELUM_SERVER",
    "CAELUM_TOKEN",
];

/// The names printed in the documents that Caelum grew from, each with the setting that it is now.
pub const EARLIER: [(&str, &str); 11] = [
    ("ARCHITECT_CPU_WARNING", "health.cpu_warning"),
    ("ARCHITECT_CPU_CRITICAL", "health.cpu_critical"),
    ("ARCHITECT_MEMORY_WARNING", "health.memory_warning"),
    ("ARCHITECT_MEMORY_CRITICAL", "health.memory_critical"),
    ("ARCHITECT_DISK_WARNING", "health.disk_warning"),
    ("ARCHITECT_DISK_CRITICAL", "health.disk_critical"),
    ("ARCHITECT_HEARTBEAT_TIMEOUT", "health.heartbeat_timeout_s"),
    ("ARCHITECT_USER", "server.admin_name"),
    ("ARCHITECT_PASSWORD", "server.admin_password"),
    ("ARCHITECT_DASHBOARD_URL", "agent.server"),
    ("BEACON_PORT", "server.listen"),
];

/// Names that are a standard elsewhere, each with the setting that it is here. Nobody is told to use ours
/// instead.
pub const STANDARD: [(&str, &str); 1] = [("OTEL_EXPORTER_OTLP_ENDPOINT", "telemetry.otlp_url")];

/// Picks settings out of the environment, earlier names first, so that ours are applied over them.
pub fn read(variables: &[(String, String)], notes: &mut Vec<String>) -> Vec<Item> {
    let mut items = Vec::new();
    let set = || variables.iter().filter(|(_, value)| !value.is_empty());
    for (name, value) in set() {
        if let Some((_, path)) = STANDARD.iter().find(|(standard, _)| standard == name) {
            items.push(item(keys::position(path), name, value));
        }
        if let Some((_, path)) = EARLIER.iter().find(|(earlier, _)| earlier == name) {
            let key = keys::position(path);
            notes.push(format!("{name} is understood; its name is now {}", KEYS[key].variable()));
            items.push(item(key, name, value));
        }
    }
    for (name, value) in
        set().filter(|(name, _)| name.starts_with("CAELUM_") && !OWN.contains(&name.as_str()))
    {
        match KEYS.iter().position(|key| key.variable() == *name) {
            Some(key) => items.push(item(key, name, value)),
            None => {
                let known: Vec<String> = KEYS.iter().map(keys::Key::variable).collect();
                let near = similar::nearest(name, known.iter().map(String::as_str));
                let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
                notes.push(format!("{name} is not a setting and has no effect{hint}"));
            }
        }
    }
    items
}

fn item(key: usize, name: &str, value: &str) -> Item {
    Item { key, origin: Origin::Environment(name.to_owned()), given: Given::Words(value.to_owned()) }
}
