//! A server and agents in a lab, and what each of them believes, as it logs it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use caelum_testkit::{
    lab::{Host, Lab},
    measure,
    process::Process,
    wait,
};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_caelum");

pub struct Hosts {
    pub lab: Lab,
    pub at: Vec<Host>,
    folder: tempfile::TempDir,
    processes: BTreeMap<usize, Process>,
}

impl Hosts {
    fn with(lab: Lab, at: Vec<Host>, settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut hosts = Self { lab, at, folder, processes: BTreeMap::new() };
        hosts.serve(settings);
        hosts
    }

    /// Three hosts on one network, and no server yet.
    pub fn unserved() -> Self {
        let mut lab = Lab::new().expect("a lab");
        let network = lab.network().expect("a network");
        let at = (0..3).map(|_| lab.host(&network).expect("a host")).collect();
        Self { lab, at, folder: tempfile::tempdir().expect("a folder"), processes: BTreeMap::new() }
    }

    /// Starts the server with these settings, and waits until it serves.
    pub fn serve(&mut self, settings: &[&str]) {
        drop(std::fs::remove_file(PathBuf::from(self.data(0)).join("run/ready.json")));
        self.start(0, &[&["up", "--no-probe"], settings].concat());
        self.wait("the server serves", Duration::from_secs(60), |hosts| hosts.is_ready(0));
    }

    /// The audit log, as the API gives it.
    pub fn audit(&self) -> String {
        let script = "import sys, urllib.request as r; print(r.urlopen(r.Request(\
            'http://127.0.0.1:8080/api/audit', headers={'Authorization': 'Bearer ' + sys.argv[1]})).read().decode())";
        let token = self.api_token("admin");
        let output = self.at[0].run(Path::new("python3"), &["-c", script, &token]).expect("runs");
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// So many hosts on one network, the first a server, all joined.
    pub fn joined(count: usize) -> Self {
        let mut lab = Lab::new().expect("a lab");
        let network = lab.network().expect("a network");
        let at = (0..count).map(|_| lab.host(&network).expect("a host")).collect();
        let mut hosts = Self::with(lab, at, &[]);
        let token = hosts.token(&["--uses", &count.to_string()]);
        for number in 1..count {
            hosts.start(number, &["agent", "--join", &token]);
        }
        hosts
    }

    /// A server on one network and two hosts on another.
    pub fn apart() -> Self {
        let mut lab = Lab::new().expect("a lab");
        let (near, far) = (lab.network().expect("a network"), lab.network().expect("a network"));
        let at = [&near, &far, &far].map(|network| lab.host(network).expect("a host")).to_vec();
        Self::with(lab, at, &[])
    }

    /// A server with these settings and two hosts beside it.
    pub fn apart_but_near(settings: &[&str]) -> Self {
        let mut lab = Lab::new().expect("a lab");
        let network = lab.network().expect("a network");
        let at = (0..3).map(|_| lab.host(&network).expect("a host")).collect();
        Self::with(lab, at, settings)
    }

    /// The code that a waiting machine prints.
    pub fn shown_code(&self, number: usize) -> Option<String> {
        let printed = self.processes[&number].output();
        let is_code = |word: &&str| {
            let halves: Vec<&str> = word.split('-').collect();
            halves.len() == 2 && halves.iter().all(|half| half.len() == 4)
        };
        printed.split_whitespace().find(is_code).map(str::to_owned)
    }

    pub fn discovered(&self) -> String {
        self.run(0, &["machines", "--json", "--token", &self.api_token("read")])
    }

    pub fn machine_id(&self, name: &str) -> String {
        let list: Value = serde_json::from_str(&self.discovered()).expect("json");
        let machines = list["machines"].as_array().expect("machines");
        let machine = machines.iter().find(|machine| machine["hostname"] == name).expect("it was heard");
        machine["machine_id"].as_str().expect("its id").to_owned()
    }

    pub fn approve(&self, machine_id: &str, code: &str) -> String {
        let token = self.api_token("admin");
        self.run(0, &["nodes", "approve", machine_id, "--code", code, "--token", &token])
    }

    pub fn wait_for<T>(&self, what: &str, at_most: Duration, look: impl Fn(&Self) -> Option<T>) -> T {
        wait::until(what, at_most, || look(self))
    }

    pub fn start(&mut self, number: usize, arguments: &[&str]) {
        let (data, name) = (self.data(number), format!("h{number}"));
        let mut command = self.at[number].command(Path::new(BINARY));
        command
            .args(arguments)
            .args(["--data", &data, "--name", &name])
            .env("HOME", self.folder.path())
            .env("CAELUM_SERVER_ADMIN_PASSWORD", "correct-horse-battery");
        self.processes.insert(number, Process::start(command, &name, self.folder.path()).expect("starts"));
    }

    /// Runs a command to its end; what it prints, errors included.
    pub fn run(&self, number: usize, arguments: &[&str]) -> String {
        let data = self.data(number);
        let output =
            self.at[number].run(Path::new(BINARY), &[arguments, &["--data", &data]].concat()).expect("runs");
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    pub fn token(&self, arguments: &[&str]) -> String {
        let printed = self.run(0, &[&["token", "join"], arguments].concat());
        printed.trim().lines().last().expect("it prints the token").to_owned()
    }

    /// Revokes the newest join token.
    pub fn revoke_token(&self) {
        let list: Value = serde_json::from_str(&self.run(0, &["token", "list", "--json"])).expect("json");
        let tokens = list["join_tokens"].as_array().expect("a list");
        // Those made in one millisecond are told apart by what they still admit.
        let usable = tokens.iter().filter(|token| token["state"] == "valid");
        let newest = usable.max_by_key(|token| token["created_at_ms"].as_i64()).expect("one");
        self.run(0, &["token", "revoke", newest["token_id"].as_str().expect("its id")]);
    }

    /// A token of a cluster that lives elsewhere, but names this server's address.
    pub fn token_of_another_cluster(&self) -> String {
        let other = caelum_testkit::server::Plan::new(BINARY).start().expect("starts");
        let server = format!("{}:8080", self.at[0].ip);
        let data = other.data();
        let data = data.to_str().expect("plain");
        let output = other.run(&["token", "join", "--server", &server, "--data", data]).expect("runs");
        String::from_utf8_lossy(&output.stdout).trim().lines().last().expect("a token").to_owned()
    }

    fn api_token(&self, scope: &str) -> String {
        let printed = self.run(0, &["token", "new", "--scope", scope]);
        printed.trim().lines().last().expect("it prints the token").to_owned()
    }

    pub fn nodes(&self) -> String {
        self.run(0, &["nodes", "--json", "--token", &self.api_token("read")])
    }

    pub fn machines(&self) -> BTreeSet<String> {
        let token = self.api_token("read");
        let printed = self.run(0, &["topology", "--json", "--token", &token]);
        let topology: Value =
            serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"));
        let nodes = topology["nodes"].as_array().expect("nodes");
        nodes.iter().map(|node| node["id"].to_string()).collect()
    }

    /// Links that end at the server.
    pub fn links_of_server(&self) -> usize {
        let token = self.api_token("read");
        let printed = self.run(0, &["topology", "--json", "--token", &token]);
        let Ok(topology) = serde_json::from_str::<Value>(&printed) else { return 0 };
        let own = self.node_id(0);
        let edges = topology["edges"].as_array().cloned().unwrap_or_default();
        edges.iter().filter(|edge| edge["from"] == own.as_str() || edge["to"] == own.as_str()).count()
    }

    pub fn api_delete_node(&self, name: &str) -> String {
        self.run(0, &["nodes", "revoke", name, "--token", &self.api_token("admin")])
    }

    pub fn node_id(&self, number: usize) -> String {
        let token = self.api_token("read");
        let printed = self.run(0, &["nodes", "--json", "--token", &token]);
        let list: Value = serde_json::from_str(&printed).expect("json");
        let name = format!("h{number}");
        let node = list["nodes"].as_array().expect("nodes").iter().find(|node| node["name"] == name.as_str());
        node.and_then(|node| node["node_id"].as_str()).unwrap_or_default().to_owned()
    }

    pub fn has_joined(&self, number: usize) -> bool {
        PathBuf::from(self.data(number)).join("secrets/cluster.json").exists()
    }

    fn is_ready(&self, number: usize) -> bool {
        PathBuf::from(self.data(number)).join("run/ready.json").exists()
    }

    fn data(&self, number: usize) -> String {
        self.folder.path().join(format!("d{number}")).to_str().expect("plain").to_owned()
    }

    pub fn kill(&mut self, number: usize) {
        self.processes.get_mut(&number).expect("runs").kill();
    }

    pub fn stop(&mut self, number: usize) {
        let process = self.processes.get_mut(&number).expect("runs");
        process.terminate();
        process.wait_for_end(Duration::from_secs(10));
    }

    /// Stops the process for a while; its kernel goes on.
    pub fn freeze(&self, number: usize, time: Duration) {
        let pid = i32::try_from(self.processes[&number].pid()).expect("a process id");
        // SAFETY: the process is our child and has not been waited for.
        unsafe { libc::kill(pid, libc::SIGSTOP) };
        wait::pass(time);
        // SAFETY: as above.
        unsafe { libc::kill(pid, libc::SIGCONT) };
    }

    /// Long enough for a wrong belief to be formed.
    pub fn settle(&self) {
        wait::pass(Duration::from_secs(2));
    }

    pub fn others(&self, but: &[usize]) -> Vec<usize> {
        (0..self.at.len()).filter(|number| !but.contains(number)).collect()
    }

    /// Memory that the host's program holds, bytes.
    pub fn resident(&self, number: usize) -> u64 {
        measure::resident_bytes(self.processes[&number].pid()).expect("it runs").0
    }

    pub fn log(&self, number: usize) -> String {
        self.processes[&number].log()
    }

    /// The names that a host believes something about, by its newest word on each.
    fn believed(&self, number: usize, code: &str) -> BTreeSet<String> {
        let mut newest: BTreeMap<String, String> = BTreeMap::new();
        for line in self.log(number).lines() {
            let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
            let (Some(found), Some(text)) = (line["code"].as_str(), line["message"].as_str()) else {
                continue;
            };
            if found.starts_with("membership.") {
                let name = text.split(' ').next().unwrap_or_default();
                newest.insert(name.to_owned(), found.to_owned());
            }
        }
        newest.into_iter().filter(|(_, found)| found == code).map(|(name, _)| name).collect()
    }

    pub fn alive(&self, number: usize) -> BTreeSet<String> {
        self.believed(number, "membership.node_alive")
    }

    pub fn dead(&self, number: usize) -> BTreeSet<String> {
        self.believed(number, "membership.node_dead")
    }

    pub fn left(&self, number: usize) -> BTreeSet<String> {
        self.believed(number, "membership.node_left")
    }

    pub fn wait(&self, what: &str, at_most: Duration, holds: impl Fn(&Self) -> bool) {
        wait::until(what, at_most, || holds(self).then_some(()));
    }
}
