//! A server and hosts: what the tests here are made of.

use std::net::Ipv4Addr;

use caelum_testkit::{
    api::Api,
    server::{Plan, Server},
    sshd::{self, Sshd},
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// A server whose API is open to an operator.
pub struct Lab {
    pub server: Server,
    pub api: Api,
    pub user: String,
}

impl Lab {
    /// With these flags.
    pub async fn start(flags: &[&str]) -> Self {
        Self::of(Plan::new(env!("CARGO_BIN_EXE_caelum")).with(flags))
    }

    /// The same where other hosts reach it.
    pub async fn start_on_every_address(flags: &[&str]) -> Self {
        Self::of(Plan::new(env!("CARGO_BIN_EXE_caelum")).on_every_address().with(flags))
    }

    fn of(plan: Plan) -> Self {
        let user = sshd::user().expect("a user");
        let plan = plan.with(&["--ssh-user", &user]);
        let server = plan.start().expect("the server starts");
        let token = server.token("operate").expect("a token");
        let api = server.api().expect("an address").with_token(&token);
        Self { server, api, user }
    }

    /// The line that lets the cluster in.
    pub async fn key(&self) -> String {
        let key = self.api.json("/api/ssh/key").await.expect("answers");
        key["public_key"].as_str().expect("a key").to_owned()
    }

    /// An sshd at `count` addresses from `first` on, which lets the cluster in.
    pub async fn sshd(&self, first: u16, count: u16) -> Sshd {
        let addresses: Vec<Ipv4Addr> = (first..first + count).map(address).collect();
        let more = "MaxStartups 100\nMaxSessions 10\n";
        Sshd::start_with(&self.key().await, &addresses, more).expect("sshd starts")
    }

    /// Adds the hosts of an sshd as `h-NUMBER`, and accepts their key.
    pub async fn add_all(&self, sshd: &Sshd, first: u16) {
        for (number, address) in (first..).zip(sshd.addresses()) {
            self.add(&format!("h-{number}"), &address.to_string(), sshd.port()).await;
            self.accept(&address.to_string(), sshd.port(), &sshd.host_key().expect("a key")).await;
        }
    }

    pub async fn add(&self, name: &str, address: &str, port: u16) {
        let host = json!({ "name": name, "address": address, "port": port, "tags": ["lab"] });
        let (status, answer) = self.post("/api/ssh/hosts", host).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
    }

    pub async fn accept(&self, address: &str, port: u16, key: &str) {
        let entries = json!({ "entries": [{ "host": address, "port": port, "key": key }] });
        let (status, answer) = self.post("/api/ssh/known-hosts", entries).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
    }

    pub async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        post(&self.api, path, body).await
    }

    /// Runs a command on one host.
    pub async fn execute(&self, node: &str, command: &str) -> Value {
        let wish = json!({ "node_id": node, "command": command, "timeout": 60 });
        let (status, answer) = self.post("/api/ssh/execute", wish).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    /// Runs a command on all hosts with the tag of this lab.
    pub async fn broadcast(&self, command: &str) -> Value {
        let wish = json!({ "command": command, "on": ["tag=lab"], "timeout": 60 });
        let (status, answer) = self.post("/api/ssh/broadcast", wish).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    pub async fn stats(&self) -> Value {
        self.api.json("/api/ssh/pool/stats").await.expect("answers")
    }

    /// The lines of the audit log about commands, newest first: who, what on what, how it ended.
    pub async fn audit(&self) -> Vec<(String, String, String)> {
        let admin = self.api.signed_in().await.expect("signs in");
        let log = admin.json("/api/audit?limit=500").await.expect("answers");
        let entries = log["audit"].as_array().expect("lines").clone();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        entries
            .iter()
            .filter(|entry| text(&entry["action"]).starts_with("ssh."))
            .map(|entry| (text(&entry["actor"]), text(&entry["subject"]), text(&entry["outcome"])))
            .collect()
    }
}

/// How long the slowest of those took that ended well, ms.
pub fn slowest_ms(answer: &Value) -> Option<i64> {
    let results = answer["results"].as_array().expect("results").iter();
    let well = results.filter(|result| result["outcome"] == "ok");
    well.filter_map(|result| result["duration_ms"].as_i64()).max()
}

pub async fn post(api: &Api, path: &str, body: Value) -> (StatusCode, Value) {
    let answer = api.request(Method::POST, path).json(&body).send().await.expect("answers");
    (answer.status(), answer.json().await.unwrap_or(Value::Null))
}

/// The loopback address of a number.
pub fn address(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, 0, high + 1, low)
}
