//! The pool: one loop that does what the slots say.
//!
//! Whoever wants a channel asks [`Pool::acquire`] and gets a [`Grant`]; dropping it, or giving up the
//! question, gives the slot back. Commands themselves run with whoever asked.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use caelum_drivers::ssh::{Dial, Keyring, SshSession};
use caelum_engine::ssh::{
    ConnectionId, Failure, FailureKind, Input, Limits, NotBegun, Output, Owner, Place, Slots, Ticket,
};
use caelum_model::ssh::SshPoolStats;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::AbortHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Inputs that are taken before anything else is looked at.
const BATCH_MAX: usize = 256;
/// Places whose dialling is remembered.
const DIALS_MAX: usize = 20_000;
/// How long commands may take to end when the process does.
const GRACE: Duration = Duration::from_millis(1_500);
/// How long a goodbye may take.
const GOODBYE_MAX: Duration = Duration::from_secs(2);

type Answer = oneshot::Sender<Result<Granted, Failure>>;

enum Message {
    Ask { ticket: Ticket, dial: Dial, owner: Owner, wait: Duration, answer: Answer },
    Again { ticket: Ticket, why: NotBegun, answer: Answer },
    Done(Ticket),
    Connected(ConnectionId, Box<Result<SshSession, Failure>>),
    Lost(ConnectionId),
    Clean(oneshot::Sender<SshPoolStats>),
    Stats(oneshot::Sender<SshPoolStats>),
}

struct Granted {
    session: Arc<SshSession>,
    is_reused: bool,
}

/// Commands that wait or run at once, of everybody together.
const REQUESTS_MAX: usize = 20_000;

/// A way to the pool; cheap to copy. Its messages are as few as its requests, and of these there are at most
/// [`REQUESTS_MAX`].
#[derive(Clone)]
pub struct Pool {
    messages: mpsc::UnboundedSender<Message>,
    next: Arc<AtomicU64>,
    requests: Arc<Semaphore>,
}

/// A channel's place on a connection, until it is dropped.
pub struct Grant {
    /// The connection.
    pub session: Arc<SshSession>,
    /// Whether a command ran there before.
    pub is_reused: bool,
    lease: Lease,
}

/// Gives the slot back, or the question up.
struct Lease {
    ticket: Ticket,
    messages: mpsc::UnboundedSender<Message>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Lease {
    fn drop(&mut self) {
        // A pool that is gone has no slots.
        drop(self.messages.send(Message::Done(self.ticket)));
    }
}

impl Pool {
    /// A pool within these limits; it runs until told to stop.
    pub fn start(
        limits: Limits,
        keyring: Arc<Keyring>,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (messages, inbox) = mpsc::unbounded_channel();
        let keeper = Keeper {
            slots: Slots::new(limits),
            keyring,
            begun: Instant::now(),
            messages: messages.downgrade(),
            dials: HashMap::new(),
            answers: HashMap::new(),
            sessions: HashMap::new(),
            connecting: HashMap::new(),
        };
        let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
        let pool = Self { messages, next: Arc::default(), requests };
        (pool, keeper.run(inbox, stop))
    }

    /// Somebody new to take turns with the others.
    pub fn owner(&self) -> Owner {
        Owner(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// A channel on a connection to a host, at most so long from now.
    pub async fn acquire(&self, dial: Dial, owner: Owner, wait: Duration) -> Result<Grant, Failure> {
        let lease = self.lease()?;
        let ticket = lease.ticket;
        let (answer, answered) = oneshot::channel();
        drop(self.messages.send(Message::Ask { ticket, dial, owner, wait, answer }));
        wait_for(answered, lease).await
    }

    /// A ticket of its own, as long as there are not too many.
    fn lease(&self) -> Result<Lease, Failure> {
        let place = Arc::clone(&self.requests).try_acquire_owned().map_err(|_| {
            let because =
                format!("{REQUESTS_MAX} commands wait or run already: ask again when some have ended");
            Failure::new(FailureKind::Refused, because)
        })?;
        let ticket = Ticket(self.next.fetch_add(1, Ordering::Relaxed));
        Ok(Lease { ticket, messages: self.messages.clone(), _place: place })
    }

    /// Another channel, for a command that could not begin on the one it was given.
    pub async fn again(&self, grant: Grant, why: NotBegun) -> Result<Grant, Failure> {
        let (answer, answered) = oneshot::channel();
        drop(self.messages.send(Message::Again { ticket: grant.lease.ticket, why, answer }));
        wait_for(answered, grant.lease).await
    }

    /// How the pool stands.
    pub async fn stats(&self) -> SshPoolStats {
        let (answer, answered) = oneshot::channel();
        drop(self.messages.send(Message::Stats(answer)));
        answered.await.unwrap_or_default()
    }

    /// Closes connections without commands, and forgives hosts that did not answer.
    pub async fn clean(&self) -> SshPoolStats {
        let (answer, answered) = oneshot::channel();
        drop(self.messages.send(Message::Clean(answer)));
        answered.await.unwrap_or_default()
    }
}

async fn wait_for(
    answered: oneshot::Receiver<Result<Granted, Failure>>,
    lease: Lease,
) -> Result<Grant, Failure> {
    match answered.await {
        Ok(Ok(Granted { session, is_reused })) => Ok(Grant { session, is_reused, lease }),
        Ok(Err(failure)) => Err(failure),
        Err(_) => Err(stopping()),
    }
}

/// What a command is told that the end of the server comes before.
pub(super) fn stopping() -> Failure {
    Failure::new(FailureKind::Refused, "the server is stopping; nothing was run")
}

struct Keeper {
    slots: Slots,
    keyring: Arc<Keyring>,
    begun: Instant,
    messages: mpsc::WeakUnboundedSender<Message>,
    /// How each place was dialled last: keys that were accepted meanwhile count for the next connection.
    dials: HashMap<Place, Dial>,
    answers: HashMap<Ticket, Answer>,
    sessions: HashMap<ConnectionId, Arc<SshSession>>,
    connecting: HashMap<ConnectionId, AbortHandle>,
}

impl Keeper {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Message>, stop: CancellationToken) {
        let mut out = Vec::new();
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            let wakeup = self
                .slots
                .next_wakeup()
                .map(|at_ms| self.begun + Duration::from_millis(u64::try_from(at_ms).unwrap_or_default()));
            tokio::select! {
                () = stop.cancelled() => break,
                count = inbox.recv_many(&mut batch, BATCH_MAX) => if count == 0 { break },
                () = sleep_until(wakeup) => self.give(Input::Tick, &mut out),
            }
            for message in batch.drain(..) {
                self.take(message, &mut out);
            }
        }
        // Commands that run are told to end by whoever follows them; that needs their connections.
        let end = Instant::now() + GRACE;
        while self.slots.stats().running > 0 {
            tokio::select! {
                count = inbox.recv_many(&mut batch, BATCH_MAX) => if count == 0 { break },
                () = tokio::time::sleep_until(end) => break,
            }
            for message in batch.drain(..) {
                if let Message::Done(ticket) = message {
                    self.give(Input::Done(ticket), &mut out);
                }
            }
        }
        // Who still waits is told by the end of their answers.
        self.connecting.values().for_each(AbortHandle::abort);
        let goodbyes = self.sessions.into_values().map(|session| async move { session.close().await });
        drop(tokio::time::timeout(GOODBYE_MAX, futures_util::future::join_all(goodbyes)).await);
    }

    fn take(&mut self, message: Message, out: &mut Vec<Output>) {
        let input = match message {
            Message::Ask { ticket, dial, owner, wait, answer } => {
                let place = Place::of(&dial.user, &dial.host, dial.port);
                if self.dials.len() >= DIALS_MAX && !self.dials.contains_key(&place) {
                    self.forget_dials();
                }
                self.dials.insert(place.clone(), dial);
                self.answers.insert(ticket, answer);
                let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
                Input::Ask { ticket, place, owner, until_ms: self.now_ms().saturating_add(wait_ms) }
            }
            Message::Again { ticket, why, answer } => {
                self.answers.insert(ticket, answer);
                Input::NotBegun(ticket, why)
            }
            Message::Done(ticket) => {
                self.answers.remove(&ticket);
                Input::Done(ticket)
            }
            Message::Connected(connection, result) => {
                self.connecting.remove(&connection);
                match *result {
                    Ok(session) => {
                        self.watch(connection, &session);
                        self.sessions.insert(connection, Arc::new(session));
                        Input::Connected(connection)
                    }
                    Err(failure) => Input::ConnectFailed(connection, failure),
                }
            }
            Message::Lost(connection) => {
                self.sessions.remove(&connection);
                Input::Lost(connection)
            }
            Message::Clean(answer) => {
                self.give(Input::Clean, out);
                drop(answer.send(self.slots.stats()));
                return;
            }
            Message::Stats(answer) => {
                drop(answer.send(self.slots.stats()));
                return;
            }
        };
        self.give(input, out);
    }

    fn give(&mut self, input: Input, out: &mut Vec<Output>) {
        let now_ms = self.now_ms();
        self.slots.handle(now_ms, input, out);
        for output in out.drain(..) {
            match output {
                Output::Connect(connection, place) => self.connect(connection, &place),
                Output::Run { ticket, connection, is_reused } => {
                    let Some(answer) = self.answers.remove(&ticket) else { continue };
                    let Some(session) = self.sessions.get(&connection) else { continue };
                    // Who gave up has said so by now.
                    drop(answer.send(Ok(Granted { session: Arc::clone(session), is_reused })));
                }
                Output::Refuse(ticket, failure) => {
                    if let Some(answer) = self.answers.remove(&ticket) {
                        drop(answer.send(Err(failure)));
                    }
                }
                Output::Close(connection) => {
                    if let Some(connecting) = self.connecting.remove(&connection) {
                        connecting.abort();
                    }
                    if let Some(session) = self.sessions.remove(&connection) {
                        tokio::spawn(async move {
                            drop(tokio::time::timeout(GOODBYE_MAX, session.close()).await);
                        });
                    }
                }
            }
        }
    }

    /// Makes a connection, outside of the loop.
    fn connect(&mut self, connection: ConnectionId, place: &Place) {
        let Some(messages) = self.messages.upgrade() else { return };
        let dial = self.dials.get(place).cloned();
        let keyring = Arc::clone(&self.keyring);
        let connecting = tokio::spawn(async move {
            let made = match dial {
                Some(dial) => SshSession::connect(&dial, &keyring).await,
                None => {
                    Err(Failure::new(FailureKind::Unreachable, "it is not known any more how it is dialled"))
                }
            };
            drop(messages.send(Message::Connected(connection, Box::new(made))));
        });
        self.connecting.insert(connection, connecting.abort_handle());
    }

    /// Tells the loop when a connection is gone, whoever ended it.
    fn watch(&self, connection: ConnectionId, session: &SshSession) {
        let Some(messages) = self.messages.upgrade() else { return };
        let gone = session.gone();
        tokio::spawn(async move {
            gone.await;
            drop(messages.send(Message::Lost(connection)));
        });
    }

    /// Keeps only how places are dialled that are connected to.
    fn forget_dials(&mut self) {
        let pools = self.slots.stats().pools;
        self.dials.retain(|place, _| pools.contains_key(place.0.as_ref()));
    }

    /// Time since this loop began, ms: no clock can make it jump.
    fn now_ms(&self) -> i64 {
        i64::try_from(self.begun.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_are_bounded_and_one_that_ends_makes_room() {
        let folder = tempfile::tempdir().expect("a folder");
        let keyring = Arc::new(Keyring::open(folder.path(), &[], "caelum-test", false).expect("opens"));
        let (pool, _loop) = Pool::start(Limits::default(), keyring, CancellationToken::new());
        let mut leases: Vec<Lease> = (0..REQUESTS_MAX).map_while(|_| pool.lease().ok()).collect();
        assert_eq!(leases.len(), REQUESTS_MAX);
        let refused = pool.lease().err().expect("there are too many");
        assert_eq!(refused.kind, FailureKind::Refused);
        leases.pop();
        assert!(pool.lease().is_ok());
    }
}
