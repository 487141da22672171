//! What this node says of its own accord: bursts, regular beacons, questions, goodbye.

use std::net::SocketAddr;

use caelum_model::beacon::{Beacon, BeaconKind, ClusterBeacon, MESSAGE_TYPE};

use super::{
    Discovery, Output, Proof, To,
    codec::{NAME_MAX, cut, seal_first, write_second},
};
use crate::{now::Now, timestamp};

/// Changes of what is said are said after this long, so that several are said at once, ms.
const SOON_MS: i64 = 200;
/// Being woken so much too late means that this process stood still, ms.
const STALLED_MS: i64 = 5_000;
/// What machines have to answer after we stood still, ms.
const GRACE_MS: i64 = 2_000;
/// Most machines to whom goodbye is said one by one.
const GOODBYES_MAX: usize = 256;

/// A beacon out of turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// I am here.
    Announce,
    /// Who else is?
    Solicit,
}

/// A name as others accept it.
fn clean(name: &str) -> String {
    cut(&name.replace(char::is_control, " "), NAME_MAX)
}

impl Discovery {
    pub(super) fn start(&mut self, now: Now, out: &mut Vec<Output>) {
        self.started_ms = Some(now.ms);
        self.announce_ms = Some(now.ms + self.interval_ms());
        self.call(now, 0);
        self.wake(now, out);
    }

    /// Plans a question and two beacons after it: the first of a new machine is easily lost while switches
    /// and neighbours learn its address.
    pub(super) fn call(&mut self, now: Now, delay_ms: i64) {
        if self.started_ms.is_none() {
            return;
        }
        let first_ms = now.ms + delay_ms;
        self.burst = vec![
            (first_ms, Call::Solicit),
            (first_ms + 100 + self.chance.below(100), Call::Announce),
            (first_ms + 600 + self.chance.below(200), Call::Announce),
        ];
    }

    /// Plans to say what changed.
    pub(super) fn announce_soon(&mut self, now: Now) {
        if let Some(due_ms) = self.announce_ms {
            self.announce_ms = Some(due_ms.min(now.ms + SOON_MS + self.chance.below(SOON_MS)));
        }
    }

    pub(super) fn wake(&mut self, now: Now, out: &mut Vec<Output>) {
        if self.next_wakeup_ms().is_some_and(|due_ms| now.ms - due_ms > STALLED_MS) {
            // What was sent meanwhile is not read yet, or lost: we were deaf, the others not silent.
            self.sweep_ms = self.sweep_ms.map(|sweep_ms| sweep_ms.max(now.ms + GRACE_MS));
            self.call(now, 0);
        }
        while self.burst.first().is_some_and(|(due_ms, _)| *due_ms <= now.ms) {
            let (_, call) = self.burst.remove(0);
            self.speak(now, call, out);
        }
        if self.announce_ms.is_some_and(|due_ms| due_ms <= now.ms) {
            self.announce_ms = Some(now.ms + self.interval_ms());
            self.speak(now, Call::Announce, out);
        }
        self.answer_due(now, out);
        self.sweep(now, out);
    }

    pub(super) fn solicit(&mut self, now: Now, to: &[SocketAddr], out: &mut Vec<Output>) {
        if to.is_empty() {
            return self.speak(now, Call::Solicit, out);
        }
        for addr in to {
            let bytes = self.compose(now, BeaconKind::Solicit, true, String::new());
            out.push(Output::Send { to: To::One(*addr), bytes });
        }
    }

    /// Says goodbye to everybody, and to those who may not hear what everybody hears.
    pub(super) fn stop(&mut self, now: Now, out: &mut Vec<Output>) {
        if self.started_ms.take().is_none() {
            return;
        }
        (self.announce_ms, self.sweep_ms) = (None, None);
        self.burst.clear();
        self.answers.clear();
        let proven = self.machines().filter(|heard| heard.proof == Proof::Fresh).map(|heard| heard.from);
        let mut to: Vec<SocketAddr> = self.config.unicast.iter().copied().chain(proven).collect();
        to.truncate(self.config.unicast.len() + GOODBYES_MAX);
        for to in std::iter::once(To::Everyone).chain(to.into_iter().map(To::One)) {
            let bytes = self.compose(now, BeaconKind::Goodbye, false, String::new());
            out.push(Output::Send { to, bytes });
        }
    }

    fn speak(&mut self, now: Now, call: Call, out: &mut Vec<Output>) {
        let (kind, second) = match call {
            Call::Announce => (BeaconKind::Announce, "beacon"),
            Call::Solicit => (BeaconKind::Solicit, "discovery"),
        };
        let bytes = self.compose(now, kind, call == Call::Solicit, String::new());
        out.push(Output::Send { to: To::Everyone, bytes });
        for at in 0..self.config.unicast.len() {
            let to = To::One(self.config.unicast[at]);
            let bytes = self.compose(now, BeaconKind::Solicit, true, String::new());
            out.push(Output::Send { to, bytes });
        }
        if self.config.second_dialect {
            out.push(Output::Send { to: To::EveryoneSecond, bytes: self.compose_second(second) });
        }
    }

    /// The interval with its jitter, ms.
    fn interval_ms(&mut self) -> i64 {
        let interval_ms = self.config.interval_ms.max(100);
        interval_ms - interval_ms / 10 + self.chance.below(interval_ms / 5 + 1)
    }

    /// A beacon of the first dialect, sealed, with the next number.
    pub(super) fn compose(&mut self, now: Now, kind: BeaconKind, is_asking: bool, echo: String) -> Vec<u8> {
        self.seq += 1;
        let config = &self.config;
        let nonce = if is_asking {
            self.challenges.make(now.ms, config.keys.last(), &config.instance, config.seed)
        } else {
            String::new()
        };
        let beacon = Beacon {
            message_type: MESSAGE_TYPE.to_owned(),
            machine_id: config.node_id.as_str().to_owned(),
            hostname: clean(&config.hostname),
            primary_ip: config.primary_ip.clone(),
            cluster_id: config.cluster_id.clone(),
            cluster_name: clean(&config.cluster_name),
            websocket_port: config.websocket_port,
            services: config.services.clone(),
            timestamp: timestamp::iso(now.wall_ms),
            instance: config.instance.clone(),
            seq: self.seq,
            kind,
            roles: config.roles.clone(),
            version: config.version.clone(),
            service_count: 0,
            nonce,
            echo,
            key_generation: 0,
            auth: String::new(),
        };
        seal_first(beacon, config.keys.last())
    }

    /// A beacon of the second dialect.
    pub(super) fn compose_second(&self, kind: &str) -> Vec<u8> {
        write_second(&ClusterBeacon {
            kind: kind.to_owned(),
            cluster_id: self.config.node_id.as_str().to_owned(),
            cluster_name: clean(&self.config.hostname),
            ws_port: self.config.websocket_port,
            capabilities: self.config.roles.clone(),
            role: "node".to_owned(),
        })
    }
}
