//! Power cuts at any moment of a program's life, without pulling a plug.
//!
//! A test starts itself once more as a child, with a library in front of the C library that keeps a journal
//! of everything the child does to the files of one folder, together with the child's own marks, such as
//! "record 7 is acknowledged". Then the test rebuilds, for each of many cut points, a folder as a disk may
//! hold it after a power cut there: what was synced, and by chance some of what was not, torn at sectors.
//! What it opens there must be all that was marked before.
//!
//! ```ignore
//! if let Some(mut child) = powercut::child() { return work(&mut child); }
//! let journal = powercut::record("the_name_of_this_test")?;
//! journal.each_cut(500, 1, |folder, cut| …);
//! ```
//!
//! What it takes for granted: a sector of 512 bytes is written whole or not at all; a sync covers what was
//! written to that file before it, and a name is kept only when its folder was synced; changes of names are
//! kept in order. What it does not see: memory maps, and programs that do not use the C library.

mod journal;

use std::{
    env, fs,
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

pub use journal::{Cut, Journal};

const SHIM: &str = include_str!("shim.c");
const ROOT: &str = "POWERCUT_ROOT";
const MARKS: &str = "POWERCUT_MARKS";
const JOURNAL: &str = "POWERCUT_JOURNAL";

/// What a child has: the folder that it may work in, and a way to say how far it is.
#[derive(Debug)]
pub struct Child {
    folder: PathBuf,
    marks: File,
}

/// The child's part, if this process is one.
pub fn child() -> Option<Child> {
    let folder = PathBuf::from(env::var_os(ROOT)?);
    let marks = File::options().create(true).append(true).open(env::var_os(MARKS)?);
    Some(Child { folder, marks: marks.expect("the folder of the marks is there") })
}

impl Child {
    /// The folder whose files are watched.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Says something that is true from here on.
    pub fn mark(&mut self, text: &str) {
        self.marks.write_all(text.as_bytes()).expect("the marks can be written");
    }
}

/// Runs a test of this very program as a child and reads what it did.
pub fn record(test: &str) -> Result<Journal> {
    let folder = tempfile::tempdir().context("make a folder for a child")?;
    let (root, marks, journal) =
        (folder.path().join("root"), folder.path().join("marks"), folder.path().join("journal"));
    fs::create_dir(&root).with_context(|| format!("make {}", root.display()))?;
    let (source, shim) = (folder.path().join("shim.c"), folder.path().join("shim.so"));
    fs::write(&source, SHIM).with_context(|| format!("write {}", source.display()))?;
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&shim, &source])
        .args(["-ldl", "-lpthread"])
        .output()
        .context("start cc, which links Rust programs too; on Debian: apt-get install gcc libc6-dev")?;
    if !built.status.success() {
        bail!("cc does not build the journal's library: {}", String::from_utf8_lossy(&built.stderr));
    }
    let program = env::current_exe().context("find this program")?;
    let output = Command::new(program)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("LD_PRELOAD", &shim)
        .env(ROOT, &root)
        .env(MARKS, &marks)
        .env(JOURNAL, &journal)
        .output()
        .context("start the child")?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || !said.contains("1 passed") {
        bail!("the child failed: {said}{}", String::from_utf8_lossy(&output.stderr));
    }
    let bytes = fs::read(&journal).with_context(|| format!("read {}", journal.display()))?;
    let journal = Journal::read(&bytes).context("read the journal: it is torn")?;
    journal.check_against(&root)?;
    Ok(journal)
}
