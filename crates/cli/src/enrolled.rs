//! What a node keeps of being one: files in `secrets/`, each readable by its owner only.
//!
//! | file | what |
//! |---|---|
//! | `node.id` | the id that the machine gave itself |
//! | `node.key` | its key, made here and never sent anywhere |
//! | `node.pem` | its certificate, followed by the authority's; lasts a week |
//! | `ca.pem` | the authority's certificate: what it trusts |
//! | `cluster.keys` | keys that prove beacons and membership to be of the cluster, newest last, as JSON |
//! | `revoked.json` | ids of nodes that were shut out, as servers told: known before the first link is up |
//! | `master.key` | servers: what secrets in the records are sealed under, and on shared records the keys |
//! | `grant.json` | servers on shared records: where records, stream and coordination are |
//! | `cluster.json` | which cluster, where its servers are, what the node is and how much it lets anybody do |
//!
//! A server has the same id, key, certificate and keys. Its authority is its own, or sealed in shared records.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, ErrorKind},
    path::Path,
};

use anyhow::{Context as _, Result};
use caelum_drivers::{random, tls};
use caelum_model::{
    cluster::{Ceiling, ClusterKey, NodeRole},
    id::NodeId,
    join::{JoinAnswer, ServerGrant},
};
use serde::{Deserialize, Serialize};

const ID: &str = "node.id";
const KEY: &str = "node.key";
const CERTIFICATE: &str = "node.pem";
const AUTHORITY: &str = "ca.pem";
const KEYS: &str = "cluster.keys";
const REVOKED: &str = "revoked.json";
const CLUSTER: &str = "cluster.json";
const MASTER: &str = "master.key";
const GRANT: &str = "grant.json";
/// Ids of revoked nodes that are kept, at most.
const REVOKED_MAX: usize = 4_096;

/// Which cluster a node is of, and as what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// The cluster's id.
    pub cluster_id: String,
    /// Its name.
    pub cluster_name: String,
    /// Where servers are reached: `host:port`, best first.
    pub servers: Vec<String>,
    /// The most this node lets anybody do. Set when it was installed; no server raises it.
    pub ceiling: Ceiling,
    /// What it was admitted as.
    pub role: NodeRole,
}

/// A machine that has joined.
pub struct Enrolled {
    /// Its certificate, followed by the authority's.
    pub chain_pem: String,
    /// The authority's certificate.
    pub authority_pem: String,
    /// Keys of the cluster, newest last.
    pub keys: Vec<ClusterKey>,
    /// Nodes that were shut out.
    pub revoked: BTreeSet<NodeId>,
    /// The cluster.
    pub cluster: Cluster,
}

impl Enrolled {
    /// What joining left in a folder of secrets; none where the machine has not joined.
    pub fn load(secrets: &Path) -> Result<Option<Self>> {
        // Written last: without it, joining did not come to its end.
        let Some(cluster) = read(&secrets.join(CLUSTER))? else { return Ok(None) };
        let cluster = serde_json::from_str(&cluster)
            .with_context(|| format!("read {}", secrets.join(CLUSTER).display()))?;
        let required = |name: &str| {
            let path = secrets.join(name);
            read(&path)?.with_context(|| format!("{} is missing: join again", path.display()))
        };
        Ok(Some(Self {
            chain_pem: required(CERTIFICATE)?,
            authority_pem: required(AUTHORITY)?,
            keys: keys(secrets)?.with_context(|| format!("{} is missing: join again", KEYS))?,
            revoked: revoked(secrets)?,
            cluster,
        }))
    }

    /// Writes down what a server answered to this machine. What was there before stands until the end.
    pub fn save(secrets: &Path, answer: &JoinAnswer, ceiling: Ceiling, role: NodeRole) -> Result<()> {
        write(&secrets.join(CERTIFICATE), answer.certificate_pem.as_bytes())?;
        write(&secrets.join(AUTHORITY), answer.authority_pem.as_bytes())?;
        save_keys(secrets, &answer.keys).with_context(|| format!("write {KEYS}"))?;
        if let Some(grant) = &answer.grant {
            save_grant(secrets, grant)?;
        }
        // What was kept may be another cluster's.
        let mut revoked = BTreeSet::new();
        take_up_revoked(&mut revoked, &answer.revoked);
        save_revoked(secrets, &revoked).with_context(|| format!("write {REVOKED}"))?;
        save_cluster(
            secrets,
            &Cluster {
                cluster_id: answer.cluster_id.clone(),
                cluster_name: answer.cluster_name.clone(),
                servers: answer.servers.clone(),
                ceiling,
                role,
            },
        )
    }
}

/// Which cluster this is from now on, or where its servers are.
pub fn save_cluster(secrets: &Path, cluster: &Cluster) -> Result<()> {
    let json = serde_json::to_vec_pretty(cluster).context("write down the cluster")?;
    write(&secrets.join(CLUSTER), &json)
}

/// What the keys in shared records are sealed under, if this machine holds it.
pub fn master_key(secrets: &Path) -> Result<Option<String>> {
    Ok(read(&secrets.join(MASTER))?.map(|text| text.trim().to_owned()))
}

/// Keeps it.
pub fn save_master_key(secrets: &Path, master_key: &str) -> Result<()> {
    write(&secrets.join(MASTER), master_key.as_bytes())
}

/// Where records, stream and coordination are: what a join token for servers brought along, or what held at the
/// last start on shared records.
pub fn grant(secrets: &Path) -> Result<Option<ServerGrant>> {
    let path = secrets.join(GRANT);
    let Some(json) = read(&path)? else { return Ok(None) };
    Ok(Some(serde_json::from_str(&json).with_context(|| format!("read {}", path.display()))?))
}

fn save_grant(secrets: &Path, grant: &ServerGrant) -> Result<()> {
    save_master_key(secrets, &grant.master_key)?;
    save_places(secrets, grant)
}

/// Keeps where records, stream and coordination are: for the next start, and for commands beside the server.
pub fn save_places(secrets: &Path, grant: &ServerGrant) -> Result<()> {
    // The key has a file of its own.
    let places = ServerGrant { master_key: String::new(), ..grant.clone() };
    if self::grant(secrets)?.as_ref() == Some(&places) {
        return Ok(());
    }
    let json = serde_json::to_vec_pretty(&places).context("write down where the records are")?;
    write(&secrets.join(GRANT), &json)
}

/// The id that this machine has, if it has one already.
pub fn known_id(secrets: &Path) -> Result<Option<NodeId>> {
    let path = secrets.join(ID);
    let text = read(&path)?;
    text.map(|text| NodeId::parse(text.trim()).with_context(|| format!("read {}", path.display())))
        .transpose()
}

/// Keeps the id that this machine had before ids were kept here.
pub fn save_id(secrets: &Path, node_id: &NodeId) -> Result<()> {
    write(&secrets.join(ID), node_id.as_str().as_bytes())
}

/// The id that this machine gives itself before it joins, made where there is none.
pub fn own_id(secrets: &Path) -> Result<NodeId> {
    let path = secrets.join(ID);
    let text = match read(&path)? {
        Some(kept) => kept,
        None => {
            let made = format!("n-{}", random::secret(12));
            write(&path, made.as_bytes())?;
            made
        }
    };
    NodeId::parse(text.trim()).with_context(|| format!("read {}", path.display()))
}

/// This machine's key, made where there is none.
pub fn own_key(secrets: &Path) -> Result<tls::NodeKey> {
    let path = secrets.join(KEY);
    if let Some(pem) = read(&path)? {
        return tls::NodeKey::load(&pem).with_context(|| format!("read {}", path.display()));
    }
    let made = tls::NodeKey::generate()?;
    write(&path, made.key_pem().as_bytes())?;
    Ok(made)
}

/// The node's certificate and its issuers, if there is one.
pub fn certificate(secrets: &Path) -> Result<Option<String>> {
    read(&secrets.join(CERTIFICATE))
}

/// Keeps a fresh certificate.
pub fn save_certificate(secrets: &Path, chain_pem: &str) -> Result<()> {
    write(&secrets.join(CERTIFICATE), chain_pem.as_bytes())
}

/// Keys of the cluster, newest last, if there are any.
pub fn keys(secrets: &Path) -> Result<Option<Vec<ClusterKey>>> {
    let path = secrets.join(KEYS);
    let Some(json) = read(&path)? else { return Ok(None) };
    let keys = serde_json::from_str(&json).with_context(|| format!("read {}", path.display()))?;
    Ok(Some(keys))
}

/// Keeps the keys of the cluster.
pub fn save_keys(secrets: &Path, keys: &[ClusterKey]) -> io::Result<()> {
    tls::write_secret(&secrets.join(KEYS), &serde_json::to_vec(keys)?)
}

/// Adds what a server told to what is known; whether any of it is new.
pub fn take_up_revoked(known: &mut BTreeSet<NodeId>, told: &[String]) -> bool {
    let before = known.len();
    for node_id in told.iter().filter_map(|id| NodeId::parse(id).ok()) {
        if known.len() >= REVOKED_MAX {
            break;
        }
        known.insert(node_id);
    }
    known.len() > before
}

/// Keeps who was shut out.
pub fn save_revoked(secrets: &Path, revoked: &BTreeSet<NodeId>) -> io::Result<()> {
    tls::write_secret(&secrets.join(REVOKED), &serde_json::to_vec(revoked)?)
}

/// Who was shut out; nobody in folders that were made before this was kept.
fn revoked(secrets: &Path) -> Result<BTreeSet<NodeId>> {
    let path = secrets.join(REVOKED);
    let Some(json) = read(&path)? else { return Ok(BTreeSet::new()) };
    serde_json::from_str(&json).with_context(|| format!("read {}", path.display()))
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    tls::write_secret(path, bytes).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> JoinAnswer {
        JoinAnswer {
            certificate_pem: "chain".into(),
            authority_pem: "authority".into(),
            cluster_id: "c-1".into(),
            cluster_name: "home".into(),
            keys: vec![ClusterKey { generation: 3, secret: "ab".into() }],
            servers: vec!["192.0.2.1:8080".into()],
            revoked: Vec::new(),
            grant: None,
        }
    }

    #[test]
    fn what_joining_leaves_is_found_again_and_its_owners_only() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().expect("a folder");
        let secrets = folder.path();
        assert!(Enrolled::load(secrets).expect("reads").is_none());
        let id = own_id(secrets).expect("made");
        let key = own_key(secrets).expect("made");
        Enrolled::save(secrets, &answer(), Ceiling::Tasks, NodeRole::Agent).expect("written");
        let kept = Enrolled::load(secrets).expect("reads").expect("has joined");
        assert_eq!(kept.keys, answer().keys);
        assert_eq!(own_id(secrets).expect("kept"), id);
        assert_eq!(own_key(secrets).expect("kept").key_pem(), key.key_pem());
        assert_eq!((kept.cluster.ceiling, kept.cluster.role), (Ceiling::Tasks, NodeRole::Agent));
        assert_eq!(own_key(secrets).expect("kept").key_sha256(), key.key_sha256());
        for file in fs::read_dir(secrets).expect("lists") {
            let mode = file.expect("lists").metadata().expect("there").permissions().mode();
            assert_eq!(mode & 0o077, 0);
        }
    }

    #[test]
    fn who_was_shut_out_is_known_after_a_restart_and_forgotten_with_the_cluster() {
        let folder = tempfile::tempdir().expect("a folder");
        let secrets = folder.path();
        let told = JoinAnswer { revoked: vec!["n-thief".into(), "not an id\n".into()], ..answer() };
        Enrolled::save(secrets, &told, Ceiling::Observe, NodeRole::Agent).expect("written");
        let mut kept = Enrolled::load(secrets).expect("reads").expect("has joined").revoked;
        assert_eq!(kept.iter().map(NodeId::as_str).collect::<Vec<_>>(), ["n-thief"]);
        assert!(!take_up_revoked(&mut kept, &["n-thief".to_owned()]), "that is no news");
        assert!(take_up_revoked(&mut kept, &["n-lost".to_owned()]));
        save_revoked(secrets, &kept).expect("written");
        let kept = Enrolled::load(secrets).expect("reads").expect("has joined").revoked;
        assert_eq!(kept.iter().map(NodeId::as_str).collect::<Vec<_>>(), ["n-lost", "n-thief"]);
        Enrolled::save(secrets, &answer(), Ceiling::Observe, NodeRole::Agent).expect("written");
        assert!(Enrolled::load(secrets).expect("reads").expect("has joined").revoked.is_empty());
        fs::remove_file(secrets.join(REVOKED)).expect("was there");
        assert!(Enrolled::load(secrets).expect("an older folder").expect("has joined").revoked.is_empty());
    }

    #[test]
    fn joining_that_was_cut_short_is_no_joining() {
        let folder = tempfile::tempdir().expect("a folder");
        own_id(folder.path()).expect("made");
        write(&folder.path().join(CERTIFICATE), b"chain").expect("written");
        assert!(Enrolled::load(folder.path()).expect("reads").is_none());
    }
}
