//! Who this installation is: made at the first start, taken up again at every later one.
//!
//! | file in `secrets/` | what |
//! |---|---|
//! | `cluster.keys` | keys that prove beacons and membership to be of this cluster, as JSON |
//! | `node.key`, `node.pem` | this server as a node: its key, and a certificate that is renewed each day |
//! | `node.id` | this server's id; an earlier version kept it in its records |
//! | `ca.pem`, `ca.key` | the cluster's certificate authority; on shared records its key is sealed there |
//! | `master.key` | on shared records: what the cluster's keys are sealed under there |
//! | `server.pem`, `server.key` | this server's certificate, issued again when it runs out or the host's names change |
//! | `probe.token` | the token of the probe in this process |

use std::{fs, io::ErrorKind, net::IpAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use caelum_drivers::{host, netinfo, random, tls};
use caelum_model::{
    UnixMs,
    access::{ClientBinding, Role, Scope, User},
    cluster::{Ceiling, ClusterKey, NodeRole},
    config::Config,
    id::{ClientId, NodeId},
    join::Enrolment,
};
use caelum_roles::{enrol, master_key::MasterKey, secrets::Secrets, vault::Vault};
use caelum_store::{AdmitOutcome, Store};
use caelum_web::{api::access, auth};

use super::shared;
use crate::{data::DataDirectory, enrolled};

/// Days a server certificate is valid: the most that browsers take.
const CERTIFICATE_DAYS: u32 = 397;
/// A certificate with less than this left is replaced at a start, ms.
const RENEW_BEFORE_MS: i64 = 30 * 24 * 3_600_000;
/// A node's certificate with less than this left is replaced at a start, ms.
const RENEW_NODE_BEFORE_MS: i64 = 3 * 24 * 3_600_000;
/// How long another server has that makes the administrator, ms, and the pause between two looks.
const FIRST_MS: i64 = 20_000;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Characters of a generated password: more than 100 bits.
const PASSWORD_LENGTH: usize = 20;

/// By what the cluster is trusted.
pub(super) struct Trusted {
    pub(super) cluster_id: String,
    pub(super) authority: Arc<tls::Authority>,
    /// Keys of the cluster, newest last.
    pub(super) keys: Vec<ClusterKey>,
    /// On shared records: where all of this is sealed.
    pub(super) vault: Option<Arc<Vault>>,
    /// What secrets in the records are sealed under.
    pub(super) key: Arc<MasterKey>,
}

/// Who this installation is.
pub(super) struct Identity {
    pub(super) node_id: NodeId,
    pub(super) node_name: String,
    pub(super) cluster_id: String,
    /// Keys of the cluster, newest last.
    pub(super) keys: Vec<ClusterKey>,
    pub(super) authority: Arc<tls::Authority>,
    /// On shared records: the vault.
    pub(super) vault: Option<Arc<Vault>>,
    /// What secrets in the records are sealed under.
    pub(super) secrets: Arc<Secrets>,
    pub(super) node_key: tls::NodeKey,
    /// This server's certificate as a node.
    pub(super) node_chain_pem: String,
    /// Certificate of the authority.
    pub(super) authority_pem: String,
    pub(super) server_chain_pem: String,
    pub(super) server_key_pem: String,
    /// SHA-256 of the server's certificate.
    pub(super) fingerprint: String,
    pub(super) admin_name: String,
    /// The administrator's password, if it was generated just now.
    pub(super) new_password: Option<String>,
    pub(super) probe_client_id: ClientId,
    pub(super) probe_token: String,
}

impl Identity {
    /// Takes up what is there and makes what is missing.
    pub(super) async fn establish(
        config: &Config,
        data: &DataDirectory,
        store: &Arc<Store>,
        now_ms: UnixMs,
    ) -> Result<Self> {
        let hostname = host::hostname();
        let secrets = data.secrets();
        let Trusted { cluster_id, authority, keys, vault, key } = match store.is_shared() {
            true => shared::trusted(config, &secrets, store).await?,
            false => Trusted {
                cluster_id: store.claim_fact("cluster_id", format!("c-{}", random::secret(12))).await?,
                keys: cluster_keys(&secrets)?,
                authority: Arc::new(authority(&secrets, &config.cluster.name)?),
                vault: None,
                key: shared::own_master_key(config, &secrets, store).await?,
            },
        };
        let sealing = Secrets::new(Arc::clone(&key));
        sealing.seal_kept(store).await.context("seal what notices need")?;
        let node_id = node_id(&secrets, store).await?;
        key.introduce(&node_id).await.context("write down which master key this server holds")?;
        store.put_fact("cluster_name", config.cluster.name.clone()).await?;
        let node_key = enrolled::own_key(&secrets)?;
        let node_chain_pem = node_certificate(&secrets, &authority, &node_key, &node_id, now_ms)?;
        enrol_self(store, &node_key, &node_id, &hostname, now_ms).await?;
        let (server_chain_pem, server_key_pem) = match (&config.tls.certificate, &config.tls.key) {
            (Some(certificate), Some(key)) => (read_own(certificate)?, read_own(key)?),
            _ => server_certificate(&secrets, &authority, &hostname, now_ms)?,
        };
        let new_password = administrator(config, store, &node_id, now_ms).await?;
        let probe_client_id = match &config.probe.client_id {
            Some(text) => ClientId::parse(text).context("read probe.client_id")?,
            None => ClientId::parse(node_id.as_str()).context("name the probe after the node")?,
        };
        let probe_token = probe_token(&secrets, store, &probe_client_id, now_ms).await?;
        Ok(Self {
            node_name: config.agent.name.clone().unwrap_or(hostname),
            node_id,
            cluster_id,
            keys,
            vault,
            secrets: Arc::new(sealing),
            node_key,
            node_chain_pem,
            authority_pem: authority.certificate_pem().to_owned(),
            authority,
            fingerprint: tls::fingerprint_of_pem(&server_chain_pem)?,
            server_chain_pem,
            server_key_pem,
            admin_name: config.server.admin_name.clone(),
            new_password,
            probe_client_id,
            probe_token,
        })
    }
}

/// This server's id: of its data directory, never of the records, which others may share. An earlier version
/// kept it there: it is taken over by the directory that it was made for.
async fn node_id(secrets: &Path, store: &Store) -> Result<NodeId> {
    if enrolled::known_id(secrets)?.is_none()
        && let Some(kept) = store.fact("node_id").await?
        && (!store.is_shared() || secrets.join("ca.key").exists())
    {
        enrolled::save_id(secrets, &NodeId::parse(&kept).context("read the node's id")?)?;
    }
    enrolled::own_id(secrets)
}

/// The keys that are kept. An earlier version kept one, as plain hex: it is the first generation.
fn cluster_keys(secrets: &Path) -> Result<Vec<ClusterKey>> {
    if let Some(kept) = enrolled::keys(secrets)? {
        return Ok(kept);
    }
    let old = secrets.join("cluster.key");
    let first = match read(&old)? {
        Some(secret) => ClusterKey { generation: 1, secret: secret.trim().to_owned() },
        None => enrol::new_key(1),
    };
    let keys = vec![first];
    enrolled::save_keys(secrets, &keys).with_context(|| format!("write keys in {}", secrets.display()))?;
    match fs::remove_file(&old) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", old.display()))
        }
        _ => Ok(keys),
    }
}

/// This server's certificate as a node: the one that is kept, or a fresh one.
fn node_certificate(
    secrets: &Path,
    authority: &tls::Authority,
    key: &tls::NodeKey,
    node_id: &NodeId,
    now_ms: UnixMs,
) -> Result<String> {
    if let Some(kept) = enrolled::certificate(secrets)? {
        let pass = tls::check_node_chain(&kept, authority.certificate_pem(), &key.key_sha256());
        let is_good = pass.is_ok_and(|pass| {
            pass.node_id == *node_id
                && pass.role == NodeRole::Server
                && pass.expires_at_ms - now_ms > RENEW_NODE_BEFORE_MS
        });
        if is_good {
            return Ok(kept);
        }
    }
    renew_node(secrets, authority, key, node_id)
}

/// Signs a fresh certificate for this server and keeps it.
pub(super) fn renew_node(
    secrets: &Path,
    authority: &tls::Authority,
    key: &tls::NodeKey,
    node_id: &NodeId,
) -> Result<String> {
    let chain_pem =
        authority.sign_node(&key.csr_pem(node_id)?, node_id, NodeRole::Server, tls::NODE_VALID)?;
    enrolled::save_certificate(secrets, &chain_pem)?;
    Ok(chain_pem)
}

/// Takes this server's own id, so that nobody joins under it.
async fn enrol_self(
    store: &Store,
    key: &tls::NodeKey,
    node_id: &NodeId,
    hostname: &str,
    now_ms: UnixMs,
) -> Result<()> {
    let key_sha256 = key.key_sha256();
    if store.enrolment_by_key(key_sha256.clone()).await?.is_some_and(|known| known.node_id == *node_id) {
        return Ok(());
    }
    let enrolment = Enrolment {
        node_id: node_id.clone(),
        key_sha256,
        role: NodeRole::Server,
        admitted_by: "itself".to_owned(),
        admitted_at_ms: now_ms,
        revoked_at_ms: None,
        ceiling: Ceiling::default(),
        hostname: hostname.to_owned(),
    };
    let outcome = store.admit(enrolment, None, now_ms).await?;
    if outcome != AdmitOutcome::Admitted {
        // Its id stays taken by the key it had before, which is as good against others.
        tracing::warn!(
            code = "up.key_changed",
            ?outcome,
            "secrets/node.key is not the key this server had before"
        );
    }
    Ok(())
}

fn authority(secrets: &Path, cluster_name: &str) -> Result<tls::Authority> {
    let (certificate, key) = (secrets.join("ca.pem"), secrets.join("ca.key"));
    match (read(&certificate)?, read(&key)?) {
        (Some(certificate_pem), Some(key_pem)) => tls::Authority::load(&certificate_pem, &key_pem)
            .with_context(|| format!("read {}", certificate.display())),
        (Some(_), None) => anyhow::bail!(
            "{} is there and its key {} is not: put the key back, or remove both to start a new cluster",
            certificate.display(),
            key.display()
        ),
        (None, _) => {
            let made = tls::Authority::create(&format!("Caelum {cluster_name} {}", random::secret(8)))?;
            // The key first: a certificate without its key would be of no use.
            write(&key, made.key_pem().as_bytes())?;
            write(&certificate, made.certificate_pem().as_bytes())?;
            Ok(made)
        }
    }
}

fn server_certificate(
    secrets: &Path,
    authority: &tls::Authority,
    hostname: &str,
    now_ms: UnixMs,
) -> Result<(String, String)> {
    let (certificate, key, about) =
        (secrets.join("server.pem"), secrets.join("server.key"), secrets.join("server.names"));
    let mut names = vec!["localhost".to_owned()];
    let is_name =
        !hostname.is_empty() && hostname.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
    if is_name && hostname != "localhost" {
        names.push(hostname.to_owned());
    }
    let mut addresses: Vec<IpAddr> = vec![[127, 0, 0, 1].into(), std::net::Ipv6Addr::LOCALHOST.into()];
    addresses.extend(netinfo::addresses());
    addresses.sort_unstable();
    addresses.dedup();
    let wanted = format!("{names:?} {addresses:?}\n");
    if let (Some(chain_pem), Some(key_pem), Some(has)) = (read(&certificate)?, read(&key)?, read(&about)?) {
        let is_fresh = tls::expires_at_ms(&chain_pem).is_ok_and(|expiry| expiry - now_ms > RENEW_BEFORE_MS);
        if is_fresh && has == wanted && chain_pem.ends_with(authority.certificate_pem()) {
            return Ok((chain_pem, key_pem));
        }
    }
    let issued = authority.issue_server(&names, &addresses, CERTIFICATE_DAYS)?;
    // The names last: if this is cut short, the next start issues again.
    write(&about, b"")?;
    write(&key, issued.key_pem.as_bytes())?;
    write(&certificate, issued.chain_pem.as_bytes())?;
    write(&about, wanted.as_bytes())?;
    Ok((issued.chain_pem, issued.key_pem))
}

/// Makes the administrator where there is none. Answers with the password, if it was generated.
async fn administrator(
    config: &Config,
    store: &Store,
    node_id: &NodeId,
    now_ms: UnixMs,
) -> Result<Option<String>> {
    // One of several that are first at once makes it, and the others wait until it is there.
    loop {
        if store.users().await?.iter().any(|user| user.role == Role::Admin) {
            return Ok(None);
        }
        let (key, owner) = ("first/administrator".to_owned(), node_id.to_string());
        if store.compare_and_put_key(key, None, owner, now_ms, FIRST_MS).await?.is_some() {
            break;
        }
        tokio::time::sleep(FIRST_PAUSE).await;
    }
    let (password, generated) = match &config.server.admin_password {
        Some(password) => (password.clone(), None),
        None => {
            let password = random::secret(PASSWORD_LENGTH);
            (password.clone(), Some(password))
        }
    };
    let password_hash = auth::hash_password(&password).context("hash the administrator's password")?;
    store
        .put_user(User {
            name: config.server.admin_name.clone(),
            role: Role::Admin,
            password_hash,
            created_at_ms: now_ms,
        })
        .await?;
    Ok(generated)
}

/// The token of this process' own probe: kept while it works, made anew otherwise.
async fn probe_token(secrets: &Path, store: &Store, client_id: &ClientId, now_ms: UnixMs) -> Result<String> {
    let path = secrets.join("probe.token");
    if let Some(secret) = read(&path)? {
        let kept = store.token_by_hash(auth::sha256(&secret)).await?;
        let works = kept.is_some_and(|token| {
            token.revoked_at_ms.is_none() && token.binding == ClientBinding::One(client_id.clone())
        });
        if works {
            return Ok(secret);
        }
    }
    let name = "this machine's probe";
    let (token, secret) =
        access::make_token(name, vec![Scope::Ingest], Some(client_id.as_str()), None, now_ms)
            .map_err(|wrong| anyhow::anyhow!("cannot make the probe's token: {wrong}"))?;
    write(&path, secret.as_bytes())?;
    store.add_token(token).await?;
    Ok(secret)
}

pub(super) fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

fn read_own(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {path}, named in [tls]"))
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    tls::write_secret(path, bytes).with_context(|| format!("write {}", path.display()))
}
