//! The processes of a crash proof: Caelum's parts and, where they are ours to hurt, what they stand on.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use super::{Ordeal, plan::Victim};
use crate::{
    loopback, nats::NatsCluster, nats::NatsServer, postgres, postgres::PostgresServer, process::Process, wait,
};

/// Most time a start may take on a busy machine.
const START: Duration = Duration::from_secs(60);
/// Most time for an orderly end.
const STOP: Duration = Duration::from_secs(20);
/// Shortest absence of a NATS node: longer than the others take to elect a leader.
const NODE_AWAY_MIN: Duration = Duration::from_secs(10);
/// Time between looks at whose absence is over.
const LOOK: Duration = Duration::from_millis(20);

/// Which parts, on which backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// `caelum up` alone, with a file and an embedded queue.
    Embedded,
    /// Several ingests and aggregators on one NATS server and one PostgreSQL server.
    PostgresNats,
    /// The same on a cluster of three NATS nodes, of which one is killed at a time.
    NatsCluster,
}

impl Set {
    /// Every set-up.
    pub const ALL: [Self; 3] = [Self::Embedded, Self::PostgresNats, Self::NatsCluster];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::PostgresNats => "postgres-nats",
            Self::NatsCluster => "nats-cluster",
        }
    }
}

/// What a process of Caelum's is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Up,
    Ingest,
    Aggregator,
}

impl Part {
    fn command(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Ingest => "ingest",
            Self::Aggregator => "aggregator",
        }
    }
}

/// A process of Caelum's.
struct Actor {
    part: Part,
    name: String,
    data: PathBuf,
    /// Where it takes events; chosen at its first start and kept.
    events: Option<String>,
    /// Where it says how it fares; another after each start.
    metrics: Option<String>,
    process: Option<Process>,
}

/// Who can be hurt.
#[derive(Clone, Copy, Debug)]
enum Place {
    Actor(usize),
    Nats(usize),
    Postgres,
}

enum Nats {
    None,
    One(Box<NatsServer>),
    Cluster(NatsCluster),
}

/// Everything that runs.
pub struct Stage {
    program: PathBuf,
    folder: Option<TempDir>,
    path: PathBuf,
    actors: Vec<Actor>,
    nats: Nats,
    postgres: Option<PostgresServer>,
    store: Option<String>,
    queue: Option<String>,
    token: String,
    places: Vec<Place>,
    /// Who is away, and until when.
    away: BTreeMap<usize, Instant>,
    /// Who is frozen, and until when.
    frozen: BTreeMap<usize, Instant>,
}

impl Stage {
    /// Starts everything.
    pub fn set(ordeal: &Ordeal) -> Result<Self> {
        let folder = match &ordeal.folder {
            None => Some(tempfile::tempdir().context("make a folder")?),
            Some(path) => {
                fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
                None
            }
        };
        let path = folder
            .as_ref()
            .map_or_else(|| ordeal.folder.clone().unwrap_or_default(), |folder| folder.path().to_owned());
        let mut stage = Self {
            program: ordeal.program.clone(),
            folder,
            path,
            actors: Vec::new(),
            nats: Nats::None,
            postgres: None,
            store: None,
            queue: None,
            token: String::new(),
            places: Vec::new(),
            away: BTreeMap::new(),
            frozen: BTreeMap::new(),
        };
        stage.start_backends(ordeal)?;
        let is_alone = ordeal.set == Set::Embedded && ordeal.backends.is_none();
        if is_alone {
            stage.add(Part::Up, 0)?;
            stage.start_actor(0)?;
            stage.token = stage.make_token()?;
        } else {
            stage.token = stage.make_token()?;
            for number in 0..ordeal.ingests.max(1) {
                stage.add(Part::Ingest, number)?;
            }
            for number in 0..ordeal.aggregators.max(1) {
                stage.add(Part::Aggregator, number)?;
            }
            for actor in 0..stage.actors.len() {
                stage.start_actor(actor)?;
            }
        }
        stage.places.extend((0..stage.actors.len()).map(Place::Actor));
        if stage.postgres.is_some() {
            stage.places.push(Place::Postgres);
        }
        let nodes = match &stage.nats {
            Nats::None => 0,
            Nats::One(_) => 1,
            Nats::Cluster(cluster) => cluster.nodes.len(),
        };
        stage.places.extend((0..nodes).map(Place::Nats));
        Ok(stage)
    }

    fn start_backends(&mut self, ordeal: &Ordeal) -> Result<()> {
        if let Some((store, queue)) = &ordeal.backends {
            (self.store, self.queue) = (Some(store.clone()), Some(queue.clone()));
            return Ok(());
        }
        match ordeal.set {
            Set::Embedded => return Ok(()),
            Set::PostgresNats => {
                let nats = NatsServer::start()?;
                self.queue = Some(nats.url());
                self.nats = Nats::One(Box::new(nats));
            }
            Set::NatsCluster => {
                let cluster = NatsCluster::start(3)?;
                self.queue = Some(format!("{}?replicas=3", cluster.url()));
                self.nats = Nats::Cluster(cluster);
            }
        }
        let postgres = postgres::Plan::new().durable().start()?;
        self.store = Some(postgres.url(&postgres.new_database()?));
        self.postgres = Some(postgres);
        Ok(())
    }

    fn add(&mut self, part: Part, number: usize) -> Result<()> {
        let name = format!("{}-{number}", part.command());
        let data = self.path.join(&name);
        fs::create_dir_all(&data).with_context(|| format!("make {}", data.display()))?;
        self.actors.push(Actor { part, name, data, events: None, metrics: None, process: None });
        Ok(())
    }

    /// A program with the settings that all parts share.
    fn caelum(&self, command: &str, data: &Path) -> Command {
        let mut caelum = Command::new(&self.program);
        caelum.arg(command).env("CAELUM_DATA", data).env("CAELUM_BEACON_ENABLED", "false");
        for (name, value) in [("STORE", &self.store), ("QUEUE", &self.queue)] {
            if let Some(value) = value {
                caelum.env(format!("CAELUM_SERVER_{name}"), value);
            }
        }
        caelum
    }

    fn make_token(&self) -> Result<String> {
        let data = self.actors.first().map_or(&self.path, |actor| &actor.data);
        let made = self
            .caelum("token", data)
            .args(["new", "--scope", "ingest", "--client-id", "*", "--name", "torture"])
            .output()
            .context("start caelum token")?;
        if !made.status.success() {
            bail!("no token could be made: {}", String::from_utf8_lossy(&made.stderr));
        }
        let text = String::from_utf8_lossy(&made.stdout);
        let last = text.lines().last().context("a token was not printed")?;
        Ok(last.to_owned())
    }

    /// Starts a part and waits until it is ready; what it stands on may be away just now.
    fn start_actor(&mut self, at: usize) -> Result<()> {
        self.launch(at)?;
        self.await_ready(at)
    }

    fn await_ready(&mut self, at: usize) -> Result<()> {
        let actor = &mut self.actors[at];
        let ready = actor.data.join("run/ready.json");
        let process = actor.process.as_mut().context("it was just started")?;
        let seen = wait::within(START, || {
            if process.ended().is_some() {
                return Some(None);
            }
            let text = fs::read_to_string(&ready).ok()?;
            let value: Value = serde_json::from_str(&text).ok()?;
            (value["pid"] == process.pid()).then_some(Some(value))
        });
        let Some(Some(said)) = seen else {
            bail!("{} does not start:\n{}", actor.name, process.log());
        };
        let metrics = said["metrics"][0].as_str().and_then(|url| url.strip_prefix("http://"));
        actor.metrics = metrics.map(str::to_owned);
        if actor.events.is_none() {
            let server = said["servers"][0].as_str();
            actor.events = server.map(str::to_owned);
        }
        Ok(())
    }

    fn launch(&mut self, at: usize) -> Result<()> {
        let (part, data, events) =
            (self.actors[at].part, self.actors[at].data.clone(), self.actors[at].events.clone());
        let mut command = self.caelum(part.command(), &data);
        command.args(["--no-probe"]);
        command.args(["--ingest-rate-limit-events-per-s", "0", "--ingest-rate-limit-requests-per-s", "0"]);
        match part {
            Part::Up => {}
            Part::Ingest => {
                command.args(["--ingest-metrics-listen", "127.0.0.1:0"]);
            }
            Part::Aggregator => {
                command.args(["--aggregator-metrics-listen", "127.0.0.1:0"]);
            }
        }
        command.args(["--listen", events.as_deref().unwrap_or("127.0.0.1:0")]);
        let name = self.actors[at].name.clone();
        self.actors[at].process = Some(Process::start(command, &name, &self.path)?);
        Ok(())
    }

    /// Where events are sent.
    pub fn urls(&self) -> Vec<String> {
        let events = self.actors.iter().filter(|actor| actor.part != Part::Aggregator);
        events
            .filter_map(|actor| actor.events.as_ref())
            .map(|address| format!("http://{address}/events"))
            .collect()
    }

    /// The token that senders show.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Where the rows are.
    pub fn store_address(&self) -> String {
        match (&self.store, self.actors.first()) {
            (Some(store), _) => store.clone(),
            (None, Some(actor)) => format!("sqlite:{}", actor.data.join("caelum.db").display()),
            (None, None) => String::new(),
        }
    }

    /// The parts, in words.
    pub fn describe(&self) -> String {
        let mut parts: Vec<String> = self.actors.iter().map(|actor| actor.name.clone()).collect();
        match &self.nats {
            Nats::None => {}
            Nats::One(_) => parts.push("nats".to_owned()),
            Nats::Cluster(cluster) => parts.push(format!("{} nats nodes", cluster.nodes.len())),
        }
        if self.postgres.is_some() {
            parts.push("postgres".to_owned());
        }
        parts.join(", ")
    }

    /// Who can be hurt. Parts of Caelum come more often than what they stand on.
    pub fn victims(&self) -> Vec<Victim> {
        let victim = |place: &Place| match place {
            Place::Actor(_) => Victim { is_ours: true, weight: 4 },
            // A node of a cluster is killed once, in the middle: see `one_node`.
            Place::Nats(_) if matches!(self.nats, Nats::Cluster(_)) => Victim { is_ours: false, weight: 0 },
            Place::Nats(_) | Place::Postgres => Victim { is_ours: false, weight: 2 },
        };
        self.places.iter().map(victim).collect()
    }

    /// The node of a cluster that is killed once and comes back.
    pub fn one_node(&self) -> Option<usize> {
        let is_node = |place: &Place| matches!(place, Place::Nats(_));
        matches!(self.nats, Nats::Cluster(_)).then(|| self.places.iter().position(is_node)).flatten()
    }

    /// What a victim is, without its number.
    pub fn name_of(&self, victim: usize) -> String {
        match self.places[victim] {
            Place::Actor(at) => self.actors[at].part.command().to_owned(),
            Place::Nats(_) => "nats".to_owned(),
            Place::Postgres => "postgres".to_owned(),
        }
    }

    /// Lets time pass, and brings back whose absence is over.
    pub fn pass(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            self.bring_back(|until| Instant::now() >= until)?;
            let now = Instant::now();
            if now >= end {
                return Ok(());
            }
            wait::pass(LOOK.min(end - now));
        }
    }

    /// Brings everybody back and waits until all are ready.
    pub fn heal(&mut self) -> Result<()> {
        self.bring_back(|_| true)?;
        if let Nats::Cluster(cluster) = &mut self.nats {
            cluster.wait_until_whole()?;
        }
        for at in 0..self.actors.len() {
            let is_down = self.actors[at].process.as_mut().is_none_or(|process| process.ended().is_some());
            if is_down {
                self.launch(at)?;
            }
            self.await_ready(at)?;
        }
        Ok(())
    }

    fn bring_back(&mut self, is_over: impl Fn(Instant) -> bool) -> Result<()> {
        let thawed: Vec<usize> =
            self.frozen.iter().filter(|(_, until)| is_over(**until)).map(|(victim, _)| *victim).collect();
        for victim in thawed {
            self.frozen.remove(&victim);
            if let Place::Actor(at) = self.places[victim]
                && let Some(process) = &self.actors[at].process
            {
                process.thaw();
            }
        }
        let back: Vec<usize> =
            self.away.iter().filter(|(_, until)| is_over(**until)).map(|(victim, _)| *victim).collect();
        for victim in back {
            self.away.remove(&victim);
            match self.places[victim] {
                // Not waited for: it may stand on something that is away, too.
                Place::Actor(at) => self.launch(at)?,
                Place::Postgres => {
                    if let Some(postgres) = &mut self.postgres {
                        postgres.start()?;
                    }
                }
                Place::Nats(at) => match &mut self.nats {
                    Nats::None => {}
                    Nats::One(server) => server.restart()?,
                    Nats::Cluster(cluster) => cluster.nodes[at].start_again()?,
                },
            }
        }
        Ok(())
    }

    /// Kills a victim; it comes back by itself after a while. One that is away already is left alone, and so
    /// is a second node of a cluster, which would take its majority.
    pub fn kill(&mut self, victim: usize, away: Duration) {
        if self.away.contains_key(&victim) {
            return;
        }
        self.frozen.remove(&victim);
        let mut away = away;
        match self.places[victim] {
            Place::Actor(at) => {
                if let Some(process) = &mut self.actors[at].process {
                    process.kill();
                }
            }
            Place::Postgres => {
                if let Some(postgres) = &mut self.postgres {
                    postgres.kill();
                }
                away = away.min(Duration::from_secs(3));
            }
            Place::Nats(at) => match &mut self.nats {
                Nats::None => {}
                Nats::One(server) => {
                    server.kill();
                    away = away.min(Duration::from_secs(3));
                }
                Nats::Cluster(cluster) => {
                    cluster.nodes[at].kill();
                    away = away.max(NODE_AWAY_MIN);
                }
            },
        }
        self.away.insert(victim, Instant::now() + away);
    }

    /// Kills a backend and leaves it away; answers what the parts said about their health shortly before it
    /// came back. One that says that all is well, or nothing, is an error.
    pub fn leave_away(&mut self, victim: usize, time: Duration) -> Result<String> {
        // Everybody else is well, so that what is said is about this one.
        self.heal()?;
        self.kill(victim, time);
        self.away.insert(victim, Instant::now() + time);
        self.pass(time.mul_f64(0.8))?;
        let mut said = Vec::new();
        for actor in &self.actors {
            let Some(metrics) = &actor.metrics else { continue };
            let answer = crate::wait::within(Duration::from_secs(5), || loopback::get(metrics, "/health"));
            match answer {
                Some((503, body)) => {
                    let problems: Value = serde_json::from_str(&body).unwrap_or_default();
                    said.push(format!("{}: {}", actor.name, problems["problems"]));
                }
                // A cluster lives on without one of its nodes.
                Some((200, _)) if matches!(self.nats, Nats::Cluster(_)) => {
                    said.push(format!("{}: healthy", actor.name));
                }
                other => bail!("{} is away and {} says {other:?}", self.name_of(victim), actor.name),
            }
        }
        self.pass(time.mul_f64(0.2) + Duration::from_millis(200))?;
        Ok(format!("{} away {} s: {}", self.name_of(victim), time.as_secs(), said.join("; ")))
    }

    /// Whether a kill of this victim is one: it runs, and it is not the second node of a cluster. A node that
    /// is back and has not caught up with the others yet counts as away: three nodes outlive the loss of one.
    pub fn can_be_killed(&self, victim: usize) -> bool {
        let is_node = |victim: usize| matches!(self.places[victim], Place::Nats(_));
        if self.away.contains_key(&victim) {
            return false;
        }
        match &self.nats {
            Nats::Cluster(cluster) if is_node(victim) => {
                !self.away.keys().any(|other| is_node(*other)) && cluster.is_whole()
            }
            _ => true,
        }
    }

    /// Stops a part in its tracks for a while.
    pub fn freeze(&mut self, victim: usize, time: Duration) {
        if self.away.contains_key(&victim) || self.frozen.contains_key(&victim) {
            return;
        }
        if let Place::Actor(at) = self.places[victim]
            && let Some(process) = &mut self.actors[at].process
            && process.ended().is_none()
        {
            process.freeze();
            self.frozen.insert(victim, Instant::now() + time);
        }
    }

    /// Stops a part in order and starts it again.
    pub fn restart(&mut self, victim: usize) -> Result<()> {
        if self.away.contains_key(&victim) || self.frozen.contains_key(&victim) {
            return Ok(());
        }
        if let Place::Actor(at) = self.places[victim] {
            let actor = &mut self.actors[at];
            if let Some(process) = &mut actor.process
                && process.ended().is_none()
            {
                process.terminate();
                if wait::within(STOP, || process.ended()).is_none() {
                    bail!("{} does not end when it is told to:\n{}", actor.name, process.log());
                }
            }
            self.launch(at)?;
        }
        Ok(())
    }

    /// Leaves the files where they are.
    pub fn keep(&mut self) {
        if let Some(folder) = self.folder.take() {
            self.path = folder.keep();
        }
    }

    /// Where the files are.
    pub fn folder(&self) -> &Path {
        &self.path
    }
}
