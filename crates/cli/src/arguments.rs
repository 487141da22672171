//! The command line, as it may be typed. Understanding only; what is done about it is in `commands`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

mod access;
mod alerts;
mod backup;
mod fleet;
mod lab;
mod machine;
mod network;
mod nodes;
mod overrides;
mod package;
mod probe;
mod records;
mod server;
mod service;
mod ssh;
mod tasks;
mod words;

pub use access::{Token, User};
pub use alerts::{Alerts, AlertsAction};
pub use backup::{Backup, BackupCommand, MadeBackup, Restore};
pub use fleet::{BalancerKind, BalancerTls, Fleet};
pub use lab::{Lab, Torture};
pub use machine::{Agent, Join};
pub use network::{
    Diagnose, IncidentFilter, Incidents, IncidentsCommand, Probes, ProbesCommand, TargetWish, Targets,
};
pub use nodes::{Connect, Discover, Node, Nodes, NodesAction, Top};
pub use overrides::Overrides;
pub use package::{NewPackage, Package};
pub use probe::{Probe, ProbeAction, ProbeOnce};
pub use records::{Db, DeadLetters, Looked};
pub use server::Server;
pub use service::{Installation, Service, Supervisor};
pub use ssh::{SshAccept, SshAdd, SshBroadcast, SshCommand, SshExec};
pub use tasks::{
    Logs, OneSchedule, OneTask, Run, Schedules, SchedulesCommand, TaskFilter, Tasks, TasksCommand,
};

/// Shows how a machine fares and how good its network is.
#[derive(Debug, Parser)]
#[command(name = "caelum", version, max_term_width = 100, disable_help_subcommand = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything on this machine: metrics, probe, pipeline, verdicts, dashboard.
    Up(Up),
    /// Serve as one of several, on records and a stream that all of them share.
    Server(Box<Server>),
    /// Take events in, as one of several, for records and a stream that others share.
    Ingest(Up),
    /// Count events, as one of several, from a stream and into records that others share.
    Aggregator(Up),
    /// Measure targets for a server elsewhere, without being a node; or `probe once URL`: now, and show it.
    Probe(Box<Probe>),
    /// Judge what was counted, in a process of its own, from records that others write.
    Diagnoser(Up),
    /// Prove on this machine what Caelum promises, with processes of its own that are hurt.
    #[command(subcommand)]
    Lab(Lab),
    /// Be a node of a cluster: found, linked, its metrics reported.
    Agent(Agent),
    /// Be found and linked, and nothing more: for machines that only have to be known.
    Beacon(Agent),
    /// Look at the settings.
    #[command(subcommand)]
    Config(Config),
    /// Make, list and revoke tokens for programs (on this machine, no login).
    #[command(subcommand)]
    Token(Token),
    /// Build packages that make other machines nodes; list and revoke them.
    #[command(subcommand)]
    Package(Package),
    /// Let the system start Caelum: install, start, stop, watch.
    #[command(subcommand)]
    Service(Service),
    /// Look after people who may sign in (on this machine, no login).
    #[command(subcommand)]
    User(User),
    /// Make this machine a node of a cluster.
    Join(Join),
    /// Show the nodes and how they fare; admit machines and shut nodes out.
    Nodes(Nodes),
    /// Show, add and remove what is measured.
    #[command(subcommand)]
    Targets(Targets),
    /// Show whether everything that was accepted is counted, and what waits.
    Pipeline(Client),
    /// Look at events that were kept aside instead of being counted, and count them after all.
    #[command(subcommand)]
    DeadLetters(DeadLetters),
    /// Show the probes, or how complete is what one of them sent.
    Probes(Probes),
    /// Show what is wrong, where and since when.
    Incidents(Incidents),
    /// Show what is the matter with nodes, and answer it.
    Alerts(Alerts),
    /// Judge stored windows anew, and print what that says; nothing is stored.
    Diagnose(Diagnose),
    /// Run a command on nodes, show what it writes, and end as it ends.
    Run(Run),
    /// Run commands on other machines over SSH; show connections, hosts and their keys.
    #[command(subcommand)]
    Ssh(SshCommand),
    /// Show tasks; ask for new ones, call off, do again.
    Tasks(Tasks),
    /// Show what a task wrote.
    Logs(Logs),
    /// Show, add and remove what is run at times.
    Schedules(Schedules),
    /// Show the servers and whether they live; make a load balancer's configuration.
    #[command(subcommand)]
    Fleet(Fleet),
    /// Ask the network which machines are there, and show what is heard.
    Discover(Discover),
    /// List the machines that were heard.
    Machines(Client),
    /// Show all that is known of one node.
    Node(Node),
    /// Show the nodes and how good the links between them are.
    Topology(Client),
    /// Show how the nodes fare, again and again.
    Top(Top),
    /// Dial a machine that was not heard.
    Connect(Connect),
    /// Look for what is wrong on this machine and its network, and say what to do.
    Doctor(Doctor),
    /// Give an assistant the cluster's tools (Model Context Protocol) over standard input and output.
    Mcp(Client),
    /// Look after the records where they are: schema, size, what is wrong.
    #[command(subcommand)]
    Db(Db),
    /// Back up this server while it runs: records, queue, settings, secrets; or look at backups.
    Backup(Backup),
    /// Put a backup into a data directory.
    Restore(Restore),
    /// Print the version.
    Version,
}

/// Where the settings and the data are.
#[derive(Clone, Debug, Default, Args)]
pub struct Place {
    /// Configuration file [default: caelum.toml in the data directory, else /etc/caelum/caelum.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Data directory [default: $XDG_STATE_HOME/caelum, as root /var/lib/caelum, else ~/.local/state/caelum]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// `caelum up`
#[derive(Debug, Args)]
pub struct Up {
    /// Where settings and data are.
    #[command(flatten)]
    pub place: Place,
    /// Settings given as flags.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// `caelum config …`
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Report everything that is wrong with the settings.
    Check(Resolved),
    /// Print what holds.
    Print {
        /// Say where each value comes from.
        #[arg(long)]
        origin: bool,
        /// What is resolved.
        #[command(flatten)]
        resolved: Resolved,
    },
    /// Print a file with every setting and its default.
    Example,
    /// Print the reference of all settings (docs/configuration.md).
    Reference,
}

/// What `caelum up` would resolve.
#[derive(Debug, Args)]
pub struct Resolved {
    /// Where settings and data are.
    #[command(flatten)]
    pub place: Place,
    /// Settings given as flags.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// `caelum doctor`
#[derive(Debug, Args)]
pub struct Doctor {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// What `caelum up` would use.
    #[command(flatten)]
    pub resolved: Resolved,
}

/// Which server is asked, and how.
#[derive(Clone, Debug, Args)]
pub struct Client {
    /// Address of the server [default: the one that runs on this machine]
    #[arg(long, env = "CAELUM_SERVER", value_name = "URL")]
    pub server: Option<String>,
    /// Token with the scope that is needed
    #[arg(long, env = "CAELUM_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// Data directory of a server on this machine: where its address and its authority are read
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Print the server's JSON
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    /// Every `caelum …` line in a code block of the documents is something that can be typed.
    #[test]
    fn commands_in_documents_parse() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        let (mut seen, mut wrong) = (0, Vec::new());
        let mut documents = vec![PathBuf::from(root).join("README.md")];
        let mut folders = vec![PathBuf::from(root).join("docs")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("the folder can be read") {
                let path = entry.expect("the folder can be read").path();
                match path.is_dir() {
                    true => folders.push(path),
                    false if path.extension().is_some_and(|ending| ending == "md") => documents.push(path),
                    false => {}
                }
            }
        }
        for document in documents {
            let text = std::fs::read_to_string(&document).expect("the document can be read");
            let document = document.display();
            for command in commands_in(&text) {
                // What stands in double quotes is one word.
                let words = command.split('"').enumerate().flat_map(|(number, part)| match number % 2 {
                    0 => part.split_whitespace().collect(),
                    _ => vec![part],
                });
                match Arguments::try_parse_from(words) {
                    Err(error) if error.use_stderr() => wrong.push(format!("{document}: {command}: {error}")),
                    _ => seen += 1,
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(seen > 100, "only {seen} commands found");
    }

    /// What stands between backticks, or in a code block up to a pipe, a bracket or a comment.
    fn commands_in(text: &str) -> Vec<String> {
        let mut commands = Vec::new();
        let mut in_block = false;
        for line in text.lines() {
            if line.trim_start().starts_with("```") {
                in_block = !in_block;
            } else if in_block {
                let start = line.find("caelum ").filter(|at| {
                    line[..*at].trim_start_matches(' ').ends_with(['(', ' '])
                        || *at == 0
                        || line[..*at].trim().is_empty()
                });
                let start = start.or_else(|| line.find("-- up").map(|at| at + 3));
                if let Some(at) = start.filter(|_| !line.contains("git clone")) {
                    let rest = line[at..].split(['|', ')', '#', '&']).next().unwrap_or_default().trim();
                    let rest = rest.strip_prefix("caelum ").unwrap_or(rest);
                    commands.push(format!("caelum {rest}"));
                }
            } else {
                let spans = line.split('`').skip(1).step_by(2);
                commands.extend(
                    spans
                        .filter(|span| {
                            span.starts_with("caelum ") && !span.contains('…') && span.split(' ').count() > 1
                        })
                        .map(str::to_owned),
                );
            }
        }
        commands
    }
}
