//! Packages from the server to a working node: built by the API, installed by the real package managers into
//! systems in folders, started as their units say, joined, upgraded, removed. And what other programs make of
//! the forms that cannot be installed here.
//!
//! Installing takes root, as it does everywhere.

mod installed;
mod read_by_others;
mod signed;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
    time::Duration,
};

use caelum_testkit::{
    process::Process,
    roots::Root,
    server::{Plan, Server},
    wait,
};
use serde_json::Value;
use tempfile::TempDir;

/// In which a node is seen after its start.
const JOINED: Duration = Duration::from_secs(30);
/// The triple that stands for a folder of programs.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// What a command printed, and that it went well.
#[track_caller]
fn fine(output: Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The program without what only a debugger reads: packages are a tenth of the size.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages");
        fs::create_dir_all(&folder).expect("made");
        let program = folder.join(format!("caelum-{}", std::process::id()));
        let stripped =
            Command::new("strip").arg("-o").arg(&program).arg(env!("CARGO_BIN_EXE_caelum")).output();
        fine(stripped.expect("strip runs"));
        let kept = folder.join("caelum");
        fs::rename(&program, &kept).expect("moved");
        kept
    })
}

/// A server that builds packages.
struct Site {
    server: Server,
    admin: String,
    _artifacts: TempDir,
}

impl Site {
    fn new() -> Self {
        let artifacts = tempfile::tempdir().expect("a folder");
        let place = artifacts.path().join(TRIPLE);
        fs::create_dir(&place).expect("made");
        fs::hard_link(program(), place.join("caelum"))
            .or_else(|_| fs::copy(program(), place.join("caelum")).map(drop))
            .expect("put there");
        Self::with(artifacts)
    }

    /// With programs in a folder.
    fn with(artifacts: TempDir) -> Self {
        let plan = Plan::new(env!("CARGO_BIN_EXE_caelum"))
            .with_variable("CAELUM_PACKAGES_ARTIFACTS", artifacts.path().to_str().expect("plain names"));
        let server = plan.start().expect("the server starts");
        let admin = server.token("admin").expect("a token is made");
        Self { server, admin, _artifacts: artifacts }
    }

    /// `caelum package …` against this server.
    fn package(&self, arguments: &[&str]) -> Output {
        let data = self.server.data();
        let ends = ["--data", data.to_str().expect("plain names"), "--token", &self.admin];
        self.server.run(&[&["package"], arguments, &ends].concat()).expect("runs")
    }

    /// Builds a package into a file.
    fn build(&self, kind: &str, node: &str, file: &str) -> PathBuf {
        let path = self.server.folder().join(file);
        let shown = path.to_str().expect("plain names");
        fine(self.package(&["build", "--kind", kind, "--name", node, "-o", shown]));
        path
    }

    fn packages(&self) -> Vec<Value> {
        let listed: Value = serde_json::from_str(&fine(self.package(&["list", "--json"]))).expect("is JSON");
        listed["packages"].as_array().expect("a list").clone()
    }

    /// The node of this name, as the API shows it.
    fn node(&self, name: &str) -> Option<Value> {
        let data = self.server.data();
        let ends = ["--json", "--data", data.to_str().expect("plain names"), "--token", &self.admin];
        let output = self.server.run(&[&["nodes"], ends.as_slice()].concat()).expect("runs");
        let nodes: Value = serde_json::from_slice(&output.stdout).ok()?;
        nodes["nodes"].as_array()?.iter().find(|node| node["name"] == name).cloned()
    }

    /// Waits until a node is seen and well.
    #[track_caller]
    fn wait_for(&self, name: &str, started: &Process) {
        let active = wait::within(JOINED, || {
            let node = self.node(name)?;
            (node["status"] == "healthy" || node["status"] == "warning" || node["status"] == "critical")
                .then_some(node)
        });
        let Some(node) = active else { panic!("{name} is not seen:\n{}{}", started.output(), started.log()) };
        assert_eq!(node["role"], "agent", "{node}");
    }
}

/// Starts the agent that was installed, where nothing else listens.
fn start(root: &Root, more: &[(&str, &str)]) -> Process {
    let own = [
        ("CAELUM_SERVER_LISTEN", "127.0.0.1:0"),
        ("CAELUM_BEACON_ENABLED", "false"),
        ("CAELUM_PROBE_ENABLED", "false"),
        ("CAELUM_TELEMETRY_LOG_FORMAT", "human"),
    ];
    root.start_unit("caelum.service", &[&own, more].concat()).expect("the agent starts")
}
