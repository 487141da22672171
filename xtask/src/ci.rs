//! `cargo xtask ci`: what must be green before a change is taken.

use std::path::Path;

use anyhow::Result;

use crate::{command, test, tidy};

/// The target that has no operating system: what builds there does no I/O.
const PURE_TARGET: &str = "wasm32-unknown-unknown";

/// Cheap checks first, so that a misplaced space does not cost a test run.
pub fn run() -> Result<()> {
    let cargo = command::cargo();
    command::run(&cargo, &["fmt", "--all", "--check"])?;
    tidy::run()?;
    command::run(
        &cargo,
        &["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"],
    )?;
    build_pure_floors(&cargo)?;
    test::run(&[])
}

/// Builds `model` and `engine` where there is nothing to read a clock or open a socket with.
fn build_pure_floors(cargo: &str) -> Result<()> {
    let sysroot = command::read("rustc", &["--print", "sysroot"])?;
    if Path::new(sysroot.trim()).join("lib/rustlib").join(PURE_TARGET).is_dir() {
        command::run(cargo, &["build", "--locked", "--target", PURE_TARGET, "-p", "caelum-engine"])
    } else {
        println!(
            "skipped: building caelum-engine for {PURE_TARGET}, which is not installed \
             (rustup target add {PURE_TARGET}); tidy has checked its source instead"
        );
        Ok(())
    }
}
