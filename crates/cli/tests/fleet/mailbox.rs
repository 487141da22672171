//! Machines that reach no server: they join through what servers share, with accounts that can do nothing else.

use caelum_testkit::{
    fleet::{Fleet, PATIENCE},
    redis::RedisServer,
    server::{Plan, Server},
    wait,
};

use crate::{BINARY, fleet};

/// An address where nobody listens.
const NOWHERE: &str = "127.0.0.1:9";

/// A token that leads to no server, and to a mailbox.
fn invite(server: &Server, role: &str, mailbox: &str) -> String {
    let data = server.data();
    let data = data.to_str().expect("plain names");
    let words = ["token", "join", "--role", role, "--server", NOWHERE, "--mailbox", mailbox, "--data", data];
    let output = server.run(&words).expect("runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text.lines().last().expect("a token").to_owned()
}

/// What the server says that makes an account for machines, and its address; with a password put in.
async fn account(fleet: &Fleet, kind: &str) -> (Vec<String>, String) {
    let api = fleet.admin(0).expect("a client");
    let listed = api.json("/api/fleet/packages/mailboxes").await.expect("answers");
    let mailboxes = listed["mailboxes"].as_array().expect("a list").clone();
    let found = mailboxes.into_iter().find(|mailbox| mailbox["kind"] == kind).expect("is looked into");
    let rights = found["rights"].as_array().expect("a list").iter();
    let rights = rights.map(|line| line.as_str().expect("text").replace("CHOOSE-ONE", "j0in")).collect();
    (rights, found["example"].as_str().expect("text").replace("CHOOSE-ONE", "j0in"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_join_through_postgresql_and_redis_without_reaching_a_server() {
    let redis = RedisServer::start_for("caelum", "s3cret", "~* +@all").expect("starts");
    let mut fleet = fleet(1, &[("CAELUM_CLUSTER_ADDRESS", &redis.url())]).await;

    let (rights, address) = account(&fleet, "postgres").await;
    for line in rights {
        fleet.records.psql("postgres", &line).expect("made");
    }
    let token = invite(&fleet.servers[0], "server", &address);
    let second = fleet.plan().with(&["--join", &token]).start().expect("joins through PostgreSQL");
    fleet.servers.push(second);
    fleet.see_each_other(2).await.expect("they can be asked");

    let (rights, address) = account(&fleet, "redis").await;
    for line in rights {
        redis.ask(&line.split(' ').collect::<Vec<_>>()).expect("made");
    }
    let token = invite(&fleet.servers[0], "server", &address);
    let third = fleet.plan().with(&["--join", &token]).start().expect("joins through Redis");
    fleet.servers.push(third);
    fleet.see_each_other(3).await.expect("they can be asked");

    // The token is used: a second machine is told so, by a server that it does not reach.
    let refusal = fleet.plan().with(&["--join", &token]).start().expect_err("it was used");
    assert!(format!("{refusal:#}").contains("used up"), "{refusal:#}");
    let left = fleet.records.psql("postgres", "select string_agg(value, '') from mailbox").expect("asked");
    assert!(!left.contains("BEGIN") && !left.contains("postgres://"), "{left}");
    // An account of the servers' own is put into no package that is not sealed.
    let data = fleet.servers[0].data();
    let (data, token) = (data.to_str().expect("plain names"), fleet.servers[0].token("admin").expect("made"));
    let own = redis.url();
    let words = ["package", "build", "--mailbox", &own, "-o", "-", "--data", data, "--token", &token];
    let output = fleet.servers[0].run(&words).expect("runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("ACL SETUSER caelum-join"), "{said}");
    assert!(!said.contains("s3cret"), "{said}");
    let words = ["package", "mailboxes", "--data", data, "--token", &token];
    let output = fleet.servers[0].run(&words).expect("runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("grant execute on function") && said.contains("looked into"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_joins_through_a_directory_and_says_why_where_it_cannot() {
    let shared = tempfile::tempdir().expect("a folder");
    let place = format!("file:{}", shared.path().display());
    let server = Plan::new(BINARY).with_variable("CAELUM_CLUSTER_ADDRESS", &place).start().expect("starts");
    let token = invite(&server, "agent", &place);
    let folder = server.folder().join("agent");
    let data = folder.to_str().expect("plain names");
    let joined = server.run(&["join", &token, "--data", data]).expect("runs");
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    let kept = std::fs::read_to_string(folder.join("secrets/cluster.json")).expect("has joined");
    assert!(kept.contains(&format!("127.0.0.1:{}", server.port())), "{kept}");
    // Another machine with the same token.
    let other = server.folder().join("other");
    let refused =
        server.run(&["join", &token, "--data", other.to_str().expect("plain names")]).expect("runs");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("used up"), "{said}");
    let api = server.api().expect("a client").with_token(&server.token("admin").expect("made"));
    wait::until_answered("both attempts are in the audit log", PATIENCE, async || {
        let log = api.json("/api/audit").await.ok()?.to_string();
        (log.contains("through the mailbox") && log.contains("join_token_used_up")).then_some(())
    })
    .await;
}
