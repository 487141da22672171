//! Programs that tests start and the Debian packages they come in.

use std::path::Path;

use anyhow::{Result, bail};

use crate::command;

/// A program that some test starts, and the package that brings it.
struct Needed {
    program: &'static str,
    package: &'static str,
    used_by: &'static str,
}

const NEEDED: [Needed; 6] = [
    Needed { program: "chromium", package: "chromium", used_by: "browser tests" },
    Needed { program: "ip", package: "iproute2", used_by: "tests with hosts on networks of their own" },
    Needed { program: "python3", package: "python3", used_by: "the stranger who speaks to Caelum" },
    Needed { program: "nats-server", package: "nats-server", used_by: "tests of the queue on JetStream" },
    Needed { program: "postgres", package: "postgresql", used_by: "tests of the records on PostgreSQL" },
    Needed { program: "chromedriver", package: "chromium-driver", used_by: "browser tests" },
];

/// Installs what is missing when run as root; otherwise fails with the line that installs it.
pub fn ensure() -> Result<()> {
    let missing: Vec<&Needed> = NEEDED.iter().filter(|needed| !is_there(needed.program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for needed in &missing {
        println!("{} is missing ({}; Debian package {})", needed.program, needed.used_by, needed.package);
    }
    let packages: Vec<&str> = missing.iter().map(|needed| needed.package).collect();
    let line = format!("apt-get install -y --no-install-recommends {}", packages.join(" "));
    if !is_root() {
        bail!("tests need programs that are not installed; install them with:\n  sudo {line}");
    }
    if !is_on_path("apt-get") {
        bail!("tests need {} and there is no apt-get here to install them with", packages.join(", "));
    }
    command::run("apt-get", &["update", "-qq"])?;
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(&packages);
    command::run("env", &[&["DEBIAN_FRONTEND=noninteractive", "apt-get"], arguments.as_slice()].concat())
}

fn is_root() -> bool {
    // SAFETY: geteuid has no arguments, no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Debian keeps the programs of each PostgreSQL in a folder of its own. (The cluster that its package makes is
/// nobody's here: tests make their own.)
fn is_there(program: &str) -> bool {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    is_on_path(program)
        || versions.into_iter().any(|version| version.path().join("bin").join(program).is_file())
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| Path::new(&folder).join(program).is_file())
}
