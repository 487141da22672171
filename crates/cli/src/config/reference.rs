//! The settings as text: what holds, an example file, the reference.
//!
//! Everything here is generated from the table of keys. `docs/configuration.md` is [`document`]'s output,
//! and a test holds it to that.

use std::fmt::Write as _;

use caelum_model::{config::Config, target::Families};

use super::{
    Settings,
    environment::{EARLIER, STANDARD},
    keys::{self, Field, KEYS},
};

impl Field {
    /// The value in the file's own spelling; a comment where there is no value or it must not be shown.
    pub fn show(&self, config: &Config) -> String {
        match self {
            Self::Text { read, .. } => quote(&read(config)),
            Self::MaybeText { read, .. } => {
                read(config).map_or_else(|| "not set".to_owned(), |text| quote(&text))
            }
            Self::Secret { read, .. } => {
                if read(config).is_some() {
                    "hidden".to_owned()
                } else {
                    "not set".to_owned()
                }
            }
            Self::Switch { read, .. } => read(config).to_string(),
            Self::Whole { read, .. } => read(config).to_string(),
            Self::Decimal { read, .. } => format!("{:?}", read(config)),
            Self::Choice { read, .. } => quote(read(config)),
            Self::Addresses { read, .. } if read(config).is_empty() => "not set".to_owned(),
            Self::Addresses { read, .. } => {
                let list: Vec<String> =
                    read(config).iter().map(|address| quote(&address.to_string())).collect();
                format!("[{}]", list.join(", "))
            }
            Self::Words { read, .. } => {
                let list: Vec<String> = read(config).iter().map(|word| quote(word)).collect();
                format!("[{}]", list.join(", "))
            }
            Self::Targets { read, .. } => {
                let list: Vec<String> = read(config).iter().map(show_target).collect();
                if list.is_empty() { "[]".to_owned() } else { format!("[\n  {},\n]", list.join(",\n  ")) }
            }
        }
    }

    /// Whether [`Field::show`] gives something that can stand in a file.
    fn has_value(&self, config: &Config) -> bool {
        match self {
            Self::MaybeText { read, .. } => read(config).is_some(),
            Self::Addresses { read, .. } => !read(config).is_empty(),
            Self::Secret { .. } => false,
            _ => true,
        }
    }
}

fn show_target(target: &caelum_model::config::ProbeTarget) -> String {
    let mut members = vec![format!("url = {}", quote(&target.url))];
    members.extend(target.name.as_ref().map(|name| format!("name = {}", quote(name))));
    members.extend(target.interval_s.map(|interval| format!("interval_s = {interval}")));
    members.extend(target.throughput_url.as_ref().map(|url| format!("throughput_url = {}", quote(url))));
    match target.families {
        Families::Any => {}
        Families::Ipv4 => members.push("families = \"ipv4\"".to_owned()),
        Families::Ipv6 => members.push("families = \"ipv6\"".to_owned()),
        Families::Both => members.push("families = \"both\"".to_owned()),
    }
    members.extend(target.template.as_ref().map(|name| format!("template = {}", quote(name))));
    members.extend(target.timeout_ms.map(|timeout| format!("timeout_ms = {timeout}")));
    let words = |name: &str, words: &[String]| {
        let quoted: Vec<String> = words.iter().map(|word| quote(word)).collect();
        (!words.is_empty()).then(|| format!("{name} = [{}]", quoted.join(", ")))
    };
    members.extend(words("tags", &target.tags));
    members.extend(target.group.as_ref().map(|group| format!("group = {}", quote(group))));
    members.extend(words("probes", &target.probes.0));
    let promise = target.objective.as_ref().map(caelum_engine::target::promise_text);
    members.extend(promise.map(|promise| format!("objective = {}", quote(&promise))));
    members.extend(target.packets.map(|packets| format!("packets = {packets}")));
    members.extend(target.trace_every_s.map(|every| format!("trace_every_s = {every}")));
    members.extend(target.load_every_s.map(|every| format!("load_every_s = {every}")));
    format!("{{ {} }}", members.join(", "))
}

/// A TOML basic string.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                write!(quoted, "\\u{:04X}", u32::from(c)).expect("a string takes everything")
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// What holds, as a file that would bring the same about.
pub fn print(settings: &Settings, with_origins: bool) -> String {
    let mut out = String::new();
    let mut section = "";
    for (key, origin) in KEYS.iter().zip(&settings.origins) {
        if key.section != section {
            let gap = if section.is_empty() { "" } else { "\n" };
            out.push_str(&format!("{gap}[{}]\n", key.section));
            section = key.section;
        }
        let value = key.field.show(&settings.config);
        let line = match key.field.has_value(&settings.config) {
            true => format!("{} = {value}", key.name),
            false => format!("# {} is {value}", key.name),
        };
        let origin = if with_origins { format!("  # {origin}") } else { String::new() };
        out.push_str(&format!("{line}{origin}\n"));
    }
    out
}

/// A file with every setting, its text and its default, all commented out.
pub fn example() -> String {
    let config = Config::default();
    let mut out = String::from(
        "# Caelum's settings. Every line that begins with `#` and a name shows a default; take the # away to\n\
         # change it. `caelum config check` says what is wrong with a file, `caelum config print --origin` what\n\
         # holds and why.\n",
    );
    for section in keys::sections() {
        out.push_str(&format!("\n[{section}]\n"));
        for key in KEYS.iter().filter(|key| key.section == section) {
            out.push('\n');
            for line in wrapped(&format!("{} Allowed: {}.", key.text, key.field.allowed()), 100) {
                out.push_str(&format!("# {line}\n"));
            }
            let value = match key.field.has_value(&config) {
                true => key.field.show(&config),
                false => "\"\"   # not set".to_owned(),
            };
            out.push_str(&format!("#{} = {value}\n", key.name));
        }
    }
    out
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().expect("begins with one");
        if last.is_empty() {
            last.push_str(word);
        } else if last.len() + 1 + word.len() <= width {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// The reference of all settings, as Markdown: `docs/configuration.md`.
pub fn document() -> String {
    let config = Config::default();
    let mut out = String::from(DOCUMENT_HEAD);
    for section in keys::sections() {
        out.push_str(&format!(
            "\n## [{section}]\n\n| key | default | allowed | meaning |\n|---|---|---|---|\n"
        ));
        for key in KEYS.iter().filter(|key| key.section == section) {
            let default = match key.field.show(&config) {
                unset if !key.field.has_value(&config) => unset,
                value => format!("`{value}`"),
            };
            let short = key.short_flag.map(|flag| format!(" Short flag: `--{flag}`.")).unwrap_or_default();
            let cells =
                [format!("`{}`", key.name), default, key.field.allowed(), format!("{}{short}", key.text)];
            out.push_str(&format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | ")));
        }
    }
    out.push_str("\n## Names of earlier set-ups\n\n| variable | now |\n|---|---|\n");
    for (name, now) in EARLIER {
        let now = format!("`{now}`, `{}`", KEYS[keys::position(now)].variable());
        out.push_str(&format!("| `{name}` | {now} |\n"));
    }
    out.push_str("\n## Standard names\n\n| variable | is |\n|---|---|\n");
    for (name, now) in STANDARD {
        out.push_str(&format!("| `{name}` | `{now}` |\n"));
    }
    out
}

const DOCUMENT_HEAD: &str = "\
# Settings

Printed by `caelum config reference`; a test keeps this file equal to it.

A setting has one name in three spellings: `health.cpu_warning` in the file, `CAELUM_HEALTH_CPU_WARNING` in the \
environment, `--health-cpu-warning` on the command line of `caelum up`. Flags win over the environment, the \
environment over the file, the file over the defaults. An empty variable counts as not set. Lists in the \
environment and in flags have commas between their members. A password has no flag, since command lines can be \
read by others.

The file is the one named by `--config` or `CAELUM_CONFIG`; without either, `caelum.toml` in the data directory, \
else `/etc/caelum/caelum.toml`, if there is one. `caelum config example` prints one to start from.

Settings are read at start. `caelum config check` reads them without starting anything and reports every fault at \
once; a process that finds a fault ends with code 64. A name in the file that is not a setting is a fault; a \
`CAELUM_` variable that is not a setting is only reported, since other programs may set such names.
";
