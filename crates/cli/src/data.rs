//! The data directory: where it is, what is where in it, and that only its owner can read it.

use std::{
    fs::{self, DirBuilder, Permissions},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::environment;

/// A data directory. That one exists on the disk is certain only after [`DataDirectory::make`].
#[derive(Clone, Debug)]
pub struct DataDirectory {
    root: PathBuf,
}

impl DataDirectory {
    /// The directory that was named, or the usual one.
    pub fn locate(named: Option<PathBuf>) -> Result<Self> {
        let named = named.or_else(|| environment::path("CAELUM_DATA"));
        let surroundings = Surroundings {
            xdg_state_home: environment::path("XDG_STATE_HOME"),
            home: environment::path("HOME"),
            is_root: is_root(),
        };
        let Some(root) = named.or_else(|| usual(surroundings)) else {
            bail!("there is no place for the data directory: name one with --data DIR, or set HOME");
        };
        Ok(Self { root: std::path::absolute(&root).with_context(|| format!("locate {}", root.display()))? })
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A configuration file beside the data.
    pub fn config_file(&self) -> PathBuf {
        self.root.join("caelum.toml")
    }

    /// The store's database.
    pub fn store_file(&self) -> PathBuf {
        self.root.join("caelum.db")
    }

    /// Measurements that were not handed over yet.
    pub fn spool(&self) -> PathBuf {
        self.root.join("spool")
    }

    /// Keys and certificates.
    pub fn secrets(&self) -> PathBuf {
        self.root.join("secrets")
    }

    /// The certificate of the authority that the first start makes: what clients trust.
    pub fn authority_certificate(&self) -> PathBuf {
        self.root.join("secrets/ca.pem")
    }

    /// Written when everything is served: `{"urls": [...], "servers": ["host:port"], "pid": n}`.
    pub fn ready_file(&self) -> PathBuf {
        self.root.join("run/ready.json")
    }

    /// Makes the directory and its folders where they are missing, readable by their owner only.
    pub fn make(&self) -> Result<()> {
        for folder in [self.root.clone(), self.secrets(), self.spool(), self.root.join("run")] {
            make_private(&folder)?;
        }
        Ok(())
    }

    /// Fails where nothing has been started yet, with what to do.
    pub fn expect_made(&self) -> Result<()> {
        if !self.store_file().is_file() {
            bail!(
                "there is no Caelum in {}: start it once with `caelum up --data {0}`, or name its directory \
                 with --data",
                self.root.display()
            );
        }
        Ok(())
    }
}

/// From now on, whatever this process makes is its owner's only: databases and their companions are made
/// by libraries that ask nobody for a mode.
pub fn close_to_others() {
    // SAFETY: umask only exchanges a number, and no other thread exists yet.
    unsafe { libc::umask(0o077) };
}

fn make_private(folder: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| format!("make the directory {}", folder.display()))?;
    let mode =
        fs::metadata(folder).with_context(|| format!("look at {}", folder.display()))?.permissions().mode();
    if mode & 0o077 != 0 {
        match fs::set_permissions(folder, Permissions::from_mode(0o700)) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => bail!(
                "{} can be read by others and belongs to somebody else: use a directory of your own",
                folder.display()
            ),
            done => done.with_context(|| format!("close {} to others", folder.display()))?,
        }
    }
    Ok(())
}

/// What the usual place depends on.
struct Surroundings {
    xdg_state_home: Option<PathBuf>,
    home: Option<PathBuf>,
    is_root: bool,
}

fn usual(surroundings: Surroundings) -> Option<PathBuf> {
    match surroundings {
        Surroundings { xdg_state_home: Some(state), .. } => Some(state.join("caelum")),
        Surroundings { is_root: true, .. } => Some(PathBuf::from("/var/lib/caelum")),
        Surroundings { home, .. } => home.map(|home| home.join(".local/state/caelum")),
    }
}

fn is_root() -> bool {
    // SAFETY: geteuid has no arguments, no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usual_in(xdg: Option<&str>, home: Option<&str>, is_root: bool) -> Option<String> {
        let surroundings =
            Surroundings { xdg_state_home: xdg.map(PathBuf::from), home: home.map(PathBuf::from), is_root };
        usual(surroundings).map(|path| path.display().to_string())
    }

    #[test]
    fn the_usual_place_is_the_state_directory_of_whoever_runs_it() {
        assert_eq!(usual_in(Some("/s"), Some("/h"), true).as_deref(), Some("/s/caelum"));
        assert_eq!(usual_in(None, Some("/root"), true).as_deref(), Some("/var/lib/caelum"));
        assert_eq!(usual_in(None, Some("/h"), false).as_deref(), Some("/h/.local/state/caelum"));
        assert_eq!(usual_in(None, None, false), None);
    }

    #[test]
    fn folders_are_their_owners_only_even_if_they_were_open_before() {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let root = temporary.path().join("data");
        fs::create_dir(&root).expect("made");
        fs::set_permissions(&root, Permissions::from_mode(0o755)).expect("opened");
        let data = DataDirectory { root: root.clone() };
        data.make().expect("made");
        for folder in [root, data.secrets(), data.spool()] {
            assert_eq!(fs::metadata(folder).expect("there").permissions().mode() & 0o777, 0o700);
        }
    }
}
