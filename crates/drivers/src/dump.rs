//! PostgreSQL's own `pg_dump`: how records on a server get into a backup.

use std::{
    io,
    path::Path,
    process::{ExitStatus, Stdio},
};

use tokio::process::Command;

/// Most of what the tool says that is shown, characters.
const SHOWN_MAX: usize = 400;

/// Where the tool is looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why there is no dump.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The tool is not there or cannot be run.
    #[error(
        "cannot run pg_dump: {0}; it comes with PostgreSQL's client (Debian: apt install postgresql-client)"
    )]
    Run(io::Error),
    /// It failed.
    #[error("pg_dump ended with {status}: {said}")]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// What it said last.
        said: String,
    },
}

/// Dumps the database that libpq's environment names into a file, in the form that `pg_restore` reads. The
/// database is used meanwhile; the dump is of one moment.
pub async fn postgres(environment: &[(&'static str, String)], to: &Path) -> Result<(), DumpError> {
    let mut command = Command::new("pg_dump");
    command.args(["--format=custom", "--no-owner", "--no-privileges", "--file"]).arg(to);
    // What the surroundings say about other databases does not hold here.
    command.env_clear().env("PATH", PATH);
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = command.output().await.map_err(DumpError::Run)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: String =
        said.trim().chars().filter(|sign| !sign.is_control() || *sign == '\n').take(SHOWN_MAX).collect();
    Err(DumpError::Failed { status: output.status, said: said.replace('\n', "; ") })
}
