//! Documents are true: what they name exists.
//!
//! Checked here: links between Markdown files, `cargo xtask` commands, the names and contents of
//! changelog fragments. That `caelum …` commands in documents parse, and that the table of settings is the
//! program's own, are tests of the `caelum` package, which knows.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use super::Finding;
use crate::{COMMANDS, workspace};

/// Kinds of change that a fragment may announce.
const KINDS: [&str; 5] = ["added", "changed", "fixed", "security", "breaking"];

/// Documents that a reader expects at the root.
const EXPECTED: [&str; 6] =
    ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE-MIT", "LICENSE-APACHE"];

/// Checks every Markdown file and the folder of fragments.
pub fn check(root: &Path) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for name in EXPECTED {
        if !root.join(name).is_file() {
            findings.push(Finding::fault(name, "is expected at the root"));
        }
    }
    for (name, path) in workspace::files(root, "md")? {
        let text = fs::read_to_string(&path).with_context(|| format!("read {name}"))?;
        let folder = path.parent().expect("a file has a folder");
        findings.extend(broken_links(&name, &text, |link| folder.join(link).exists()));
        findings.extend(unknown_commands(&name, &text));
        if let Some(fragment) = name.strip_prefix("changelog.d/")
            && fragment != "README.md"
        {
            findings.extend(bad_fragment(&name, fragment, &text));
        }
    }
    Ok(findings)
}

/// Links to files that are not there. Addresses and anchors are not followed.
fn broken_links(name: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for part in line.split("](").skip(1) {
            let link = part.split(')').next().unwrap_or_default();
            let file = link.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") && !file.starts_with("mailto:") && !exists(file) {
                findings.push(Finding::fault(format!("{name}:{}", index + 1), format!("no file {file:?}")));
            }
        }
    }
    findings
}

/// `cargo xtask` commands that do not exist.
fn unknown_commands(name: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for part in line.split("cargo xtask ").skip(1) {
            let word: String = part
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-')
                .collect();
            if !word.is_empty() && !COMMANDS.iter().any(|(command, _)| *command == word) {
                let place = format!("{name}:{}", index + 1);
                findings.push(Finding::fault(place, format!("there is no `cargo xtask {word}`")));
            }
        }
    }
    findings
}

/// A fragment is `<slug>.<kind>.md` and tells the operator something.
fn bad_fragment(name: &str, fragment: &str, text: &str) -> Option<Finding> {
    let parts: Vec<&str> = fragment.split('.').collect();
    let is_slug = |slug: &str| {
        !slug.is_empty() && slug.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    match parts.as_slice() {
        [slug, kind, "md"] if is_slug(slug) && KINDS.contains(kind) => text
            .trim()
            .is_empty()
            .then(|| Finding::fault(name, "is empty: say who is affected and what to do")),
        _ => Some(Finding::fault(name, format!("is not named <slug>.<{}>.md", KINDS.join("|")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_a_missing_file_is_a_fault() {
        let text = "[a](here.md#part) [b](gone.md)\n[c](https://example.net/x) [d](#anchor)";
        let findings = broken_links("a.md", text, |file| file == "here.md");
        assert_eq!(findings, [Finding::fault("a.md:1", "no file \"gone.md\"")]);
    }

    #[test]
    fn a_command_that_does_not_exist_is_a_fault() {
        assert_eq!(unknown_commands("a.md", "run `cargo xtask test` or cargo xtask ci.").len(), 0);
        assert_eq!(unknown_commands("a.md", "run `cargo xtask deploy`").len(), 1);
    }

    #[test]
    fn a_fragment_has_a_slug_a_kind_and_a_text() {
        assert_eq!(bad_fragment("n", "first-start.added.md", "Text."), None);
        assert!(bad_fragment("n", "first-start.added.md", "\n").is_some());
        assert!(bad_fragment("n", "First.added.md", "Text.").is_some());
        assert!(bad_fragment("n", "first-start.news.md", "Text.").is_some());
        assert!(bad_fragment("n", "first-start.md", "Text.").is_some());
    }
}
