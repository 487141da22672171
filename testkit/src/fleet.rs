//! Several servers of Caelum on one PostgreSQL and one NATS, and a real load balancer before them.

use std::{fs, net::TcpListener, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    api::Api,
    nats::NatsServer,
    postgres::PostgresServer,
    process::Process,
    server::{Plan, Server},
    wait,
};

/// Longest that servers may take to see each other, on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Servers and what they share. The servers end before what they stand on.
pub struct Fleet {
    /// The servers; the first one made the cluster.
    pub servers: Vec<Server>,
    /// The event stream.
    pub stream: NatsServer,
    /// The records.
    pub records: PostgresServer,
    binary: PathBuf,
    variables: Vec<(String, String)>,
}

impl Fleet {
    /// Starts as many servers: the first on empty records, the others by a join token of it. Each has these
    /// variables in its environment.
    pub fn start(
        binary: impl Into<PathBuf>,
        records: PostgresServer,
        many: usize,
        variables: &[(&str, &str)],
    ) -> Result<Self> {
        let variables =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let stream = NatsServer::start()?;
        let mut fleet = Self { servers: Vec::new(), stream, records, binary: binary.into(), variables };
        for _ in 0..many {
            fleet.add()?;
        }
        Ok(fleet)
    }

    /// Starts one more.
    pub fn add(&mut self) -> Result<()> {
        let plan = self.plan();
        let plan = match self.servers.first() {
            None => {
                let (store, queue) = (self.records.url("postgres"), self.stream.url());
                plan.with(&["--store", &store, "--queue", &queue])
            }
            Some(first) => plan.with(&["--join", &invite(first, "server")?]),
        };
        self.servers.push(plan.start()?);
        Ok(())
    }

    /// How a server of this fleet is started, but for where it finds the others.
    pub fn plan(&self) -> Plan {
        let plan = Plan::new(&self.binary).as_one_of_several();
        self.variables.iter().fold(plan, |plan, (name, value)| plan.with_variable(name, value))
    }

    /// A client of one of them, with a token for everything.
    pub fn admin(&self, nth: usize) -> Result<Api> {
        let server = &self.servers[nth];
        Ok(server.api()?.with_token(&server.token("admin")?))
    }

    /// Waits until each of these sees as many active servers.
    pub async fn see_each_other(&self, active: usize) -> Result<()> {
        for nth in 0..self.servers.len() {
            let api = self.admin(nth)?;
            wait::until_answered(&format!("server {nth} sees {active}"), PATIENCE, async || {
                let status = api.json("/api/fleet/cluster/status").await.ok()?;
                (status["active_nodes"] == active).then_some(())
            })
            .await;
        }
        Ok(())
    }
}

/// A join token of a server, for one machine of a role.
pub fn invite(server: &Server, role: &str) -> Result<String> {
    let data = server.data();
    let data = data.to_str().context("temporary folders have plain names")?;
    let output = server.run(&["token", "join", "--role", role, "--data", data])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match text.lines().last() {
        Some(token) if output.status.success() => Ok(token.to_owned()),
        _ => bail!("no token was made: {text}{}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// Which load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Debian's HAProxy.
    Haproxy,
    /// Debian's nginx.
    Nginx,
}

/// A load balancer with the configuration that Caelum wrote for it.
#[derive(Debug)]
pub struct Balancer {
    process: Process,
    folder: TempDir,
    port: u16,
}

impl Balancer {
    /// Asks for the configuration, checks it with the program's own check, and starts it.
    pub async fn start(kind: Kind, admin: &Api) -> Result<Self> {
        let folder = tempfile::tempdir().context("make a folder for the load balancer")?;
        let free = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
        let port = free.local_addr().context("find a free port")?.port();
        drop(free);
        let word = if kind == Kind::Haproxy { "haproxy" } else { "nginx" };
        let wish = json!({ "kind": word, "port": port });
        let answer = admin.request(Method::POST, "/api/fleet/load-balancer").json(&wish).send().await;
        let answer = answer.context("ask for a configuration")?;
        let (status, mut text) = (answer.status(), answer.text().await.context("read the configuration")?);
        if !status.is_success() {
            bail!("no configuration: {status} {text}");
        }
        if kind == Kind::Nginx {
            // What every start as a service brings along: where it may write, and Debian's module.
            text = format!(
                "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\npid {0}/nginx.pid;\n\
                 error_log {0}/error.log;\n{text}",
                folder.path().display()
            );
        }
        let path = folder.path().join("balancer.conf");
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        let program = |arguments: &[&str]| {
            let mut command = Command::new(word);
            command.args(arguments).arg(&path).current_dir(folder.path());
            command
        };
        let install = "install it; on Debian: apt-get install --no-install-recommends haproxy nginx-light \
                       libnginx-mod-stream";
        let (check, run) = match kind {
            Kind::Haproxy => (program(&["-c", "-f"]), program(&["-db", "-f"])),
            Kind::Nginx => (program(&["-t", "-c"]), program(&["-g", "daemon off;", "-c"])),
        };
        let mut check = check;
        let checked = check.output().with_context(|| format!("start {word}: {install}"))?;
        if !checked.status.success() {
            bail!("{word} refuses its configuration: {}", String::from_utf8_lossy(&checked.stderr));
        }
        let process = Process::start(run, word, folder.path())?;
        Ok(Self { process, folder, port })
    }

    /// Where it listens, with TLS.
    pub fn https(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        let own = fs::read_to_string(self.folder.path().join("error.log")).unwrap_or_default();
        self.process.log() + &own
    }
}

/// The id of the server that answers.
pub async fn who_answers(api: &Api) -> Option<String> {
    let health: Value = api.json("/api/fleet/cluster/health").await.ok()?;
    health["node_id"].as_str().map(str::to_owned)
}
