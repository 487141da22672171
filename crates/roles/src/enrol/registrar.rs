//! The server's side: who is admitted, with which certificate, and who is shut out.
//!
//! A revocation is in force in this process, and told to every node, before it is written down; a store that
//! cannot write delays the record and nothing else. Each revocation makes the next generation of the cluster's
//! key and forgets the ones before, because whoever was shut out knows them; nodes get it over their links.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, RwLock},
    time::Duration,
};

use caelum_drivers::{clock::Clock, tls};
use caelum_engine::{
    enrol::{AccessList, Refusal, judge_token},
    lockout::{Lockout, address_key},
};
use caelum_model::{
    UnixMs,
    cluster::{ClusterKey, NodePass, NodeRole},
    envelope::RosterDelta,
    id::NodeId,
    join::{Admission, Enrolment, JoinAnswer, JoinRequest, JoinToken, MailboxPlace, ServerGrant},
};
use caelum_store::{AdmitOutcome, Store, StoreError};
use tokio::sync::broadcast;

use super::{
    adoption::Pending,
    cluster_keys::{Keys, PersistKeys},
    invitation::{self, Destination},
    mailbox, proof,
};

/// Time between attempts to write down a revocation.
const WRITE_AGAIN: Duration = Duration::from_secs(5);
/// Changes that a slow subscriber may fall behind before it has to ask for all.
const DELTAS_WAITING_MAX: usize = 16;
/// Longest host name and version of a node, bytes.
const HOSTNAME_BYTES_MAX: usize = 255;
const VERSION_BYTES_MAX: usize = 64;

/// Why a node is not admitted.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Too many refusals from there.
    #[error("too many attempts from this address; wait {} s", (retry_after_ms + 999) / 1000)]
    RateLimited {
        /// For how long, ms.
        retry_after_ms: i64,
    },
    /// Machines from there do not join.
    #[error("machines with this address may not join (cluster.access)")]
    NotFromHere,
    /// The request is not one.
    #[error("{0}")]
    Invalid(String),
    /// The token admits it not.
    #[error(transparent)]
    Token(#[from] Refusal),
    /// It was shut out.
    #[error("this node was revoked; it joins again only under a new id and with a new key")]
    NodeRevoked,
    /// Somebody else has the id.
    #[error("a node with this id has joined with another key, or this key under another id")]
    NodeIdTaken,
    /// Nobody typed its code, or another code.
    #[error("nobody is adopting this machine, or the code was wrong")]
    NotAdopted,
    /// The machine that shows the code goes by another id.
    #[error("the machine that shows this code is another one")]
    OtherMachine,
    /// It was never admitted.
    #[error("this key was never admitted here")]
    NotEnrolled,
    /// The store could not tell.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The certificate could not be made.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
}

impl JoinError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::RateLimited { .. } => "rate_limited",
            Self::NotFromHere => "join_not_allowed_from_here",
            Self::Invalid(_) => "invalid_request",
            Self::Token(refusal) => refusal.code(),
            Self::NodeRevoked => "node_revoked",
            Self::NodeIdTaken => "node_id_taken",
            Self::NotAdopted => "join_not_adopted",
            Self::OtherMachine => "machine_is_another",
            Self::NotEnrolled => "node_unknown",
            Self::Store(_) | Self::Tls(_) => "internal",
        }
    }

    /// Whether somebody was turned away, rather than something having gone wrong here.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::RateLimited { .. } | Self::Invalid(_) | Self::Store(_) | Self::Tls(_))
    }
}

/// Why a node was not shut out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevokeError {
    /// This server itself.
    #[error("a server does not revoke itself")]
    Own,
    /// No such node was ever admitted.
    #[error("no node of this id was admitted")]
    NotEnrolled,
}

/// What became of a revocation. It is in force either way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Whether it will be known after a restart: node and new key are written down.
    pub is_stored: bool,
}

/// Makes what a machine is given that joins as a server: with the master key as it is then.
pub type MakeGrant = Arc<dyn Fn() -> ServerGrant + Send + Sync>;

/// What a registrar stands on.
pub struct Parts {
    /// Records.
    pub store: Arc<Store>,
    /// Signs certificates.
    pub authority: Arc<tls::Authority>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// This node, which is not revoked here.
    pub node_id: NodeId,
    /// The cluster.
    pub cluster_id: String,
    /// Its name.
    pub cluster_name: String,
    /// Keys of the cluster, newest last.
    pub keys: Vec<ClusterKey>,
    /// Where servers are reached: `host:port`, best first.
    pub servers: Vec<String>,
    /// From where machines may join.
    pub access: AccessList,
    /// Writes down new keys. Called outside the async threads.
    pub persist_keys: PersistKeys,
    /// What a machine is given that joins as a server; none where the records are this machine's alone.
    pub grant: Option<MakeGrant>,
}

/// Admits nodes, renews their certificates and shuts them out.
pub struct Registrar {
    pub(super) store: Arc<Store>,
    pub(super) authority: Arc<tls::Authority>,
    pub(super) authority_sha256: String,
    pub(super) clock: Arc<dyn Clock>,
    node_id: NodeId,
    pub(super) cluster_id: String,
    pub(super) cluster_name: String,
    access: AccessList,
    keys: Arc<Keys>,
    servers: RwLock<Vec<String>>,
    /// Where this server itself is reached, if it knows: an adoption that was begun here ends here.
    pub(super) own_servers: Vec<String>,
    grant: Option<MakeGrant>,
    revoked: RwLock<BTreeSet<NodeId>>,
    deltas: broadcast::Sender<RosterDelta>,
    lockout: Mutex<Lockout>,
    pub(super) pending: Mutex<HashMap<String, Pending>>,
}

impl Registrar {
    /// A registrar that knows who was shut out before.
    pub async fn open(parts: Parts) -> Result<Arc<Self>, StoreError> {
        let enrolments = parts.store.enrolments().await?;
        let revoked = enrolments.into_iter().filter(|known| known.revoked_at_ms.is_some());
        Ok(Arc::new(Self {
            revoked: RwLock::new(revoked.map(|known| known.node_id).collect()),
            authority_sha256: tls::fingerprint_sha256(parts.authority.certificate_der()),
            store: parts.store,
            authority: parts.authority,
            clock: parts.clock,
            node_id: parts.node_id,
            cluster_id: parts.cluster_id,
            cluster_name: parts.cluster_name,
            access: parts.access,
            keys: Arc::new(Keys::new(parts.keys, parts.persist_keys)),
            own_servers: parts.servers.clone(),
            servers: RwLock::new(parts.servers),
            grant: parts.grant,
            deltas: broadcast::Sender::new(DELTAS_WAITING_MAX),
            lockout: Mutex::default(),
            pending: Mutex::default(),
        }))
    }

    /// Keys of the cluster, newest last.
    pub fn keys(&self) -> Vec<ClusterKey> {
        self.keys.get()
    }

    /// Where servers are reached.
    pub fn servers(&self) -> Vec<String> {
        self.servers.read().expect("no code panics while it holds this lock").clone()
    }

    /// Says where servers are reached from now on, and tells the nodes.
    pub fn set_servers(&self, servers: Vec<String>) {
        let before = std::mem::replace(
            &mut *self.servers.write().expect("no code panics while it holds this lock"),
            servers.clone(),
        );
        if before != servers {
            self.tell();
        }
    }

    /// Takes up what other servers wrote down: keys of the cluster, and who was shut out. Tells the nodes where
    /// that is news. Nobody who was shut out here is let in again by it.
    pub async fn take_up(&self, keys: Vec<ClusterKey>) -> Result<(), StoreError> {
        let enrolments = self.store.enrolments().await?;
        let are_keys_news = self.keys.take_up(keys);
        let mut revoked = self.revoked.write().expect("no code panics while it holds this lock");
        let before = revoked.len();
        revoked.extend(
            enrolments.into_iter().filter(|known| known.revoked_at_ms.is_some()).map(|known| known.node_id),
        );
        let is_news = are_keys_news || revoked.len() > before;
        drop(revoked);
        if is_news {
            self.tell();
        }
        Ok(())
    }

    /// Whether a node was shut out.
    pub fn is_revoked(&self, node_id: &NodeId) -> bool {
        self.revoked.read().expect("no code panics while it holds this lock").contains(node_id)
    }

    /// What every node is to know: keys, who is shut out, where servers are.
    pub fn delta(&self) -> RosterDelta {
        let revoked = self.revoked.read().expect("no code panics while it holds this lock");
        let revoked = revoked.iter().map(|node_id| node_id.as_str().to_owned()).collect();
        RosterDelta { keys: self.keys(), revoked, servers: self.servers(), seats: Vec::new() }
    }

    /// Follows changes of [`Self::delta`]. Each is complete: whoever missed some needs only the last.
    pub fn subscribe(&self) -> broadcast::Receiver<RosterDelta> {
        self.deltas.subscribe()
    }

    /// SHA-256 of the authority's certificate.
    pub fn authority_sha256(&self) -> &str {
        &self.authority_sha256
    }

    fn tell(&self) {
        // An error only says that nobody listens right now.
        drop(self.deltas.send(self.delta()));
    }

    /// Makes a join token. The error says what is wrong with the wish.
    pub async fn invite(
        &self,
        role: NodeRole,
        uses: u32,
        expires_at_ms: UnixMs,
    ) -> Result<(JoinToken, String), JoinError> {
        self.invite_through(self.servers(), None, role, uses, expires_at_ms).await
    }

    /// Makes a join token that leads to the servers given, and to a mailbox where one is named.
    pub async fn invite_through(
        &self,
        servers: Vec<String>,
        mailbox: Option<String>,
        role: NodeRole,
        uses: u32,
        expires_at_ms: UnixMs,
    ) -> Result<(JoinToken, String), JoinError> {
        let to = Destination {
            cluster_id: self.cluster_id.clone(),
            cluster_name: self.cluster_name.clone(),
            servers,
            authority_sha256: self.authority_sha256.clone(),
        };
        let (token, mut invitation) = invitation::make(to, role, uses, self.clock.now_ms(), expires_at_ms)
            .map_err(JoinError::Invalid)?;
        let key = || mailbox::token_key(&self.authority, &token.token_id);
        invitation.mailbox = mailbox.map(|address| MailboxPlace { address, key: key() });
        self.store.add_join_token(token.clone()).await?;
        Ok((token, invitation::to_text(&invitation)))
    }

    /// Admits a machine, or says why not. Nothing is kept of a refusal but that there was one from there.
    pub async fn join(&self, request: &JoinRequest, from: IpAddr) -> Result<JoinAnswer, JoinError> {
        let (key, now_ms) = (address_key(from), self.clock.now_ms());
        let retry_after_ms = self.lockout().wait_ms(&key, now_ms);
        if retry_after_ms > 0 {
            return Err(JoinError::RateLimited { retry_after_ms });
        }
        let joined = match self.access.allows(from) {
            true => self.admit(request, now_ms).await,
            false => Err(JoinError::NotFromHere),
        };
        match &joined {
            Ok(_) => self.lockout().succeed(&key),
            Err(error) if error.is_refusal() => self.lockout().fail(&key, now_ms),
            Err(_) => {}
        }
        joined
    }

    pub(super) fn lockout(&self) -> std::sync::MutexGuard<'_, Lockout> {
        self.lockout.lock().expect("no code panics while it holds this lock")
    }

    pub(super) async fn admit(&self, request: &JoinRequest, now_ms: UnixMs) -> Result<JoinAnswer, JoinError> {
        let is_plain = |text: &str, max: usize| text.len() <= max && !text.chars().any(char::is_control);
        if !is_plain(&request.hostname, HOSTNAME_BYTES_MAX) || !is_plain(&request.version, VERSION_BYTES_MAX)
        {
            return Err(JoinError::Invalid("hostname or version is too long, or no plain text".into()));
        }
        let key_sha256 =
            tls::csr_key_sha256(&request.csr_pem).map_err(|error| JoinError::Invalid(error.to_string()))?;
        if self.is_revoked(&request.node_id) {
            return Err(JoinError::NodeRevoked);
        }
        let known = self.store.enrolment_by_key(key_sha256.clone()).await?;
        if known.as_ref().is_some_and(|known| self.is_out(known)) {
            return Err(JoinError::NodeRevoked);
        }
        let mut enrolment = Enrolment {
            node_id: request.node_id.clone(),
            key_sha256,
            role: request.role,
            admitted_by: String::new(),
            admitted_at_ms: now_ms,
            revoked_at_ms: None,
            ceiling: request.ceiling,
            hostname: request.hostname.clone(),
        };
        match &request.admission {
            Admission::Token { token_id, secret } => {
                let hash = proof::sha256(secret.as_bytes());
                let token = self.store.join_token(token_id.clone()).await?;
                enrolment.admitted_by = format!("token:{token_id}");
                let is_again = known.is_some_and(|known| {
                    known.node_id == enrolment.node_id
                        && known.role == enrolment.role
                        && known.admitted_by == enrolment.admitted_by
                });
                match judge_token(token.as_ref(), &hash, now_ms, request.role) {
                    // Its own join took the last use, and the answer was lost.
                    Ok(()) | Err(Refusal::UsedUp) if is_again => {}
                    judged => {
                        judged?;
                        self.write_down(enrolment, Some(token_id.clone()), now_ms).await?;
                    }
                }
                let grant =
                    self.grant.as_ref().filter(|_| request.role == NodeRole::Server).map(|grant| grant());
                Ok(JoinAnswer { grant, ..self.answer(request, request.role)? })
            }
            Admission::Adoption { proof } => {
                let pending = self.claim(&enrolment.key_sha256, &enrolment.node_id, proof, now_ms)?;
                let admitted = match request.role {
                    NodeRole::Server => Err(JoinError::Token(Refusal::RoleTooHigh)),
                    NodeRole::Agent | NodeRole::Beacon => {
                        enrolment.admitted_by = format!("adopted:{}", pending.person);
                        self.write_down(enrolment, None, now_ms).await
                    }
                };
                let joined = match admitted {
                    Ok(()) => self.answer(request, request.role),
                    Err(error) => Err(error),
                };
                pending.settle(&joined);
                joined
            }
            Admission::Renewal => {
                let known = known.ok_or(JoinError::NotEnrolled)?;
                if known.node_id != request.node_id {
                    return Err(JoinError::NodeIdTaken);
                }
                self.answer(request, known.role)
            }
        }
    }

    fn is_out(&self, known: &Enrolment) -> bool {
        known.revoked_at_ms.is_some() || self.is_revoked(&known.node_id)
    }

    async fn write_down(
        &self,
        enrolment: Enrolment,
        token_id: Option<String>,
        now_ms: UnixMs,
    ) -> Result<(), JoinError> {
        match self.store.admit(enrolment, token_id, now_ms).await? {
            AdmitOutcome::Admitted => Ok(()),
            AdmitOutcome::NodeRevoked => Err(JoinError::NodeRevoked),
            AdmitOutcome::NodeIdTaken => Err(JoinError::NodeIdTaken),
            AdmitOutcome::TokenUnknown => Err(Refusal::Unknown.into()),
            AdmitOutcome::TokenRevoked => Err(Refusal::Revoked.into()),
            AdmitOutcome::TokenExpired => Err(Refusal::Expired.into()),
            AdmitOutcome::TokenUsedUp => Err(Refusal::UsedUp.into()),
        }
    }

    fn answer(&self, request: &JoinRequest, role: NodeRole) -> Result<JoinAnswer, JoinError> {
        let certificate_pem =
            self.authority.sign_node(&request.csr_pem, &request.node_id, role, tls::NODE_VALID)?;
        let RosterDelta { keys, revoked, servers, .. } = self.delta();
        Ok(JoinAnswer {
            certificate_pem,
            authority_pem: self.authority.certificate_pem().to_owned(),
            cluster_id: self.cluster_id.clone(),
            cluster_name: self.cluster_name.clone(),
            keys,
            servers,
            revoked,
            grant: None,
        })
    }

    /// A fresh certificate for a node that is linked: for the key it was admitted with and as what it was
    /// admitted. Answers the chain as PEM.
    pub async fn renew(&self, pass: &NodePass, csr_pem: &str) -> Result<String, JoinError> {
        let key_sha256 =
            tls::csr_key_sha256(csr_pem).map_err(|error| JoinError::Invalid(error.to_string()))?;
        let known = self.store.enrolment_by_key(key_sha256).await?.ok_or(JoinError::NotEnrolled)?;
        if self.is_out(&known) {
            return Err(JoinError::NodeRevoked);
        }
        if known.node_id != pass.node_id {
            return Err(JoinError::NodeIdTaken);
        }
        Ok(self.authority.sign_node(csr_pem, &known.node_id, known.role, tls::NODE_VALID)?)
    }

    /// Shuts a node out, at once and for good.
    pub async fn revoke(&self, node_id: &NodeId) -> Result<Revocation, RevokeError> {
        if *node_id == self.node_id {
            return Err(RevokeError::Own);
        }
        // A store that cannot be read does not keep anybody in.
        if let Ok(enrolments) = self.store.enrolments().await
            && !enrolments.iter().any(|known| known.node_id == *node_id)
        {
            return Err(RevokeError::NotEnrolled);
        }
        let is_new =
            self.revoked.write().expect("no code panics while it holds this lock").insert(node_id.clone());
        if !is_new {
            return Ok(Revocation { is_stored: true });
        }
        self.keys.next();
        self.tell();
        let now_ms = self.clock.now_ms();
        let are_keys_kept = self.keys.keep().await;
        let stored = self.store.revoke_node(node_id, now_ms).await;
        let is_stored = are_keys_kept && stored.is_ok();
        if let Err(error) = stored {
            tracing::error!(
                code = "enrol.revocation_not_stored", %node_id, %error,
                "the node is shut out, and that could not be written down; trying again"
            );
        }
        if !is_stored {
            self.write_later(node_id.clone(), now_ms);
        }
        Ok(Revocation { is_stored })
    }

    /// Tries to write down a revocation until it is or the store is closed.
    fn write_later(&self, node_id: NodeId, now_ms: UnixMs) {
        let (store, keys) = (Arc::clone(&self.store), Arc::clone(&self.keys));
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(WRITE_AGAIN).await;
                let are_keys_kept = keys.keep().await;
                match store.revoke_node(&node_id, now_ms).await {
                    Err(StoreError::Closed { .. }) => return,
                    Ok(_) if are_keys_kept => {
                        tracing::info!(code = "enrol.revocation_stored", %node_id, "written down by now");
                        return;
                    }
                    _ => {}
                }
            }
        });
    }
}
