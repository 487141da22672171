//! `cargo xtask sim`: clusters too large for the tests, in virtual time, as a table; and `cargo xtask e2e lab`.

use anyhow::{Result, bail};

use crate::command;

/// Builds the simulator optimised and hands it the arguments.
pub fn run(arguments: &[String]) -> Result<()> {
    let mut run =
        vec!["run", "--release", "--locked", "--quiet", "-p", "caelum-testkit", "--bin", "simulate", "--"];
    run.extend(arguments.iter().map(String::as_str));
    command::run(&command::cargo(), &run)
}

/// Builds the program and the lab optimised, and runs the lab.
pub fn lab(arguments: &[String]) -> Result<()> {
    let Some((_, rest)) = arguments.split_first().filter(|(first, _)| *first == "lab") else {
        bail!(
            "e2e runs the lab of faults: cargo xtask e2e lab [--faults A,B] [--healthy MINUTES] [--seed N]"
        );
    };
    let build = ["build", "--release", "--locked", "-p", "caelum", "-p", "caelum-testkit", "--bins"];
    command::run(&command::cargo(), &build)?;
    let mut run = vec![
        "run",
        "--release",
        "--locked",
        "--quiet",
        "-p",
        "caelum-testkit",
        "--bin",
        "lab-diagnosis",
        "--",
    ];
    run.extend(rest.iter().map(String::as_str));
    command::run(&command::cargo(), &run)
}
