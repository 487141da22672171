//! How a process takes part in a cluster: from settings and identity to the loop that speaks with others.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, RwLock},
    time::Duration,
};

use anyhow::{Context as _, Result};
use caelum_drivers::{
    beacon::{Air, Plan, UdpAir},
    clock::Clock,
    link::{self, Link},
    netinfo, random, tls,
};
use caelum_engine::{cluster, discovery, enrol::AccessList};
use caelum_model::{
    beacon::BEACON_PORT,
    cluster::{Ceiling, ClusterKey, NodeRole},
    config::Config,
    envelope::{CaelumInfo, MachineInfo, RosterDelta},
    host::HostIdentity,
    id::NodeId,
};
use caelum_roles::{
    cluster::{ClusterRole, DialTls, Fact, Handle, Running},
    reporter, services,
};
use tokio::sync::mpsc;

use crate::{data::DataDirectory, exit::Unreachable};

/// Time for finding the address of a name.
const LOOKUP_MAX: Duration = Duration::from_secs(3);
/// Most addresses that a sweep tries.
const SWEEP_MAX: usize = 1_024;

/// Who takes part.
pub struct Who {
    /// Its id.
    pub node_id: NodeId,
    /// What it is.
    pub role: NodeRole,
    /// What it runs.
    pub roles: Vec<String>,
    /// What is known of its host.
    pub identity: HostIdentity,
    /// The most it lets anybody do.
    pub ceiling: Ceiling,
    /// Its cluster; empty before it has one.
    pub cluster_id: String,
    /// Its name.
    pub cluster_name: String,
    /// Keys of the cluster, newest last.
    pub keys: Vec<ClusterKey>,
    /// On a server: what it tells every node.
    pub delta: Option<RosterDelta>,
    /// Nodes that are known to be shut out.
    pub revoked: BTreeSet<NodeId>,
    /// Servers that are dialled: `host:port`.
    pub servers: Vec<String>,
    /// TCP port of its links.
    pub websocket_port: u16,
}

/// What the loop is joined to.
pub struct Ends {
    /// Links that others dialled.
    pub accepted: mpsc::Receiver<Link>,
    /// How links are dialled.
    pub tls: DialTls,
    /// Where facts go.
    pub facts: mpsc::Sender<Fact>,
    /// Whether anybody looks at the roster.
    pub is_watched: bool,
}

/// The loop, ready to run; the handle to it; and how this machine describes itself.
pub async fn prepare(
    config: &Config,
    data: &DataDirectory,
    clock: &Arc<dyn Clock>,
    who: Who,
    ends: Ends,
) -> Result<(Handle, Running, MachineInfo)> {
    let run = next_run(data, clock.now_ms())?;
    let air = if config.beacon.enabled { Some(open_air(config)?) } else { None };
    let udp_addr =
        air.as_ref().map_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), |air| air.source());
    let me = describe(config, &who, run, udp_addr);
    let mut peers = Vec::new();
    for place in config.cluster.peers.iter().chain(&who.servers).chain(&config.agent.server) {
        peers.extend(addresses_of(place, 8080).await.into_iter().take(1));
    }
    peers.sort_unstable();
    peers.dedup();
    let mut unicast = Vec::new();
    for place in &config.beacon.targets {
        unicast.extend(addresses_of(place, BEACON_PORT).await.into_iter().take(1));
    }
    // A server on another network hears of this machine by a beacon of its own.
    if let Some(server) = &config.agent.server {
        let found = addresses_of(server, 8080).await;
        unicast.extend(found.first().map(|addr| SocketAddr::new(addr.ip(), BEACON_PORT)));
    }
    let discovery = discovery::Config {
        node_id: who.node_id.clone(),
        // The name that people gave it says more than the one it was born with.
        hostname: config.agent.name.clone().unwrap_or_else(|| who.identity.hostname.clone()),
        instance: discovery::instance_of(run),
        primary_ip: me.primary_ip.clone(),
        websocket_port: who.websocket_port,
        cluster_id: who.cluster_id.clone(),
        cluster_name: who.cluster_name.clone(),
        roles: who.roles.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        services: config.agent.services.iter().filter_map(|text| services::parse(text)).collect(),
        interval_ms: ms(config.beacon.interval_s),
        timeout_ms: ms(config.beacon.timeout_s),
        keys: who.keys.clone(),
        unicast,
        second_dialect: config.beacon.second_dialect,
        seed: random::number(),
    };
    let revoked = who.delta.iter().flat_map(|delta| &delta.revoked);
    let revoked = revoked.filter_map(|id| NodeId::parse(id).ok()).chain(who.revoked).collect();
    let role = ClusterRole {
        config: cluster::Config {
            node_id: who.node_id,
            role: who.role,
            run,
            udp_addr,
            me: me.clone(),
            discovery,
            is_open: config.cluster.open,
            peers,
            delta: who.delta,
            access: AccessList::parse(config.cluster.access.iter().map(String::as_str))
                .context("read cluster.access")?,
            revoked,
            seed: random::number(),
        },
        air: air.map(|air| Arc::new(air) as Arc<dyn Air>),
        accepted: ends.accepted,
        tls: ends.tls,
        clock: Arc::clone(clock),
        facts: ends.facts,
        is_watched: ends.is_watched,
    };
    let (handle, running) = role.prepare();
    Ok((handle, running, me))
}

/// How links are dialled with a node's certificate.
pub fn dial_tls(chain_pem: &str, key_pem: &str, authority_pem: &str) -> Result<link::Tls> {
    let config = tls::link_client_config(chain_pem, key_pem, authority_pem)?;
    Ok(link::Tls { config: Arc::new(config), read_pass: |der| tls::node_pass(der).ok() })
}

/// The same, to be exchanged later.
pub fn exchangeable(tls: Option<link::Tls>) -> DialTls {
    Arc::new(RwLock::new(tls))
}

/// Addresses that a sweep of these networks tries: all hosts, at most [`SWEEP_MAX`].
pub fn sweep(networks: &[String]) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for network in networks {
        let (ip, bits) = network.split_once('/').unwrap_or((network, "32"));
        // IPv6 networks are too large to be tried address by address.
        let (Ok(ip), Ok(bits)) = (ip.parse::<Ipv4Addr>(), bits.parse::<u32>()) else { continue };
        let size = 1_u64 << (32 - bits.min(32));
        let first = u64::from(u32::from(ip)) & !(size - 1);
        let hosts = if size > 2 { first + 1..first + size - 1 } else { first..first + size };
        addresses.extend(
            hosts
                .take(SWEEP_MAX - addresses.len())
                .filter_map(|host| u32::try_from(host).ok())
                .map(|host| SocketAddr::from((Ipv4Addr::from(host), BEACON_PORT))),
        );
    }
    addresses
}

fn ms(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX / 1_000).saturating_mul(1_000)
}

fn open_air(config: &Config) -> Result<UdpAir> {
    let plan = Plan {
        port: config.beacon.port,
        second_dialect: config.beacon.second_dialect,
        multicast: config.beacon.multicast,
        broadcast: config.beacon.broadcast,
    };
    UdpAir::open(plan).map_err(|error| {
        Unreachable(format!(
            "{error}: stop that program, choose another port with --beacon-port, or do without beacons with \
             --beacon-enabled false"
        ))
        .into()
    })
}

/// Grows by at least one with every start, also where the clock went back.
fn next_run(data: &DataDirectory, now_ms: i64) -> Result<u64> {
    let path = data.root().join("run/number");
    let last: u64 = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let run = u64::try_from(now_ms).unwrap_or(0).max(last + 1);
    tls::write_secret(&path, run.to_string().as_bytes())
        .with_context(|| format!("write {}", path.display()))?;
    Ok(run)
}

fn describe(config: &Config, who: &Who, run: u64, udp_addr: SocketAddr) -> MachineInfo {
    let primary = config.beacon.advertise.clone().or_else(|| {
        let own = netinfo::addresses();
        own.iter().find(|ip| ip.is_ipv4()).or(own.first()).map(IpAddr::to_string)
    });
    let mut me = MachineInfo {
        machine_id: who.node_id.to_string(),
        primary_ip: primary.unwrap_or_else(|| Ipv4Addr::LOCALHOST.to_string()),
        status: "online".to_owned(),
        caelum_version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster_id: who.cluster_id.clone(),
        cluster_name: who.cluster_name.clone(),
        machine_role: if who.role == NodeRole::Server { "coordinator" } else { "node" }.to_owned(),
        caelum: Some(CaelumInfo {
            name: config.agent.name.clone().unwrap_or_else(|| who.identity.hostname.clone()),
            instance: discovery::instance_of(run),
            roles: who.roles.clone(),
            ceiling: who.ceiling.as_str().to_owned(),
            websocket_port: who.websocket_port,
            beacon_port: udp_addr.port(),
            services: config.agent.services.iter().filter_map(|text| services::parse(text)).collect(),
            capabilities: config.agent.capabilities.clone(),
            identity: Some(who.identity.clone()),
        }),
        ..MachineInfo::default()
    };
    reporter::describe(&mut me, &who.identity, None);
    me
}

/// Addresses of `HOST`, `HOST:PORT` or `https://HOST:PORT`; none where the name is not known now.
pub async fn addresses_of(place: &str, default_port: u16) -> Vec<SocketAddr> {
    let bare = place.strip_prefix("https://").or_else(|| place.strip_prefix("http://")).unwrap_or(place);
    let bare = bare.trim_end_matches('/');
    if let Ok(addr) = bare.parse::<SocketAddr>() {
        return vec![addr];
    }
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return vec![SocketAddr::new(ip, default_port)];
    }
    let (host, port) = match bare.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().unwrap_or(default_port)),
        None => (bare, default_port),
    };
    match tokio::time::timeout(LOOKUP_MAX, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(found)) => found.collect(),
        _ => {
            tracing::warn!(code = "cluster.name_unknown", host, "the address of this name cannot be found");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_tries_the_hosts_of_a_network_and_never_too_many() {
        let of = |networks: &[&str]| sweep(&networks.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        let small: Vec<String> = of(&["192.0.2.9/30"]).iter().map(ToString::to_string).collect();
        assert_eq!(small, ["192.0.2.9:8181", "192.0.2.10:8181"]);
        assert_eq!(of(&["192.0.2.9"]).len(), 1);
        assert_eq!(of(&["10.0.0.0/8", "10.0.0.0/8"]).len(), SWEEP_MAX);
        assert!(of(&["fd00::/64", "0.0.0.0/33"]).len() <= 1);
    }

    #[test]
    fn every_start_has_a_larger_number_even_if_the_clock_goes_back() {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let data = DataDirectory::locate(Some(temporary.path().join("data"))).expect("located");
        data.make().expect("made");
        assert_eq!(next_run(&data, 1_000).expect("written"), 1_000);
        assert_eq!(next_run(&data, 500).expect("written"), 1_001);
    }

    #[tokio::test]
    async fn a_place_is_an_address_with_or_without_port_and_scheme() {
        for (place, expected) in [
            ("192.0.2.1", "192.0.2.1:8080"),
            ("192.0.2.1:9", "192.0.2.1:9"),
            ("https://192.0.2.1:8095/", "192.0.2.1:8095"),
            ("[::1]:7", "[::1]:7"),
            ("::1", "[::1]:8080"),
        ] {
            assert_eq!(addresses_of(place, 8080).await, [expected.parse().expect("an address")], "{place}");
        }
    }
}
