//! The pages about counting and joining: a pipeline in each of its states, probes with and without gaps, tokens,
//! servers.

use caelum_model::cluster::NodeRole;

use super::*;
use crate::{
    api::{
        enrol::{JoinTokenJson, MadeJoinTokenJson},
        fleet::{FleetStatusJson, ServerJson},
        master_key::{HolderJson, MasterKeyJson},
        network::{CompletenessJson, GapJson, OneProbeJson, ProbeJson},
        pipeline::{
            AggregatorJson, DeadLetterCountJson, DeadLetterJson, DeadLettersJson, IntakeJson, PartitionJson,
            PipelineHealthJson, QueueJson,
        },
    },
    pages::{
        letters,
        pipeline::{self, Sight},
        probe,
        rates::Rates,
        servers, tokens,
    },
};

const PROBE: &str = "northlab-probe";

fn partition(number: u16, owner: Option<&str>, uncounted: u64) -> PartitionJson {
    PartitionJson {
        partition: number,
        owner: owner.map(str::to_owned),
        fence: 1,
        committed: 100,
        newest: Some(100 + uncounted),
        waiting_records: uncounted,
        uncounted_records: uncounted,
        counted: 18_400,
        duplicates: 12,
        too_late: u64::from(number),
    }
}

fn letter(id: i64, state: &str, age_days: i64) -> DeadLetterJson {
    DeadLetterJson {
        id,
        client_id: ClientId::parse(PROBE).expect("valid"),
        partition: 0,
        ts_ms: NOW - age_days * 86_400_000,
        kept_at_ms: NOW - 600_000,
        reason: "too_late".into(),
        state: state.into(),
        event: serde_json::json!({"target": HOSTILE, "note": HOSTILE, "timings": {"dns_ms": 1.5}}),
    }
}

fn healthy() -> Sight {
    let count =
        |state: &str, count| DeadLetterCountJson { reason: "too_late".into(), state: state.into(), count };
    Sight {
        health: PipelineHealthJson {
            status: "healthy".into(),
            problems: Vec::new(),
            ingest: IntakeJson { accepted: 73_600, duplicate: 48, rejected: 2, turned_away: 0 },
            queue: QueueJson { is_reachable: true, problem: None, records: 0, events: 0, bytes: 0 },
            aggregators: vec![AggregatorJson {
                owner: "n-9/1763476000000".into(),
                host: "hq-core-1".into(),
                version: "0.1.0".into(),
                partitions: 4,
                windows: 42,
                counted: 73_552,
            }],
            partitions: (0..4).map(|number| partition(number, Some("n-9/1763476000000"), 0)).collect(),
            dead_letters: vec![count("kept", 3), count("replayed", 1)],
            newest_event_ms: Some(NOW - 3_000),
            reads_from: "primary".into(),
            reads_lag_ms: None,
            reads_as_of_ms: None,
            timestamp: NOW,
        },
        rates: Rates { accepted: Some(12.4), counted: Some(12.2) },
        letters: DeadLettersJson {
            dead_letters: vec![letter(9, "kept", 8), letter(7, "requested", 9), letter(2, "replayed", 90)],
            next_cursor: None,
        },
        letter: None,
        oldest_ms: NOW - 29 * 86_400_000,
    }
}

/// The queue is away, nobody counts, and rows come from a replica that is behind.
fn degraded() -> Sight {
    let mut sight = healthy();
    let health = &mut sight.health;
    health.problems = vec![
        format!("the queue does not answer: connection refused {HOSTILE}"),
        "no aggregator runs: events are kept and not counted".into(),
    ];
    health.queue.is_reachable = false;
    health.queue.problem = Some(format!("connection refused {HOSTILE}"));
    health.aggregators.clear();
    health.partitions = (0..4).map(|number| partition(number, None, 7)).collect();
    health.reads_from = "replica".into();
    health.reads_as_of_ms = Some(NOW - 40_000);
    sight.rates = Rates::default();
    sight
}

fn pipeline_html(sight: &Sight, may_operate: bool, choice: &letters::Choice) -> String {
    pipeline::page(&troubled(), sight, reader(may_operate), choice).render().expect("renders")
}

fn chosen(id: i64) -> letters::Choice {
    letters::Choice { letter: Some(id.to_string()), ..letters::Choice::default() }
}

fn one_probe(missing: u64) -> OneProbeJson {
    let first = (NOW / MINUTE_MS - 119) * MINUTE_MS;
    let minutes = (0..120)
        .map(|n| CompletenessJson {
            window_start_ms: first + n * MINUTE_MS,
            counted: if (80..84).contains(&n) { 0 } else { 30 },
            missing: if (30..40).contains(&n) { missing / 10 } else { 0 },
            late_merged: if (50..58).contains(&n) { 4 } else { 0 },
        })
        .collect();
    OneProbeJson {
        probe: ProbeJson {
            client_id: ClientId::parse(PROBE).expect("valid"),
            last_event_ms: NOW - 2_000,
            counted: 18_400,
            missing,
            too_late: 1,
            group: None,
            tags: Vec::new(),
            mesh: true,
            enabled: true,
        },
        partition: 3,
        gaps: (missing > 0)
            .then(|| GapJson {
                epoch: 1,
                first: 501,
                last: 500 + missing,
                events: missing,
                from_ms: first + 30 * MINUTE_MS,
                to_ms: first + 40 * MINUTE_MS,
            })
            .into_iter()
            .collect(),
        minutes,
    }
}

fn probe_html(known: Option<&OneProbeJson>) -> String {
    probe::page(&troubled(), PROBE, known, reader(true)).render().expect("renders")
}

fn join_tokens() -> Vec<JoinTokenJson> {
    let token = |id: &str, uses_left, state, left_ms| JoinTokenJson {
        token_id: id.into(),
        role: NodeRole::Agent,
        uses: 10,
        uses_left,
        created_at_ms: NOW - 7_200_000,
        expires_at_ms: NOW + left_ms,
        revoked_at_ms: None,
        state,
    };
    vec![
        token("jt-5c1d0be2", 7, "valid", 79_200_000),
        token("jt-88af1177", 0, "used up", 3_600_000),
        token("jt-0012aa41", 10, "expired", -90_000_000),
        token("jt-77aa12f0", 4, "revoked", 1_000),
    ]
}

fn made() -> tokens::Outcome {
    tokens::Outcome::Made(MadeJoinTokenJson {
        token: "secret".into(),
        token_id: "jt-5c1d0be2".into(),
        role: NodeRole::Agent,
        uses: 10,
        expires_at_ms: NOW + 86_400_000,
        command: format!("caelum join {}", "cj1-x7Kq".repeat(24)),
    })
}

/// Two servers of which so many are away, or one that is alone.
fn fleet(away: Option<usize>, error: Option<&str>) -> FleetStatusJson {
    let server = |number: usize, is_active: bool| ServerJson {
        node_id: NodeId::parse(&format!("n-{number}")).expect("valid"),
        name: HOSTILE.into(),
        status: if is_active { "active" } else { "inactive" },
        servers: vec!["192.0.2.1:8080".into()],
        version: Some("1".into()),
        roles: Vec::new(),
        uptime_seconds: is_active.then_some(90),
        last_heartbeat_age_ms: (number == 0).then_some(1_500),
        is_this: number == 0,
    };
    let many = if away.is_some() { 2 } else { 0 };
    let active = many - away.unwrap_or(0);
    FleetStatusJson {
        enabled: away.is_some(),
        mode: None,
        message: None,
        node_id: NodeId::parse("n-0").expect("valid"),
        backend: Some("redis"),
        address: Some("redis://db".into()),
        error: error.map(str::to_owned),
        total_nodes: many,
        active_nodes: active,
        inactive_nodes: many - active,
        master_key: Some(MasterKeyJson {
            generation: 2,
            changed_at_ms: Some(1_000),
            changed_by: Some(HOSTILE.into()),
            handing_over: true,
            servers: (0..many)
                .map(|number| HolderJson {
                    node_id: NodeId::parse(&format!("n-{number}")).expect("valid"),
                    name: HOSTILE.into(),
                    status: "active",
                    generation: Some(1),
                    place: Some("file"),
                    waits: Some(HOSTILE.into()),
                })
                .collect(),
        }),
        nodes: (0..many).map(|number| server(number, number < active)).collect(),
        this_node: None,
        heartbeat_interval_s: 10,
        node_timeout_s: 30,
    }
}

fn servers_html(fleet: &FleetStatusJson) -> String {
    servers::page(&troubled(), reader(true), fleet, &servers::About::default()).render().expect("renders")
}

#[test]
fn the_page_of_servers_says_first_whether_another_could_take_over() {
    let plain = |away, error| servers_html(&fleet(away, error)).replace('\u{a0}', " ");
    assert!(plain(Some(0), None).contains("All 2 servers live."));
    assert!(plain(Some(1), None).contains("1 server lives, 1 of 2 cannot be seen."));
    assert!(plain(Some(0), Some("away")).contains("cannot be reached"));
    let alone = plain(None, None);
    assert!(alone.contains("This server is alone.") && alone.contains("caelum server --store"));
    assert!(!alone.contains("fleet load-balancer"), "there is nothing to balance");
}

fn tokens_html(known: Option<Vec<JoinTokenJson>>, may: bool, outcome: tokens::Outcome) -> String {
    tokens::page(&troubled(), reader(may), known, may, tokens::Form::default(), outcome)
        .render()
        .expect("renders")
}

#[test]
fn pages_about_counting_have_their_landmarks_and_let_nothing_out_of_its_quotes() {
    let mut with_letter = healthy();
    with_letter.letter = Some(letter(9, "kept", 8));
    let by_reason = letters::Choice { reason: Some("too_late".into()), ..letters::Choice::default() };
    let nothing = Sight {
        letters: DeadLettersJson { dead_letters: Vec::new(), next_cursor: None },
        health: PipelineHealthJson {
            dead_letters: Vec::new(),
            partitions: Vec::new(),
            newest_event_ms: None,
            ..healthy().health
        },
        rates: Rates::default(),
        ..healthy()
    };
    let pages = [
        ("pipeline", pipeline_html(&healthy(), true, &by_reason)),
        ("pipeline-letter", pipeline_html(&with_letter, true, &chosen(9))),
        ("pipeline-degraded", pipeline_html(&degraded(), true, &letters::Choice::default())),
        ("pipeline-empty", pipeline_html(&nothing, true, &letters::Choice::default())),
        ("probe", probe_html(Some(&one_probe(30)))),
        ("probe-complete", probe_html(Some(&one_probe(0)))),
        ("probe-unnumbered", probe_html(None)),
        ("tokens", tokens_html(Some(join_tokens()), true, tokens::Outcome::None)),
        ("tokens-made", tokens_html(Some(join_tokens()), true, made())),
        ("tokens-fault", tokens_html(Some(Vec::new()), true, tokens::Outcome::Fault(HOSTILE.into()))),
        ("tokens-viewer", tokens_html(None, false, tokens::Outcome::None)),
        ("servers", servers_html(&fleet(Some(1), None))),
        ("servers-alone", servers_html(&fleet(None, None))),
        ("servers-away", servers_html(&fleet(Some(0), Some(HOSTILE)))),
    ];
    for (name, html) in &pages {
        keep("", name, html);
        assert!(!html.contains("<script>alert"), "{name} lets a script through");
        assert_eq!(html.matches("<h1>").count(), 1, "{name} has one heading");
        assert!(
            html.contains("<main id=\"main\">")
                && html.contains("class=\"tabs\"") != name.starts_with("probe")
        );
        assert!(!html.contains("NaN"), "{name} shows a number that is none");
        assert_ids_are_unique(name, html);
    }
}

#[test]
fn the_pipeline_says_first_whether_everything_is_counted_and_else_what_is_wrong() {
    let plain = |sight: &Sight| {
        let verdict = crate::pages::words::pipeline(&sight.health, &Zone::utc());
        (verdict.sentence.replace('\u{a0}', " "), verdict.lede.replace('\u{a0}', " "))
    };
    let (sentence, lede) = plain(&healthy());
    assert_eq!(sentence, "Everything that was accepted is counted; the newest event in the rows is 3 s old.");
    assert!(lede.starts_with("3 events are kept aside;"), "{lede}");
    let mut behind = healthy();
    behind.health.partitions[1].uncounted_records = 1;
    assert!(plain(&behind).0.starts_with("1 record waits to be counted;"));
    let (sentence, lede) = plain(&degraded());
    assert!(sentence.starts_with("The queue does not answer: connection refused"), "{sentence}");
    assert!(sentence.ends_with("and no aggregator runs: events are kept and not counted."), "{sentence}");
    assert!(lede.contains("as of 14:31:24"), "{lede}");
    let html = pipeline_html(&degraded(), true, &letters::Choice::default());
    for said in ["does not answer", "as of 14:31:24, from a replica", "not known while the queue is away"] {
        assert!(html.contains(said), "{said}");
    }
}

#[test]
fn an_event_is_counted_after_all_by_those_who_may_and_only_while_it_can_be() {
    let mut sight = healthy();
    sight.letter = Some(letter(9, "kept", 8));
    let html = pipeline_html(&sight, true, &chosen(9));
    assert!(html.contains("Count event 9 after all"));
    assert!(!pipeline_html(&sight, false, &chosen(9)).contains("/network/pipeline/replay"));
    for (state, age_days, why) in [
        ("kept", 40, "older than the minutes that are kept"),
        ("requested", 8, "It is asked for"),
        ("replayed", 8, "It is counted."),
    ] {
        sight.letter = Some(letter(9, state, age_days));
        let html = pipeline_html(&sight, true, &chosen(9));
        assert!(html.contains(why) && !html.contains("Count event 9"), "{why}");
    }
    let by_reason = letters::Choice { reason: Some("too_late".into()), ..letters::Choice::default() };
    let html = pipeline_html(&healthy(), true, &by_reason).replace('\u{a0}', " ");
    assert!(html.contains("Count 3 events after all…") && html.contains("cannot be changed back"), "{html}");
    assert!(!pipeline_html(&healthy(), false, &by_reason).contains("ask-bulk"));
    assert!(!pipeline_html(&healthy(), true, &letters::Choice::default()).contains("ask-bulk"));
}

#[test]
fn a_probe_says_through_when_it_is_complete_and_what_is_missing_between_which_moments() {
    let plain = |known: Option<&OneProbeJson>| {
        crate::pages::words::probe("alpha", known, &Zone::utc(), NOW).sentence.replace('\u{a0}', " ")
    };
    assert_eq!(plain(Some(&one_probe(0))), "alpha is complete through 14:32.");
    assert_eq!(
        plain(Some(&one_probe(30))),
        "alpha is counted through 14:32; 30 events are missing between 13:03 and 13:13."
    );
    let mut silent = one_probe(0);
    silent.probe.last_event_ms = NOW - 12 * MINUTE_MS;
    assert_eq!(plain(Some(&silent)), "alpha has been silent for 12 min; everything before is counted.");
    assert!(plain(None).contains("does not number its events"));
    let html = probe_html(Some(&one_probe(30)));
    assert_eq!(html.matches("data-kind=\"missing\"").count(), 11, "ten minutes and the legend");
    assert_eq!(html.matches("class=\"cell\"").count(), 120);
    assert_eq!(html.matches("tabindex=\"-1\"").count(), 119, "the strip is one stop of the tab key");
    assert!(html.contains("13:03: 30 counted, 3 missing"));
}

#[test]
fn a_token_is_shown_when_it_is_made_and_never_listed_and_only_valid_ones_can_be_revoked() {
    let html = tokens_html(Some(join_tokens()), true, made());
    assert!(html.contains("caelum join cj1-x7Kq"));
    assert_eq!(html.matches("/settings/join-tokens/revoke").count(), 1);
    assert!(!tokens_html(Some(join_tokens()), true, tokens::Outcome::None).contains("caelum join "));
    let viewer = tokens_html(None, false, tokens::Outcome::None);
    assert!(viewer.contains("needs the role operator") && !viewer.contains("jt-5c1d0be2"));
}

#[test]
fn every_block_of_these_pages_can_be_drawn_alone_under_its_own_name() {
    let (picture, sight, known) = (troubled(), healthy(), one_probe(30));
    let choice = letters::Choice::default();
    let listed = join_tokens();
    type Draw<'a> = &'a dyn Fn(&str) -> Option<crate::pages::block::Block>;
    let servers_seen = fleet(Some(1), None);
    let pages: [(&str, Draw<'_>); 4] = [
        (pipeline::TOPICS, &|name| pipeline::block(name, &picture, &sight, &choice, true)),
        (probe::TOPICS, &|name| probe::block(name, &picture, PROBE, Some(&known))),
        (tokens::TOPICS, &|name| tokens::block(name, &picture, Some(&listed), true)),
        (servers::TOPICS, &|name| servers::block(name, &servers_seen, &servers::About::default())),
    ];
    for (topics, draw) in pages {
        for topic in topics.split(',').chain(["verdict"]) {
            let block = draw(topic).unwrap_or_else(|| panic!("no block {topic}"));
            assert!(block.html().contains(&format!("data-live=\"{topic}\"")), "{topic}");
        }
        assert!(draw("nonsense").is_none());
    }
}
