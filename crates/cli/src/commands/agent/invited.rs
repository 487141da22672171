//! Joining by the invitation in a file, as packages leave one: tried until a server answers, and the file
//! removed when there is nothing more that it could do.
//!
//! A refusal is for good: the machine then waits to be adopted, as one without an invitation. That no server
//! can be reached, or that somebody else answers, is for now.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read as _, Write as _},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use caelum_drivers::{random, supervisor};
use caelum_roles::enrol::{JoinFailure, invitation};

use super::Machine;
use crate::{commands::join, enrolled::Enrolled, exit::Unreachable, output};

/// Longest file that is read, bytes.
const FILE_BYTES_MAX: u64 = 16 << 10;
/// Time between the first two tries, and the longest between any.
const AGAIN_MIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// Joins by the machine's file. None where there is none, or where it was refused.
pub(super) async fn join(machine: &Machine) -> Option<Enrolled> {
    let file = machine.join_file.as_deref()?;
    let text = match read(file) {
        Ok(text) => text?,
        Err(error) => {
            tracing::error!(
                code = "agent.invitation_unread",
                error = format!("{error:#}"),
                "the invitation cannot be read; waiting to be adopted"
            );
            return None;
        }
    };
    let text = match join::opened(text) {
        Ok(text) => text,
        Err(error) => {
            let error = format!("{error:#}");
            supervisor::status(&error);
            tracing::error!(
                code = "agent.invitation_sealed",
                error,
                "the invitation cannot be opened; it is kept, and this machine waits to be adopted"
            );
            return None;
        }
    };
    let mut again = AGAIN_MIN;
    loop {
        match once(machine, &text).await {
            Ok(enrolled) => {
                remove(file);
                supervisor::status(&format!("node of {}", enrolled.cluster.cluster_name));
                return Some(enrolled);
            }
            Err(error) if is_for_now(&error) => {
                let error = format!("{error:#}");
                supervisor::status(&format!("not joined yet: {error}"));
                tracing::warn!(code = "agent.not_joined_yet", error, "not joined yet; trying again");
            }
            Err(error) => {
                let error = format!("{error:#}");
                supervisor::status(&format!("the invitation was refused: {error}"));
                tracing::error!(
                    code = "agent.invitation_refused",
                    error,
                    "the invitation in {} came to nothing; ask for a new package, or adopt this machine",
                    file.display()
                );
                remove(file);
                return None;
            }
        }
        // Machines that were set up together do not all ask at once.
        let spread = Duration::from_millis(random::number() % 500);
        tokio::time::sleep(again + spread).await;
        again = (again * 2).min(AGAIN_MAX);
    }
}

async fn once(machine: &Machine, text: &str) -> Result<Enrolled> {
    let invitation = invitation::parse(text)?;
    let ceiling = machine.settings.config.agent.ceiling;
    let (_, answer, _) = join::join(&machine.data, invitation, machine.role, ceiling).await?;
    output::print(&format!("Joined: this machine is a node of {} now.\n\n", answer.cluster_name))?;
    let secrets = machine.data.secrets();
    match Enrolled::load(&secrets)? {
        Some(enrolled) => Ok(enrolled),
        None => bail!("what was just written to {} is not there", secrets.display()),
    }
}

fn is_for_now(error: &anyhow::Error) -> bool {
    error.is::<Unreachable>()
        || error.downcast_ref::<JoinFailure>().is_some_and(|failure| {
            failure.is_transient() || matches!(failure, JoinFailure::NotTrusted(_) | JoinFailure::Mailbox(_))
        })
}

/// The text of the file; none where it is not there.
fn read(path: &Path) -> Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("open {}", path.display())),
    };
    let mut text = String::new();
    file.take(FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .with_context(|| format!("read {}", path.display()))?;
    Ok(Some(text))
}

/// Overwrites the file and removes it. It is worth nothing any more, so that failing is no more than a note.
pub(in crate::commands) fn remove(path: &Path) {
    let shred = || {
        let length = fs::symlink_metadata(path)?.len();
        let mut file = File::options().write(true).open(path)?;
        let nothing = vec![0; usize::try_from(length.min(FILE_BYTES_MAX)).unwrap_or(0)];
        file.write_all(&nothing)?;
        file.sync_all()?;
        fs::remove_file(path)
    };
    match shred() {
        Ok(()) => tracing::info!(code = "agent.invitation_removed", "removed {}", path.display()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(
            code = "agent.invitation_stays", %error,
            "the used invitation in {} could not be removed; it admits nobody else", path.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_used_invitation_is_gone_and_a_missing_one_is_no_fault() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("join");
        assert_eq!(read(&path).expect("no fault"), None);
        fs::write(&path, "caelum-join.secret\n").expect("written");
        let other = folder.path().join("other");
        fs::hard_link(&path, &other).expect("linked");
        assert_eq!(read(&path).expect("read").as_deref(), Some("caelum-join.secret\n"));
        remove(&path);
        assert!(!path.exists());
        assert_eq!(fs::read(other).expect("stays"), vec![0; 19], "its bytes are overwritten");
        remove(&path);
    }

    #[test]
    fn only_a_refusal_is_for_good() {
        let refused = |code: &str| JoinFailure::Refused {
            server: "a:1".into(),
            code: code.into(),
            message: "no".into(),
        };
        assert!(!is_for_now(&refused("join_token_used_up").into()));
        assert!(is_for_now(&refused("rate_limited").into()));
        assert!(is_for_now(&JoinFailure::NotTrusted("somebody else".into()).into()));
        assert!(is_for_now(&JoinFailure::Mailbox("no right to write there".into()).into()));
        assert!(is_for_now(&Unreachable("away".into()).into()));
        assert!(!is_for_now(&anyhow::anyhow!("read the join token")));
    }
}
