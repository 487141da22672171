//! The same over real networks: each host a network namespace with an `sshd` and a host key of its own.
//!
//! The thread of the test stands on the server's host, so that what it opens and starts is there.

use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use caelum_testkit::{
    lab::{Host, Lab as Networks},
    measure,
    process::Process,
    sshd::Sshd,
    wait,
};
use serde_json::{Value, json};

use crate::lab::{Lab, slowest_ms};

const SOON: Duration = Duration::from_secs(90);
/// How many of the hosts are ill in each of the ways.
const ILL: usize = 5;

/// Networks, the server's host, and the others with their sshd.
struct Site {
    networks: Networks,
    server: Host,
    hosts: Vec<Host>,
    sshds: Vec<Sshd>,
}

impl Site {
    /// So many hosts beside the server's; nobody is let in yet.
    fn of(count: usize) -> Self {
        let mut networks = Networks::new().expect("a lab");
        let network = networks.network().expect("a network");
        let server = networks.host(&network).expect("a host");
        let hosts: Vec<Host> = (0..count).map(|_| networks.host(&network).expect("a host")).collect();
        let started = Mutex::new(Vec::new());
        // Each thread enters the namespaces of its share.
        thread::scope(|scope| {
            for share in hosts.chunks(count.div_ceil(4)) {
                let started = &started;
                scope.spawn(move || {
                    for host in share {
                        let sshd = host.inside(|| Sshd::start_with("", &[ip(host)], "MaxStartups 100\n"));
                        started.lock().expect("no panic").push((ip(host), sshd.expect("sshd starts")));
                    }
                });
            }
        });
        let mut started = started.into_inner().expect("no panic");
        started.sort_by_key(|(address, _)| *address);
        Self { networks, server, hosts, sshds: started.into_iter().map(|(_, sshd)| sshd).collect() }
    }

    /// Runs a test on the server's host.
    fn run(&mut self, test: impl AsyncFnOnce(&mut Self) + Send) {
        let server = self.server.clone();
        server
            .inside(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(test(self));
                Ok(())
            })
            .expect("on the server's host");
    }
}

fn ip(host: &Host) -> Ipv4Addr {
    host.ip.parse().expect("an address")
}

fn count(answer: &Value, outcome: &str) -> usize {
    let results = answer["results"].as_array().expect("results");
    results.iter().filter(|result| result["outcome"] == outcome).count()
}

#[test]
fn a_broadcast_over_hosts_of_their_own_gives_each_a_row_and_those_in_health_do_not_wait() {
    let hosts = usize::try_from(measure::variable("CAELUM_SSH_HOSTS", 40)).expect("a small number");
    assert!(hosts > 4 * ILL, "CAELUM_SSH_HOSTS is too small");
    Site::of(hosts).run(async |site: &mut Site| {
        let lab = Lab::start(&[]).await;
        let key = lab.key().await;
        for (number, sshd) in site.sshds.iter().enumerate() {
            sshd.authorize(&key).expect("written");
            let address = sshd.addresses()[0].to_string();
            lab.add(&format!("h-{number}"), &address, sshd.port()).await;
            lab.accept(&address, sshd.port(), &sshd.host_key().expect("a key")).await;
        }
        // Frozen, ended, with another key than was accepted, and with a cable that nothing comes through.
        let (ill, healthy) = site.sshds.split_at_mut(4 * ILL);
        for sshd in &mut ill[..ILL] {
            sshd.process().freeze();
        }
        for sshd in &mut ill[ILL..2 * ILL] {
            sshd.kill();
        }
        let other = healthy[0].host_key().expect("a key");
        for sshd in &ill[2 * ILL..3 * ILL] {
            let (address, port) = (sshd.addresses()[0].to_string(), sshd.port());
            let path = format!("/api/ssh/known-hosts?host={address}&port={port}");
            let gone = lab.api.request(reqwest::Method::DELETE, &path).send().await.expect("answers");
            assert!(gone.status().is_success());
            lab.accept(&address, port, &other).await;
        }
        for host in &site.hosts[3 * ILL..4 * ILL] {
            site.networks.cut(host).expect("cut");
        }

        let begun = Instant::now();
        let answer = lab.broadcast("echo here").await;
        let took = begun.elapsed();
        assert_eq!(answer["results"].as_array().map(Vec::len), Some(hosts));
        let counts = ["ok", "unreachable", "refused"].map(|outcome| count(&answer, outcome));
        assert_eq!(counts, [hosts - 4 * ILL, 3 * ILL, ILL], "{}", answer["groups"]);
        let slowest = slowest_ms(&answer);
        // The frozen and the cut take their time-out of 30 s.
        assert!(took >= Duration::from_secs(30), "{took:?}");
        assert!(slowest < Some(29_000), "the others waited for the ill: {slowest:?} ms");

        // What was repaired is there again.
        for sshd in &mut ill[..ILL] {
            sshd.process().thaw();
        }
        for (sshd, host) in ill[ILL..2 * ILL].iter_mut().zip(&site.hosts[ILL..2 * ILL]) {
            host.inside(|| sshd.restart()).expect("starts again");
        }
        for host in &site.hosts[3 * ILL..4 * ILL] {
            site.networks.join(host).expect("joined");
        }
        wait::until_answered("all but those with a wrong key answer", SOON, async || {
            let answer = lab.broadcast("echo again").await;
            (count(&answer, "ok") == hosts - ILL && count(&answer, "refused") == ILL).then_some(())
        })
        .await;
        let stats = lab.stats().await;
        assert_eq!(stats["running"], 0, "no slot hangs: {stats}");
    });
}

#[test]
fn a_cable_that_is_cut_under_a_command_ends_it_and_frees_its_slot() {
    Site::of(1).run(async |site: &mut Site| {
        let lab = Lab::start(&[]).await;
        site.sshds[0].authorize(&lab.key().await).expect("written");
        lab.add_all(&site.sshds[0], 0).await;
        let api = lab.api.clone();
        let running = tokio::spawn(async move {
            let wish = json!({ "node_id": "h-0", "command": "echo begun; sleep 600", "timeout": 500 });
            crate::lab::post(&api, "/api/ssh/execute", wish).await
        });
        wait::until_answered("it runs", SOON, async || (lab.stats().await["running"] == 1).then_some(()))
            .await;
        site.networks.cut(&site.hosts[0]).expect("cut");
        let (_, answer) = tokio::time::timeout(SOON, running).await.expect("it ends").expect("no panic");
        assert_eq!(answer["outcome"], "unreachable", "{answer}");
        let stats = lab.stats().await;
        assert_eq!((&stats["running"], &stats["active_connections"]), (&json!(0), &json!(0)), "{stats}");
        site.networks.join(&site.hosts[0]).expect("joined");
        wait::until_answered("it answers again", SOON, async || {
            let answer = lab.execute("h-0", "echo back").await;
            (answer["stdout"] == "back\n").then_some(())
        })
        .await;
    });
}

#[test]
fn a_command_runs_on_a_node_whose_key_nobody_accepted_because_its_agent_told_it() {
    Site::of(1).run(async |site: &mut Site| {
        let sshd = &mut site.sshds[0];
        let port = sshd.port().to_string();
        let lab = Lab::start_on_every_address(&["--ssh-port", &port]).await;
        sshd.authorize(&lab.key().await).expect("written");
        let folder = lab.server.folder();
        let data = lab.server.data();
        let made = lab.server.run(&["token", "join", "--data", data.to_str().expect("plain")]).expect("runs");
        let token = String::from_utf8_lossy(&made.stdout).trim().lines().last().expect("a token").to_owned();
        let told = folder.join("told");
        fs::create_dir(&told).expect("made");
        fs::write(told.join("ssh_host_ed25519_key.pub"), sshd.host_key().expect("a key")).expect("written");
        let mut command = site.hosts[0].command(Path::new(env!("CARGO_BIN_EXE_caelum")));
        command.env("HOME", folder).current_dir(folder).args([
            "agent",
            "--name",
            "web-1",
            "--ceiling",
            "shell",
        ]);
        command.args(["--join", &token, "--server"]);
        command.arg(format!("https://{}:{}", site.server.ip, lab.server.port()));
        command.arg("--ssh-host-keys").arg(&told).arg("--data").arg(folder.join("web-1"));
        let running = Process::start(command, "web-1", folder).expect("starts");
        let answer = wait::until_answered("the node is there and takes commands", SOON, async || {
            let wish = json!({ "node_id": "web-1", "command": "echo over $SSH_CONNECTION", "timeout": 60 });
            let (status, answer) = crate::lab::post(&lab.api, "/api/ssh/execute", wish).await;
            (status.is_success() && answer["outcome"] == "ok").then_some(answer)
        })
        .await;
        let text = answer["stdout"].as_str().expect("text");
        assert!(text.contains(&site.hosts[0].ip) && text.contains(&site.server.ip), "{answer}");
        let known = lab.api.json("/api/ssh/known-hosts").await.expect("answers");
        let entries = known["entries"].as_array().expect("entries");
        assert!(entries.iter().all(|entry| entry["origin"] == "attested"), "nobody accepted one: {known}");

        // The same host with another key than its agent told is not signed in to.
        sshd.new_host_key().expect("made");
        site.hosts[0].inside(|| sshd.restart()).expect("starts again");
        let answer = lab.execute("web-1", "true").await;
        assert_eq!(answer["outcome"], "refused", "{answer}");
        assert!(answer["error"].as_str().expect("why").matches("SHA256:").count() == 2, "{answer}");
        drop(running);
    });
}
