//! How machines join and are shut out, with the real program on both sides.

use std::{fs, path::Path, process::Output};

use caelum_testkit::server::{Plan, Server};
use serde_json::Value;

/// What a command printed, and that it went well.
#[track_caller]
fn fine(output: Output) -> String {
    let text = String::from_utf8(output.stdout).expect("is text");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// What a command complained of.
#[track_caller]
fn refused(output: Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).expect("is text")
}

struct Site {
    server: Server,
    data: String,
}

impl Site {
    fn new() -> Self {
        let server = Plan::new(env!("CARGO_BIN_EXE_caelum")).start().expect("the server starts");
        let data = server.data().to_str().expect("plain names").to_owned();
        Self { server, data }
    }

    fn invite(&self, more: &[&str]) -> String {
        let arguments = [&["token", "join", "--data", &self.data], more].concat();
        let printed = fine(self.server.run(&arguments).expect("runs"));
        printed.lines().last().expect("a token is printed").to_owned()
    }

    fn join(&self, token: &str, folder: &str, more: &[&str]) -> Output {
        let folder = self.server.folder().join(folder);
        let folder = folder.to_str().expect("plain names");
        self.server.run(&[&["join", token, "--data", folder], more].concat()).expect("runs")
    }

    fn kept(&self, folder: &str, file: &str) -> String {
        let path = self.server.folder().join(folder).join("secrets").join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

#[tokio::test]
async fn a_machine_joins_once_and_is_shut_out_for_good() {
    let site = Site::new();
    let token = site.invite(&[]);
    let printed = fine(site.join(&token, "one", &["--ceiling", "shell"]));
    let id = site.kept("one", "node.id");
    assert!(printed.contains(&id) && printed.contains("caelum agent --data"), "{printed}");
    let cluster: Value = serde_json::from_str(&site.kept("one", "cluster.json")).expect("is JSON");
    assert_eq!((&cluster["ceiling"], &cluster["role"]), (&"shell".into(), &"agent".into()));
    assert_eq!(cluster["servers"][0], format!("127.0.0.1:{}", site.server.port()));
    let authority = fs::read_to_string(Path::new(&site.data).join("secrets/ca.pem")).expect("is there");
    assert_eq!(site.kept("one", "ca.pem"), authority);
    let keys = fs::read_to_string(Path::new(&site.data).join("secrets/cluster.keys")).expect("is there");
    assert_eq!(site.kept("one", "cluster.keys"), keys);
    assert!(site.kept("one", "node.key").contains("PRIVATE KEY"));

    let said = refused(site.join(&token, "two", &[]));
    assert!(said.contains("join_token_used_up"), "{said}");
    let listed = fine(site.server.run(&["token", "list", "--data", &site.data]).expect("runs"));
    assert!(listed.contains("1 of 1 machines as agent") && listed.contains("used up"), "{listed}");

    let admin = site.server.token("admin").expect("a token is made");
    let revoke = ["nodes", "revoke", &id, "--data", &site.data, "--token", &admin];
    assert!(fine(site.server.run(&revoke).expect("runs")).contains("is shut out"));
    let said = refused(site.join(&site.invite(&["--uses", "3"]), "one", &[]));
    assert!(said.contains("node_revoked"), "{said}");
    let renewed = fs::read_to_string(Path::new(&site.data).join("secrets/cluster.keys")).expect("is there");
    assert!(renewed != keys && renewed.contains("\"generation\":2"));
    let api = site.server.api().expect("the authority is there").with_token(&admin);
    let audit = api.json("/api/audit").await.expect("answers");
    let has = |action: &str, outcome: &str| {
        let lines = audit["audit"].as_array().expect("a list").iter();
        lines.filter(|line| line["action"] == action).any(|line| line["outcome"] == outcome)
    };
    assert!(has("node.join", "done") && has("node.join", "refused: join_token_used_up"), "{audit}");
    assert!(has("node.revoke", "done") && has("node.join", "refused: node_revoked"), "{audit}");
}

#[test]
fn a_machine_that_cannot_trust_or_reach_the_server_keeps_no_cluster() {
    let (site, other) = (Site::new(), Site::new());
    // A token of one cluster that leads to the server of another.
    let elsewhere = format!("127.0.0.1:{}", other.server.port());
    let said = refused(site.join(&site.invite(&["--server", &elsewhere]), "one", &[]));
    assert!(said.contains("the secret was not sent"), "{said}");
    let nowhere = site.join(&site.invite(&["--server", "127.0.0.1:9"]), "one", &[]);
    assert_eq!(nowhere.status.code(), Some(69));
    assert!(!site.server.folder().join("one/secrets/cluster.json").exists());
    let said = refused(site.join("caelum-join.nonsense", "one", &[]));
    assert!(said.contains("copied whole"), "{said}");
    // A server is no newcomer.
    let own = site.server.run(&["join", &other.invite(&[]), "--data", &site.data]).expect("runs");
    assert!(refused(own).contains("a cluster of its own"));
}

#[test]
fn a_revoked_token_admits_nobody_and_a_node_of_one_cluster_does_not_slip_into_another() {
    let (site, other) = (Site::new(), Site::new());
    let token = site.invite(&["--expires", "1h"]);
    let listed = site.server.run(&["token", "list", "--json", "--data", &site.data]).expect("runs");
    let listed: Value = serde_json::from_str(&fine(listed)).expect("is JSON");
    let id = listed["join_tokens"][0]["token_id"].as_str().expect("is listed");
    fine(site.server.run(&["token", "revoke", id, "--data", &site.data]).expect("runs"));
    assert!(refused(site.join(&token, "one", &[])).contains("join_token_revoked"));

    fine(site.join(&site.invite(&[]), "one", &[]));
    assert!(refused(site.join(&other.invite(&[]), "one", &[])).contains("belongs to a node of"));
}
