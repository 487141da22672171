//! How the program ends: one code for each class of reason, and what is said with it.
//!
//! `docs/operations.md` shows the table; a test compares the two.

use std::{panic::PanicHookInfo, process::ExitCode};

use crate::{
    config::Faults,
    output::{self, complain},
};

/// Why the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All is well.
    Fine = 0,
    /// What was asked for could not be done.
    Failed = 1,
    /// The command line cannot be understood.
    Usage = 2,
    /// The settings have faults.
    Settings = 64,
    /// Something that is needed cannot be reached or had.
    Unreachable = 69,
    /// Caelum itself is wrong.
    Bug = 70,
}

impl Exit {
    /// Every reason, for the documents.
    #[cfg(test)]
    pub const ALL: [Self; 6] =
        [Self::Fine, Self::Failed, Self::Usage, Self::Settings, Self::Unreachable, Self::Bug];

    /// What the code means.
    #[cfg(test)]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Failed => "failed; the message says at what",
            Self::Usage => "the command line is wrong",
            Self::Settings => "the settings are wrong; every fault is listed",
            Self::Unreachable => "something Caelum stands on cannot be reached or is taken, such as its port",
            Self::Bug => "a bug in Caelum; please report the message",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Marks a failure as [`Exit::Unreachable`]; the words are the failure's own.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(pub String);

/// Says why a command failed, causes on lines of their own, and which code that is.
pub fn report(error: &anyhow::Error) -> Exit {
    let mut text = format!("caelum: {error}\n");
    for cause in error.chain().skip(1) {
        text.push_str(&format!("  because {}\n", cause.to_string().replace('\n', "\n  ")));
    }
    complain(&text);
    class(error)
}

fn class(error: &anyhow::Error) -> Exit {
    if error.is::<Faults>() {
        Exit::Settings
    } else if error.is::<Unreachable>() {
        Exit::Unreachable
    } else {
        Exit::Failed
    }
}

/// Says what is wrong with the command line. Help and version also come this way, and are fine.
pub fn report_usage(error: &clap::Error) -> Exit {
    if error.use_stderr() {
        complain(&error.render().to_string());
        Exit::Usage
    } else {
        match output::print(&error.render().to_string()) {
            Ok(()) => Exit::Fine,
            Err(error) => report(&error),
        }
    }
}

/// Says plainly that Caelum is wrong, and where.
pub fn report_bug(info: &PanicHookInfo<'_>) {
    let what = info
        .payload_as_str()
        .map_or_else(|| "something that left no message".to_owned(), |text| text.replace('\n', " "));
    let place =
        info.location().map_or_else(String::new, |place| format!(" at {}:{}", place.file(), place.line()));
    complain(&format!(
        "caelum: this is a bug in Caelum, not in what you did: {what}{place} (version {})\n\
         What was acknowledged before is safe. Please report this line.\n",
        env!("CARGO_PKG_VERSION")
    ));
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_failure_keeps_its_class_under_more_context() {
        let unreachable = anyhow::Error::new(Unreachable("the port is taken".to_owned()));
        assert_eq!(class(&unreachable), Exit::Unreachable);
        let wrapped = Err::<(), _>(Faults(Vec::new())).context("read the settings").expect_err("failed");
        assert_eq!(class(&wrapped), Exit::Settings);
        assert_eq!(class(&anyhow::anyhow!("no")), Exit::Failed);
    }

    #[test]
    fn the_document_lists_every_code_with_its_meaning() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md");
        let document = std::fs::read_to_string(path).expect("the document can be read");
        for exit in Exit::ALL {
            let row = format!("| {} | {} |", exit as u8, exit.meaning());
            assert!(document.contains(&row), "docs/operations.md lacks: {row}");
        }
    }
}
