//! SSH to other machines: one connection, with commands beside each other on it.
//!
//! # Rules
//! - A host proves itself before we do: a key that is not among those given ends the connection before any
//!   key of ours is offered.
//! - What happens on the way becomes a [`Failure`] that says what to do.
//! - A channel is closed in so many words: `sshd` keeps one that was only dropped, and refuses the eleventh.
//! - `TCP_NODELAY` is on (a short command takes half the time), curve25519 is asked for first.
//!
//! # What it does not do
//! It keeps no connections and decides nothing about who may connect where: that is `engine::ssh` and the
//! role on top of it. RSA is not spoken, neither for hosts nor for users.

mod host_keys;
mod keyring;
mod running;

use std::{
    borrow::Cow,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use caelum_engine::ssh::{Failure, FailureKind, NotBegun};
use caelum_model::ssh::HostKeyProblem;
use russh::{
    Preferred, client, kex,
    keys::{Algorithm, EcdsaCurve, HashAlg, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate},
};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use host_keys::{HostKey, InvalidHostKey, KnownHostsFile, own_host_keys};
pub use keyring::{Keyring, KeyringError};
pub use running::{Ended, Running, Said};

/// Time between signs of life on a connection where nothing happens.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// How many of them may stay without an answer.
const KEEPALIVES_MAX: usize = 3;
/// Bytes a host may send ahead on one channel; below the usual 2 MiB long links are slow.
const WINDOW_BYTES: u32 = 4 << 20;
/// Messages of one channel that wait to be read here.
const MESSAGES_MAX: usize = 32;

/// Whom to connect to, and whose keys are good.
#[derive(Clone, Debug)]
pub struct Dial {
    /// User to sign in as.
    pub user: String,
    /// Address or name.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Keys that the host may show.
    pub known: Vec<HostKey>,
}

/// One connection that is signed in.
pub struct SshSession {
    handle: client::Handle<Guard>,
    is_gone: CancellationToken,
}

impl SshSession {
    /// Connects, checks the host's key and signs in. Takes as long as the host does: whoever calls limits it.
    pub async fn connect(dial: &Dial, keyring: &Keyring) -> Result<Self, Failure> {
        let stream = TcpStream::connect((dial.host.as_str(), dial.port))
            .await
            .map_err(|error| of_connecting(dial, &error))?;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(code = "ssh.nodelay", %error, "a connection stays slow for short commands");
        }
        let is_gone = CancellationToken::new();
        let seen = Arc::new(Mutex::new(Seen::Nothing));
        let guard =
            Guard { dial: dial.clone(), seen: Arc::clone(&seen), _gone: is_gone.clone().drop_guard() };
        let connected = client::connect_stream(Arc::new(settings(&dial.known)), stream, guard).await;
        let mut handle = match connected {
            Ok(handle) => handle,
            Err(error) => {
                let seen = std::mem::replace(&mut *lock(&seen), Seen::Nothing);
                return Err(of_handshake(seen, &error));
            }
        };
        sign_in(&mut handle, dial, keyring).await?;
        Ok(Self { handle, is_gone })
    }

    /// Asks a host for its key, without trusting it and without signing in.
    pub async fn look(dial: &Dial) -> Result<HostKeyProblem, Failure> {
        let stream = TcpStream::connect((dial.host.as_str(), dial.port))
            .await
            .map_err(|error| of_connecting(dial, &error))?;
        let seen = Arc::new(Mutex::new(Seen::Nothing));
        let nobody = Dial { known: Vec::new(), ..dial.clone() };
        let guard =
            Guard { dial: nobody, seen: Arc::clone(&seen), _gone: CancellationToken::new().drop_guard() };
        match client::connect_stream(Arc::new(settings(&dial.known)), stream, guard).await {
            Ok(_) => Err(Failure::new(FailureKind::Unreachable, "it showed no key")),
            Err(error) => match std::mem::replace(&mut *lock(&seen), Seen::Nothing) {
                Seen::Wrong(problem) => Ok(problem),
                seen => Err(of_handshake(seen, &error)),
            },
        }
    }

    /// Begins a command. Where this fails nothing was run.
    pub async fn begin(&self, command: &str) -> Result<Running, NotBegun> {
        let channel = match self.handle.channel_open_session().await {
            Ok(channel) => channel,
            Err(russh::Error::ChannelOpenFailure(_)) => return Err(NotBegun::Full),
            Err(_) => return Err(NotBegun::Gone),
        };
        match channel.exec(true, command).await {
            Ok(()) => Ok(Running::new(channel)),
            Err(_) => Err(NotBegun::Gone),
        }
    }

    /// Waits until the connection is gone, whoever ended it.
    pub fn gone(&self) -> impl Future<Output = ()> + Send + 'static {
        self.is_gone.clone().cancelled_owned()
    }

    /// Says goodbye. The connection is gone a moment later.
    pub async fn close(&self) {
        // A connection that is gone cannot be told.
        drop(self.handle.disconnect(russh::Disconnect::ByApplication, "", "en").await);
    }
}

fn settings(known: &[HostKey]) -> client::Config {
    client::Config {
        client_id: russh::SshId::Standard(Cow::Borrowed("SSH-2.0-Caelum")),
        window_size: WINDOW_BYTES,
        channel_buffer_size: MESSAGES_MAX,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: KEEPALIVES_MAX,
        preferred: Preferred {
            kex: Cow::Borrowed(&[
                kex::CURVE25519,
                kex::CURVE25519_PRE_RFC_8731,
                kex::MLKEM768X25519_SHA256,
                kex::EXTENSION_SUPPORT_AS_CLIENT,
                kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
            ]),
            key: Cow::Owned(algorithms(known)),
            ..Preferred::DEFAULT
        },
        ..client::Config::default()
    }
}

/// Kinds of host keys, those of the known keys first: a host with several keys then shows one that is known.
fn algorithms(known: &[HostKey]) -> Vec<Algorithm> {
    let ecdsa = |curve| Algorithm::Ecdsa { curve };
    let mut all = vec![
        Algorithm::Ed25519,
        ecdsa(EcdsaCurve::NistP256),
        ecdsa(EcdsaCurve::NistP384),
        ecdsa(EcdsaCurve::NistP521),
    ];
    // Stable: among the known and among the others the order stays.
    all.sort_by_key(|algorithm| !known.iter().any(|key| key.algorithm() == *algorithm));
    all
}

async fn sign_in(handle: &mut client::Handle<Guard>, dial: &Dial, keyring: &Keyring) -> Result<(), Failure> {
    let broken = |error: russh::Error| {
        Failure::new(FailureKind::Unreachable, format!("the connection broke while signing in: {error}"))
    };
    if let Some((key, certificate)) = keyring.certificate(&dial.user) {
        let answer = handle.authenticate_openssh_cert(&dial.user, key, certificate).await.map_err(broken)?;
        if answer.success() {
            return Ok(());
        }
    }
    for key in keyring.keys() {
        let key = PrivateKeyWithHashAlg::new(Arc::clone(key), None);
        if handle.authenticate_publickey(&dial.user, key).await.map_err(broken)?.success() {
            return Ok(());
        }
    }
    let because = format!(
        "it does not let {} in with our key: add the line that `caelum ssh key` prints to the \
         authorized_keys of {0} there",
        dial.user
    );
    Err(Failure::new(FailureKind::Refused, because))
}

fn of_connecting(dial: &Dial, error: &io::Error) -> Failure {
    let kind = match error.kind() {
        io::ErrorKind::TimedOut => FailureKind::TimedOut,
        _ => FailureKind::Unreachable,
    };
    let because = match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("nothing listens on port {} there", dial.port),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            format!("there is no way to {}", dial.host)
        }
        _ => format!("connect to {} port {}: {error}", dial.host, dial.port),
    };
    Failure::new(kind, because)
}

fn of_handshake(seen: Seen, error: &russh::Error) -> Failure {
    match seen {
        Seen::Wrong(problem) => refused_key(problem),
        Seen::Right => {
            Failure::new(FailureKind::Unreachable, format!("the connection broke while it was made: {error}"))
        }
        Seen::Nothing => match error {
            russh::Error::NoCommonAlgo { kind, .. } => Failure::new(
                FailureKind::Refused,
                format!("it speaks no {kind:?} algorithm that we speak; RSA host keys are not spoken"),
            ),
            russh::Error::Version => {
                Failure::new(FailureKind::Refused, "what answers there is no SSH server")
            }
            _ => Failure::new(
                FailureKind::Dropped,
                format!(
                    "it closed the connection before it said anything ({error}); see MaxStartups of its sshd"
                ),
            ),
        },
    }
}

fn refused_key(problem: HostKeyProblem) -> Failure {
    let HostKeyProblem { host, port, offered_fingerprint, known_fingerprints, .. } = &problem;
    let because = if problem.is_changed() {
        format!(
            "its host key is {offered_fingerprint} and should be {}: somebody may be in between. If the host \
             was set up anew, forget the old key (`caelum ssh forget {host} --port {port}`) and accept the new one",
            known_fingerprints.join(" or ")
        )
    } else {
        format!(
            "its host key {offered_fingerprint} is not known: compare it with what `ssh-keygen -lf` says there, \
             then accept it (`caelum ssh accept {host} --port {port} --fingerprint {offered_fingerprint}`)"
        )
    };
    Failure { kind: FailureKind::Refused, because, host_key: Some(problem) }
}

/// What was seen of the host's key.
enum Seen {
    Nothing,
    Right,
    Wrong(HostKeyProblem),
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().expect("no code panics while it holds this lock")
}

/// Looks at the host's key; lives as long as the connection.
struct Guard {
    dial: Dial,
    seen: Arc<Mutex<Seen>>,
    _gone: DropGuard,
}

impl client::Handler for Guard {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        // Certificates of hosts are not asked for, so that none is shown.
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else { return Ok(false) };
        let is_known = self.dial.known.iter().any(|known| known.is(key));
        *lock(&self.seen) = if is_known { Seen::Right } else { Seen::Wrong(self.problem(key)) };
        Ok(is_known)
    }
}

impl Guard {
    fn problem(&self, key: &PublicKey) -> HostKeyProblem {
        HostKeyProblem {
            host: self.dial.host.clone(),
            port: self.dial.port,
            offered_key: HostKey::line(key),
            offered_fingerprint: key.fingerprint(HashAlg::Sha256).to_string(),
            known_fingerprints: self.dial.known.iter().map(HostKey::fingerprint).collect(),
        }
    }
}
