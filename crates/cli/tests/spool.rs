//! While its ingest is away the probe measures on, and what it measured is counted when it comes back, even
//! if the probe is killed in between.

use std::{fs, time::Duration};

use caelum_testkit::{
    server::Plan,
    target::{Script, Target},
    wait,
};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_measured_while_the_ingest_was_away_is_counted_when_it_is_back() {
    let measured = Target::start(Script::default()).await.expect("starts");
    let away = Target::start(Script { status: 503, ..Script::default() }).await.expect("starts");
    let plan = Plan::new(env!("CARGO_BIN_EXE_caelum")).with_probe();
    let mut server = plan.with(&["--probe-default-targets", "false"]).start().expect("starts");
    server.stop(Duration::from_secs(5));
    let config = server.data().join("caelum.toml");
    let text = format!(
        "[probe]\ningest_url = \"{}events\"\n\n[[probe.targets]]\nurl = \"{}\"\ninterval_s = 1\n",
        away.url(),
        measured.url()
    );
    fs::write(&config, text).expect("written");
    server.start().expect("starts again");
    wait::until("some measurements are made and refused", Duration::from_secs(20), || {
        (measured.answered() >= 4 && away.answered() >= 1).then_some(())
    });
    server.kill();
    let made = measured.answered();
    fs::remove_file(&config).expect("removed");
    // Now nothing is measured, and only the spool has something to say.
    server.start().expect("starts again");
    let api = server.api().expect("a client").signed_in().await.expect("signed in");
    let probe = wait::until_answered("the spool is emptied", Duration::from_secs(20), async || {
        let probes = api.json("/api/probes").await.ok()?;
        let probe = probes["probes"].get(0)?.clone();
        (probe["counted"].as_u64()? + 1 >= made).then_some(probe)
    })
    .await;
    assert_eq!(probe["missing"], 0);
    let counted = probe["counted"].as_u64().expect("a number");
    assert!(counted <= made, "{counted} counted of {made} made");
    assert_eq!(measured.answered(), made, "nothing was measured after the kill");
}
