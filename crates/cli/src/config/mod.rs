//! Settings: from what was written (file, environment, flags) to what holds.
//!
//! # Purpose
//! To answer "what holds, and why" and, where something is wrong, to say everything that is wrong at once,
//! each with its place, its key, what was found and what is allowed.
//!
//! # Rules
//! - Defaults < file < environment < flags. Among environment names, the `ARCHITECT_…` names of earlier
//!   set-ups yield to `CAELUM_…`.
//! - One table ([`keys::KEYS`]) gives each setting its file key, environment name, flag, range and text;
//!   nothing is spelled out a second time.
//! - What is unknown in a file or among flags is refused with a suggestion. An unknown `CAELUM_…` variable
//!   is only noted: other programs may put names into our environment (Kubernetes does).
//! - A secret is never printed.
//!
//! # States
//! `Sources` (what was written) → [`resolve`] → [`Settings`] (what holds, with origins) or [`Faults`].
//!
//! # What it does not do
//! It does not look whether a port is free or a file can be read: that is tried by who needs it, who then
//! says what failed. It has no effects beyond reading the configuration file.
//!
//! Reading order: [`keys`], [`given`], [`file`], [`environment`], [`reference`].

pub mod environment;
pub mod file;
pub mod given;
pub mod keys;
pub mod reference;
mod similar;
mod target;

#[cfg(test)]
mod tests;

use std::{fmt, path::PathBuf};

use caelum_model::config::Config;

use self::{
    given::{Given, Item},
    keys::KEYS,
};

/// What was written, before anything is understood. No `Debug`: it may hold a secret.
#[derive(Default)]
pub struct Sources {
    /// The file's path and text, if there is a file.
    pub file: Option<(PathBuf, String)>,
    /// Environment variables.
    pub environment: Vec<(String, String)>,
    /// Settings given as flags: position in [`KEYS`] and the text given.
    pub flags: Vec<(usize, String)>,
}

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: it is the default.
    Default,
    /// In the file, at this line (from 1).
    File {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// In the environment, under this name.
    Environment(String),
    /// On the command line, as this flag.
    Flag(String),
}

impl Origin {
    /// Order in which faults are read: the file from top to bottom, then the rest.
    fn rank(&self) -> (u8, usize) {
        match self {
            Self::Default => (0, 0),
            Self::File { line, .. } => (1, *line),
            Self::Environment(_) => (2, 0),
            Self::Flag(_) => (3, 0),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it was written.
    pub origin: Origin,
    /// The setting, empty where no setting can be named.
    pub key: String,
    /// What is wrong and what is allowed.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.key.is_empty() {
            write!(f, "{} ", self.key)?;
        }
        f.write_str(&self.what)
    }
}

/// Everything that is wrong.
#[derive(Debug, thiserror::Error)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => write!(f, "the settings have a fault:")?,
            many => write!(f, "the settings have {many} faults:")?,
        }
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

/// What holds.
#[derive(Debug)]
pub struct Settings {
    /// The values.
    pub config: Config,
    /// Where each value comes from, in the order of [`KEYS`].
    pub origins: Vec<Origin>,
    /// What an operator should be told once the log is open.
    pub notes: Vec<String>,
}

/// Understands everything that was written and puts it in order.
pub fn resolve(sources: &Sources) -> Result<Settings, Faults> {
    let mut faults = Vec::new();
    let mut notes = Vec::new();
    let mut items = Vec::new();
    if let Some((path, text)) = &sources.file {
        items.extend(file::read(path, text, &mut faults));
    }
    items.extend(environment::read(&sources.environment, &mut notes));
    items.extend(sources.flags.iter().map(|(key, text)| Item {
        key: *key,
        origin: Origin::Flag(KEYS[*key].flag()),
        given: Given::Words(text.clone()),
    }));

    let mut config = Config::default();
    let mut origins = vec![Origin::Default; KEYS.len()];
    for item in items {
        let key = &KEYS[item.key];
        match key.field.assign(&mut config, item.given) {
            Ok(()) => origins[item.key] = item.origin,
            Err(problems) => faults.extend(problems.into_iter().map(|problem| {
                let origin = match (&item.origin, problem.line) {
                    (Origin::File { path, .. }, Some(line)) => Origin::File { path: path.clone(), line },
                    (origin, _) => origin.clone(),
                };
                Fault { origin, key: format!("{}{}", key.path(), problem.below), what: problem.what }
            })),
        }
    }
    faults.extend(disagreements(&config, &origins));
    faults.sort_by_key(|fault| fault.origin.rank());
    if faults.is_empty() { Ok(Settings { config, origins, notes }) } else { Err(Faults(faults)) }
}

/// Settings that are right by themselves and wrong together.
fn disagreements(config: &Config, origins: &[Origin]) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut complain = |wrong: bool, blamed: &str, other: &str, rule: &str| {
        if !wrong {
            return;
        }
        // Whichever of the two was written is blamed; the default is never at fault.
        let (a, b) = (keys::position(blamed), keys::position(other));
        let (key, origin) = match (&origins[a], &origins[b]) {
            (Origin::Default, Origin::Default) => return,
            (Origin::Default, origin) => (other, origin),
            (origin, _) => (blamed, origin),
        };
        let values = [(blamed, a), (other, b)]
            .map(|(name, at)| format!("{name} is {} ({})", KEYS[at].field.show(config), origins[at]));
        faults.push(Fault {
            origin: origin.clone(),
            key: key.to_owned(),
            what: format!("does not fit: {rule}; {}", values.join(", ")),
        });
    };
    let health = &config.health;
    for (threshold, name) in
        [(health.cpu, "cpu"), (health.memory, "memory"), (health.disk, "disk"), (health.load, "load")]
    {
        complain(
            threshold.warning > threshold.critical,
            &format!("health.{name}_warning"),
            &format!("health.{name}_critical"),
            "a warning must not come after it is critical",
        );
    }
    complain(
        health.heartbeat_timeout_s < 2 * config.agent.sample_interval_s,
        "health.heartbeat_timeout_s",
        "agent.sample_interval_s",
        "the time-out must be at least two samples long",
    );
    complain(
        config.beacon.timeout_s < 2 * config.beacon.interval_s,
        "beacon.timeout_s",
        "beacon.interval_s",
        "the time-out must be at least two intervals long",
    );
    complain(
        config.tls.certificate.is_some() != config.tls.key.is_some(),
        "tls.certificate",
        "tls.key",
        "a certificate and its key are given together",
    );
    complain(
        config.probe.timeout_ms > config.probe.interval_s * 1000,
        "probe.timeout_ms",
        "probe.interval_s",
        "a measurement must end before the next begins",
    );
    faults
}
