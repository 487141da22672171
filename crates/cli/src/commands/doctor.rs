//! `caelum doctor`: looks at everything discovery and a server stand on, and says what to do. What is thought
//! of it is in the engine.

mod backends;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use caelum_drivers::{
    doctor::{self as look, PortState},
    probe, random, tls,
};
use caelum_engine::{
    discovery,
    doctor::{self, Answer, Finding, Grade, Holder, Port},
    timestamp,
};
use caelum_model::{
    UnixMs,
    beacon::{Beacon, BeaconKind, MESSAGE_TYPE, SECOND_DIALECT_PORTS},
    config::Config,
};
use serde_json::{Value, json};

use crate::{config::Settings, data::DataDirectory, exit::Exit, output};

/// Time in which machines answer.
const ANSWERS_MAX: Duration = Duration::from_secs(2);
/// Certificates, and how many days before their end something is wrong with their renewal.
const CERTIFICATES: [(&str, i64); 3] = [("ca.pem", 14), ("server.pem", 14), ("node.pem", 2)];

/// Looks, and says what was found.
pub async fn run(settings: Settings, data: DataDirectory, json: bool) -> Result<Exit> {
    let config = &settings.config;
    let own = running(&data);
    let mut findings = Vec::new();
    of_data(&data, &mut findings);
    backends::of_store(&settings, &data, &mut findings).await;
    backends::of_master_key(&settings, &data, &mut findings).await;
    backends::of_queue(&settings, &data, &mut findings).await;
    of_certificates(&data, &mut findings);
    of_ports(config, own, &mut findings);
    of_machine(config, &mut findings);
    of_network(config, &mut findings);
    let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Grade::Ok);
    let text = match json {
        true => format!("{:#}\n", json!({ "worst": worst, "findings": findings })),
        false => findings.iter().map(shown).collect(),
    };
    output::print(&text)?;
    Ok(if worst == Grade::Fault { Exit::Failed } else { Exit::Fine })
}

fn shown(finding: &Finding) -> String {
    let line = format!(
        "{:<7}  {}: {}\n",
        finding.level.as_str(),
        output::plain(&finding.subject),
        output::plain(&finding.what)
    );
    match &finding.remedy {
        Some(remedy) => format!("{line}         → {}\n", output::plain(remedy)),
        None => line,
    }
}

/// The server that runs on this data. What it wrote may have outlived it.
fn running(data: &DataDirectory) -> Option<u32> {
    let text = fs::read_to_string(data.ready_file()).ok()?;
    let ready: Value = serde_json::from_str(&text).ok()?;
    ready["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok())
}

fn of_data(data: &DataDirectory, findings: &mut Vec<Finding>) {
    let root = data.root().display().to_string();
    let Ok(metadata) = fs::metadata(data.root()) else {
        let what = format!("there is none in {root} yet");
        findings.push(Finding::new(Grade::Note, "data directory", what, "`caelum up` makes it"));
        return;
    };
    findings.push(doctor::privacy(&root, metadata.permissions().mode()));
    match look::free_bytes(data.root()) {
        Ok(free) => findings.push(doctor::space(free)),
        Err(error) => findings.push(broken("disk space", &error, "look at the disk")),
    }
}

fn broken(subject: &str, error: &dyn std::error::Error, remedy: &str) -> Finding {
    let because = error.source().map_or_else(String::new, |source| format!(": {source}"));
    Finding::new(Grade::Fault, subject, format!("{error}{because}"), remedy)
}

fn of_certificates(data: &DataDirectory, findings: &mut Vec<Finding>) {
    for (name, warn_days) in CERTIFICATES {
        if let Ok(text) = fs::read_to_string(data.secrets().join(name)) {
            let expires = tls::expires_at_ms(&text).map_err(|error| error.to_string());
            findings.push(doctor::certificate(name, expires, now_ms(), warn_days));
        }
    }
}

fn of_ports(config: &Config, own: Option<u32>, findings: &mut Vec<Finding>) {
    for addr in &config.server.listen {
        let state = port(look::tcp_port(*addr));
        findings.push(doctor::port(&format!("{addr}/tcp"), "server.listen", &state, own));
    }
    if !config.beacon.enabled {
        return;
    }
    let second = config.beacon.second_dialect.then_some((SECOND_DIALECT_PORTS[0], "beacon.second_dialect"));
    for (number, setting) in [(config.beacon.port, "beacon.port")].into_iter().chain(second) {
        let state = port(look::udp_port(SocketAddr::from((Ipv4Addr::UNSPECIFIED, number))));
        // Every Caelum of a machine shares these.
        let sharer = match &state {
            Port::Held(Some(holder)) if holder.program == "caelum" => Some(holder.pid),
            _ => own,
        };
        let mut finding = doctor::port(&format!("{number}/udp"), setting, &state, sharer);
        if setting == "beacon.second_dialect" {
            // Three more ports are tried where this one is taken.
            finding.level = finding.level.min(Grade::Warning);
        }
        findings.push(finding);
    }
}

fn port(state: PortState) -> Port {
    match state {
        PortState::Free => Port::Free,
        PortState::Held(holder) => {
            Port::Held(holder.map(|holder| Holder { pid: holder.pid, program: holder.program }))
        }
        PortState::Refused(why) => Port::Refused(why),
    }
}

fn of_machine(config: &Config, findings: &mut Vec<Finding>) {
    findings.push(doctor::own_clock(look::is_clock_synchronised()));
    findings.push(doctor::ping(probe::check_icmp().err().map(|error| error.to_string())));
    match look::open_files_max() {
        Ok(limit) => findings.push(doctor::open_files(limit)),
        Err(error) => findings.push(broken("open files", &error, "`ulimit -n 4096` before the start")),
    }
    let tcp = config.server.listen.first().map_or(8080, SocketAddr::port);
    findings.extend(doctor::firewall(&look::firewalls(), tcp, config.beacon.port));
}

fn of_network(config: &Config, findings: &mut Vec<Finding>) {
    if !config.beacon.enabled {
        let remedy = "set beacon.enabled = true to find machines by themselves";
        findings.push(Finding::new(Grade::Note, "discovery", "switched off (beacon.enabled)", remedy));
        return;
    }
    let loopbacks = look::loopbacks();
    if !loopbacks.iter().any(|found| found.interface.ends_with("(IPv6)")) {
        findings.push(Finding::ok("IPv6", "no interface has it; beacons go by IPv4 only"));
    }
    findings.extend(
        loopbacks.iter().map(|found| doctor::multicast(&found.interface, found.is_loopback, &found.heard)),
    );
    let question = beacon(BeaconKind::Solicit, 1);
    let goodbye = Beacon { kind: BeaconKind::Goodbye, seq: 2, ..question.clone() };
    let bytes = |beacon: &Beacon| serde_json::to_vec(beacon).expect("a beacon is texts and numbers");
    match look::ask_everybody(&bytes(&question), &bytes(&goodbye), config.beacon.port, ANSWERS_MAX) {
        Ok(heard) => {
            let ended_ms = now_ms();
            let longest = ANSWERS_MAX.as_millis();
            let answers = heard.iter().filter_map(|heard| answer(heard, ended_ms, longest));
            let mut seen = std::collections::HashSet::new();
            let answers: Vec<Answer> =
                answers.filter(|(id, _)| seen.insert(id.clone())).map(|(_, answer)| answer).collect();
            findings.extend(doctor::answers(&answers));
        }
        Err(error) => findings.push(broken("machines", &error, "let this user send UDP to port 8181")),
    }
}

/// What the machines are told: an asker that nobody can link with.
fn beacon(kind: BeaconKind, seq: u64) -> Beacon {
    Beacon {
        message_type: MESSAGE_TYPE.to_owned(),
        machine_id: format!("doctor-{:016x}", random::number()),
        hostname: "caelum-doctor".to_owned(),
        // The port of the protocol that throws everything away.
        websocket_port: 9,
        timestamp: timestamp::iso(now_ms()),
        instance: discovery::instance_of(random::epoch()),
        seq,
        kind,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Beacon::default()
    }
}

fn answer(heard: &look::Heard, ended_ms: UnixMs, longest: u128) -> Option<(String, Answer)> {
    let beacon: Beacon = serde_json::from_slice(&heard.bytes).ok()?;
    if beacon.message_type != MESSAGE_TYPE {
        return None;
    }
    let after_ms = i64::try_from(heard.after.as_millis()).ok()?;
    let listened_ms = i64::try_from(longest).ok()?;
    let answer = Answer {
        name: if beacon.hostname.is_empty() { beacon.machine_id.clone() } else { beacon.hostname },
        address: heard.from.ip().to_string(),
        after_ms,
        timestamp: beacon.timestamp,
        heard_at_ms: ended_ms - (listened_ms - after_ms),
    };
    Some((beacon.machine_id, answer))
}

fn now_ms() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
