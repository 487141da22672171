//! By what servers are trusted: one authority in the records, and a master key that opens it.

use std::fs;

use caelum_testkit::{
    fleet::{PATIENCE, invite},
    nats::NatsServer,
    postgres,
    server::Plan,
    wait,
};

use crate::{BINARY, fleet};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_joined_by_a_token_admits_agents_and_needs_nothing_but_its_data() {
    let mut fleet = fleet(2, &[]).await;
    let secret = |nth: usize, name: &str| {
        fs::read_to_string(fleet.servers[nth].data().join("secrets").join(name)).expect("is there")
    };
    assert_eq!(secret(0, "ca.pem"), secret(1, "ca.pem"));
    assert_eq!(secret(0, "master.key"), secret(1, "master.key"));
    assert_ne!(secret(0, "node.id"), secret(1, "node.id"));
    assert!(!fleet.servers[1].data().join("secrets/ca.key").exists(), "it is sealed in the records");
    let sealed = fleet.records.psql("postgres", "select string_agg(value, '') from meta").expect("asked");
    assert!(sealed.contains("sealed") && !sealed.contains("PRIVATE KEY"));

    // An agent that the second one admits gets nothing of a server's.
    let second = &fleet.servers[1];
    let token = invite(second, "agent").expect("made");
    let folder = second.folder().join("agent");
    let data = folder.to_str().expect("plain names");
    let joined = second.run(&["join", &token, "--data", data]).expect("runs");
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    assert!(!folder.join("secrets/master.key").exists() && !folder.join("secrets/grant.json").exists());
    let listen =
        ["agent", "--data", data, "--listen", "127.0.0.1:0", "--no-probe", "--beacon-enabled", "false"];
    let _agent = second.spawn("agent", &listen).expect("starts");
    let id = fs::read_to_string(folder.join("secrets/node.id")).expect("is there");
    for nth in 0..2 {
        let api = fleet.admin(nth).expect("a client");
        wait::until_answered("every server shows the agent, linked to it", PATIENCE, async || {
            let node = api.json(&format!("/api/nodes/{id}")).await.ok()?;
            (node["status"] == "healthy" || node["status"] == "warning" || node["status"] == "critical")
                .then_some(())
        })
        .await;
    }
    // Both are told to the agent, so that it survives either.
    wait::until("the agent knows both servers", PATIENCE, || {
        let kept = fs::read_to_string(folder.join("secrets/cluster.json")).ok()?;
        let places = [fleet.servers[0].port(), fleet.servers[1].port()];
        places.iter().all(|port| kept.contains(&format!("127.0.0.1:{port}"))).then_some(())
    });

    // A restart without any of the words that it was started with.
    fleet.servers[1].kill();
    let data = fleet.servers[1].data();
    let again = fleet.plan().with_data(&data).start().expect("starts with its data alone");
    wait::until_answered("it sees the first again", PATIENCE, async || {
        let api = again.api().ok()?.with_token(&again.token("read").ok()?);
        let status = api.json("/api/fleet/cluster/status").await.ok()?;
        (status["active_nodes"] == 2).then_some(())
    })
    .await;
}

#[test]
fn servers_that_are_first_at_once_agree_on_one_authority() {
    let records = postgres::Plan::new().start().expect("starts");
    let stream = NatsServer::start().expect("starts");
    let (store, queue) = (records.url("postgres"), stream.url());
    let plan = || {
        Plan::new(BINARY)
            .as_one_of_several()
            .with_variable("CAELUM_CLUSTER_CLUSTER_SECRET", "a secret of at least thirty-two characters")
            .with(&["--store", &store, "--queue", &queue])
    };
    let starts: Vec<_> = (0..3)
        .map(|_| {
            let plan = plan();
            std::thread::spawn(move || plan.start())
        })
        .collect();
    let servers: Vec<_> =
        starts.into_iter().map(|start| start.join().expect("no panic").expect("starts")).collect();
    let authorities: Vec<_> = servers
        .iter()
        .map(|server| fs::read(server.data().join("secrets/ca.pem")).expect("is there"))
        .collect();
    assert!(authorities.windows(2).all(|pair| pair[0] == pair[1]));
    let users = records.psql("postgres", "select count(*) from users").expect("asked");
    assert_eq!(users, "1");
}

#[test]
fn a_server_without_the_right_master_key_is_told_what_to_do() {
    let records = postgres::Plan::new().start().expect("starts");
    let stream = NatsServer::start().expect("starts");
    let (store, queue) = (records.url("postgres"), stream.url());
    let plan = || Plan::new(BINARY).as_one_of_several().with(&["--store", &store, "--queue", &queue]);
    let _first = plan().start().expect("starts");
    let refusal = format!("{:#}", plan().start().expect_err("it has no key"));
    assert!(refusal.contains("no master key") && refusal.contains("caelum server --join"), "{refusal}");
    let other =
        plan().with_variable("CAELUM_CLUSTER_CLUSTER_SECRET", "another secret of thirty-two characters");
    let refusal = format!("{:#}", other.start().expect_err("it has another key"));
    assert!(
        refusal.contains("another master key") && refusal.contains("token join --role server"),
        "{refusal}"
    );
    let alone = Plan::new(BINARY).as_one_of_several().start().expect_err("a file is nobody else's");
    assert!(format!("{alone:#}").contains("--store postgres://"), "{alone:#}");
}
