//! The program `caelum`: a checklist.
//!
//! Arguments, settings, log, command, exit code, in that order; nothing is decided here. Arguments are in
//! [`arguments`], settings in [`config`], and each command has a file in [`commands`].

mod arguments;
mod client;
mod commands;
mod config;
mod data;
mod enrolled;
mod environment;
mod events;
mod exit;
mod log;
mod output;

use std::{panic, process::ExitCode};

use caelum_drivers::memory;
use clap::Parser as _;

use crate::{arguments::Arguments, exit::Exit};

fn main() -> ExitCode {
    memory::prepare();
    panic::set_hook(Box::new(exit::report_bug));
    data::close_to_others();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return exit::report_usage(&error).into(),
    };
    // A panic on this thread has been reported by the hook; what is left is the code.
    let outcome = panic::catch_unwind(|| commands::run(arguments));
    match outcome {
        Ok(Ok(exit)) => exit.into(),
        Ok(Err(error)) => exit::report(&error).into(),
        Err(_) => Exit::Bug.into(),
    }
}
