//! The pages of discovery: machines that were heard, nodes that are gone, links that lose, and a thousand nodes.

use caelum_model::{
    cluster::{
        Ceiling, DiscoveryMethod, LinkView, Liveness, Machine, MachineKind, MachineState, Member, NodeRole,
        PeerView, Roster, Service,
    },
    node::LinkFacts,
};

use super::*;

fn heard(name: &str, state: MachineState) -> Machine {
    Machine {
        machine_id: format!("m-{}", name.len()),
        hostname: name.to_owned(),
        primary_ip: "203.0.113.1".into(),
        sender_ip: "198.51.100.73".into(),
        cluster_id: String::new(),
        cluster_name: String::new(),
        websocket_port: 8080,
        services: Vec::new(),
        last_seen: (NOW - 4_000) as f64 / 1000.0,
        discovery_method: DiscoveryMethod::UdpBeacon,
        kind: MachineKind::Caelum,
        state,
        authenticated: false,
        capabilities: None,
        role: None,
        reason: None,
    }
}

fn member(id: &str, name: &str, liveness: Liveness, rtt_ms: Option<f64>, loss_pct: f64) -> Member {
    Member {
        node_id: NodeId::parse(id).expect("valid"),
        name: name.to_owned(),
        role: Some(NodeRole::Agent),
        udp_addr: None,
        liveness,
        because: if liveness == Liveness::Alive { String::new() } else { "link closed".into() },
        since_ms: 180_000,
        link: rtt_ms.map(|rtt_ms| LinkView {
            remote: ([192, 0, 2, 9], 40_000).into(),
            is_dialled: true,
            age_ms: 3_600_000,
            rtt_ms: Some(rtt_ms),
            jitter_ms: Some(0.4),
            loss_pct: Some(loss_pct),
        }),
        services: Vec::new(),
        version: "0.1.0".into(),
        peers: Vec::new(),
    }
}

/// The picture of three machines with this roster; the node that looks is `hq-core-1`.
fn with(members: Vec<Member>, machines: Vec<Machine>) -> Picture {
    let mut picture = troubled();
    picture.scene.roster = Arc::new(Roster { members, machines });
    let scene = picture.scene.clone();
    picture.machines = picture
        .machines
        .into_iter()
        .map(|machine| picture::machine(machine.node, None, machine.spark, &scene))
        .collect();
    picture
}

fn machines_html(picture: &Picture, may_operate: bool, filter: &machines::Filter) -> String {
    machines::page(picture, reader(may_operate), filter).render().expect("renders")
}

fn topology_html(picture: &Picture, choice: &topology::Choice) -> String {
    topology::page(picture, reader(true), choice).render().expect("renders")
}

fn sentence(picture: &Picture) -> String {
    let html = topology_html(picture, &topology::Choice::default());
    let heading = html.split("<h1>").nth(1).and_then(|rest| rest.split("</h1>").next());
    heading.expect("one heading").replace('\u{a0}', " ")
}

#[test]
fn a_network_without_strangers_says_so_and_one_that_is_not_listened_to_says_that() {
    let mut picture = with(Vec::new(), Vec::new());
    let html = machines_html(&picture, true, &machines::Filter::default());
    assert!(html.contains("No machine has been heard that is not joined."));
    assert!(html.contains("data-act=\"discover\""));
    picture.scene.is_discovering = false;
    let html = machines_html(&picture, true, &machines::Filter::default());
    assert!(html.contains("<code>beacon.enabled</code> is off"));
    assert!(!html.contains("data-act=\"discover\""), "nothing to press that would be refused");
}

#[test]
fn a_stranger_has_the_one_act_that_helps_and_a_refusal_its_reason() {
    let rejected = Machine {
        cluster_id: "other".into(),
        cluster_name: HOSTILE.into(),
        reason: Some(format!("another cluster {HOSTILE}")),
        ..heard(HOSTILE, MachineState::Rejected)
    };
    let machines = vec![
        heard("lab-pi-3", MachineState::Discovered),
        rejected,
        heard("gone", MachineState::Lost),
        heard("joined-one", MachineState::Joined),
    ];
    let picture = with(Vec::new(), machines);
    let html = machines_html(&picture, true, &machines::Filter::default());
    keep("discovered-", "machines", &html);
    assert!(!html.contains("<script>alert"), "a name got out of its quotes");
    assert!(html.contains("Discovered <span class=\"count\">3</span>"), "nodes are not strangers");
    assert_eq!(html.matches("data-adopt=").count(), 1, "only what belongs to nobody is adopted");
    assert_eq!(html.matches("data-connect").count(), 1, "only what is there is dialled");
    assert!(html.contains("another cluster") && html.contains("Rejected") && html.contains("Lost"));
    assert!(html.contains("198.51.100.73") && !html.contains("203.0.113.1"), "the sender's address is shown");
    let viewer = machines_html(&picture, false, &machines::Filter::default());
    for act in ["data-adopt", "data-connect", "data-act=\"discover\"", "data-dialog"] {
        assert!(!viewer.contains(act), "a viewer sees {act}");
    }
}

#[test]
fn dialogs_open_by_address_for_those_without_a_script() {
    let picture = with(Vec::new(), vec![heard("lab-pi-3", MachineState::Discovered)]);
    let asking = machines::Filter { adopt: Some("m-8".into()), ..machines::Filter::default() };
    let html = machines_html(&picture, true, &asking);
    assert!(html.contains("id=\"adopt\" aria-labelledby=\"h-adopt\" open"));
    assert!(html.contains("name=\"machine_id\" value=\"m-8\""));
    let unknown = machines::Filter { adopt: Some(HOSTILE.into()), ..machines::Filter::default() };
    let html = machines_html(&picture, true, &unknown);
    assert!(!html.contains("h-adopt\" open") && !html.contains("<script>alert"));
    let adding = machines::Filter { ask: Some("machine".into()), ..machines::Filter::default() };
    assert!(machines_html(&picture, true, &adding).contains("aria-labelledby=\"h-add-machine\" open"));
}

#[test]
fn addresses_are_offered_for_trying_only_where_some_are_named() {
    let mut picture = with(Vec::new(), Vec::new());
    let filter = machines::Filter::default();
    assert!(!machines_html(&picture, true, &filter).contains("name=\"sweep\""));
    picture.scene.sweep = 254;
    let html = machines_html(&picture, true, &filter);
    assert!(html.contains("name=\"sweep\"") && html.contains("254\u{a0}addresses"));
}

#[test]
fn a_machine_that_membership_calls_dead_is_offline_at_once_with_the_reason() {
    // All three machines of the picture have names of their own lengths; n-10 reports right now.
    let dead = member("n-10", "hq-build-2", Liveness::Dead, None, 0.0);
    let picture = with(vec![dead], Vec::new());
    let html = machines_html(&picture, true, &machines::Filter::default());
    assert!(html.contains("Gone: link closed."), "{html}");
    let own = picture.machines.iter().find(|machine| machine.node.name == "hq-build-2").expect("there");
    assert_eq!(own.status, crate::pages::mark::Status::Off);
    assert_eq!(crate::pages::words::machine(own).sentence, "hq-build-2 is gone: link closed.");
}

#[test]
fn what_is_not_usual_about_a_node_is_said() {
    let mut picture = with(Vec::new(), Vec::new());
    let service =
        |status: &str| Service { name: "s".into(), kind: "http".into(), port: 1, status: status.into() };
    picture.machines[1].node.links = LinkFacts {
        role: Some(NodeRole::Agent),
        ceiling: Ceiling::Tasks,
        services: vec![service("running"), service("failed")],
        buffered_points: 1_203,
        ..LinkFacts::default()
    };
    let html = machines_html(&picture, true, &machines::Filter::default());
    assert!(html.contains("1 of 2") && html.contains("up to tasks"));
    let page = machine::page(&picture, &picture.machines[1], &[], reader(true)).render().expect("renders");
    let page = page.replace('\u{a0}', " ");
    assert!(page.contains("1,203 samples were buffered while no server was reachable."), "{page}");
    assert!(page.contains("lets servers go as far as tasks"));
}

#[test]
fn the_worst_thing_heads_the_topology() {
    let near = || member("n-10", "near", Liveness::Alive, Some(0.6), 0.0);
    let third = || member("n-12", "x", Liveness::Alive, None, 0.0);
    assert_eq!(sentence(&with(vec![near()], Vec::new())), "edge-perth-1 is not seen by this node.");
    let far = || member("n-far", "far", Liveness::Alive, Some(34.0), 0.0);
    assert_eq!(
        sentence(&with(vec![near(), far(), third()], Vec::new())),
        "All 4 nodes see each other; the slowest link is hq-core-1 – far at 34 ms."
    );
    let lossy = member("n-lossy", "lossy", Liveness::Alive, Some(148.0), 3.8);
    assert_eq!(
        sentence(&with(vec![near(), lossy.clone(), third()], Vec::new())),
        "The link hq-core-1 – lossy loses 3.8 % of its packets."
    );
    let doubted = member("n-doubt", "doubted", Liveness::Suspect, None, 0.0);
    assert_eq!(
        sentence(&with(vec![lossy.clone(), doubted.clone()], Vec::new())),
        "doubted may be gone: link closed, 3 min ago."
    );
    let dead = member("n-dead", "n-x", Liveness::Dead, None, 0.0);
    let other = member("n-dead-2", "n-y", Liveness::Dead, None, 0.0);
    assert_eq!(
        sentence(&with(vec![doubted, dead, other], Vec::new())),
        "n-x is gone: link closed, 3 min ago; 1 other too."
    );
}

#[test]
fn a_lossy_link_is_told_by_dash_word_and_number_and_can_be_looked_at_closer() {
    let mut lossy = member("n-lossy", HOSTILE, Liveness::Alive, Some(148.0), 3.8);
    lossy.peers = vec![PeerView {
        node_id: NodeId::parse("n-10").expect("valid"),
        rtt_ms: Some(9.0),
        loss_pct: Some(0.0),
    }];
    let picture = with(vec![lossy, member("n-10", "b", Liveness::Alive, None, 0.0)], Vec::new());
    let choice = topology::Choice { link: Some("n-lossy,n-9".into()), sort: None };
    let html = topology_html(&picture, &choice);
    keep("lossy-", "topology", &html);
    assert!(!html.contains("<script>alert"), "a name got out of its quotes");
    assert!(html.contains("ray--lossy") && html.contains("3.8\u{a0}% lost"));
    assert!(html.contains("Losing packets"));
    for fact in ["Jitter", "Dialled by", "192.0.2.9:40000", "Measured by this node"] {
        assert!(html.contains(fact), "{fact}");
    }
    let reported = topology::Choice { link: Some("n-10,n-lossy".into()), sort: None };
    assert!(topology_html(&picture, &reported).contains("this node has no part in this link"));
    let none = topology::Choice { link: Some(HOSTILE.into()), sort: Some(HOSTILE.into()) };
    assert!(topology_html(&picture, &none).contains("These two are not linked now."));
}

#[test]
fn the_table_of_links_begins_with_the_worst_and_is_ordered_as_asked() {
    let members = vec![
        member("n-a", "aa", Liveness::Alive, Some(1.0), 0.0),
        member("n-b", "bb", Liveness::Alive, Some(90.0), 0.0),
        member("n-c", "cc", Liveness::Alive, Some(2.0), 5.0),
    ];
    let picture = with(members, Vec::new());
    let order = |sort: Option<&str>| -> Vec<String> {
        let choice = topology::Choice { link: None, sort: sort.map(str::to_owned) };
        let block = topology::block("links", &picture, &choice).expect("there");
        block
            .html()
            .split("data-key=\"n-9,")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(order(None), ["n-c", "n-b", "n-a"]);
    assert_eq!(order(Some("rtt")), ["n-a", "n-c", "n-b"]);
    assert_eq!(order(Some("-rtt")), ["n-b", "n-c", "n-a"]);
    assert_eq!(order(Some("to")), ["n-a", "n-b", "n-c"]);
}

#[test]
fn a_thousand_nodes_stay_a_small_page_with_the_table_first_and_the_sky_folded() {
    let members = (0..1_000)
        .map(|n| {
            member(
                &format!("n-{n:04}-node"),
                &format!("node-{n:04}"),
                Liveness::Alive,
                Some(f64::from(n) / 7.0),
                0.0,
            )
        })
        .collect();
    let picture = with(members, Vec::new());
    let html = topology_html(&picture, &topology::Choice::default());
    keep("crowd-", "topology", &html);
    assert!(html.len() < 400_000, "{} bytes", html.len());
    let at = |text: &str| html.find(text).unwrap_or_else(|| panic!("no {text}"));
    assert!(at("id=\"b-links\"") < at("id=\"b-topology\""));
    assert!(html.contains("<details><summary>Show the sky"));
    assert!(html.contains("800\u{a0}more are not shown"), "the rest is counted");
    assert_ids_are_unique("topology", &html);
}
