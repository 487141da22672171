//! `cargo xtask tidy`: the tree tests itself.
//!
//! # Purpose
//! To hold what a reader may rely on everywhere (which crate may know which, what a lower floor never
//! does, how tests behave, that documents are true) without anyone having to remember it.
//!
//! # Rules
//! Each check is a function from files to findings and stands beside the table it reads: [`floors`] knows
//! crates, [`sources`] knows lines of code, [`documents`] knows Markdown. A finding names a place, what is
//! wrong and why the rule exists. Findings are printed all at once.
//!
//! # What it does not do
//! It does not parse Rust: [`code`] blanks comments and literals, the rest is plain text search. What
//! needs types is left to clippy.

use std::fmt;

use anyhow::{Result, bail};

use crate::workspace;

mod code;
mod documents;
mod floors;
mod sources;

/// Something that is not as the house wants it.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    /// File, with a line where there is one.
    pub place: String,
    /// What is wrong, and why that matters.
    pub what: String,
    /// Whether it stops a change or is only said.
    pub severity: Severity,
}

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Said, and passed over.
    Advice,
    /// Must be put right.
    Fault,
}

impl Finding {
    /// Something that must be put right.
    pub fn fault(place: impl AsRef<str>, what: impl Into<String>) -> Self {
        Self { place: place.as_ref().to_owned(), what: what.into(), severity: Severity::Fault }
    }

    /// Something to think about.
    pub fn advice(place: impl AsRef<str>, what: impl Into<String>) -> Self {
        Self { place: place.as_ref().to_owned(), what: what.into(), severity: Severity::Advice }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Advice => "advice",
            Severity::Fault => "fault",
        };
        write!(f, "{word}: {}: {}", self.place, self.what)
    }
}

/// Runs every check over the workspace and prints all findings.
pub fn run() -> Result<()> {
    let root = workspace::root();
    let mut findings = floors::check()?;
    let sources = workspace::files(&root, "rs")?;
    findings.extend(sources::check(&sources)?);
    findings.extend(documents::check(&root)?);

    for finding in &findings {
        println!("{finding}");
    }
    let faults = findings.iter().filter(|finding| finding.severity == Severity::Fault).count();
    if faults > 0 {
        bail!("{faults} fault(s)");
    }
    println!("tidy: {} source files, no fault", sources.len());
    Ok(())
}
