//! Packages as a server makes and keeps account of them: one built at a time, its invitation made for it
//! alone, its record kept, its bytes not.
//!
//! What is in a package and how it looks is `packager`'s. The bytes go to whoever asked and nowhere else,
//! because the invitation in them is a secret; a lost file is revoked and built again.

mod listing;
mod mailboxes;
mod signing;
mod wish;

use std::{path::PathBuf, sync::Arc};

use caelum_drivers::{
    artifacts::{ArtifactError, Artifacts},
    clock::Clock,
    random,
};
use caelum_model::{
    UnixMs,
    cluster::NodeRole,
    package::{Package, PackageKind, Platform},
};
use caelum_packager::{
    PROGRAM_BYTES_MAX, PackageError, PackageSpec, Signer,
    binary::{self, BinaryError, Libc},
};
use caelum_store::{Store, StoreError};
use serde::Serialize;
use tokio::sync::{Semaphore, watch};

pub use listing::{Listed, PackageState};
pub use mailboxes::MailboxSight;
pub use signing::{Signing, SigningError};
pub use wish::{Passphrase, Secret, VALID_MS_MAX, VALID_MS_MIN, Wish, validity_ms};

use crate::{
    bus::{Bus, Change},
    enrol::{
        JoinError, Registrar,
        sealed::{self, SealedError},
    },
    mailbox,
};

/// Bytes of a program that say what it is for.
const HEAD_BYTES: usize = 1 << 20;
/// Packages that are listed.
pub const LISTED_MAX: usize = 500;

/// What a builder stands on.
pub struct Parts {
    /// Records.
    pub store: Arc<Store>,
    /// Makes invitations.
    pub registrar: Arc<Registrar>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// News inside the process.
    pub bus: Bus,
    /// Programs.
    pub artifacts: Artifacts,
    /// Version of the programs.
    pub version: &'static str,
    /// Where machines reach the cluster, before the addresses that servers listen on: `host:port`.
    pub servers: Vec<String>,
    /// Where the records are that several servers share, without any password; none where they do not.
    pub shared_store: Option<String>,
    /// Mailboxes that this server looks into.
    pub mailboxes: Vec<watch::Receiver<mailbox::View>>,
    /// Whose accounts servers have where mailboxes are: not to be given away.
    pub own_accounts: Vec<String>,
    /// The cluster.
    pub cluster_id: String,
    /// Signs packages for macOS; without one they are not signed.
    pub signing: Option<Arc<Signing>>,
}

/// How far a package is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The program is read, the invitation made.
    Collecting,
    /// Its bytes are written.
    Packing,
    /// It is looked at once more, and written down.
    Checking,
}

/// The package that is being built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Name of its file.
    pub name: String,
    /// For whom.
    pub by: String,
    /// How far it is.
    pub stage: Stage,
    /// When it was begun.
    pub since_ms: UnixMs,
}

/// Why a package was not built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The wish is none that can be fulfilled.
    #[error("{0}")]
    Invalid(String),
    /// Another is being built.
    #[error("another package is being built; wait for it")]
    Busy,
    /// There is no program for these machines.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The package could not be made of what there is.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// It cannot be signed, and would be unsigned against the operator's word.
    #[error("the package is to be signed (packages.signing_certificates): {0}")]
    Signing(#[from] SigningError),
    /// The invitation could not be sealed.
    #[error(transparent)]
    Sealed(#[from] SealedError),
    /// The invitation could not be made.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The record could not be kept; the invitation is revoked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The work ended without an answer.
    #[error("building ended without a package")]
    Ended,
}

/// A package that was built.
pub struct Built {
    /// What is kept of it.
    pub package: Package,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What engines call it once it is loaded, if it is an image.
    pub image: Option<String>,
}

/// Whether packages of a kind can be built for a platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Availability {
    /// The platform.
    pub platform: Platform,
    /// The kind.
    pub kind: PackageKind,
    /// Whether it can.
    pub is_ready: bool,
    /// Why not.
    pub reason: Option<String>,
    /// What puts that right.
    pub remedy: Option<String>,
}

/// Whether packages for macOS are signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Signature {
    /// By whom; none where they are not.
    pub by: Option<String>,
    /// Until when the certificate is valid.
    pub until_ms: Option<UnixMs>,
    /// What that means on a Mac.
    pub meaning: &'static str,
}

const UNSIGNED: &str = "A package for macOS is not signed: Gatekeeper blocks it when it is double-clicked. It installs \
                        with: sudo installer -pkg FILE -target /";
const SIGNED: &str = "A package for macOS is signed and not notarised: management tools install it, and sudo installer \
                      -pkg FILE -target / does. Gatekeeper may still ask when a downloaded one is double-clicked, \
                      until xcrun notarytool has notarised it.";

/// Builds packages.
pub struct Builder {
    parts: Parts,
    place: Semaphore,
    progress: watch::Sender<Option<Progress>>,
}

impl Builder {
    /// A builder.
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self { parts, place: Semaphore::new(1), progress: watch::Sender::new(None) })
    }

    /// The package that is being built now.
    pub fn progress(&self) -> Option<Progress> {
        self.progress.borrow().clone()
    }

    /// Where machines will reach the cluster, best first.
    pub fn servers(&self) -> Vec<String> {
        let mut servers = self.parts.servers.clone();
        for server in self.parts.registrar.servers() {
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
        servers.truncate(crate::enrol::SERVERS_MAX);
        servers
    }

    /// Where the shared records are, if they are shared.
    pub fn shared_store(&self) -> Option<&str> {
        self.parts.shared_store.as_deref()
    }

    /// Whether packages for macOS are signed, and what that means on a Mac.
    pub fn signature(&self) -> Signature {
        let signing = self.parts.signing.as_ref();
        Signature {
            by: signing.map(|signing| signing.name().to_owned()),
            until_ms: signing.map(|signing| signing.expires_at_ms()),
            meaning: if signing.is_some() { SIGNED } else { UNSIGNED },
        }
    }

    fn at(&self, progress: Option<Progress>) {
        self.progress.send_replace(progress);
        self.parts.bus.publish(Change::PackagesChanged);
    }

    /// Builds one. What was begun for a package that does not come about is taken back.
    pub async fn build(&self, wish: Wish, by: &str) -> Result<Built, BuildError> {
        wish.check()?;
        if wish.role == NodeRole::Server && self.parts.shared_store.is_none() {
            return Err(BuildError::Invalid(
                "a package for a server needs records that servers share: start this one with --store \
                 postgres://…, or build a package for an agent"
                    .to_owned(),
            ));
        }
        self.check_mailbox(&wish)?;
        let Ok(_place) = self.place.try_acquire() else { return Err(BuildError::Busy) };
        let now_ms = self.parts.clock.now_ms();
        let signing = self.parts.signing.clone().filter(|_| wish.kind == PackageKind::Pkg);
        if let Some(signing) = &signing {
            signing.check(now_ms)?;
        }
        let progress = Progress {
            name: wish.file_name(),
            by: by.to_owned(),
            stage: Stage::Collecting,
            since_ms: now_ms,
        };
        // Taken back also where nobody waits for the answer any more.
        let _end = Ending(self);
        self.at(Some(progress.clone()));
        let artifacts = self.parts.artifacts.clone();
        let platform = wish.platform;
        let program = tokio::task::spawn_blocking(move || artifacts.read(platform, PROGRAM_BYTES_MAX))
            .await
            .map_err(|_| BuildError::Ended)??;
        let expires_at_ms = now_ms + wish.valid_ms;
        let mailbox = wish.mailbox.as_ref().map(|Secret(address)| address.clone());
        let (token, invitation) =
            self.parts.registrar.invite_through(self.servers(), mailbox, wish.role, 1, expires_at_ms).await?;
        let mut revoking = Revoking { builder: self, token_id: Some(token.token_id.clone()) };

        self.at(Some(Progress { stage: Stage::Packing, ..progress.clone() }));
        let mut spec = PackageSpec {
            name: wish.package_name.clone(),
            version: self.parts.version.to_owned(),
            platform,
            role: wish.role,
            program: program.into(),
            config: wish.config(self.parts.shared_store.as_deref()),
            invitation: format!("{invitation}\n"),
            is_sealed: wish.passphrase.is_some(),
            built_at_s: u64::try_from(now_ms / 1000).unwrap_or(0),
            signer: signing.map(|signing| signing as Arc<dyn Signer>),
        };
        let kind = wish.kind;
        let passphrase = wish.passphrase.clone();
        let built = tokio::task::spawn_blocking(move || {
            if let Some(Passphrase(passphrase)) = passphrase {
                spec.invitation = format!("{}\n", sealed::seal(spec.invitation.trim(), &passphrase)?);
            }
            let bytes = caelum_packager::build(kind, &spec)?;
            let sha256 = crate::enrol::proof::sha256(&bytes);
            Ok::<_, BuildError>((bytes, sha256))
        });
        let built = built.await.map_err(|_| BuildError::Ended).and_then(|built| built);
        let (bytes, sha256) = match built {
            Ok(built) => built,
            Err(error) => {
                revoking.now().await;
                return Err(error);
            }
        };

        self.at(Some(Progress { stage: Stage::Checking, ..progress }));
        let package = Package {
            package_id: format!("p-{}", random::secret(12)),
            name: wish.file_name(),
            node_name: wish.node_name,
            kind,
            role: wish.role,
            platform,
            token_id: token.token_id,
            sha256: sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
            size_bytes: bytes.len() as u64,
            built_at_ms: now_ms,
            built_by: by.to_owned(),
            expires_at_ms,
        };
        if let Err(error) = self.parts.store.add_package(package.clone()).await {
            revoking.now().await;
            return Err(error.into());
        }
        revoking.token_id = None;
        let image =
            (kind == PackageKind::Oci).then(|| caelum_packager::image_name(self.parts.version, wish.role));
        Ok(Built { package, bytes, image })
    }

    /// Revokes what a package holds; one whose invitation is over is forgotten instead. Answers what became
    /// of it, or none where there is no such package.
    pub async fn revoke(&self, package_id: &str) -> Result<Option<PackageState>, StoreError> {
        let store = &self.parts.store;
        let Some(package) = store.package(package_id).await? else { return Ok(None) };
        let now_ms = self.parts.clock.now_ms();
        let token = store.join_token(package.token_id.clone()).await?;
        let state = listing::state(token.as_ref(), now_ms);
        match state {
            PackageState::Waiting => {
                store.revoke_join_token(package.token_id, now_ms).await?;
            }
            PackageState::Used | PackageState::Expired | PackageState::Revoked => {
                store.remove_package(package_id).await?;
            }
        }
        self.parts.bus.publish(Change::PackagesChanged);
        Ok(Some(state))
    }

    /// The newest packages, and what became of them.
    pub async fn list(&self) -> Result<Vec<Listed>, StoreError> {
        listing::read(&self.parts.store, self.parts.clock.now_ms()).await
    }

    /// What can be built here.
    pub async fn platforms(&self) -> Vec<Availability> {
        let artifacts = self.parts.artifacts.clone();
        tokio::task::spawn_blocking(move || availability(&artifacts)).await.unwrap_or_default()
    }
}

/// Says that nothing is being built, however building ended.
struct Ending<'a>(&'a Builder);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.at(None);
    }
}

/// Takes an invitation back whose package nobody got.
struct Revoking<'a> {
    builder: &'a Builder,
    token_id: Option<String>,
}

impl Revoking<'_> {
    async fn now(&mut self) {
        let Some(token_id) = self.token_id.take() else { return };
        let now_ms = self.builder.parts.clock.now_ms();
        if let Err(error) = self.builder.parts.store.revoke_join_token(token_id.clone(), now_ms).await {
            tracing::warn!(
                code = "packages.token_stays", %error, token_id,
                "the join token of a package that was not built could not be revoked; nobody knows its secret"
            );
        }
    }
}

impl Drop for Revoking<'_> {
    fn drop(&mut self) {
        if let Some(token_id) = self.token_id.take() {
            let (store, now_ms) = (Arc::clone(&self.builder.parts.store), self.builder.parts.clock.now_ms());
            // Whoever asked is gone; the secret with them.
            tokio::spawn(async move { drop(store.revoke_join_token(token_id, now_ms).await) });
        }
    }
}

fn availability(artifacts: &Artifacts) -> Vec<Availability> {
    let mut answers = Vec::new();
    for platform in Platform::ALL {
        let head = artifacts.head(platform, HEAD_BYTES);
        for kind in PackageKind::ALL.into_iter().filter(|kind| kind.suits(platform)) {
            let (reason, remedy) = match head.as_deref().map(binary::inspect) {
                Err(error) => (Some(error.to_string()), Some(adding(platform, kind))),
                Ok(Err(error)) => (Some(error.to_string()), Some(adding(platform, kind))),
                Ok(Ok(found)) => match found.expect(platform) {
                    Err(error) => (Some(error.to_string()), Some(adding(platform, kind))),
                    Ok(()) if kind == PackageKind::Oci && found.libc != Libc::Static => {
                        (Some(BinaryError::NotStatic.to_string()), Some(adding(platform, kind)))
                    }
                    Ok(()) => (None, None),
                },
            };
            answers.push(Availability { platform, kind, is_ready: reason.is_none(), reason, remedy });
        }
    }
    answers
}

/// The command that adds a program.
fn adding(platform: Platform, kind: PackageKind) -> String {
    let triple = platform.triples()[0];
    let folder = match kind {
        // Only the first of the triples is static.
        PackageKind::Oci => PathBuf::from("ARTIFACTS").join(triple),
        _ => PathBuf::from("ARTIFACTS").join(platform.triples().last().copied().unwrap_or(triple)),
    };
    format!(
        "install -D caelum {}/caelum, where ARTIFACTS is the folder in packages.artifacts",
        folder.display()
    )
}
