//! The server's side of adoption: a person typed the code that a machine shows.
//!
//! The server calls on the machine, sees its key, and proves that it knows the code; the machine then joins,
//! and proves the same. What waits for that join is kept in memory, for a minute, and is few.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use caelum_drivers::{
    exchange::{ExchangeError, Peer},
    tls::{self, TlsError},
};
use caelum_engine::enrol::plain_code;
use caelum_model::{
    UnixMs,
    id::NodeId,
    join::{ADOPT_PATH, AdoptionOffer, JoinAnswer},
    wire::ErrorJson,
};
use caelum_store::StoreError;
use tokio::{sync::oneshot, time::timeout};

use super::{JoinError, Registrar, proof::CodeKey};

/// Machines that are adopted at the same time.
const PENDING_MAX: usize = 64;
/// How long a machine may take to join after it accepted, ms.
const PENDING_MS: i64 = 60_000;
/// Time for each step with the machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long whoever typed the code is kept waiting.
const JOIN_MAX: Duration = Duration::from_secs(30);

/// Why a machine was not adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// It does not answer as a machine that waits to be adopted.
    #[error("the machine cannot be reached: {0}")]
    Unreachable(#[from] ExchangeError),
    /// It accepted and did not come.
    #[error("the machine accepted and did not join within {} s", JOIN_MAX.as_secs())]
    DidNotJoin,
    /// It shows another code.
    #[error("the code is wrong: compare it with what the machine shows now")]
    WrongCode,
    /// The machine wants a pause.
    #[error("too many attempts; wait a moment")]
    TooSoon,
    /// It has joined already.
    #[error("the machine is a node already")]
    IsNode,
    /// It was shut out.
    #[error("this machine was revoked; it joins again only under a new id and with a new key")]
    NodeRevoked,
    /// The machine, or the registrar when it came, said no.
    #[error("{message}")]
    Refused {
        /// The stable code.
        code: String,
        /// Why.
        message: String,
    },
    /// Too many at once.
    #[error("{PENDING_MAX} machines are being adopted already; try again in a minute")]
    Busy,
    /// The store could not tell.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The connection could not be prepared.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl AdoptError {
    /// The stable code.
    pub fn code(&self) -> &str {
        match self {
            Self::Unreachable(_) => "machine_unreachable",
            Self::DidNotJoin => "machine_did_not_join",
            Self::WrongCode => "adopt_code_wrong",
            Self::TooSoon => "rate_limited",
            Self::IsNode => "machine_is_node",
            Self::NodeRevoked => "node_revoked",
            Self::Refused { code, .. } => code,
            Self::Busy => "overloaded",
            Self::Store(_) | Self::Tls(_) => "internal",
        }
    }
}

/// A machine that accepted and is expected to join.
pub(super) struct Pending {
    key: CodeKey,
    node_id: NodeId,
    pub(super) person: String,
    until_ms: UnixMs,
    settled: oneshot::Sender<Result<(), (String, String)>>,
}

impl Pending {
    /// Tells whoever waits what became of the join.
    pub(super) fn settle(self, joined: &Result<JoinAnswer, JoinError>) {
        let settled = match joined {
            Ok(_) => Ok(()),
            Err(error) => Err((error.code().to_owned(), error.to_string())),
        };
        // Whoever waited may have gone away; the node has joined all the same.
        drop(self.settled.send(settled));
    }
}

impl Registrar {
    /// The adoption that a machine's proof belongs to. It is taken: a proof is good for one join.
    pub(super) fn claim(
        &self,
        key_sha256: &str,
        node_id: &NodeId,
        proof: &str,
        now_ms: UnixMs,
    ) -> Result<Pending, JoinError> {
        let mut pending = self.pending.lock().expect("no code panics while it holds this lock");
        let is_right = pending
            .get(key_sha256)
            .is_some_and(|waiting| waiting.until_ms > now_ms && waiting.key.is_machine(key_sha256, proof));
        if !is_right {
            return Err(JoinError::NotAdopted);
        }
        let claimed = pending.remove(key_sha256).ok_or(JoinError::NotAdopted)?;
        if claimed.node_id != *node_id {
            claimed.settle(&Err(JoinError::OtherMachine));
            return Err(JoinError::OtherMachine);
        }
        Ok(claimed)
    }

    /// Adopts the machine with this id, which is reached at this address and shows this code. Answers when it
    /// has joined.
    pub async fn adopt(
        &self,
        node_id: &NodeId,
        machine: SocketAddr,
        code: &str,
        person: &str,
    ) -> Result<(), AdoptError> {
        let config = Arc::new(tls::adopt_client_config()?);
        let peer = Peer::open_at(machine, config, PATIENCE).await?;
        let key_sha256 = peer.key_sha256().to_owned();
        if self.is_revoked(node_id) {
            return Err(AdoptError::NodeRevoked);
        }
        if let Some(known) = self.store.enrolment_by_key(key_sha256.clone()).await? {
            return Err(match known.revoked_at_ms {
                Some(_) => AdoptError::NodeRevoked,
                None => AdoptError::IsNode,
            });
        }
        let (code, machine_key, authority) =
            (plain_code(code), key_sha256.clone(), self.authority_sha256.clone());
        let stretched =
            tokio::task::spawn_blocking(move || CodeKey::stretch(&code, &machine_key, &authority)).await;
        // The work is arithmetic; it ends early only when the process does.
        let Ok(key) = stretched else { return Err(AdoptError::Busy) };
        let proof = key.server_proof();
        let (settled, outcome) = oneshot::channel();
        let waiting = Waiting::begin(self, &key_sha256, key, node_id, person, settled)?;
        let offer = AdoptionOffer {
            cluster_id: self.cluster_id.clone(),
            cluster_name: self.cluster_name.clone(),
            servers: if self.own_servers.is_empty() { self.servers() } else { self.own_servers.clone() },
            authority_sha256: self.authority_sha256.clone(),
            proof,
        };
        let body = serde_json::to_vec(&offer).expect("text has a JSON form");
        let answer = peer.post(ADOPT_PATH, body).await?;
        if answer.status != 202 {
            let said = serde_json::from_slice::<ErrorJson>(&answer.body).map(|said| said.error);
            return Err(match said {
                Ok(said) if said.code == "adopt_code_wrong" => AdoptError::WrongCode,
                Ok(said) if said.code == "rate_limited" => AdoptError::TooSoon,
                Ok(said) => AdoptError::Refused { code: said.code, message: said.message },
                Err(_) => AdoptError::Refused {
                    code: "machine_not_waiting".to_owned(),
                    message: "what answers there does not wait to be adopted".to_owned(),
                },
            });
        }
        let outcome = timeout(JOIN_MAX, outcome).await;
        drop(waiting);
        match outcome {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err((code, message)))) => Err(AdoptError::Refused { code, message }),
            Ok(Err(_)) | Err(_) => Err(AdoptError::DidNotJoin),
        }
    }
}

/// A place among the machines that are expected; given back however the adoption ends.
struct Waiting<'a> {
    registrar: &'a Registrar,
    key_sha256: String,
}

impl<'a> Waiting<'a> {
    fn begin(
        registrar: &'a Registrar,
        key_sha256: &str,
        key: CodeKey,
        node_id: &NodeId,
        person: &str,
        settled: oneshot::Sender<Result<(), (String, String)>>,
    ) -> Result<Self, AdoptError> {
        let now_ms = registrar.clock.now_ms();
        let mut pending = registrar.pending.lock().expect("no code panics while it holds this lock");
        pending.retain(|_, waiting| waiting.until_ms > now_ms);
        if pending.len() >= PENDING_MAX || pending.contains_key(key_sha256) {
            return Err(AdoptError::Busy);
        }
        let waiting = Pending {
            key,
            node_id: node_id.clone(),
            person: person.to_owned(),
            until_ms: now_ms + PENDING_MS,
            settled,
        };
        pending.insert(key_sha256.to_owned(), waiting);
        drop(pending);
        Ok(Self { registrar, key_sha256: key_sha256.to_owned() })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Ok(mut pending) = self.registrar.pending.lock() {
            pending.remove(&self.key_sha256);
        }
    }
}
