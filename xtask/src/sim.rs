//! `cargo xtask sim`: clusters too large for the tests, in virtual time, as a table; and `cargo xtask e2e lab`.

use anyhow::{Result, bail};

use crate::command;

/// Builds the simulator optimised and hands it the arguments.
pub fn run(arguments: &[String]) -> Result<()> {
    if command::asks_for_help(arguments) {
        println!("sim [--nodes N (1000)] [--networks N (10)] [--seeds N (1)]");
        return Ok(());
    }
    command::run_built("simulate", arguments)
}

/// Builds the program and the lab optimised, and runs the lab.
pub fn lab(arguments: &[String]) -> Result<()> {
    const USAGE: &str =
        "e2e runs the lab of faults: cargo xtask e2e lab [--faults A,B] [--healthy MINUTES] [--seed N]";
    if command::asks_for_help(arguments) {
        println!("{USAGE}");
        return Ok(());
    }
    let Some((_, rest)) = arguments.split_first().filter(|(first, _)| *first == "lab") else {
        bail!(USAGE);
    };
    command::run_built("lab-diagnosis", rest)
}
