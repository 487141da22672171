//! Keys of hosts: their text form, those of this machine, and those in a file that `ssh` wrote.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use russh::keys::{Algorithm, HashAlg, PublicKey};

/// Longest text of a key that is read, bytes.
const KEY_BYTES_MAX: usize = 4_096;
/// Most keys of this machine that are told.
const OWN_MAX: usize = 8;

/// Why a text is no key of a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHostKey {
    /// It cannot be read.
    #[error("'{0}' is no public key; one looks like `ssh-ed25519 AAAA…`")]
    Unreadable(String),
    /// RSA and DSA are not spoken.
    #[error("keys of the kind {0} are not spoken; use the host's ed25519 or ecdsa key")]
    Kind(String),
}

/// A key that a host may show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostKey(PublicKey);

impl HostKey {
    /// Reads `ssh-ed25519 AAAA… comment`.
    pub fn parse(text: &str) -> Result<Self, InvalidHostKey> {
        let text = text.trim();
        let shown = || text.chars().filter(|c| !c.is_control()).take(40).collect::<String>();
        if text.len() > KEY_BYTES_MAX {
            return Err(InvalidHostKey::Unreadable(shown()));
        }
        let mut key = PublicKey::from_openssh(text).map_err(|_| InvalidHostKey::Unreadable(shown()))?;
        match key.algorithm() {
            Algorithm::Ed25519 | Algorithm::Ecdsa { .. } => {}
            other => return Err(InvalidHostKey::Kind(other.to_string())),
        }
        key.set_comment("");
        Ok(Self(key))
    }

    /// Its text form, without a comment.
    pub fn to_line(&self) -> String {
        Self::line(&self.0)
    }

    /// SHA-256 as `ssh` shows it.
    pub fn fingerprint(&self) -> String {
        self.0.fingerprint(HashAlg::Sha256).to_string()
    }

    pub(super) fn line(key: &PublicKey) -> String {
        let mut key = key.clone();
        key.set_comment("");
        key.to_openssh().map(|line| line.trim().to_owned()).unwrap_or_default()
    }

    pub(super) fn is(&self, key: &PublicKey) -> bool {
        self.0.key_data() == key.key_data()
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.0.algorithm()
    }
}

/// The keys that this machine's own SSH server shows: `ssh_host_*_key.pub` in a directory. Whoever may read
/// the directory knows them; they are public. A machine without them has no SSH server, and tells none.
pub fn own_host_keys(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let is_key = |path: &PathBuf| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with("ssh_host_") && name.ends_with("_key.pub"))
    };
    let mut paths: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_key).take(OWN_MAX).collect();
    paths.sort();
    let read = |path: &PathBuf| HostKey::parse(&fs::read_to_string(path).ok()?).ok();
    paths.iter().filter_map(read).map(|key| key.to_line()).collect()
}

/// A file of known hosts as `ssh` writes it. It is read each time, so that a line added holds at once.
#[derive(Clone, Debug)]
pub struct KnownHostsFile(pub PathBuf);

impl KnownHostsFile {
    /// Keys of a host in it. A file that is not there has none.
    pub fn keys_of(&self, host: &str, port: u16) -> Result<Vec<HostKey>, io::Error> {
        if !self.0.exists() {
            return Ok(Vec::new());
        }
        let found = russh::keys::known_hosts::known_host_keys_path(host, port, &self.0)
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(found.into_iter().map(|(_, key)| HostKey(key)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    #[test]
    fn a_key_is_the_same_whatever_its_comment() {
        let key = HostKey::parse(KEY).expect("reads");
        assert_eq!(HostKey::parse(&format!("{KEY} root@db-1\n")).expect("reads"), key);
        assert_eq!(key.to_line(), KEY);
        assert!(key.fingerprint().starts_with("SHA256:"));
    }

    #[test]
    fn what_is_no_key_says_so_without_repeating_all_of_it() {
        assert!(HostKey::parse("nonsense").is_err());
        assert!(HostKey::parse(&"x".repeat(1 << 20)).expect_err("too long").to_string().len() < 200);
    }

    #[test]
    fn this_machines_keys_are_those_of_its_files_and_none_where_there_are_none() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        assert!(own_host_keys(&folder.path().join("none")).is_empty());
        fs::write(folder.path().join("ssh_host_ed25519_key.pub"), format!("{KEY} root@host"))
            .expect("written");
        fs::write(folder.path().join("ssh_host_ed25519_key"), "secret").expect("written");
        fs::write(folder.path().join("ssh_host_rsa_key.pub"), "ssh-rsa nonsense").expect("written");
        assert_eq!(own_host_keys(folder.path()), [KEY]);
    }

    #[test]
    fn a_file_of_known_hosts_is_read_as_ssh_writes_it() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let file = KnownHostsFile(folder.path().join("known_hosts"));
        assert!(file.keys_of("db-1", 22).expect("none").is_empty());
        fs::write(&file.0, format!("db-1,10.0.0.1 {KEY}\n[db-2]:2222 {KEY}\n")).expect("written");
        assert_eq!(file.keys_of("10.0.0.1", 22).expect("reads").len(), 1);
        assert_eq!(file.keys_of("db-2", 2222).expect("reads").len(), 1);
        assert_eq!(file.keys_of("db-2", 22).expect("reads").len(), 0);
    }
}
