//! What is believed of a datagram: who may change which record.

use std::{
    cmp::Ordering,
    net::{IpAddr, SocketAddr},
};

use caelum_model::{
    beacon::{Beacon, BeaconKind, ClusterBeacon},
    cluster::MachineKind,
};

use super::{
    Discovery, Gone, Heard, MACHINES_MAX, Output, Proof, Refusal, STRANGERS_MAX,
    answers::Asker,
    codec::{self, Opened},
};
use crate::{now::Now, packet::Window};

/// A beacon that arrives again within this time came by another path, ms.
const COPY_MS: i64 = 1_000;
/// Beacons of our own former run may arrive for this long after our start, ms.
const FORMER_MS: i64 = 5_000;
/// A machine that is heard from several addresses is known by one for as long as it is heard from that one at
/// least this often: a part of the time-out.
const ADDRESS_KEPT: i64 = 2;
/// Most goodbyes that are remembered.
const DEPARTED_MAX: usize = 1_024;

/// A machine, and what is needed to judge its next beacon.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) heard: Heard,
    /// Key under which it is proven.
    pub(super) generation: Option<u32>,
    seq: u64,
    window: Window,
    /// When it was last heard from the address by which it is known.
    from_ms: i64,
}

/// The run of a machine that said goodbye.
#[derive(Debug)]
pub(super) struct Departed {
    instance: String,
    until_ms: i64,
}

/// How much an address is worth to know a machine by: others can use it, too; only on this link; only here.
pub(super) fn worth(addr: SocketAddr) -> u8 {
    match addr.ip() {
        ip if ip.is_loopback() => 0,
        IpAddr::V6(ip) if ip.is_unicast_link_local() => 1,
        IpAddr::V4(ip) if ip.is_link_local() => 1,
        IpAddr::V4(_) | IpAddr::V6(_) => 2,
    }
}

/// What a beacon may do to the record of its machine.
enum Right {
    /// Change it.
    Update,
    /// Change it, and prove this run.
    Prove,
    /// Nothing before it has proven itself.
    Wait,
    /// Nothing: it came by another path before.
    Copy,
}

impl Discovery {
    /// Judges a datagram.
    pub(super) fn receive(
        &mut self,
        now: Now,
        from: SocketAddr,
        bytes: &[u8],
        out: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        let is_proven = self.proven.contains_key(&from);
        if !self.sources.admit(now.ms, from, is_proven) {
            return Err(Refusal::TooMany);
        }
        match codec::open(bytes, &self.config.keys)? {
            Opened::First(beacon, generation) => self.hear_first(now, from, *beacon, generation, out),
            Opened::Second(beacon) => self.hear_second(now, from, beacon, out),
        }
    }

    fn hear_first(
        &mut self,
        now: Now,
        from: SocketAddr,
        beacon: Beacon,
        generation: Option<u32>,
        out: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        if beacon.machine_id == self.config.node_id.as_str() {
            return self.hear_own_id(now, &beacon.instance);
        }
        if generation.is_none() && !self.strangers.take(now.ms) {
            return Err(Refusal::TooMany);
        }
        let right = self.right(now, from, &beacon, generation)?;
        if beacon.kind == BeaconKind::Goodbye {
            return self.hear_goodbye(now, from, &beacon, generation, &right, out);
        }
        let is_sealed = generation.is_some();
        // Who is heard by a question gets the answer even where this copy of it tells nothing new: the
        // first may have come from an address that cannot be answered.
        if beacon.kind == BeaconKind::Solicit || (is_sealed && !beacon.nonce.is_empty()) {
            let asker = Asker {
                addr: from,
                sealed: is_sealed.then(|| (beacon.machine_id.clone(), beacon.instance.clone())),
                nonce: if is_sealed { beacon.nonce.clone() } else { String::new() },
                is_second: false,
                is_alone: beacon.kind == BeaconKind::Announce,
            };
            self.plan_answer(now, asker);
        } else if is_sealed
            && !matches!(right, Right::Prove)
            && !self.is_fresh(&beacon.machine_id, &beacon.instance)
        {
            self.challenge(now, from, out);
        }
        match right {
            Right::Wait => Ok(()),
            Right::Copy => {
                self.hear_copy(now, from, &beacon.machine_id, out);
                Ok(())
            }
            Right::Update => {
                let keeps = self.is_fresh(&beacon.machine_id, &beacon.instance).then_some(generation);
                self.note_first(now, from, beacon, keeps.flatten(), out)
            }
            Right::Prove => self.note_first(now, from, beacon, generation, out),
        }
    }

    /// Who may overwrite what: what is known × what the beacon shows.
    fn right(
        &mut self,
        now: Now,
        from: SocketAddr,
        beacon: &Beacon,
        generation: Option<u32>,
    ) -> Result<Right, Refusal> {
        let is_answer = generation.is_some() && self.challenges.is_answered_by(now.ms, &beacon.echo);
        let gained = if is_answer { Right::Prove } else { Right::Update };
        let Some(record) = self.machines.get_mut(&beacon.machine_id) else {
            let is_past = self.departed.get(&beacon.machine_id).is_some_and(|departed| {
                now.ms < departed.until_ms && beacon.instance <= departed.instance && !is_answer
            });
            return if is_past { Err(Refusal::Replayed) } else { Ok(gained) };
        };
        let is_copy = beacon.instance == record.heard.instance
            && beacon.seq == record.seq
            && beacon.seq != 0
            && now.ms - record.heard.heard_ms < COPY_MS;
        match (record.heard.proof, generation, beacon.instance.cmp(&record.heard.instance)) {
            (Proof::None, None, _) if is_copy && from.ip() != record.heard.from.ip() => Ok(Right::Copy),
            (Proof::None, _, _) => Ok(gained),
            (Proof::Fresh, None, _) => Err(Refusal::Unproven),
            (Proof::Fresh, Some(_), Ordering::Less) => Err(Refusal::Replayed),
            (Proof::Fresh, Some(_), Ordering::Equal) if record.window.admit(beacon.seq) => Ok(Right::Update),
            (Proof::Fresh, Some(_), Ordering::Equal) if is_copy => Ok(Right::Copy),
            (Proof::Fresh, Some(_), Ordering::Equal) => Err(Refusal::Replayed),
            (Proof::Fresh, Some(_), Ordering::Greater) if is_answer => Ok(Right::Prove),
            (Proof::Fresh, Some(_), Ordering::Greater) => Ok(Right::Wait),
        }
    }

    /// A copy tells of one more address of its machine, which may be a better one.
    fn hear_copy(&mut self, now: Now, from: SocketAddr, machine_id: &str, out: &mut Vec<Output>) {
        let Some(record) = self.machines.get_mut(machine_id) else { return };
        let heard = &mut record.heard;
        if from == heard.from {
            record.from_ms = now.ms;
        } else if worth(from) > worth(heard.from) {
            if heard.proof == Proof::Fresh {
                self.proven.remove(&heard.from);
                self.proven.insert(from, machine_id.to_owned());
            }
            record.from_ms = now.ms;
            (heard.from, heard.is_new, heard.is_restart, heard.is_newly_proven) = (from, false, false, false);
            out.push(Output::Heard(Box::new(heard.clone())));
        }
    }

    fn hear_own_id(&self, now: Now, instance: &str) -> Result<(), Refusal> {
        let is_young = self.started_ms.is_some_and(|started_ms| now.ms - started_ms < FORMER_MS);
        match instance.cmp(&self.config.instance) {
            Ordering::Equal => Ok(()),
            Ordering::Less if is_young && !instance.is_empty() => Ok(()),
            Ordering::Less | Ordering::Greater => Err(Refusal::DuplicateId),
        }
    }

    fn hear_goodbye(
        &mut self,
        now: Now,
        from: SocketAddr,
        beacon: &Beacon,
        generation: Option<u32>,
        right: &Right,
        out: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        let Some(record) = self.machines.get(&beacon.machine_id) else { return Ok(()) };
        let proof = record.heard.proof;
        match (proof, right) {
            (_, Right::Copy) => return Ok(()),
            (Proof::Fresh, Right::Wait | Right::Prove) => return Err(Refusal::Unproven),
            // Of a stranger at least the address has to be right.
            (Proof::None, _) if record.heard.from.ip() != from.ip() => return Err(Refusal::Unproven),
            (Proof::Fresh, Right::Update) | (Proof::None, _) => {}
        }
        self.forget(&beacon.machine_id, Gone::Goodbye, out);
        if proof == Proof::Fresh && generation.is_some() {
            if self.departed.len() >= DEPARTED_MAX
                && let Some(oldest) = self
                    .departed
                    .iter()
                    .min_by_key(|(_, departed)| departed.until_ms)
                    .map(|(id, _)| id.clone())
            {
                self.departed.remove(&oldest);
            }
            let until_ms = now.ms + self.config.timeout_ms;
            let departed = Departed { instance: beacon.instance.clone(), until_ms };
            self.departed.insert(beacon.machine_id.clone(), departed);
        }
        Ok(())
    }

    fn note_first(
        &mut self,
        now: Now,
        from: SocketAddr,
        beacon: Beacon,
        generation: Option<u32>,
        out: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        let kind = match beacon.instance.as_str() {
            "" => MachineKind::CaelumAnalytics,
            _ => MachineKind::Caelum,
        };
        let heard = Heard {
            machine_id: beacon.machine_id,
            hostname: beacon.hostname,
            primary_ip: beacon.primary_ip,
            from,
            cluster_id: beacon.cluster_id,
            cluster_name: beacon.cluster_name,
            websocket_port: beacon.websocket_port,
            services: beacon.services,
            kind,
            capabilities: None,
            role: None,
            roles: beacon.roles,
            version: beacon.version,
            instance: beacon.instance,
            proof: if generation.is_some() { Proof::Fresh } else { Proof::None },
            is_new: false,
            is_restart: false,
            is_newly_proven: false,
            heard_ms: now.ms,
            heard_wall_ms: now.wall_ms,
        };
        self.note(heard, beacon.seq, generation, out)
    }

    fn hear_second(
        &mut self,
        now: Now,
        from: SocketAddr,
        beacon: ClusterBeacon,
        out: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        if beacon.cluster_id == self.config.node_id.as_str() {
            return Ok(());
        }
        if !self.strangers.take(now.ms) {
            return Err(Refusal::TooMany);
        }
        if beacon.kind == "discovery" {
            let asker =
                Asker { addr: from, sealed: None, nonce: String::new(), is_second: true, is_alone: false };
            self.plan_answer(now, asker);
        }
        if let Some(known) = self.machine(&beacon.cluster_id)
            && known.kind != MachineKind::CaelumCluster
        {
            // A Caelum speaks both; the first dialect tells more.
            let is_same = known.from.ip() == from.ip();
            return if is_same { Ok(()) } else { Err(Refusal::Unproven) };
        }
        let heard = Heard {
            machine_id: beacon.cluster_id.clone(),
            hostname: beacon.cluster_name.clone(),
            primary_ip: from.ip().to_string(),
            from,
            cluster_id: beacon.cluster_id,
            cluster_name: beacon.cluster_name,
            websocket_port: beacon.ws_port,
            services: Vec::new(),
            kind: MachineKind::CaelumCluster,
            capabilities: Some(beacon.capabilities),
            role: Some(beacon.role),
            roles: Vec::new(),
            version: String::new(),
            instance: String::new(),
            proof: Proof::None,
            is_new: false,
            is_restart: false,
            is_newly_proven: false,
            heard_ms: now.ms,
            heard_wall_ms: now.wall_ms,
        };
        self.note(heard, 0, None, out)
    }

    /// Writes the record and tells of it.
    fn note(
        &mut self,
        mut heard: Heard,
        seq: u64,
        generation: Option<u32>,
        out: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        let known = self.machines.get(&heard.machine_id);
        if known.is_none() {
            self.make_room(heard.proof, out)?;
        }
        let known = self.machines.remove(&heard.machine_id);
        let same_run = known.as_ref().filter(|record| record.heard.instance == heard.instance);
        let is_proven = same_run.is_some_and(|record| record.heard.proof == Proof::Fresh);
        heard.is_new = known.is_none();
        heard.is_restart = known.is_some() && same_run.is_none();
        heard.is_newly_proven = heard.proof == Proof::Fresh && !is_proven;
        // The copies of a beacon race each other, and one that somebody else passes on may win: the address
        // by which a machine is known is kept while it is heard from there.
        let mut from_ms = heard.heard_ms;
        if let Some(record) = same_run
            && record.heard.from != heard.from
            && worth(record.heard.from) >= worth(heard.from)
            && (is_proven || heard.proof == Proof::None)
            && heard.heard_ms - record.from_ms < self.config.timeout_ms / ADDRESS_KEPT
        {
            (heard.from, from_ms) = (record.heard.from, record.from_ms);
        }
        // Numbers of a run count from its proof on.
        let mut window = same_run.filter(|_| is_proven).map(|record| record.window).unwrap_or_default();
        if heard.is_newly_proven {
            window.admit(seq);
        }
        if let Some(record) = &known {
            self.proven.remove(&record.heard.from);
        }
        if heard.proof == Proof::Fresh {
            self.proven.insert(heard.from, heard.machine_id.clone());
        }
        let expiry_ms = heard.heard_ms + self.config.timeout_ms;
        self.sweep_ms = Some(self.sweep_ms.map_or(expiry_ms, |sweep_ms| sweep_ms.min(expiry_ms)));
        out.push(Output::Heard(Box::new(heard.clone())));
        self.machines.insert(heard.machine_id.clone(), Record { heard, generation, seq, window, from_ms });
        Ok(())
    }

    /// Strangers have half of the room, and leave it when a proven machine comes.
    fn make_room(&mut self, proof: Proof, out: &mut Vec<Output>) -> Result<(), Refusal> {
        if self.machines.len() < STRANGERS_MAX {
            return Ok(());
        }
        // Proven machines have an address each (where two share one, strangers have a place less); whoever is
        // left is a stranger. Counting them one by one would let a flood make us count.
        let strangers = self.machines.len() - self.proven.len().min(self.machines.len());
        match proof {
            Proof::None if strangers >= STRANGERS_MAX => Err(Refusal::Full),
            _ if self.machines.len() < MACHINES_MAX => Ok(()),
            Proof::None => Err(Refusal::Full),
            Proof::Fresh => {
                let strangers = self.machines.values().filter(|record| record.heard.proof == Proof::None);
                let longest = strangers.min_by_key(|record| record.heard.heard_ms);
                let machine_id = longest.ok_or(Refusal::Full)?.heard.machine_id.clone();
                self.forget(&machine_id, Gone::Crowded, out);
                Ok(())
            }
        }
    }

    /// Forgets machines that were silent for too long.
    pub(super) fn sweep(&mut self, now: Now, out: &mut Vec<Output>) {
        if self.sweep_ms.is_none_or(|sweep_ms| now.ms < sweep_ms) {
            return;
        }
        let timeout_ms = self.config.timeout_ms;
        self.departed.retain(|_, departed| now.ms < departed.until_ms);
        let silent: Vec<String> = self
            .machines()
            .filter(|heard| now.ms - heard.heard_ms >= timeout_ms)
            .map(|heard| heard.machine_id.clone())
            .collect();
        for machine_id in silent {
            self.forget(&machine_id, Gone::Silent, out);
        }
        self.sweep_ms = self.machines().map(|heard| heard.heard_ms + timeout_ms).min();
    }

    fn forget(&mut self, machine_id: &str, why: Gone, out: &mut Vec<Output>) {
        if let Some(record) = self.machines.remove(machine_id) {
            if record.heard.proof == Proof::Fresh {
                self.proven.remove(&record.heard.from);
            }
            let proof = record.heard.proof;
            out.push(Output::Gone { machine_id: machine_id.to_owned(), why, proof });
        }
    }
}
