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

/// Whether somebody wants to know, and nothing done.
pub fn asks_for_help(arguments: &[String]) -> bool {
    arguments.iter().any(|argument| argument == "--help" || argument == "-h")
}

/// Builds every program optimised, all in one go so that nothing is compiled twice for another set of
/// features, and runs one of them.
pub fn run_built(program: &str, arguments: &[String]) -> Result<()> {
    run(&cargo(), &["build", "--release", "--locked", "--workspace", "--bins"])?;
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".to_owned());
    let path = workspace::root().join(target).join("release").join(program);
    let path = path.to_str().with_context(|| format!("the path of {program} is no text"))?;
    run(path, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
}
