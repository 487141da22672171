//! A NATS server with JetStream, or three of them as one cluster, on loopback in folders of their own.
//!
//! The servers are the real program. They can be killed, frozen and brought back on the ports and files that
//! they had. What they say about themselves comes from their monitoring port.

use std::{fs, net::TcpListener, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::{loopback, process::Process, wait};

/// Most time a start or an election may take, on a machine that is busy with other tests.
const START: Duration = Duration::from_secs(120);

/// One server with its files; both are gone when it is dropped.
#[derive(Debug)]
pub struct NatsServer {
    name: String,
    folder: TempDir,
    process: Option<Process>,
    /// Lines of configuration that a test adds.
    more: String,
    /// Most that JetStream may keep, as nats-server spells it: said, so that the free disk of a machine that
    /// runs tests doesn't decide.
    room: &'static str,
    /// Zero before the first start.
    port: u16,
    monitor: u16,
}

impl NatsServer {
    /// Starts one on a free port and waits until JetStream is ready.
    pub fn start() -> Result<Self> {
        Self::start_with("")
    }

    /// The same with further lines of configuration.
    pub fn start_with(more: &str) -> Result<Self> {
        let mut server = Self::new("single", more.to_owned())?;
        server.restart()?;
        Ok(server)
    }

    /// The same where JetStream may keep only so much, as nats-server spells it.
    pub fn start_with_room(room: &'static str) -> Result<Self> {
        let mut server = Self { room, ..Self::new("single", String::new())? };
        server.restart()?;
        Ok(server)
    }

    fn new(name: &str, more: String) -> Result<Self> {
        let folder = tempfile::tempdir().context("make a folder for nats-server")?;
        Ok(Self { name: name.to_owned(), folder, process: None, more, room: "64GB", port: 0, monitor: 0 })
    }

    /// Starts it again, on the port and the files that it had, and waits until JetStream is ready.
    pub fn restart(&mut self) -> Result<()> {
        self.launch()?;
        self.wait_until("JetStream is ready", |server| {
            (server.ask("/healthz")?["status"] == "ok").then_some(())
        })
    }

    /// Starts it and waits until it listens; a node of a cluster is not ready before the others are there.
    fn launch(&mut self) -> Result<()> {
        let folder = self.folder.path();
        for old in ports_files(folder) {
            fs::remove_file(&old).with_context(|| format!("remove {}", old.display()))?;
        }
        let free_or = |port: u16| if port == 0 { "-1".to_owned() } else { port.to_string() };
        let config = format!(
            "server_name: {name}\nlisten: \"127.0.0.1:{port}\"\nhttp: \"127.0.0.1:{monitor}\"\n\
             ports_file_dir: \"{folder}\"\njetstream {{ store_dir: \"{folder}/jetstream\", max_file_store: {room} }}\n{more}\n",
            name = self.name,
            port = free_or(self.port),
            monitor = free_or(self.monitor),
            folder = folder.display(),
            room = self.room,
            more = self.more,
        );
        let path = folder.join("nats.conf");
        fs::write(&path, config).with_context(|| format!("write {}", path.display()))?;
        let mut command = Command::new("nats-server");
        command.arg("--config").arg(&path).current_dir(folder);
        let process = Process::start(command, &self.name, folder)
            .context("start nats-server; on Debian: apt-get install --no-install-recommends nats-server")?;
        self.process = Some(process);
        let ports = self.wait_until("it listens", |server| {
            let file = ports_files(server.folder.path()).pop()?;
            serde_json::from_str::<Value>(&fs::read_to_string(file).ok()?).ok()
        });
        let ports = ports?;
        let port_of = |what: &str| {
            let url = ports[what][0].as_str()?;
            url.rsplit(':').next()?.trim_end_matches('/').parse::<u16>().ok()
        };
        self.port = port_of("nats").with_context(|| format!("find the port in {ports}"))?;
        self.monitor = port_of("monitoring").with_context(|| format!("find the port in {ports}"))?;
        Ok(())
    }

    fn wait_until<T>(&mut self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> Result<T> {
        let seen = wait::within(START, || match self.process().ended() {
            Some(status) => Some(Err(format!("it ended with {status}"))),
            None => look(self).map(Ok),
        });
        match seen {
            Some(Ok(seen)) => Ok(seen),
            Some(Err(why)) => bail!("nats-server does not start: {why}\n{}", self.process().log()),
            None => bail!("waited {START:?} in vain until {what}\n{}", self.process().log()),
        }
    }

    /// Starts it again without waiting until it is ready: a node of a cluster is not before others are there.
    pub fn start_again(&mut self) -> Result<()> {
        self.launch()
    }

    /// The port for clients.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address for clients.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Its name, as it calls itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The running process.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it was started and not taken away")
    }

    /// Kills it as a crash would. [`NatsServer::restart`] brings it back.
    pub fn kill(&mut self) {
        self.process().kill();
    }

    /// Asks the monitoring port; none if there is no answer.
    pub fn ask(&self, path: &str) -> Option<Value> {
        let (_, body) = loopback::get(&format!("127.0.0.1:{}", self.monitor), path)?;
        serde_json::from_str(&body).ok()
    }
}

fn ports_files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "ports"))
        .collect()
}

/// Servers that are one cluster.
#[derive(Debug)]
pub struct NatsCluster {
    /// Its nodes; each can be killed and brought back.
    pub nodes: Vec<NatsServer>,
}

impl NatsCluster {
    /// Starts a cluster and waits until all its nodes know one leader.
    pub fn start(size: usize) -> Result<Self> {
        // Nodes must be told each other's ports before the first is started. They are free when they are
        // looked for; where another program takes one meanwhile, all are looked for again.
        let mut tries = 3;
        loop {
            tries -= 1;
            match Self::try_start(size) {
                Err(error) if tries > 0 && error.to_string().contains("address already in use") => {}
                done => return done,
            }
        }
    }

    fn try_start(size: usize) -> Result<Self> {
        let held: Vec<TcpListener> = (0..size)
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<std::io::Result<_>>()
            .context("find free ports for a cluster")?;
        let ports =
            held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect::<Result<Vec<_>>>()?;
        drop(held);
        let mut nodes = Vec::new();
        for (index, port) in ports.iter().enumerate() {
            let routes: Vec<String> = ports
                .iter()
                .filter(|other| *other != port)
                .map(|other| format!("nats://127.0.0.1:{other}"))
                .collect();
            let more = format!(
                "cluster {{ name: three, listen: \"127.0.0.1:{port}\", routes: [\"{}\"] }}",
                routes.join("\", \"")
            );
            nodes.push(NatsServer::new(&format!("node{index}"), more)?);
        }
        for node in &mut nodes {
            node.launch()?;
        }
        let mut cluster = Self { nodes };
        cluster.wait_until_whole()?;
        Ok(cluster)
    }

    /// Waits until every node is there, knows one leader, and is ready.
    pub fn wait_until_whole(&mut self) -> Result<()> {
        let seen = wait::within(START, || self.is_whole().then_some(()));
        if seen.is_none() {
            let logs: Vec<String> = self.nodes.iter_mut().map(|node| node.process().log()).collect();
            bail!("the cluster has no leader after {START:?}\n{}", logs.join("\n"));
        }
        Ok(())
    }

    /// Whether every node is there, knows one leader, and has every stream as far as the others have it.
    pub fn is_whole(&self) -> bool {
        let size = self.nodes.len();
        let leaders: Option<Vec<String>> = self.nodes.iter().map(|node| leader_of(node, size)).collect();
        let is_ready = |node: &NatsServer| Some(node.ask("/healthz")?["status"] == "ok");
        let are_current =
            |node: &NatsServer| Some(has_current_copies(&node.ask("/jsz?streams=true")?, node.name()));
        leaders.is_some_and(|leaders| leaders.windows(2).all(|pair| pair[0] == pair[1]))
            && self.nodes.iter().all(|node| is_ready(node) == Some(true) && are_current(node) == Some(true))
    }

    /// Brings a killed node back and waits until the cluster is whole.
    pub fn restart(&mut self, index: usize) -> Result<()> {
        self.nodes[index].launch()?;
        self.wait_until_whole()
    }

    /// The address of all nodes.
    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("nats://{}", hosts.join(","))
    }
}

/// Whether every copy of every stream that a node leads is current. Of streams that others lead it knows only
/// what it heard when it led them.
fn has_current_copies(jetstream: &Value, name: &str) -> bool {
    let accounts = jetstream["account_details"].as_array().into_iter().flatten();
    let streams = accounts.flat_map(|account| account["stream_detail"].as_array().into_iter().flatten());
    let led = streams.filter(|stream| stream["cluster"]["leader"] == name);
    let mut copies = led.flat_map(|stream| stream["cluster"]["replicas"].as_array().into_iter().flatten());
    copies.all(|copy| copy["current"] == true && copy["offline"] != true)
}

fn leader_of(node: &NatsServer, size: usize) -> Option<String> {
    let meta = &node.ask("/jsz")?["meta_cluster"];
    let leader = meta["leader"].as_str().filter(|leader| !leader.is_empty())?;
    (meta["cluster_size"] == size).then(|| leader.to_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_server_comes_back_on_the_port_it_had() {
        let mut server = NatsServer::start().expect("starts");
        let port = server.port();
        server.kill();
        assert_eq!(server.ask("/healthz"), None);
        server.restart().expect("starts again");
        assert_eq!(server.port(), port);
        assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    #[test]
    fn a_cluster_loses_a_node_and_gets_it_back() {
        let mut cluster = NatsCluster::start(3).expect("starts");
        assert_eq!(cluster.url().matches(',').count(), 2);
        cluster.nodes[1].kill();
        cluster.restart(1).expect("is whole again");
    }
}
