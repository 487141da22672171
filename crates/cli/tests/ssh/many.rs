//! Many hosts at once: all get one result, and those that are ill hold up nobody.

use std::time::{Duration, Instant};

use caelum_testkit::{sshd::Sshd, wait};
use serde_json::{Value, json};

use crate::lab::{Lab, slowest_ms};

const SOON: Duration = Duration::from_secs(90);

fn count(answer: &Value, outcome: &str) -> usize {
    let results = answer["results"].as_array().expect("results");
    results.iter().filter(|result| result["outcome"] == outcome).count()
}

/// Hosts in health, sixteen a server.
async fn healthy(lab: &Lab, first: u16, count: u16) -> Vec<Sshd> {
    let mut all = Vec::new();
    for begin in (first..first + count).step_by(16) {
        let sshd = lab.sshd(begin, (first + count - begin).min(16)).await;
        lab.add_all(&sshd, begin).await;
        all.push(sshd);
    }
    all
}

#[tokio::test]
async fn of_200_hosts_of_which_some_are_ill_all_get_one_row_and_the_others_are_not_delayed() {
    let lab = Lab::start(&[]).await;
    let _healthy = healthy(&lab, 1_000, 185).await;
    // Five that do not answer, five where nobody listens, five with another key than was accepted.
    let mut frozen = lab.sshd(2_000, 5).await;
    lab.add_all(&frozen, 2_000).await;
    frozen.process().freeze();
    let mut gone = lab.sshd(2_100, 5).await;
    lab.add_all(&gone, 2_100).await;
    gone.kill();
    let wrong = lab.sshd(2_200, 5).await;
    lab.add_all(&wrong, 2_200).await;
    let other = frozen.host_key().expect("a key");
    for host in wrong.addresses() {
        let path = format!("/api/ssh/known-hosts?host={host}&port={}", wrong.port());
        let gone = lab.api.request(reqwest::Method::DELETE, &path).send().await.expect("answers");
        assert!(gone.status().is_success());
        lab.accept(&host.to_string(), wrong.port(), &other).await;
    }

    let begun = Instant::now();
    let answer = lab.broadcast("echo here").await;
    let took = begun.elapsed();
    assert_eq!(answer["results"].as_array().map(Vec::len), Some(200));
    let counts = ["ok", "unreachable", "refused"].map(|outcome| count(&answer, outcome));
    assert_eq!(counts, [185, 10, 5], "{}", answer["groups"]);
    // The frozen ones take their time-out; all the others were done long before.
    assert!(took >= Duration::from_secs(30), "{took:?}");
    let slowest = slowest_ms(&answer);
    assert!(slowest < Some(29_000), "the others waited for the frozen: {slowest:?} ms");
    let first = &answer["groups"][0];
    assert_eq!((&first["outcome"], &first["count"]), (&json!("refused"), &json!(1)), "failures come first");
    let last = answer["groups"].as_array().and_then(|groups| groups.last()).expect("a group");
    assert_eq!((&last["stdout"], &last["count"]), (&json!("here\n"), &json!(185)));

    // Warm: no new connection for those that are there, and the frozen ones are refused at once.
    let made = lab.stats().await["total_created"].clone();
    let answer = lab.broadcast("echo again").await;
    assert_eq!(count(&answer, "ok"), 185);
    assert_eq!(lab.stats().await["total_created"], made);
    frozen.process().thaw();
}

#[tokio::test]
async fn results_are_streamed_as_hosts_end() {
    let lab = Lab::start(&[]).await;
    let sshd = lab.sshd(2_300, 4).await;
    lab.add_all(&sshd, 2_300).await;
    let data = lab.server.data();
    let token = lab.server.token("operate").expect("a token");
    let ran = lab
        .server
        .run(&[
            "ssh",
            "broadcast",
            "--on",
            "tag=lab",
            "--json",
            "--token",
            &token,
            "--data",
            data.to_str().expect("plain"),
            "--",
            "echo one",
        ])
        .expect("runs");
    let lines: Vec<Value> = String::from_utf8_lossy(&ran.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 5, "{ran:?}");
    assert!(lines[..4].iter().all(|line| line["stdout"] == "one\n"));
    assert_eq!((&lines[4]["successful"], &lines[4]["groups"][0]["count"]), (&json!(4), &json!(4)));
    assert!(ran.status.success());
    let dry = lab
        .server
        .run(&[
            "ssh",
            "broadcast",
            "--on",
            "tag=lab",
            "--dry-run",
            "--token",
            &token,
            "--data",
            data.to_str().expect("plain"),
            "--",
            "true",
        ])
        .expect("runs");
    assert!(String::from_utf8_lossy(&dry.stdout).contains("4 hosts"), "{dry:?}");
}

#[tokio::test]
async fn a_server_that_stops_in_the_middle_of_a_broadcast_gives_every_host_its_outcome() {
    let mut lab = Lab::start(&[]).await;
    let mut sshd = lab.sshd(2_400, 4).await;
    lab.add_all(&sshd, 2_400).await;
    let api = lab.api.clone();
    let running = tokio::spawn(async move {
        let wish = json!({ "command": "sleep 600", "on": ["tag=lab"], "timeout": 500 });
        crate::lab::post(&api, "/api/ssh/broadcast", wish).await
    });
    wait::until_answered("all run", SOON, async || (lab.stats().await["running"] == 4).then_some(())).await;
    lab.server.stop(SOON);
    let (_, answer) = tokio::time::timeout(SOON, running).await.expect("it ends").expect("no panic");
    let results = answer["results"].as_array().expect("results");
    assert_eq!(results.len(), 4, "{answer}");
    assert!(results.iter().all(|result| result["outcome"] == "unreachable"), "{answer}");
    assert!(answer["groups"][0]["error"].as_str().expect("why").contains("server stopped"), "{answer}");
    wait::until("nothing of it is left", SOON, || sshd.sessions().is_empty().then_some(()));
    lab.server.start().expect("starts again");
    let again = lab.broadcast("echo back").await;
    assert_eq!(again["successful"], 4, "{again}");
}

#[tokio::test]
async fn a_host_that_floods_is_cut_and_says_where() {
    let lab = Lab::start(&["--ssh-output-max-bytes", "65536"]).await;
    let sshd = lab.sshd(2_500, 1).await;
    lab.add_all(&sshd, 2_500).await;
    let result =
        lab.execute("h-2500", "echo first; head -c 3000000 /dev/zero | tr '\\0' x; echo; echo last").await;
    let text = result["stdout"].as_str().expect("text");
    assert!(text.starts_with("first\n") && text.ends_with("\nlast\n"), "{} bytes", text.len());
    assert!(text.contains("bytes are left out here") && text.len() < 66_000, "{} bytes", text.len());
    assert!(result["cut_bytes"].as_u64() > Some(2_900_000));
}
