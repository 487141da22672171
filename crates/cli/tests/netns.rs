//! Real hosts on networks of their own: the built program, killed, frozen, cut off, split and attacked.
//!
//! Times are read from what the programs log, all by one kernel's clock. What is asserted is who knows what in
//! the end; how fast, within the generous limits of a machine that is busy with other tests.

mod hosts;

use std::{net::IpAddr, path::Path, time::Duration};

use caelum_testkit::flood;
use hosts::Hosts;

const SOON: Duration = Duration::from_secs(60);

#[test]
fn twelve_hosts_link_once_each_and_notice_who_is_killed_cut_off_or_merely_frozen() {
    let mut hosts = Hosts::joined(12);
    hosts.wait("all know all", SOON, |hosts| (0..12).all(|one| hosts.alive(one).len() == 11));
    hosts.wait("each pair has one link", SOON, |hosts| hosts.links_of_server() == 11);

    hosts.kill(4);
    hosts.wait("all know who was killed", SOON, |hosts| {
        hosts.others(&[4]).iter().all(|one| hosts.dead(*one).contains("h4"))
    });

    hosts.lab.cut(&hosts.at[7].clone()).expect("cut");
    hosts.wait("all know who was cut off", SOON, |hosts| {
        hosts.others(&[4, 7]).iter().all(|one| hosts.dead(*one).contains("h7"))
    });
    hosts.lab.join(&hosts.at[7].clone()).expect("joined");
    hosts.wait("the split heals by itself", SOON, |hosts| {
        hosts.others(&[4, 7]).iter().all(|one| hosts.alive(*one).contains("h7"))
    });

    hosts.freeze(2, Duration::from_secs(4));
    hosts.settle();
    let dead = hosts.others(&[4]).iter().any(|one| hosts.dead(*one).contains("h2"));
    assert!(!dead, "a process that stood still is not dead");

    hosts.stop(9);
    hosts.wait("a goodbye is believed", SOON, |hosts| {
        hosts.others(&[4, 9]).iter().all(|one| hosts.left(*one).contains("h9"))
    });
}

#[test]
fn forged_replayed_and_malformed_datagrams_change_nothing_and_take_no_memory() {
    let hosts = Hosts::joined(3);
    hosts.wait("all know all", SOON, |hosts| (0..3).all(|one| hosts.alive(one).len() == 2));
    let attacker = &hosts.at[2];
    let everybody = IpAddr::from([10, 77, 0, 255]);
    let real = attacker.inside(|| flood::overhear(everybody, Duration::from_secs(1))).expect("overheard");
    assert!(!real.is_empty(), "whoever asks is answered");
    let (before, resident) = (hosts.machines(), hosts.resident(1));
    let address = |number: usize| hosts.at[number].ip.parse::<IpAddr>().expect("an address");
    let (target, from) = (address(1), [address(2)]);
    attacker.inside(|| flood::send(target, &from, &real, 20_000, 50_000)).expect("sent");
    hosts.settle();
    assert_eq!(hosts.machines(), before, "no machine more or less");
    assert!((0..3).all(|one| hosts.dead(one).is_empty()), "nobody was believed dead");
    assert!((0..3).all(|one| !hosts.alive(one).iter().any(|name| name.contains("ghost"))));
    let grown = hosts.resident(1).saturating_sub(resident);
    assert!(grown < 24 << 20, "it has grown by {grown} bytes");
}

#[test]
fn hosts_without_multicast_on_two_networks_join_by_token_and_bad_tokens_are_refused() {
    let mut hosts = Hosts::apart();
    hosts.lab.route().expect("routed");
    hosts.at[1].without_multicast().expect("taken away");
    let token = hosts.token(&["--uses", "1"]);
    hosts.start(1, &["agent", "--join", &token, "--beacon-broadcast", "false"]);
    hosts.wait("it has joined over the router", SOON, |hosts| hosts.alive(0).contains("h1"));

    let used_up = hosts.run(2, &["join", &token]);
    assert!(used_up.contains("join_token_used_up"), "{used_up}");
    let expired = hosts.token(&["--expires", "1s"]);
    hosts.wait("a token is over", SOON, |hosts| hosts.run(0, &["token", "list"]).contains("expired"));
    let over = hosts.run(2, &["join", &expired]);
    assert!(over.contains("join_token_expired"), "{over}");
    let valid = hosts.token(&[]);
    hosts.revoke_token();
    let revoked = hosts.run(2, &["join", &valid]);
    assert!(revoked.contains("join_token_revoked"), "{revoked}");
    let other = hosts.token_of_another_cluster();
    let refused = hosts.run(2, &["join", &other]);
    assert!(refused.contains("the secret was not sent"), "{refused}");
    assert!(!hosts.has_joined(2), "nothing is kept of a refusal");

    let out = hosts.api_delete_node("h1");
    assert!(out.contains("shut out"), "{out}");
    hosts.wait("a revoked node is cut off", SOON, |hosts| {
        hosts.log(1).contains("link.down") && !hosts.nodes().contains("\"h1\"")
    });
}

#[test]
fn a_machine_that_shows_its_code_is_adopted_and_a_stranger_is_answered_where_the_cluster_is_open() {
    let mut hosts = Hosts::apart_but_near(&["--cluster-open", "true"]);
    hosts.start(1, &["agent"]);
    let code = hosts.wait_for("it shows a code", SOON, |hosts| hosts.shown_code(1));
    hosts.wait("it is heard", SOON, |hosts| hosts.discovered().contains("h1"));
    let id = hosts.machine_id("h1");
    let refused = hosts.approve(&id, "AAAA-AAAA");
    assert!(refused.contains("code"), "{refused}");
    hosts.wait("after a wrong code, the right one has to wait a moment", SOON, |hosts| {
        !hosts.approve(&id, &code).contains("rate_limited")
    });
    hosts.wait("it is a node", SOON, |hosts| hosts.alive(0).contains("h1"));

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stranger/stranger.py");
    let server = hosts.at[0].ip.clone();
    let output = hosts.at[2].run(Path::new("python3"), &[script, &server, "8080"]).expect("runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!hosts.alive(0).iter().any(|name| name.contains("stranger")), "a stranger is no node");
}

#[test]
fn a_network_without_access_is_refused_at_join_link_and_beacon_and_one_with_access_is_let_in() {
    let mut hosts = Hosts::unserved();
    let (near, far) = (hosts.at[1].ip.clone(), hosts.at[2].ip.clone());
    hosts.serve(&["--cluster-access", &near]);
    let token = hosts.token(&["--uses", "2"]);
    hosts.start(1, &["agent", "--join", &token]);
    hosts.wait("whoever has access is let in", SOON, |hosts| hosts.alive(0).contains("h1"));
    let refused = hosts.run(2, &["join", &token]);
    assert!(refused.contains("join_not_allowed_from_here"), "{refused}");
    assert!(!hosts.has_joined(2), "nothing is kept of a refusal");

    // Its access is taken away after it has joined: its certificate is good, and its network is not.
    hosts.stop(0);
    hosts.serve(&["--cluster-access", &format!("{near},{far}")]);
    hosts.start(2, &["agent", "--join", &token]);
    hosts.wait("both are let in", SOON, |hosts| {
        ["h1", "h2"].iter().all(|name| hosts.alive(0).contains(*name))
    });
    hosts.stop(0);
    hosts.serve(&["--cluster-access", &near]);
    let is_told = |hosts: &Hosts, what: &str| {
        hosts.log(0).lines().any(|line| {
            line.contains("access.refused") && line.contains(&format!("refused a {what} from {far}"))
        })
    };
    hosts.wait("its links are refused, and said to be", SOON, |hosts| is_told(hosts, "link"));
    hosts.wait("so are its beacons", SOON, |hosts| is_told(hosts, "beacon"));
    hosts.wait("both are in the audit log", SOON, |hosts| {
        let audited = hosts.audit();
        ["access.link", "access.beacon", "not_allowed_from_here"].iter().all(|one| audited.contains(one))
    });
    hosts.wait("only the one with access is linked", SOON, |hosts| hosts.links_of_server() == 1);
    assert!(!hosts.discovered().contains(&format!("\"{far}\"")), "it is not even heard");
}
