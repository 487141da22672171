//! The roster: what this node believes about all nodes and every machine heard, as people and programs see it.

use std::collections::BTreeMap;

use caelum_model::{
    cluster::{DiscoveryMethod, LinkView, Liveness, Machine, MachineKind, MachineState, Member, Roster},
    envelope::MachineInfo,
    id::NodeId,
};

use super::{lines::Line, node::Cluster};
use crate::{
    Now,
    discovery::{Heard, Proof},
};

impl Cluster {
    /// The roster as of now.
    pub fn roster(&self, now: Now) -> Roster {
        let mut members: Vec<Member> =
            self.membership.nodes().map(|(node_id, _)| self.member(now, node_id)).collect();
        members.sort_by(|a, b| (&a.name, &a.node_id).cmp(&(&b.name, &b.node_id)));
        Roster { members, machines: self.machines(now) }
    }

    fn member(&self, now: Now, node_id: &NodeId) -> Member {
        let standing = self.membership.standing(node_id).expect("the caller iterates over what is there");
        let known = self.known.get(node_id);
        let heard = self.discovery.machine(node_id.as_str());
        let caelum = known.and_then(|known| known.info.caelum.as_ref());
        let services = caelum.map(|caelum| caelum.services.clone());
        Member {
            node_id: node_id.clone(),
            name: self.name_of(node_id),
            role: known.map(|known| known.role),
            udp_addr: standing.addr,
            liveness: standing.liveness,
            because: standing.because.to_owned(),
            since_ms: now.ms - standing.since_ms,
            link: self.line_to(node_id).map(|line| view(line, now)),
            services: services.or_else(|| heard.map(|heard| heard.services.clone())).unwrap_or_default(),
            version: known
                .map(|known| known.info.caelum_version.clone())
                .or_else(|| heard.map(|heard| heard.version.clone()))
                .unwrap_or_default(),
            peers: known.map(|known| known.peers.clone()).unwrap_or_default(),
        }
    }

    fn line_to(&self, node_id: &NodeId) -> Option<&Line> {
        self.lines.to(node_id).next().map(|(_, line)| line)
    }

    /// Every machine heard, linked or refused; a machine that was seen in several ways is there once.
    fn machines(&self, now: Now) -> Vec<Machine> {
        let mut machines: BTreeMap<String, Machine> = self
            .discovery
            .machines()
            .map(|heard| {
                let mut machine = machine_of(heard, now);
                machine.state = self.state_of(heard);
                machine.authenticated = matches!(machine.state, MachineState::Joined);
                let addr = std::net::SocketAddr::new(heard.from.ip(), heard.websocket_port);
                if let Some(reason) = self.refused.get(&addr)
                    && machine.state == MachineState::Discovered
                {
                    machine.state = MachineState::Rejected;
                    machine.reason = Some(reason.clone());
                }
                (machine.machine_id.clone(), machine)
            })
            .collect();
        for (node_id, known) in &self.known {
            if machines.contains_key(node_id.as_str()) {
                continue;
            }
            let Some(standing) = self.membership.standing(node_id) else { continue };
            let sender = self.line_to(node_id).map(|line| line.remote.ip().to_string());
            let state = match standing.liveness {
                Liveness::Alive | Liveness::Suspect => MachineState::Joined,
                Liveness::Dead | Liveness::Left => MachineState::Lost,
            };
            let age_ms = if sender.is_some() { 0 } else { now.ms - standing.since_ms };
            let mut machine = of_link(&known.info, sender.unwrap_or_default(), now, age_ms);
            machine.state = state;
            machine.authenticated = true;
            machine.kind = MachineKind::Caelum;
            machines.insert(node_id.to_string(), machine);
        }
        for (machine_id, (info, remote, since_ms)) in &self.strangers {
            let age_ms = now.ms - since_ms;
            let stranger = of_link(info, remote.ip().to_string(), now, age_ms.min(0));
            let entry = machines.entry(machine_id.clone()).or_insert(stranger);
            // It is linked, as a stranger can be.
            if entry.state != MachineState::Joined {
                entry.state = MachineState::Joining;
                entry.reason = Some("linked without a certificate (cluster.open)".to_owned());
            }
        }
        machines.into_values().collect()
    }

    fn state_of(&self, heard: &Heard) -> MachineState {
        let Ok(node_id) = NodeId::parse(&heard.machine_id) else { return MachineState::Discovered };
        if self.config.revoked.contains(&node_id) {
            return MachineState::Rejected;
        }
        match self.membership.standing(&node_id).map(|standing| standing.liveness) {
            Some(Liveness::Alive | Liveness::Suspect) => MachineState::Joined,
            Some(Liveness::Dead | Liveness::Left) => MachineState::Lost,
            None => MachineState::Discovered,
        }
    }
}

fn view(line: &Line, now: Now) -> LinkView {
    let quality = line.session.quality();
    LinkView {
        remote: line.remote,
        is_dialled: line.is_dialled,
        age_ms: now.ms - line.opened_ms,
        rtt_ms: quality.rtt_ms,
        jitter_ms: quality.jitter_ms,
        loss_pct: quality.loss_pct,
    }
}

pub(super) fn machine_of(heard: &Heard, now: Now) -> Machine {
    Machine {
        machine_id: heard.machine_id.clone(),
        hostname: heard.hostname.clone(),
        primary_ip: heard.primary_ip.clone(),
        sender_ip: heard.from.ip().to_canonical().to_string(),
        cluster_id: heard.cluster_id.clone(),
        cluster_name: heard.cluster_name.clone(),
        websocket_port: heard.websocket_port,
        services: heard.services.clone(),
        last_seen: (now.wall_ms - (now.ms - heard.heard_ms)) as f64 / 1_000.0,
        discovery_method: DiscoveryMethod::UdpBeacon,
        kind: heard.kind,
        state: MachineState::Discovered,
        authenticated: heard.proof == Proof::Fresh,
        capabilities: heard.capabilities.clone(),
        role: heard.role.clone(),
        reason: None,
    }
}

fn of_link(info: &MachineInfo, sender_ip: String, now: Now, age_ms: i64) -> Machine {
    let caelum = info.caelum.as_ref();
    Machine {
        machine_id: info.machine_id.clone(),
        hostname: info.hostname.clone(),
        primary_ip: info.primary_ip.clone(),
        sender_ip,
        cluster_id: info.cluster_id.clone(),
        cluster_name: info.cluster_name.clone(),
        websocket_port: caelum.map_or(0, |caelum| caelum.websocket_port),
        services: caelum.map(|caelum| caelum.services.clone()).unwrap_or_default(),
        last_seen: (now.wall_ms - age_ms) as f64 / 1_000.0,
        discovery_method: DiscoveryMethod::Link,
        kind: if caelum.is_some() { MachineKind::Caelum } else { MachineKind::CaelumAnalytics },
        state: MachineState::Joining,
        authenticated: false,
        capabilities: None,
        role: (!info.machine_role.is_empty()).then(|| info.machine_role.clone()),
        reason: None,
    }
}
