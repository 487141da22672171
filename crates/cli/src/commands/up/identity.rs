//! Who this installation is: made at the first start, taken up again at every later one.
//!
//! | file in `secrets/` | what |
//! |---|---|
//! | `cluster.key` | 32 random bytes as hex: proves that a beacon is of this cluster |
//! | `ca.pem`, `ca.key` | the cluster's certificate authority |
//! | `server.pem`, `server.key` | this server's certificate, issued again when it runs out or the host's names change |
//! | `probe.token` | the token of the probe in this process |

use std::{fs, io::ErrorKind, net::IpAddr, path::Path};

use anyhow::{Context as _, Result};
use caelum_drivers::{host, netinfo, random, tls};
use caelum_model::{
    UnixMs,
    access::{ClientBinding, Role, Scope, User},
    config::Config,
    id::{ClientId, NodeId},
};
use caelum_store::Store;
use caelum_web::{api::access, auth};

use crate::data::DataDirectory;

/// Days a server certificate is valid: the most that browsers take.
const CERTIFICATE_DAYS: u32 = 397;
/// A certificate with less than this left is replaced at a start, ms.
const RENEW_BEFORE_MS: i64 = 30 * 24 * 3_600_000;
/// Characters of a generated password: more than 100 bits.
const PASSWORD_LENGTH: usize = 20;

/// Who this installation is.
pub(super) struct Identity {
    pub(super) node_id: NodeId,
    pub(super) node_name: String,
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
        store: &Store,
        now_ms: UnixMs,
    ) -> Result<Self> {
        let node_id = node_id(store).await?;
        let hostname = host::hostname();
        let secrets = data.secrets();
        read_or_make(&secrets.join("cluster.key"), || {
            let mut key = [0u8; 32];
            random::fill(&mut key);
            Ok(key.iter().map(|byte| format!("{byte:02x}")).collect())
        })?;
        let authority = authority(&secrets, &config.cluster.name)?;
        let (server_chain_pem, server_key_pem) = match (&config.tls.certificate, &config.tls.key) {
            (Some(certificate), Some(key)) => (read_own(certificate)?, read_own(key)?),
            _ => server_certificate(&secrets, &authority, &hostname, now_ms)?,
        };
        let new_password = administrator(config, store, now_ms).await?;
        let probe_client_id = match &config.probe.client_id {
            Some(text) => ClientId::parse(text).context("read probe.client_id")?,
            None => ClientId::parse(node_id.as_str()).context("name the probe after the node")?,
        };
        let probe_token = probe_token(&secrets, store, &probe_client_id, now_ms).await?;
        Ok(Self {
            node_name: config.agent.name.clone().unwrap_or(hostname),
            node_id,
            authority_pem: authority.certificate_pem().to_owned(),
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

async fn node_id(store: &Store) -> Result<NodeId> {
    if let Some(kept) = store.fact("node_id").await? {
        return NodeId::parse(&kept).context("read the node's id");
    }
    let made = format!("n-{}", random::secret(12));
    store.put_fact("node_id", made.clone()).await?;
    NodeId::parse(&made).context("name the node")
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
async fn administrator(config: &Config, store: &Store, now_ms: UnixMs) -> Result<Option<String>> {
    if store.users().await?.iter().any(|user| user.role == Role::Admin) {
        return Ok(None);
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

fn read_or_make(path: &Path, make: impl FnOnce() -> Result<String>) -> Result<String> {
    if let Some(kept) = read(path)? {
        return Ok(kept);
    }
    let made = make()?;
    write(path, made.as_bytes())?;
    Ok(made)
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

fn read_own(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {path}, named in [tls]"))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    tls::write_secret(path, bytes).with_context(|| format!("write {}", path.display()))
}
