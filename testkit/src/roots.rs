//! Small systems in folders: enough of one to install a package by the real package manager and to start what
//! was installed. They take programs from this machine, with the libraries that those need.
//!
//! Working with them takes root, as installing packages does.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::process::Process;

/// What scripts of packages use, on a Debian.
const DEBIAN: [&str; 22] = [
    "cat", "chmod", "chown", "cmp", "cp", "dash", "dirname", "env", "false", "grep", "id", "ln", "ls",
    "mkdir", "mv", "rm", "rmdir", "sed", "touch", "uname", "useradd", "userdel",
];

/// A system in a folder, gone with it.
#[derive(Debug)]
pub struct Root {
    folder: TempDir,
}

impl Root {
    /// One with Debian's programs.
    pub fn debian() -> Result<Self> {
        let root = Self::bare()?;
        for program in DEBIAN {
            root.copy_program(&find(program)?)?;
        }
        symlink("dash", root.path().join("bin/sh")).context("link the shell")?;
        Ok(root)
    }

    /// One with busybox for everything.
    pub fn busybox() -> Result<Self> {
        let root = Self::bare()?;
        let busybox = find("busybox")?;
        root.copy_program(&busybox)?;
        let list = Command::new(&busybox).arg("--list").output().context("ask busybox what it is")?;
        for name in String::from_utf8_lossy(&list.stdout).lines().filter(|name| *name != "busybox") {
            symlink("busybox", root.path().join("bin").join(name)).with_context(|| format!("link {name}"))?;
        }
        // Debian's busybox makes no users.
        for program in ["useradd", "userdel"] {
            root.copy_program(&find(program)?)?;
        }
        Ok(root)
    }

    /// One without programs, with the folders that package managers expect.
    fn bare() -> Result<Self> {
        let folder = tempfile::tempdir().context("make a folder for a system")?;
        let root = Self { folder };
        // Users other than root must get in.
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).context("open the folder")?;
        for name in [
            "bin",
            "dev",
            "etc",
            "lib",
            "lib64",
            "proc",
            "run",
            "sbin",
            "tmp",
            "usr/bin",
            "usr/lib",
            "usr/sbin",
            "var/lib/dpkg/info",
            "var/lib/dpkg/updates",
            "var/lib/dpkg/triggers",
            "var/lib/rpm",
            "var/log",
            "etc/default",
        ] {
            fs::create_dir_all(root.path().join(name)).with_context(|| format!("make {name}"))?;
        }
        for (name, text) in [
            ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
            ("etc/group", "root:x:0:\n"),
            ("etc/shadow", "root:*:19000:0:99999:7:::\n"),
            ("etc/gshadow", "root:*::\n"),
            ("etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files\n"),
            ("etc/hosts", "127.0.0.1 localhost\n"),
            ("etc/login.defs", "SYS_UID_MIN 100\nSYS_UID_MAX 999\nSYS_GID_MIN 100\nSYS_GID_MAX 999\n"),
            ("var/lib/dpkg/status", ""),
            ("var/lib/dpkg/available", ""),
            ("dev/null", ""),
        ] {
            fs::write(root.path().join(name), text).with_context(|| format!("write {name}"))?;
        }
        fs::set_permissions(root.path().join("dev/null"), fs::Permissions::from_mode(0o666))
            .context("open it")?;
        Ok(root)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A file in it, as text.
    pub fn read(&self, path: &str) -> Result<String> {
        let path = self.path().join(path.trim_start_matches('/'));
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// Copies a program of this machine into it, with its libraries.
    fn copy_program(&self, program: &Path) -> Result<()> {
        let name = program.file_name().context("a program has a name")?;
        fs::copy(program, self.path().join("bin").join(name))
            .with_context(|| format!("copy {}", program.display()))?;
        self.copy_libraries(program)
    }

    /// Copies the libraries that a program needs, to where it looks for them.
    pub fn copy_libraries(&self, program: &Path) -> Result<()> {
        for library in libraries(program)? {
            let to = self.path().join(library.strip_prefix("/").unwrap_or(&library));
            if !to.exists() {
                fs::create_dir_all(to.parent().context("a library is in a folder")?)
                    .context("make a folder")?;
                fs::copy(&library, &to).with_context(|| format!("copy {}", library.display()))?;
            }
        }
        Ok(())
    }

    /// Debian's package manager on it. What a package depends on is not there and not asked for.
    pub fn dpkg(&self, arguments: &[&str]) -> Result<Output> {
        let root = format!("--root={}", self.path().display());
        let mut command = Command::new("dpkg");
        command
            .args([&root, "--force-depends", "--force-confdef", "--force-confold"])
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive");
        run(command)
    }

    /// Fedora's package manager on it.
    pub fn rpm(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new("rpm");
        command.arg("--root").arg(self.path()).args(["--dbpath", "/var/lib/rpm"]).args(arguments);
        run(command)
    }

    /// A command inside it, as root.
    pub fn inside(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new("chroot");
        command.arg(self.path()).args(arguments).env("PATH", "/bin:/sbin:/usr/bin:/usr/sbin");
        run(command)
    }

    /// Number of a user, if there is one of that name.
    pub fn user(&self, name: &str) -> Option<u32> {
        let users = self.read("etc/passwd").ok()?;
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        line.split(':').nth(2)?.parse().ok()
    }

    /// Starts what its systemd unit of this name would start, as the unit's user, with these variables too.
    pub fn start_unit(&self, unit: &str, variables: &[(&str, &str)]) -> Result<Process> {
        let text = self.read(&format!("usr/lib/systemd/system/{unit}"))?;
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        let words: Vec<&str> = value("ExecStart").context("a unit starts something")?.split(' ').collect();
        let user = value("User").and_then(|name| self.user(name)).context("the unit's user is there")?;
        self.copy_libraries(&self.path().join(words[0].trim_start_matches('/')))?;
        let mut command = Command::new("unshare");
        // The mount is the process's own and ends with it.
        command
            .args(["--mount", "--propagation", "private", "sh", "-c"])
            .arg("mount --bind /proc \"$0/proc\" && exec chroot \"$@\"")
            .arg(self.path())
            .arg(format!("--userspec={user}:{user}"))
            .arg(self.path())
            .args(["/bin/env", "-i", "PATH=/bin:/usr/bin"]);
        command.args(variables.iter().map(|(name, value)| format!("{name}={value}")));
        command.args(words);
        Process::start(command, unit, self.path())
    }
}

fn run(mut command: Command) -> Result<Output> {
    let shown = format!("{command:?}");
    command.output().with_context(|| format!("run {shown}"))
}

/// A program of this machine.
fn find(program: &str) -> Result<PathBuf> {
    let places = ["/bin", "/usr/bin", "/sbin", "/usr/sbin"];
    let found = places.iter().map(|place| Path::new(place).join(program)).find(|path| path.is_file());
    found.with_context(|| format!("{program} is not installed; `cargo xtask test` installs what tests need"))
}

/// The libraries of a program, and what loads them.
fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("not found") {
        bail!("{} needs libraries that are not here: {text}", program.display());
    }
    let paths = text.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':'));
    Ok(paths.map(PathBuf::from).collect())
}
