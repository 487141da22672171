//! Running other programs: say what is run, in the workspace's root, and fail with its name.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::workspace;

/// Cargo as it called us, so that a pinned toolchain stays pinned.
pub fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

/// Runs a program to its end, its output on our terminal and nothing on its standard input.
pub fn run(program: &str, arguments: &[&str]) -> Result<()> {
    println!("$ {} {}", short(program), arguments.join(" "));
    let status = Command::new(program)
        .args(arguments)
        .current_dir(workspace::root())
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("start {program}"))?;
    if !status.success() {
        bail!("{} {} ended with {status}", short(program), arguments.join(" "));
    }
    Ok(())
}

/// Runs a program and returns its standard output.
pub fn read(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(workspace::root())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("start {program}"))?;
    if !output.status.success() {
        bail!("{} {} ended with {}", short(program), arguments.join(" "), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("read what {program} wrote"))
}

fn short(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}
