//! The keys that we sign in with: one of the cluster, made at first use, and others by file.
//!
//! The cluster's key is in the data directory, readable by its owner only. Beside it is the key of a user
//! authority: a host that trusts it (`TrustedUserCAKeys`) needs no line for each user, and what is shown to it
//! is a certificate for the one user, good for minutes.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use russh::keys::{
    Certificate, PrivateKey, decode_secret_key,
    ssh_key::{
        LineEnding,
        certificate::{Builder, CertType},
        private::{Ed25519Keypair, KeypairData},
    },
};

use crate::{random, tls::write_secret};

/// How long a certificate is good, s.
const CERTIFICATE_S: u64 = 300;
/// How far a host's clock may be behind, s.
const SKEW_S: u64 = 300;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// A file cannot be read or written.
    #[error("open the SSH key {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds no key that can be used.
    #[error("read the SSH key {path}: {because}; it must be an ed25519 or ecdsa key without a passphrase")]
    Unusable {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        because: String,
    },
}

/// Keys to sign in with.
pub struct Keyring {
    keys: Vec<Arc<PrivateKey>>,
    authority: PrivateKey,
    has_certificates: bool,
}

impl Keyring {
    /// The keys in a directory, made where they are missing, and those in files.
    pub fn open(
        directory: &Path,
        files: &[PathBuf],
        comment: &str,
        has_certificates: bool,
    ) -> Result<Self, KeyringError> {
        let own = own(&directory.join("ssh_pool_key"), comment)?;
        let authority = own_authority(directory, comment)?;
        let mut keys = vec![Arc::new(own)];
        for file in files {
            keys.push(Arc::new(read(file)?));
        }
        Ok(Self { keys, authority, has_certificates })
    }

    /// The line that lets the cluster in, for `authorized_keys`.
    pub fn public_line(&self) -> String {
        line(&self.keys[0])
    }

    /// SHA-256 of the cluster's key, as `ssh` shows it.
    pub fn fingerprint(&self) -> String {
        self.keys[0].fingerprint(Default::default()).to_string()
    }

    /// The line of the user authority, for the file that `TrustedUserCAKeys` names.
    pub fn authority_line(&self) -> String {
        line(&self.authority)
    }

    /// Whether certificates are shown.
    pub fn has_certificates(&self) -> bool {
        self.has_certificates
    }

    pub(super) fn keys(&self) -> &[Arc<PrivateKey>] {
        &self.keys
    }

    /// A certificate for a user, where hosts are shown some.
    pub(super) fn certificate(&self, user: &str) -> Option<(Arc<PrivateKey>, Certificate)> {
        if !self.has_certificates {
            return None;
        }
        let key = Arc::clone(&self.keys[0]);
        match self.sign(&key, user) {
            Ok(certificate) => Some((key, certificate)),
            Err(error) => {
                tracing::error!(code = "ssh.certificate", %error, "no certificate could be made; keys are tried");
                None
            }
        }
    }

    fn sign(&self, key: &PrivateKey, user: &str) -> Result<Certificate, russh::keys::ssh_key::Error> {
        let now_s = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| age.as_secs());
        let mut nonce = [0; 16];
        random::fill(&mut nonce);
        let mut builder = Builder::new(
            nonce,
            key.public_key().key_data().clone(),
            now_s.saturating_sub(SKEW_S),
            now_s + CERTIFICATE_S,
        )?;
        builder
            .serial(random::number())?
            .cert_type(CertType::User)?
            .key_id("caelum")?
            .valid_principal(user)?;
        builder.sign(&self.authority)
    }
}

fn own_authority(directory: &Path, comment: &str) -> Result<PrivateKey, KeyringError> {
    own(&directory.join("ssh_user_authority_key"), &format!("{comment}-authority"))
}

fn line(key: &PrivateKey) -> String {
    key.public_key().to_openssh().map(|line| line.trim().to_owned()).unwrap_or_default()
}

/// The key in a file, made where there is none.
fn own(path: &Path, comment: &str) -> Result<PrivateKey, KeyringError> {
    if path.exists() {
        return read(path);
    }
    let mut seed = [0; 32];
    random::fill(&mut seed);
    let unusable = |error: russh::keys::ssh_key::Error| KeyringError::Unusable {
        path: path.to_owned(),
        because: error.to_string(),
    };
    let pair = KeypairData::Ed25519(Ed25519Keypair::from_seed(&seed));
    let key = PrivateKey::new(pair, comment).map_err(unusable)?;
    let pem = key.to_openssh(LineEnding::LF).map_err(unusable)?;
    write_secret(path, pem.as_bytes())
        .map_err(|source| KeyringError::File { path: path.to_owned(), source })?;
    Ok(key)
}

fn read(path: &Path) -> Result<PrivateKey, KeyringError> {
    let text =
        fs::read_to_string(path).map_err(|source| KeyringError::File { path: path.to_owned(), source })?;
    let unusable = |because: String| KeyringError::Unusable { path: path.to_owned(), because };
    let key = decode_secret_key(&text, None).map_err(|error| unusable(error.to_string()))?;
    if key.algorithm().is_rsa() {
        return Err(unusable("RSA is not spoken".to_owned()));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_key_is_made_once_and_only_its_owner_can_read_it() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let open = || Keyring::open(folder.path(), &[], "caelum-lab", false).expect("opens");
        let (first, second) = (open(), open());
        assert_eq!(first.public_line(), second.public_line());
        assert!(
            first.public_line().starts_with("ssh-ed25519 ") && first.public_line().ends_with(" caelum-lab")
        );
        assert_ne!(first.public_line(), first.authority_line());
        for name in ["ssh_pool_key", "ssh_user_authority_key"] {
            let mode = fs::metadata(folder.path().join(name)).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert!(first.certificate("root").is_none());
    }

    #[test]
    fn a_file_without_a_key_is_named() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let file = folder.path().join("mine");
        fs::write(&file, "nothing").expect("written");
        let Err(error) = Keyring::open(folder.path(), &[file], "c", false) else { panic!("it is no key") };
        assert!(error.to_string().contains("mine"), "{error}");
    }

    #[test]
    fn a_certificate_is_for_one_user_and_for_minutes() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let keyring = Keyring::open(folder.path(), &[], "c", true).expect("opens");
        let (_, certificate) = keyring.certificate("deploy").expect("made");
        assert_eq!(certificate.valid_principals(), ["deploy"]);
        assert!(certificate.valid_before() - certificate.valid_after() <= CERTIFICATE_S + SKEW_S);
    }
}
