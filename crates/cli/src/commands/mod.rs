//! One file for each command, and the step they share: from arguments to settings.

mod agent;
mod alerts;
mod backends;
mod backup;
mod cluster;
mod config;
mod counting;
mod db;
mod dead_letters;
mod diagnose;
mod doctor;
mod fleet;
mod incidents;
mod join;
mod lab;
mod lone;
mod mcp;
mod neighbours;
mod node;
mod nodes;
mod package;
mod pipeline;
mod probe;
mod probing;
mod run;
mod server;
mod service;
mod ssh;
mod targets;
mod tasks;
mod telemetry;
mod token;
mod top;
mod up;
mod user;
mod working;

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use caelum_model::cluster::NodeRole;

use crate::{
    arguments::{Agent, Arguments, Command, Overrides, Place, Probe, ProbeAction, Up},
    config::{Settings, Sources, keys, resolve},
    data::DataDirectory,
    environment,
    exit::Exit,
    log, output,
};

/// Does what was asked.
pub fn run(arguments: Arguments) -> Result<Exit> {
    match arguments.command {
        Command::Up(arguments) => {
            let (settings, data) = settle(arguments.place, arguments.overrides)?;
            log::open(&settings.config.telemetry);
            for note in &settings.notes {
                tracing::warn!("{note}");
            }
            up::run(settings, data)
        }
        Command::Server(arguments) => server::run(*arguments),
        Command::Ingest(arguments) => run_lone(arguments, lone::Part::Ingest),
        Command::Aggregator(arguments) => run_lone(arguments, lone::Part::Aggregator),
        Command::Probe(arguments) => run_probe(*arguments),
        Command::Diagnoser(arguments) => run_lone(arguments, lone::Part::Diagnoser),
        Command::Lab(command) => lab::run(command),
        Command::Agent(arguments) => run_agent(arguments, NodeRole::Agent),
        Command::Beacon(arguments) => run_agent(arguments, NodeRole::Beacon),
        Command::Config(command) => config::run(command),
        Command::Token(command) => wait_for(token::run(command)),
        Command::Package(command) => wait_for(package::run(command)),
        Command::Service(command) => service::run(command),
        Command::User(command) => wait_for(user::run(command)),
        Command::Join(arguments) => wait_for(join::run(arguments)),
        Command::Nodes(arguments) => wait_for(nodes::run(arguments)),
        Command::Targets(command) => wait_for(targets::run(command)),
        Command::Pipeline(arguments) => wait_for(counting::pipeline(arguments)),
        Command::DeadLetters(command) => wait_for(dead_letters::run(command)),
        Command::Probes(arguments) => wait_for(counting::probes(arguments)),
        Command::Incidents(arguments) => wait_for(incidents::run(arguments)),
        Command::Alerts(arguments) => wait_for(alerts::run(arguments)),
        Command::Diagnose(arguments) => wait_for(diagnose::run(arguments)),
        Command::Run(arguments) => wait_for(run::run(arguments)),
        Command::Ssh(command) => wait_for(ssh::run(command)),
        Command::Tasks(arguments) => wait_for(tasks::run(arguments)),
        Command::Logs(arguments) => wait_for(tasks::logs(arguments)),
        Command::Schedules(command) => wait_for(tasks::schedules(command)),
        Command::Fleet(command) => wait_for(fleet::run(command)),
        Command::Discover(arguments) => wait_for(cluster::discover(arguments)),
        Command::Machines(arguments) => wait_for(cluster::machines(arguments)),
        Command::Topology(arguments) => wait_for(cluster::topology(arguments)),
        Command::Connect(arguments) => wait_for(cluster::connect(arguments)),
        Command::Node(arguments) => wait_for(node::run(arguments)),
        Command::Top(arguments) => wait_for(top::run(arguments)),
        Command::Doctor(arguments) => {
            let (settings, data) = settle(arguments.resolved.place, arguments.resolved.overrides)?;
            wait_for(doctor::run(settings, data, arguments.json))
        }
        Command::Mcp(arguments) => wait_for(mcp::run(arguments)),
        Command::Backup(arguments) => wait_for(backup::run(arguments)),
        Command::Restore(arguments) => wait_for(backup::restore(arguments)),
        Command::Db(command) => wait_for(db::run(command)),
        Command::Version => {
            output::print(&format!("caelum {}\n", env!("CARGO_PKG_VERSION")))?;
            Ok(Exit::Fine)
        }
    }
}

fn run_lone(arguments: Up, part: lone::Part) -> Result<Exit> {
    let (settings, data) = settle(arguments.place, arguments.overrides)?;
    log::open(&settings.config.telemetry);
    for note in &settings.notes {
        tracing::warn!("{note}");
    }
    lone::run(settings, data, part)
}

fn run_probe(mut arguments: Probe) -> Result<Exit> {
    if let Some(ProbeAction::Once(asked)) = arguments.action.take() {
        return wait_for(probe::run_once(asked));
    }
    let (settings, data) = settle(arguments.place.clone(), Overrides::default())?;
    log::open(&settings.config.telemetry);
    for note in &settings.notes {
        tracing::warn!("{note}");
    }
    probe::run(settings, data, arguments)
}

fn run_agent(arguments: Agent, role: NodeRole) -> Result<Exit> {
    let Agent { place, join, join_file, port, overrides } = arguments;
    let mut overrides = overrides;
    if let Some(port) = port {
        overrides.0.push((keys::position("server.listen"), port.to_string()));
    }
    let (settings, data) = settle(place, overrides)?;
    log::open(&settings.config.telemetry);
    for note in &settings.notes {
        tracing::warn!("{note}");
    }
    agent::run(settings, data, role, agent::Invited { token: join, file: join_file })
}

/// Runs a short command on this thread.
fn wait_for(command: impl Future<Output = Result<Exit>>) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("start the async runtime")?.block_on(command)
}

/// Finds the data directory and the file, and resolves the settings.
fn settle(place: Place, overrides: Overrides) -> Result<(Settings, DataDirectory)> {
    let data = DataDirectory::locate(place.data)?;
    let named = place.config.or_else(|| environment::path("CAELUM_CONFIG"));
    let sources = Sources {
        file: read_config_file(named, &data)?,
        environment: environment::variables(),
        flags: overrides.0,
    };
    Ok((resolve(&sources)?, data))
}

/// The named file, which must be there, or the first of the usual ones that is.
fn read_config_file(named: Option<PathBuf>, data: &DataDirectory) -> Result<Option<(PathBuf, String)>> {
    let read = |path: &Path| match fs::read_to_string(path) {
        Ok(text) => Ok(Some((path.to_owned(), text))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read the configuration file {}", path.display())),
    };
    if let Some(path) = named {
        return match read(&path)? {
            Some(found) => Ok(Some(found)),
            None => bail!("there is no configuration file {}", path.display()),
        };
    }
    match read(&data.config_file())? {
        Some(found) => Ok(Some(found)),
        None => read(Path::new("/etc/caelum/caelum.toml")),
    }
}
