//! `caelum probe once` against a site whose delays are known: each stage is told alone, and right.
//!
//! A machine that is busy can only make a measurement longer. So each stage's shortest of several is compared
//! with what was asked for, and none may be shorter than that; how much longer it may be is not judged where the
//! machine itself did not keep up.

use std::{collections::BTreeMap, net::Ipv4Addr, path::Path, sync::atomic::Ordering, time::Duration};

use caelum_testkit::{
    lab::{Host, Lab},
    sites::{self, Authority, OBJECT_BYTES, OBJECT_PATH},
    stalls,
    switch::{Rule, Switch},
};
use serde_json::Value;

const LOOKS: usize = 7;
const PROBE: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 10);
const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 53);
const SITE: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 100);

/// Half of each round trip, and what the servers take beside it, ms.
const ONE_WAY_MS: u64 = 15;
const NAME_MS: u64 = 50;
const TLS_MS: u64 = 40;
const FIRST_BYTE_MS: u64 = 60;
/// What the way to the site lets through.
const BITS_PER_S: u64 = 8_000_000;

/// One look at each of the two things that are measured: stages, and the throughput of a download.
fn look(host: &Host, ca: &Path, more: &[&str]) -> Value {
    let resolver = format!("{RESOLVER}:53");
    let count = LOOKS.to_string();
    let mut arguments = vec!["probe", "once", "https://web.lab/", "--resolver", &resolver, "--json"];
    arguments.extend(["--ca", ca.to_str().expect("text"), "--families", "ipv4"]);
    arguments.extend(["--count", &count, "--interval", "1s", "--timeout", "10000"]);
    arguments.extend(more);
    let output = host.run(Path::new(env!("CARGO_BIN_EXE_caelum")), &arguments).expect("it runs");
    let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

fn shortest(list: &Value, stage: &str) -> f64 {
    let times = list
        .as_array()
        .expect("a list")
        .iter()
        .map(|event| event["timings"][stage].as_f64().unwrap_or_else(|| panic!("no {stage} in {event}")));
    times.fold(f64::INFINITY, f64::min)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_stage_of_a_look_is_that_stage_alone_within_two_milliseconds_or_five_percent() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut lab = Lab::new().expect("a lab");
    let switch = Switch::new(1);
    let mut host = |address| {
        let network = lab.network().expect("a network");
        let host = lab.host(&network).expect("a host");
        switch.plug(&host, address).expect("plugged in");
        host
    };
    let (probe, resolver, server) = (host(PROBE), host(RESOLVER), host(SITE));
    let delay = Duration::from_millis(ONE_WAY_MS);
    let usual = Rule::around(PROBE, Rule { delay, ..Rule::default() }).to_vec();
    switch.set(usual.clone());
    let authority = Authority::new().expect("an authority");
    let ca = folder.path().join("sites.pem");
    std::fs::write(&ca, &authority.pem).expect("written");
    let site = sites::site(&server, SITE, "web.lab", &authority).expect("a site");
    let known = BTreeMap::from([("web.lab".to_owned(), SITE)]);
    let names = sites::names(&resolver, RESOLVER, known).expect("a name server");
    site.slowness.tls_ms.store(TLS_MS, Ordering::Relaxed);
    site.slowness.first_byte_ms.store(FIRST_BYTE_MS, Ordering::Relaxed);
    names.slowness.name_ms.store(NAME_MS, Ordering::Relaxed);

    let watch = stalls::Watch::start();
    let looks = tokio::task::block_in_place(|| look(&probe, &ca, &[]));
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a test")]
    let round_trip = (2 * ONE_WAY_MS) as f64;
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a test")]
    let beside = |ms: u64| round_trip + ms as f64;
    let stages = [
        ("dns_ms", beside(NAME_MS)),
        ("tcp_ms", round_trip),
        ("tls_ms", beside(TLS_MS)),
        ("http_ttfb_ms", beside(FIRST_BYTE_MS)),
    ];
    for (stage, asked) in stages {
        let measured = shortest(&looks, stage);
        let most = asked + (asked * 0.05).max(2.0);
        let said = format!("{stage}: {measured} ms for {asked} ms in {looks}");
        assert!(measured >= asked - 0.1, "{said}");
        watch.judge(measured <= most, &said);
    }

    // Without a delay: with one, a transfer as short as this is still in TCP's slow start.
    switch.set(vec![Rule { from: Some(SITE), bits_per_s: Some(BITS_PER_S), ..Rule::default() }]);
    let object = format!("https://web.lab{OBJECT_PATH}");
    let watch = stalls::Watch::start();
    let looks = tokio::task::block_in_place(|| look(&probe, &ca, &["--throughput", &object]));
    let rates = looks.as_array().expect("a list").iter().map(|event| {
        event["throughput_kbps"]
            .as_f64()
            .unwrap_or_else(|| panic!("no throughput of {OBJECT_BYTES} B in {event}"))
    });
    let best = rates.fold(0.0, f64::max);
    // 1,448 of 1,500 bytes of a packet are the transfer's own.
    let asked = 8_000.0 * 1_448.0 / 1_500.0;
    let said = format!("{best} kbit/s for {asked} in {looks}");
    assert!(best <= asked * 1.05, "{said}");
    watch.judge(best >= asked * 0.95, &said);
}
