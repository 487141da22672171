//! `cargo xtask`: the one developer entry point.
//!
//! Each command is a module; this file only chooses one. The checks hold no knowledge of what Caelum does,
//! only of how its house is built, so that this program compiles in seconds and needs no other crate of
//! the workspace. Programs that must talk to a running server (the benches) live in `testkit`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a developer tool talks on the terminal")]

use std::process::ExitCode;

mod bench;
mod ci;
mod command;
mod packages;
mod sim;
mod test;
mod tidy;
mod workspace;

/// Every command with the line that explains it; `README.md` is checked against the names.
pub const COMMANDS: [(&str, &str); 6] = [
    ("ci", "everything that must be green: format, lints, tidy, tests, purity build"),
    ("tidy", "check the house rules: floors, module texts, purity, tests, documents"),
    ("test", "install the Debian packages that tests need (as root), then run every test"),
    ("bench", "measure a release build: bench <discovery|flood|footprint|ingest> [options]"),
    ("e2e", "faults in a lab of real processes, and what is said of them (as root): e2e lab [--faults A,B]"),
    ("sim", "clusters of up to a thousand nodes in virtual time: sim [--nodes N] [--seeds N] [--networks N]"),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (name, rest) = match arguments.split_first() {
        Some((name, rest)) => (name.as_str(), rest),
        None => ("help", &[][..]),
    };
    let outcome = match name {
        "ci" => ci::run(),
        "tidy" => tidy::run(),
        "test" => test::run(rest),
        "bench" => bench::run(rest),
        "e2e" => sim::lab(rest),
        "sim" => sim::run(rest),
        "help" | "--help" | "-h" => {
            print_usage();
            return ExitCode::SUCCESS;
        }
        unknown => {
            eprintln!("xtask: no command {unknown:?}");
            print_usage();
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask {name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print_usage() {
    println!("usage: cargo xtask <command>\n");
    for (name, line) in COMMANDS {
        println!("  {name:<6} {line}");
    }
}
