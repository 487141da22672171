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

const NEEDED: [Needed; 20] = [
    Needed { program: "chromium", package: "chromium", used_by: "browser tests" },
    Needed { program: "ip", package: "iproute2", used_by: "tests with hosts on networks of their own" },
    Needed { program: "python3", package: "python3", used_by: "the stranger who speaks to Caelum" },
    Needed { program: "nats-server", package: "nats-server", used_by: "tests of the queue on JetStream" },
    Needed { program: "redis-server", package: "redis-server", used_by: "tests of coordination on Redis" },
    Needed { program: "haproxy", package: "haproxy", used_by: "tests of several servers" },
    Needed { program: "nginx", package: "nginx-light", used_by: "tests of several servers" },
    Needed {
        program: "ngx_stream_module.so",
        package: "libnginx-mod-stream",
        used_by: "tests of several servers behind nginx",
    },
    Needed { program: "postgres", package: "postgresql", used_by: "tests of the records on PostgreSQL" },
    Needed { program: "sshd", package: "openssh-server", used_by: "tests of commands over SSH" },
    Needed { program: "ssh-keygen", package: "openssh-client", used_by: "tests of commands over SSH" },
    Needed { program: "rpm", package: "rpm", used_by: "tests that install an RPM package" },
    Needed { program: "openssl", package: "openssl", used_by: "tests that verify signatures" },
    Needed { program: "bsdtar", package: "libarchive-tools", used_by: "tests that open a macOS package" },
    Needed { program: "7zz", package: "7zip", used_by: "tests that open a macOS package" },
    Needed { program: "cpio", package: "cpio", used_by: "tests that open a macOS package" },
    Needed { program: "skopeo", package: "skopeo", used_by: "tests that read a container image" },
    Needed { program: "busybox", package: "busybox-static", used_by: "tests that install an archive" },
    Needed { program: "promtool", package: "prometheus", used_by: "tests of alert rules and dashboards" },
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
    // Debian keeps servers out of the path of those who are not root.
    is_on_path(program)
        || Path::new("/usr/lib/nginx/modules").join(program).is_file()
        || Path::new("/usr/sbin").join(program).is_file()
        || versions.into_iter().any(|version| version.path().join("bin").join(program).is_file())
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| Path::new(&folder).join(program).is_file())
}
