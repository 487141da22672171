//! A package that is installed, joins, is upgraded and removed.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::UnixDatagram,
    },
    time::{Duration, Instant},
};

use caelum_testkit::{process::Process, roots::Root, wait};

use super::{JOINED, Site, fine, start};

/// Ends an agent as a service manager would.
fn stop(mut agent: Process) {
    agent.terminate();
    let ended = agent.wait_for_end(Duration::from_secs(30));
    assert!(ended.success(), "{ended}\n{}", agent.log());
}

#[test]
fn a_debian_package_makes_a_node_survives_an_upgrade_and_leaves_nothing_when_purged() {
    let (site, root) = (Site::new(), Root::debian().expect("a system"));
    let package = site.build("deb", "edge-1", "first.deb");
    fine(root.dpkg(&["-i", package.to_str().expect("plain names")]).expect("runs"));
    let user = root.user("caelum").expect("a user was made");
    let join = root.path().join("var/lib/caelum/join");
    let about = fs::metadata(&join).expect("the invitation is where the service may remove it");
    assert_eq!((about.uid(), about.mode() & 0o777), (user, 0o600));
    assert!(!root.path().join("etc/caelum/join").exists());

    let began = Instant::now();
    let agent = start(&root, &[]);
    site.wait_for("edge-1", &agent);
    println!("a node {} ms after its start", began.elapsed().as_millis());
    wait::until("the invitation is removed", JOINED, || (!join.exists()).then_some(()));
    let listed = site.packages().remove(0);
    assert_eq!(listed["state"], "used", "{listed}");
    let id = root.read("var/lib/caelum/secrets/node.id").expect("an id of its own");
    assert_eq!(listed["used_by"], id.trim());
    stop(agent);

    let config = root.path().join("etc/caelum/caelum.toml");
    let edited = format!("{}# edited\n", fs::read_to_string(&config).expect("there"));
    fs::write(&config, &edited).expect("written");
    let newer = site.build("deb", "edge-1", "second.deb");
    fine(root.dpkg(&["-i", newer.to_str().expect("plain names")]).expect("runs"));
    assert_eq!(fs::read_to_string(&config).expect("there"), edited, "an upgrade keeps what was edited");
    assert_eq!(root.read("var/lib/caelum/secrets/node.id").expect("kept"), id);
    let agent = start(&root, &[]);
    site.wait_for("edge-1", &agent);
    wait::until("an invitation that is not needed is removed", JOINED, || (!join.exists()).then_some(()));
    assert_eq!(site.packages()[0]["state"], "waiting", "a node that has joined uses up no invitation");
    stop(agent);

    fine(root.dpkg(&["-r", "caelum"]).expect("runs"));
    assert!(!root.path().join("usr/bin/caelum").exists());
    assert!(root.path().join("var/lib/caelum/secrets/node.key").exists(), "removing keeps the data");
    fine(root.dpkg(&["-P", "caelum"]).expect("runs"));
    for gone in ["var/lib/caelum", "etc/caelum", "usr/lib/systemd/system/caelum.service"] {
        assert!(!root.path().join(gone).exists(), "{gone} is left");
    }
    assert_eq!(root.user("caelum"), None);
}

#[test]
fn an_rpm_makes_a_node_survives_an_upgrade_and_keeps_its_data_when_removed() {
    let (site, root) = (Site::new(), Root::busybox().expect("a system"));
    let package = site.build("rpm", "edge-2", "first.rpm");
    let rpm = |arguments: &[&str]| fine(root.rpm(arguments).expect("runs"));
    rpm(&["-i", "--nodeps", package.to_str().expect("plain names")]);
    let agent = start(&root, &[]);
    site.wait_for("edge-2", &agent);
    stop(agent);

    let config = root.path().join("etc/caelum/caelum.toml");
    let edited = format!("{}# edited\n", fs::read_to_string(&config).expect("there"));
    fs::write(&config, &edited).expect("written");
    // The next build must be newer, which is a matter of whole seconds.
    let newer = site.build("rpm", "edge-2", "second.rpm");
    rpm(&["-U", "--nodeps", "--replacepkgs", newer.to_str().expect("plain names")]);
    assert_eq!(fs::read_to_string(&config).expect("there"), edited);
    assert!(root.path().join("usr/bin/caelum").exists(), "the old version's scripts remove nothing");
    assert_eq!(rpm(&["-q", "caelum"]).lines().count(), 1);

    rpm(&["-e", "--nodeps", "caelum"]);
    assert!(!root.path().join("usr/bin/caelum").exists());
    assert!(root.path().join("var/lib/caelum/secrets/node.key").exists(), "removing keeps the data");
}

#[test]
fn an_archive_installs_on_a_system_with_nothing_but_busybox_and_comes_off_again() {
    let (site, root) = (Site::new(), Root::busybox().expect("a system"));
    let package = site.build("tar.gz", "edge-3", "caelum-edge-3.tar.gz");
    fs::copy(package, root.path().join("tmp/a.tar.gz")).expect("copied");
    let inside = |arguments: &[&str]| fine(root.inside(arguments).expect("runs"));
    inside(&["/bin/sh", "-c", "cd /tmp && tar xzf a.tar.gz"]);
    let said = inside(&["/bin/sh", "/tmp/caelum-edge-3/install.sh"]);
    assert!(said.contains("No systemd runs here"), "{said}");
    let agent = start(&root, &[]);
    site.wait_for("edge-3", &agent);
    stop(agent);

    let config = root.path().join("etc/caelum/caelum.toml");
    fs::write(&config, "# edited\n").expect("written");
    let said = inside(&["/bin/sh", "/tmp/caelum-edge-3/install.sh"]);
    assert!(said.contains("Kept etc/caelum/caelum.toml"), "{said}");
    assert_eq!(fs::read_to_string(&config).expect("there"), "# edited\n");

    inside(&["/bin/sh", "/usr/share/caelum/uninstall.sh"]);
    assert!(!root.path().join("usr/bin/caelum").exists());
    assert!(root.path().join("var/lib/caelum/secrets/node.key").exists());
    inside(&["/bin/sh", "/tmp/caelum-edge-3/uninstall.sh", "--purge"]);
    assert!(!root.path().join("var/lib/caelum").exists() && root.user("caelum").is_none());

    let elsewhere = root.path().join("tmp/elsewhere");
    let said = inside(&["/bin/sh", "/tmp/caelum-edge-3/install.sh", "--root", "/tmp/elsewhere"]);
    assert!(said.contains("Installed into /tmp/elsewhere") && elsewhere.join("usr/bin/caelum").exists());
    assert!(elsewhere.join("etc/caelum/join").exists() && root.user("caelum").is_none());
}

#[test]
fn a_package_that_is_spent_or_revoked_makes_no_node_and_the_machine_says_why() {
    let site = Site::new();
    let package = site.build("deb", "edge-4", "once.deb");
    let roots = [Root::debian().expect("a system"), Root::debian().expect("a system")];
    for root in &roots {
        fine(root.dpkg(&["-i", package.to_str().expect("plain names")]).expect("runs"));
    }
    let first = start(&roots[0], &[]);
    site.wait_for("edge-4", &first);
    let second = start(&roots[1], &[]);
    wait::until("the second machine is refused", JOINED, || {
        second.log().contains("join_token_used_up").then_some(())
    });
    wait::until("it waits to be adopted", JOINED, || second.output().contains("Adopt it").then_some(()));
    assert!(!roots[1].path().join("var/lib/caelum/join").exists(), "what is spent is removed");
    stop(first);
    stop(second);

    let revoked = site.build("deb", "edge-5", "revoked.deb");
    let id = site.packages()[0]["package_id"].as_str().expect("an id").to_owned();
    fine(site.package(&["revoke", &id]));
    let root = Root::debian().expect("a system");
    fine(root.dpkg(&["-i", revoked.to_str().expect("plain names")]).expect("runs"));
    let agent = start(&root, &[]);
    wait::until("it is refused", JOINED, || agent.log().contains("join_token_revoked").then_some(()));
    assert!(site.node("edge-5").is_none());
    stop(agent);
}

#[test]
fn an_installed_node_joins_when_the_network_comes_back_and_tells_its_supervisor() {
    let mut site = Site::new();
    let package = site.build("deb", "edge-6", "later.deb");
    let root = Root::debian().expect("a system");
    fine(root.dpkg(&["-i", package.to_str().expect("plain names")]).expect("runs"));
    site.server.kill();

    let socket = root.path().join("run/notify");
    let supervisor = UnixDatagram::bind(&socket).expect("bound");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).expect("open to the service");
    supervisor.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
    let mut told = String::new();
    let mut wait_for = |what: &str| {
        let deadline = Instant::now() + JOINED;
        while !told.contains(what) && Instant::now() < deadline {
            let mut bytes = [0; 4_096];
            let length = supervisor.recv(&mut bytes).expect("is told something");
            told.push_str(&String::from_utf8_lossy(&bytes[..length]));
            told.push('\n');
        }
        assert!(told.contains(what), "{what}: {told}");
    };
    let agent = start(&root, &[("NOTIFY_SOCKET", "/run/notify"), ("WATCHDOG_USEC", "2000000")]);
    wait_for("READY=1");
    wait_for("WATCHDOG=1");
    wait_for("STATUS=not joined yet");
    assert!(root.path().join("var/lib/caelum/join").exists(), "an invitation that may still do is kept");
    site.server.start().expect("starts again");
    wait_for("STATUS=node of");
    site.wait_for("edge-6", &agent);
    agent.terminate();
    wait_for("STOPPING=1");
    stop(agent);
}
