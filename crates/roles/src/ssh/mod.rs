//! Commands on other machines over SSH: one at a time, or on many at once; each is in the audit log before it
//! runs, and each host gets exactly one result.
//!
//! It decides neither which connection a command gets (`engine::ssh`) nor who may ask: whoever calls has
//! looked at the person's role. What a node itself allows is looked at here.

mod pool;
mod remote;
mod spots;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, RwLock},
    time::Duration,
};

use bytes::Bytes;
use caelum_drivers::{
    clock::Clock,
    ssh::{Ended, Keyring, Running, Said},
};
use caelum_engine::ssh::{Failure, FailureKind, Limits, NotBegun, Owner, gather::Gather};
use caelum_model::{
    access::AuditEntry,
    cluster::Roster,
    node::Thresholds,
    ssh::{SshOutcome, SshResult},
};
use caelum_store::{Store, StoreError};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub use pool::{Grant, Pool};
pub use spots::{Spot, Spots, choose};

/// Results of a broadcast that wait to be read; who reads slowly slows nobody, since all are kept elsewhere.
const RESULTS_WAITING: usize = 64;
/// What the results of one broadcast may have together, bytes.
const BROADCAST_BYTES_MAX: usize = 64 << 20;
/// The least that each of its hosts may write.
const HOST_BYTES_MIN: usize = 4 << 10;

/// How long a connection may take to open a channel before it is held to be gone.
const BEGIN_MAX: Duration = Duration::from_secs(10);
/// Why a command ended that was called off.
const STOPPED: &str = "the server stopped while it ran; it was told to end";

/// What commands stand on.
pub struct Parts {
    /// Where records are kept.
    pub store: Arc<Store>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What this node believes about the others.
    pub roster: watch::Receiver<Arc<Roster>>,
    /// Thresholds where none were set at run time.
    pub thresholds: Thresholds,
    /// Keys to sign in with.
    pub keyring: Arc<Keyring>,
    /// User where nothing else is said.
    pub user: String,
    /// Port where nothing else is said.
    pub port: u16,
    /// A file of known hosts beside the store.
    pub known_hosts: Option<PathBuf>,
    /// What the pool allows.
    pub limits: Limits,
    /// Most that a command may write to each of its two streams, bytes.
    pub output_max_bytes: usize,
    /// Told when the process is to end.
    pub stop: CancellationToken,
}

/// See the file.
pub struct Ssh {
    /// Where commands can be run.
    pub spots: Spots,
    /// The connections.
    pub pool: Pool,
    /// Keys to sign in with.
    pub keyring: Arc<Keyring>,
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    limits: Limits,
    output_max_bytes: usize,
    stop: CancellationToken,
}

/// What is run.
#[derive(Clone, Debug)]
pub struct Order {
    /// The line that the host's shell gets.
    pub command: Arc<str>,
    /// How long it may run.
    pub timeout: Duration,
    /// Most that each of its two streams keeps, bytes.
    pub output_max_bytes: usize,
    /// Where output goes as it comes: whether it is about an error, and the bytes. Who reads slowly slows the host.
    pub listener: Option<mpsc::Sender<(bool, Bytes)>>,
    /// Calls it off.
    pub stop: CancellationToken,
}

impl Ssh {
    /// Commands over a pool of their own, and the pool's loop.
    pub fn start(parts: Parts) -> (Arc<Self>, impl Future<Output = ()> + Send + 'static) {
        let (pool, running) = Pool::start(parts.limits, Arc::clone(&parts.keyring), parts.stop.clone());
        let spots = Spots {
            store: Arc::clone(&parts.store),
            roster: parts.roster,
            thresholds: parts.thresholds,
            user: parts.user,
            port: parts.port,
            known_hosts: parts.known_hosts,
            last: RwLock::default(),
        };
        let ssh = Self {
            spots,
            pool,
            keyring: parts.keyring,
            store: parts.store,
            clock: parts.clock,
            limits: parts.limits,
            output_max_bytes: parts.output_max_bytes,
            stop: parts.stop,
        };
        (Arc::new(ssh), running)
    }

    /// Every place where commands can be run, by name.
    pub async fn places(&self) -> Result<Arc<Vec<Spot>>, StoreError> {
        self.spots.all(self.clock.now_ms()).await
    }

    /// Runs a command on one host. Where it cannot be written down beforehand, nothing is run. Whoever does not
    /// wait for the answer calls it off; that is written down too.
    pub async fn execute(
        self: &Arc<Self>,
        who: &str,
        spot: &Spot,
        command: &str,
        timeout: Duration,
    ) -> Result<SshResult, StoreError> {
        let subject = format!("{}: {command}", spot.name);
        self.write_down(who, "ssh.execute", &subject, "begun").await?;
        let stop = self.stop.child_token();
        let order = Order { stop: stop.clone(), ..self.order(command, timeout, 1) };
        let _called_off = stop.drop_guard();
        let (ssh, who, own) = (Arc::clone(self), who.to_owned(), spot.clone());
        let running = tokio::spawn(async move {
            let result = ssh.run(&own, &order, ssh.pool.owner()).await;
            ssh.write_end(&who, "ssh.execute", &subject, &outcome_text(&result)).await;
            result
        });
        Ok(running.await.unwrap_or_else(|_| refused(spot, &panicked(), Duration::ZERO)))
    }

    /// Runs a command on many hosts at once. Results come as hosts end, one for each; whoever stops reading
    /// them stops nothing. Where it cannot be written down beforehand, nothing is run.
    pub async fn broadcast(
        self: &Arc<Self>,
        who: &str,
        spots: Vec<Spot>,
        command: &str,
        timeout: Duration,
    ) -> Result<mpsc::Receiver<SshResult>, StoreError> {
        let names: Vec<&str> = spots.iter().map(|spot| spot.name.as_str()).collect();
        let subject = format!("{}: {command}", names.join(", "));
        self.write_down(who, "ssh.broadcast", &subject, "begun").await?;
        let order = self.order(command, timeout, spots.len());
        let (results, reading) = mpsc::channel(RESULTS_WAITING);
        let (ssh, who) = (Arc::clone(self), who.to_owned());
        tokio::spawn(async move {
            let counts = Arc::clone(&ssh).run_all(spots, order, results).await;
            ssh.write_end(&who, "ssh.broadcast", &subject, &counts).await;
        });
        Ok(reading)
    }

    async fn run_all(
        self: Arc<Self>,
        spots: Vec<Spot>,
        order: Order,
        results: mpsc::Sender<SshResult>,
    ) -> String {
        let owner = self.pool.owner();
        let mut running = JoinSet::new();
        let mut counts: HashMap<SshOutcome, usize> = HashMap::new();
        let mut spots_by_task = HashMap::new();
        for spot in spots {
            let (ssh, order, own) = (Arc::clone(&self), order.clone(), spot.clone());
            let task = running.spawn(async move { ssh.run(&own, &order, owner).await });
            spots_by_task.insert(task.id(), spot);
        }
        while let Some(ended) = running.join_next_with_id().await {
            let (id, result) = match ended {
                Ok((id, result)) => (id, Some(result)),
                Err(error) => (error.id(), None),
            };
            let Some(spot) = spots_by_task.remove(&id) else { continue };
            let result = result.unwrap_or_else(|| refused(&spot, &panicked(), Duration::ZERO));
            *counts.entry(result.outcome).or_default() += 1;
            // Nobody reads any more, and the commands go on.
            drop(results.send(result).await);
        }
        let mut counts: Vec<(SshOutcome, usize)> = counts.into_iter().collect();
        counts.sort_unstable();
        let words: Vec<String> =
            counts.iter().map(|(outcome, count)| format!("{count} {}", outcome.as_str())).collect();
        words.join(", ")
    }

    /// What is asked of each of so many hosts.
    pub fn order(&self, command: &str, timeout: Duration, hosts: usize) -> Order {
        let share = BROADCAST_BYTES_MAX / hosts.max(1) / 2;
        Order {
            command: command.into(),
            timeout,
            output_max_bytes: self.output_max_bytes.min(share.max(HOST_BYTES_MIN)),
            listener: None,
            stop: self.stop.clone(),
        }
    }

    /// Runs a command on one host, to its one result. Giving it up ends the command and frees its slot.
    pub async fn run(&self, spot: &Spot, order: &Order, owner: Owner) -> SshResult {
        let begun = Instant::now();
        let failed = |failure: Failure| refused(spot, &failure, begun.elapsed());
        if let Some(because) = spot.refusal() {
            return failed(Failure::new(FailureKind::Refused, because));
        }
        let Some(dial) = spot.dial() else {
            return failed(Failure::new(FailureKind::Refused, "no address of it is known"));
        };
        let connect = Duration::from_millis(u64::try_from(self.limits.connect_timeout_ms).unwrap_or(0));
        let wait = order.timeout.max(connect) + Duration::from_millis(100);
        let mut grant = tokio::select! {
            granted = self.pool.acquire(dial, owner, wait) => match granted {
                Ok(grant) => grant,
                Err(failure) => return failed(failure),
            },
            () = order.stop.cancelled() => return failed(pool::stopping()),
        };
        let mut gathered = Gathered::new(order.output_max_bytes);
        loop {
            let is_reused = grant.is_reused;
            // A connection that froze says nothing: whoever waits for its channel does so in vain.
            let begins = tokio::time::timeout(BEGIN_MAX.min(connect), grant.session.begin(&order.command));
            let why = match begins.await {
                Ok(Ok(running)) => {
                    let end = match follow(running, order, &mut gathered).await {
                        End::Stopped if !self.stop.is_cancelled() => End::CalledOff,
                        end => end,
                    };
                    return result(spot, end, gathered, is_reused, begun.elapsed(), order.timeout);
                }
                Ok(Err(why)) => why,
                Err(_) => NotBegun::Gone,
            };
            grant = match self.pool.again(grant, why).await {
                Ok(grant) => grant,
                Err(failure) => return failed(failure),
            };
        }
    }

    async fn write_down(
        &self,
        who: &str,
        action: &str,
        subject: &str,
        outcome: &str,
    ) -> Result<(), StoreError> {
        let entry = AuditEntry {
            at_ms: self.clock.now_ms(),
            actor: who.to_owned(),
            action: action.to_owned(),
            subject: subject.to_owned(),
            outcome: outcome.to_owned(),
        };
        self.store.audit(entry).await
    }

    /// The command ran; that its end cannot be written down does not undo it.
    async fn write_end(&self, who: &str, action: &str, subject: &str, outcome: &str) {
        if let Err(error) = self.write_down(who, action, subject, outcome).await {
            tracing::error!(code = "audit.write_failed", action, who, %error, "the audit log has a gap");
        }
    }
}

/// Follows a command to its end, or ends it when its time is over or somebody calls it off.
async fn follow(mut running: Running, order: &Order, gathered: &mut Gathered) -> End {
    let deadline = Instant::now() + order.timeout;
    let end = loop {
        let said = tokio::select! {
            said = running.next() => said,
            () = tokio::time::sleep_until(deadline) => break End::TimedOut,
            () = order.stop.cancelled() => break End::Stopped,
        };
        match said {
            Said::Output { is_error, bytes } => {
                gathered.take(is_error, &bytes);
                if let Some(listener) = &order.listener {
                    // Nobody listens any more, or not in time: its end is waited for all the same.
                    drop(tokio::time::timeout_at(deadline, listener.send((is_error, bytes))).await);
                }
            }
            Said::Ended(ended) => return End::Ended(ended),
        }
    };
    running.stop().await;
    end
}

enum End {
    Ended(Ended),
    TimedOut,
    /// The server ends.
    Stopped,
    /// Nobody waits for it any more.
    CalledOff,
}

struct Gathered {
    stdout: Gather,
    stderr: Gather,
}

impl Gathered {
    fn new(max_bytes: usize) -> Self {
        Self { stdout: Gather::new(max_bytes), stderr: Gather::new(max_bytes) }
    }

    fn take(&mut self, is_error: bool, bytes: &[u8]) {
        if is_error { self.stderr.push(bytes) } else { self.stdout.push(bytes) }
    }
}

fn whole_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn result(
    spot: &Spot,
    end: End,
    gathered: Gathered,
    is_reused: bool,
    took: Duration,
    timeout: Duration,
) -> SshResult {
    let (outcome, return_code, error) = match end {
        End::Ended(Ended::Exited(0)) => (SshOutcome::Ok, Some(0), None),
        End::Ended(Ended::Exited(code)) => (SshOutcome::Failed, Some(code), None),
        End::Ended(Ended::Signalled(name)) => {
            (SshOutcome::Failed, None, Some(format!("it was ended by the signal {name}")))
        }
        End::Ended(Ended::NotAllowed) => {
            (SshOutcome::Refused, None, Some("the host lets us in and runs no commands".to_owned()))
        }
        End::Ended(Ended::Broken) => {
            let because = "the connection broke while it ran; whether it ended there is not known";
            (SshOutcome::Unreachable, None, Some(because.to_owned()))
        }
        End::TimedOut => {
            let because = format!("it did not end within {} s and was told to", timeout.as_secs_f64());
            (SshOutcome::TimedOut, None, Some(because))
        }
        End::Stopped => (SshOutcome::Unreachable, None, Some(STOPPED.to_owned())),
        End::CalledOff => (SshOutcome::Failed, None, Some("it was called off, and told to end".to_owned())),
    };
    let cut_bytes = gathered.stdout.cut_bytes() + gathered.stderr.cut_bytes();
    SshResult {
        node_id: spot.node_id.clone(),
        node: spot.name.clone(),
        outcome,
        success: outcome == SshOutcome::Ok,
        stdout: gathered.stdout.into_text(),
        stderr: gathered.stderr.into_text(),
        return_code,
        error,
        connection: spot.connection(),
        is_reused,
        duration_ms: whole_ms(took),
        cut_bytes,
        host_key: None,
    }
}

fn refused(spot: &Spot, failure: &Failure, took: Duration) -> SshResult {
    SshResult {
        node_id: spot.node_id.clone(),
        node: spot.name.clone(),
        outcome: failure.outcome(),
        success: false,
        stdout: String::new(),
        stderr: String::new(),
        return_code: None,
        error: Some(failure.because.clone()),
        connection: spot.connection(),
        is_reused: false,
        duration_ms: whole_ms(took),
        cut_bytes: 0,
        host_key: failure.host_key.clone(),
    }
}

/// What a host is told that a fault of ours kept from its command.
fn panicked() -> Failure {
    Failure::new(FailureKind::Unreachable, "the server failed on it; its log says more")
}

/// A result as the audit log says it.
fn outcome_text(result: &SshResult) -> String {
    match (result.return_code, &result.error) {
        (Some(code), _) if code != 0 => format!("{} {code}", result.outcome.as_str()),
        (_, Some(error)) => format!("{}: {error}", result.outcome.as_str()),
        _ => result.outcome.as_str().to_owned(),
    }
}
