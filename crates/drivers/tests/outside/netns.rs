//! The path across two routers, in network namespaces of the test's own.

use std::{
    net::IpAddr,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use caelum_drivers::probe::trace;
use caelum_model::details::Hop;

static CHAINS: AtomicU32 = AtomicU32::new(0);

/// Two hosts with two routers between them; gone when dropped.
struct Chain {
    names: [String; 4],
}

impl Chain {
    /// Links each to the next: `10.78.N.1` and `.2`, `fd78:N::1` and `::2`.
    fn new() -> Self {
        let own = format!("path{}x{}", std::process::id(), CHAINS.fetch_add(1, Ordering::Relaxed));
        let chain = Self { names: [0, 1, 2, 3].map(|number| format!("{own}n{number}")) };
        for name in &chain.names {
            ip(&format!("netns add {name}"));
            ip(&format!("-netns {name} link set lo up"));
            for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                let write = format!("echo 1 > /proc/sys/net/{setting}");
                run("ip", &["netns", "exec", name, "sh", "-c", &write]);
            }
        }
        for (number, pair) in chain.names.windows(2).enumerate() {
            let (left, right) = (&pair[0], &pair[1]);
            ip(&format!("-netns {left} link add r{number} type veth peer name l{number} netns {right}"));
            for (name, port, last) in [(left, 'r', 1), (right, 'l', 2)] {
                ip(&format!("-netns {name} address add 10.78.{number}.{last}/24 dev {port}{number}"));
                ip(&format!("-netns {name} address add fd78:{number}::{last}/64 dev {port}{number} nodad"));
                ip(&format!("-netns {name} link set {port}{number} up"));
            }
        }
        // To the right from each, and back to the left.
        for number in 0..3 {
            ip(&format!("-netns {} route add default via 10.78.{number}.2", chain.names[number]));
            ip(&format!("-netns {} -6 route add default via fd78:{number}::2", chain.names[number]));
        }
        for number in 1..4 {
            let before = number - 1;
            for left in 0..before {
                let name = &chain.names[number];
                ip(&format!("-netns {name} route add 10.78.{left}.0/24 via 10.78.{before}.1"));
                ip(&format!("-netns {name} -6 route add fd78:{left}::/64 via fd78:{before}::1"));
            }
        }
        chain
    }

    /// Traces from the first host.
    fn trace(&self, to: &str) -> Vec<Option<String>> {
        let to: IpAddr = to.parse().unwrap();
        let file = std::fs::File::open(Path::new("/run/netns").join(&self.names[0])).unwrap();
        let traced = move || -> Vec<Hop> {
            use std::os::fd::AsRawFd as _;
            // SAFETY: the file stays open over the call, which moves only this thread.
            assert_eq!(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(trace(to))
        };
        let hops = std::thread::spawn(traced).join().unwrap();
        assert!(hops.iter().zip(1..).all(|(hop, ttl)| hop.ttl == ttl));
        assert!(hops.iter().all(|hop| hop.ip.is_some() == hop.rtt_us.is_some()));
        hops.into_iter().map(|hop| hop.ip).collect()
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        for name in &self.names {
            drop(Command::new("ip").args(["netns", "delete", name]).status());
        }
    }
}

fn ip(line: &str) {
    run("ip", &line.split(' ').collect::<Vec<_>>());
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.expect("it runs, as root: Debian package iproute2");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said} (these tests need root)");
}

fn some(hops: &[&str]) -> Vec<Option<String>> {
    hops.iter().map(|hop| Some((*hop).to_owned())).collect()
}

#[test]
fn a_path_across_two_routers_names_both_in_both_families() {
    let chain = Chain::new();
    assert_eq!(chain.trace("10.78.2.2"), some(&["10.78.0.2", "10.78.1.2", "10.78.2.2"]));
    assert_eq!(chain.trace("fd78:2::2"), some(&["fd78::2", "fd78:1::2", "fd78:2::2"]));
    // Nobody is there: the last router says so, and the path ends with it or before it.
    let lost = chain.trace("10.78.2.9");
    assert_eq!(lost[..2], some(&["10.78.0.2", "10.78.1.2"]));
    assert!(lost.len() <= 3, "{lost:?}");
}
