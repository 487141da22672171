//! House rules that can be seen in a line of code.
//!
//! Each rule is a row: what is looked for, where it is not allowed, and why. Where a rule must be broken
//! there is an exemption with its reason, here and nowhere else.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

use super::{Finding, code};

/// Lines of code after which a file deserves a second look at what it is about.
const BUDGET_LINES: usize = 400;

/// Where a rule holds.
#[derive(Clone, Copy)]
enum Scope {
    /// Product code and tests.
    Everywhere,
    /// Test code, wherever it stands.
    Tests,
    /// Product code of these crates (folder prefixes).
    Only(&'static [&'static str]),
    /// Product code of all crates but these (folder prefixes).
    AllBut(&'static [&'static str]),
}

/// Texts that must not appear, and why.
struct Ban {
    needles: &'static [&'static str],
    scope: Scope,
    why: &'static str,
}

const PURE: &[&str] = &["crates/engine/", "crates/model/"];

const BANS: &[Ban] = &[
    Ban {
        needles: &["todo!", "unimplemented!", "dbg!"],
        scope: Scope::Everywhere,
        why: "what is not done is not merged",
    },
    Ban {
        needles: &["#[ignore", "#![ignore"],
        scope: Scope::Everywhere,
        why: "a test that does not run is no test",
    },
    Ban {
        needles: &["#[allow(", "#![allow("],
        scope: Scope::Everywhere,
        why: "use #[expect(lint, reason = \"...\")], which says why and ends with its cause",
    },
    Ban {
        needles: &["thread::sleep", "time::sleep", "sleep("],
        scope: Scope::Tests,
        why: "tests wait for a condition (testkit::wait) or use virtual time",
    },
    Ban {
        needles: &["Instant::now", "SystemTime", "Utc::now", "Timestamp::now", "Zoned::now"],
        scope: Scope::Only(PURE),
        why: "time is an argument on the pure floors",
    },
    Ban {
        needles: &[
            "Uuid::now_v7",
            "Uuid::new_v4",
            "SystemRandom",
            "rand::rng",
            "rand::random",
            "ThreadRng",
            "OsRng",
            "RandomState",
            "getrandom",
        ],
        scope: Scope::Only(PURE),
        why: "chance is an argument on the pure floors",
    },
    Ban {
        needles: &["std::fs", "std::env", "std::thread", "std::process", "std::io", "Path::new", "PathBuf"],
        scope: Scope::Only(PURE),
        why: "the pure floors do no I/O",
    },
    Ban {
        needles: &["TcpStream", "TcpListener", "UdpSocket", ".await", "async fn", "println!", "eprintln!"],
        scope: Scope::Only(PURE),
        why: "the pure floors do no I/O and never wait",
    },
    Ban {
        needles: &["std::env", "env::var", "env::args"],
        scope: Scope::AllBut(&["crates/cli/", "xtask/", "testkit/"]),
        why: "only cli reads environment and arguments",
    },
    Ban {
        needles: &["process::Command", "process::Child"],
        scope: Scope::AllBut(&["crates/drivers/", "crates/lab/", "xtask/", "testkit/"]),
        why: "only drivers spawn processes",
    },
    Ban {
        needles: &["UdpSocket", "TcpStream::connect", "UnixStream"],
        scope: Scope::AllBut(&["crates/drivers/", "crates/lab/", "testkit/"]),
        why: "only drivers open sockets",
    },
    Ban {
        needles: &["TcpListener::bind", "TcpSocket"],
        scope: Scope::AllBut(&["crates/drivers/", "crates/lab/", "crates/web/", "testkit/"]),
        why: "only web listens for HTTP, only drivers for anything else",
    },
    Ban {
        needles: &["rusqlite"],
        scope: Scope::AllBut(&["crates/store/", "crates/queue/"]),
        why: "only the store and the queue keep files of records",
    },
    Ban { needles: &["std::net::*"], scope: Scope::Everywhere, why: "say what is used" },
];

/// Beginnings of SQL statements, looked for inside string literals.
const SQL: [&str; 6] = ["select ", "insert into ", "update ", "delete from ", "create table ", "pragma "];

/// Words that name nothing, as file or folder names.
const EMPTY_NAMES: [&str; 12] = [
    "utils", "util", "helpers", "helper", "types", "common", "misc", "manager", "handler", "handlers", "imp",
    "impl",
];

/// Endings of type names that name nothing.
const EMPTY_ENDINGS: [&str; 6] = ["Manager", "Handler", "Helper", "Util", "Utils", "Impl"];

/// A path of the API that would look like one of a machine.
const OWN_PATH: &str = concat!("/api/wo", "rk/");

/// Texts that must not appear in any source, comments and strings included. Written in two halves, so
/// that this table is not its own finding.
const FORBIDDEN: [(&str, &str, &str); 4] = [
    ("<<<<", "<<< ", "a merge was left half done"),
    ("FIX", "ME", "put it right or write an issue"),
    ("XX", "X:", "put it right or write an issue"),
    ("/wo", "rk/", "a path of one machine means nothing on another"),
];

/// A place where a rule is broken on purpose.
struct Exemption {
    file: &'static str,
    needle: &'static str,
    #[expect(dead_code, reason = "written for the reader: an exemption without a reason is none")]
    reason: &'static str,
}

const EXEMPTIONS: &[Exemption] = &[
    Exemption {
        file: "testkit/src/wait.rs",
        needle: "sleep",
        reason: "the one place where real processes are polled; everything else waits through it",
    },
    Exemption {
        file: "testkit/src/failover.rs",
        needle: "sleep",
        reason: "a reader that waits before it tries again, as the page's script does; that is what is measured",
    },
    Exemption {
        file: "testkit/src/receiver.rs",
        needle: "sleep",
        reason: "a receiver that takes its time to answer, so that senders can be killed meanwhile",
    },
    Exemption {
        file: "testkit/src/target.rs",
        needle: "sleep",
        reason: "a server that is slow on purpose; its delay is what the test measures",
    },
    Exemption {
        file: "testkit/src/sites.rs",
        needle: "sleep",
        reason: "sites that are slow on purpose; their delay is the fault that the lab injects",
    },
    Exemption {
        file: "crates/drivers/tests/outside/servers.rs",
        needle: "sleep",
        reason: "servers that are slow on purpose; their delay is what the test measures",
    },
];

/// Reads every file and applies every rule.
pub fn check(files: &[(String, PathBuf)]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for (name, path) in files {
        let source = fs::read_to_string(path).with_context(|| format!("read {name}"))?;
        findings.extend(judge(name, &source));
    }
    Ok(findings)
}

/// Applies every rule to one file.
fn judge(name: &str, source: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let code = code::scan(source);
    let tests_from = first_test_line(name, &code.bare);

    if !source.starts_with("//!") {
        findings.push(Finding::fault(name, "opens without `//!`: say what the file is for, and what not"));
    }
    findings.extend(empty_names(name, &code.bare));
    for (first, second, why) in FORBIDDEN {
        let needle = format!("{first}{second}");
        for (index, _) in
            source.lines().enumerate().filter(|(_, line)| line.replace(OWN_PATH, "").contains(&needle))
        {
            findings.push(Finding::fault(format!("{name}:{}", index + 1), format!("`{needle}`: {why}")));
        }
    }
    for (index, line) in code.bare.lines().enumerate() {
        let is_test = index >= tests_from;
        for ban in BANS.iter().filter(|ban| applies(ban.scope, name, is_test)) {
            let found = ban.needles.iter().find(|needle| contains_word(line, needle));
            if let Some(needle) = found
                && !is_exempt(name, needle)
                && !has_virtual_time(ban, &code)
            {
                findings.push(Finding::fault(
                    format!("{name}:{}", index + 1),
                    format!("`{needle}`: {}", ban.why),
                ));
            }
        }
    }
    findings.extend(stray_sql(name, &code.strings, tests_from));

    let lines = code.bare.lines().take(tests_from).filter(|line| !line.trim().is_empty()).count();
    if lines > BUDGET_LINES {
        findings.push(Finding::advice(name, format!("{lines} lines of code (budget {BUDGET_LINES})")));
    }
    findings
}

/// The line from which on a file is test code. Test modules stand last, so one number says it.
fn first_test_line(name: &str, bare: &str) -> usize {
    let is_test_file =
        name.split('/').any(|part| part == "tests" || part == "benches") || name.ends_with("tests.rs");
    if is_test_file || name.starts_with("testkit/") {
        return 0;
    }
    let lines: Vec<&str> = bare.lines().map(str::trim).collect();
    // A module in a file of its own is only declared here; the file says itself that it is tests.
    let begins = |at: usize| {
        let declares = lines.get(at + 1).is_some_and(|next| next.starts_with("mod ") && next.ends_with(';'));
        lines[at].starts_with("#[cfg(test)]") && !declares
    };
    (0..lines.len()).find(|at| begins(*at)).unwrap_or(usize::MAX)
}

fn applies(scope: Scope, name: &str, is_test: bool) -> bool {
    let is_in = |folders: &[&str]| folders.iter().any(|folder| name.starts_with(folder));
    match scope {
        Scope::Everywhere => true,
        Scope::Tests => is_test,
        Scope::Only(folders) => !is_test && is_in(folders),
        Scope::AllBut(folders) => !is_test && !is_in(folders),
    }
}

/// A needle that begins with a letter must not begin inside a longer name.
fn contains_word(line: &str, needle: &str) -> bool {
    let continues = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(needle).any(|(at, _)| {
        !needle.starts_with(continues) || !line[..at].chars().next_back().is_some_and(continues)
    })
}

fn is_exempt(name: &str, needle: &str) -> bool {
    EXEMPTIONS.iter().any(|exemption| exemption.file == name && needle.contains(exemption.needle))
}

/// A sleep under a paused clock takes no time, so it is no sleep.
fn has_virtual_time(ban: &Ban, code: &code::Code) -> bool {
    matches!(ban.scope, Scope::Tests)
        && (code.bare.contains("start_paused") || code.bare.contains("time::pause"))
}

fn empty_names(name: &str, bare: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for part in name.trim_end_matches(".rs").split('/') {
        if EMPTY_NAMES.contains(&part) {
            findings.push(Finding::fault(name, format!("{part:?} names nothing; use a noun of the domain")));
        }
    }
    for (index, line) in bare.lines().enumerate() {
        let mut words = line.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|w| !w.is_empty());
        while let Some(word) = words.next() {
            if matches!(word, "struct" | "enum" | "trait")
                && let Some(defined) = words.next()
                && EMPTY_ENDINGS.iter().any(|ending| defined.ends_with(ending))
            {
                let place = format!("{name}:{}", index + 1);
                findings.push(Finding::fault(place, format!("{defined:?} names nothing; name the thing")));
            }
        }
    }
    findings
}

fn stray_sql(name: &str, strings: &str, tests_from: usize) -> Vec<Finding> {
    if ["crates/store/", "crates/queue/", "xtask/"].iter().any(|folder| name.starts_with(folder)) {
        return Vec::new();
    }
    let starts_sql = |line: &str| {
        let text = line.trim_start().trim_start_matches(['r', '#']).trim_start_matches('"').to_lowercase();
        let has_verb = SQL.iter().any(|verb| text.starts_with(verb));
        has_verb && [" from ", " set ", " values", " where ", "("].iter().any(|word| text.contains(word))
    };
    strings
        .lines()
        .enumerate()
        .take(tests_from)
        .filter(|(_, line)| line.contains('"') && starts_sql(line))
        .map(|(index, _)| {
            Finding::fault(format!("{name}:{}", index + 1), "SQL is spoken in the store and the queue only")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(name: &str, source: &str) -> Vec<String> {
        judge(name, source).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn a_file_opens_with_what_it_is_for() {
        assert_eq!(whats("crates/web/src/a.rs", "//! A.\n").len(), 0);
        assert_eq!(whats("crates/web/src/a.rs", "fn a() {}\n").len(), 1);
    }

    #[test]
    fn a_ban_sees_code_and_neither_comments_nor_strings() {
        let source = "//! A.\n// dbg!(1)\nconst A: &str = \"dbg!\";\n";
        assert_eq!(whats("crates/web/src/a.rs", source).len(), 0);
        assert_eq!(whats("crates/web/src/a.rs", "//! A.\nfn a() { dbg!(1); }\n").len(), 1);
    }

    #[test]
    fn the_clock_is_read_above_the_pure_floors_only() {
        let source = "//! A.\nfn a() { let _ = Instant::now(); }\n";
        assert_eq!(whats("crates/engine/src/a.rs", source).len(), 1);
        assert_eq!(whats("crates/roles/src/a.rs", source).len(), 0);
        let test = "//! A.\n#[cfg(test)]\nmod tests { fn a() { let _ = Instant::now(); } }\n";
        assert_eq!(whats("crates/engine/src/a.rs", test).len(), 0);
    }

    #[test]
    fn a_test_sleeps_only_in_virtual_time() {
        let body = "async fn a() { tokio::time::sleep(d).await; }";
        let real = format!("//! A.\n#[cfg(test)]\nmod tests {{ {body} }}\n");
        let paused =
            format!("//! A.\n#[cfg(test)]\nmod tests {{ #[tokio::test(start_paused = true)] {body} }}\n");
        assert_eq!(whats("crates/roles/src/a.rs", &real).len(), 1);
        assert_eq!(whats("crates/roles/src/a.rs", &paused).len(), 0);
        assert_eq!(whats("crates/roles/src/a.rs", &format!("//! A.\n{body}\n")).len(), 0);
        assert_eq!(whats("crates/cli/tests/a.rs", &format!("//! A.\n{body}\n")).len(), 1);
    }

    #[test]
    fn a_name_that_names_nothing_is_refused() {
        assert_eq!(whats("crates/web/src/utils.rs", "//! A.\n").len(), 1);
        assert_eq!(whats("crates/web/src/a.rs", "//! A.\npub struct TaskManager;\n").len(), 1);
        assert_eq!(whats("crates/web/src/a.rs", "//! A.\nuse x::ConnectionManager;\n").len(), 0);
    }

    #[test]
    fn sql_is_found_outside_the_store() {
        let source = "//! A.\nconst A: &str = \"select a from b\";\n";
        assert_eq!(whats("crates/roles/src/a.rs", source).len(), 1);
        assert_eq!(whats("crates/store/src/a.rs", source).len(), 0);
        let prose = "//! A.\nconst A: &str = \"update the page\";\n";
        assert_eq!(whats("crates/roles/src/a.rs", prose).len(), 0);
    }

    #[test]
    fn a_long_file_is_advice_and_no_fault() {
        let source = format!("//! A.\n{}", "fn a() {}\n".repeat(BUDGET_LINES + 1));
        let findings = judge("crates/web/src/a.rs", &source);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].severity, super::super::Severity::Advice);
    }
}
