//! Servers among themselves: which of them live, from records that they leave in a shared place.
//!
//! # Purpose
//! Each server writes a record of itself again and again; the others read all of them. Whoever may write in
//! that place is not trusted: a record counts only under the cluster's key, and only if it is newer than the
//! last of the same server.
//!
//! # Rules
//! - A record says who, in which life (`instance`) and for the how-manieth time (`counter`); the pair only
//!   grows. One that is altered, under another server's key, or older than one that was seen, is no record.
//! - Each server makes a nonce at its start, and each record names the nonces of all servers that its writer
//!   sees. A server lists another only when that one named its nonce: copies that somebody kept and puts back,
//!   even many in a row, cannot. A newcomer is answered at once by everybody's next record, so that this takes
//!   a moment and no heartbeat.
//! - It is active while its record advances; how long it has not is told by the observer's own clock.
//!
//! # What it does not do
//! It reads and writes nothing, and it does not say who may be a server: certificates do.

use std::collections::BTreeMap;

use caelum_model::{UnixMs, cluster::ClusterKey, id::NodeId};
use serde::{Deserialize, Serialize};

use crate::seal;

/// What stands before the keys of records.
pub const PREFIX: &str = "server/";
/// Most servers that are watched.
pub const SERVERS_MAX: usize = 64;
/// Silence after which a server is forgotten, ms.
pub const FORGET_MS: i64 = 24 * 3_600_000;
/// Most bytes of a record that is looked at.
const RECORD_BYTES_MAX: usize = 16 << 10;
/// What the code is over, beside the record.
const PURPOSE: &[u8] = b"caelum server record 1\0";

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerRecord {
    /// Which.
    pub node_id: NodeId,
    /// Its life; later ones are larger.
    pub instance: u64,
    /// Grows with each record of a life.
    pub counter: u64,
    /// Its name.
    pub name: String,
    /// Where it is reached: `host:port`, best first.
    pub servers: Vec<String>,
    /// Its version.
    pub version: String,
    /// What it runs.
    pub roles: Vec<String>,
    /// How long it has been running, ms.
    pub uptime_ms: i64,
    /// Made by chance at its start.
    pub nonce: String,
    /// Nonces of the servers that it sees, its own included.
    pub seen: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Signed {
    record: String,
    mac: String,
}

/// The key of a server's record.
pub fn key_of(node_id: &NodeId) -> String {
    format!("{PREFIX}{node_id}")
}

/// A record with proof that it is of the cluster.
pub fn sign(record: &ServerRecord, key: &ClusterKey) -> String {
    let record = serde_json::to_string(record).expect("text and numbers have a JSON form");
    let code = seal::mac(key, &[PURPOSE, record.as_bytes()]);
    let mac = code.iter().map(|byte| format!("{byte:02x}")).collect();
    serde_json::to_string(&Signed { record, mac }).expect("text has a JSON form")
}

/// Reads a record that was found under a key; nothing where it proves nothing.
pub fn verify(under: &str, text: &str, keys: &[ClusterKey]) -> Option<ServerRecord> {
    if text.len() > RECORD_BYTES_MAX {
        return None;
    }
    let Signed { record, mac } = serde_json::from_str(text).ok()?;
    let claimed = hex(&mac)?;
    let is_ours = keys.iter().any(|key| seal::is_mac(key, &[PURPOSE, record.as_bytes()], &claimed))
        && claimed.len() == 32;
    let record: ServerRecord = is_ours.then(|| serde_json::from_str(&record).ok()).flatten()?;
    (key_of(&record.node_id) == under).then_some(record)
}

fn hex(text: &str) -> Option<Vec<u8>> {
    if text.len() > 128 || !text.is_ascii() {
        return None;
    }
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

/// A server as another one sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What it said last.
    pub record: ServerRecord,
    /// How long ago that was new here, ms.
    pub age_ms: i64,
    /// Whether it lives.
    pub is_active: bool,
}

/// What one server knows of the others.
#[derive(Debug)]
pub struct Watch {
    /// This server's own nonce.
    nonce: String,
    known: BTreeMap<NodeId, Seen>,
}

#[derive(Debug)]
struct Seen {
    record: ServerRecord,
    /// When its record was new, by the observer's clock.
    new_at_ms: UnixMs,
    /// Whether it named the observer's nonce in this life.
    is_proven: bool,
}

impl Watch {
    /// Of a server that made this nonce at its start.
    pub fn new(nonce: String) -> Self {
        Self { nonce, known: BTreeMap::new() }
    }

    /// Nonces of everybody who was seen, for this server's own record.
    pub fn seen(&self) -> Vec<String> {
        let others = self.known.values().map(|seen| seen.record.nonce.clone());
        let mut all: Vec<String> = std::iter::once(self.nonce.clone()).chain(others).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Takes in the records that are there. Answers whether somebody began a new life, who is to be answered.
    pub fn look(&mut self, found: Vec<ServerRecord>, now_ms: UnixMs) -> bool {
        let mut has_newcomer = false;
        for record in found {
            let place = (record.instance, record.counter);
            let names_us = record.seen.contains(&self.nonce);
            let has_room = self.known.len() < SERVERS_MAX;
            match self.known.get_mut(&record.node_id) {
                Some(seen) if place > (seen.record.instance, seen.record.counter) => {
                    let is_new_life = record.instance > seen.record.instance;
                    has_newcomer |= is_new_life || record.nonce != seen.record.nonce;
                    let is_proven = names_us || (seen.is_proven && !is_new_life);
                    *seen = Seen { record, new_at_ms: now_ms, is_proven };
                }
                // The same again, or older: no news.
                Some(_) => {}
                None if has_room => {
                    has_newcomer = true;
                    let seen = Seen { new_at_ms: now_ms, is_proven: names_us, record };
                    self.known.insert(seen.record.node_id.clone(), seen);
                }
                None => {}
            }
        }
        self.known.retain(|_, seen| now_ms - seen.new_at_ms <= FORGET_MS);
        has_newcomer
    }

    /// The servers that have proved to be there, by id.
    pub fn members(&self, now_ms: UnixMs, timeout_ms: i64) -> Vec<Member> {
        let proven = self.known.values().filter(|seen| seen.is_proven);
        proven
            .map(|seen| {
                let age_ms = (now_ms - seen.new_at_ms).max(0);
                Member { record: seen.record.clone(), age_ms, is_active: age_ms <= timeout_ms }
            })
            .collect()
    }

    /// Forgets one that was shut out.
    pub fn forget(&mut self, node_id: &NodeId) {
        self.known.remove(node_id);
    }
}

/// Where servers are reached, the same list on each of them: those that live before those that were there a
/// while ago and may come back, and of each server one place before a second of any.
pub fn places(members: &[Member], most: usize) -> Vec<String> {
    let mut places: Vec<String> = Vec::new();
    for is_active in [true, false] {
        let these: Vec<&Member> = members.iter().filter(|member| member.is_active == is_active).collect();
        let longest = these.iter().map(|member| member.record.servers.len()).max().unwrap_or(0);
        for nth in 0..longest {
            for place in these.iter().filter_map(|member| member.record.servers.get(nth)) {
                if !places.contains(place) {
                    places.push(place.clone());
                }
            }
        }
    }
    places.truncate(most);
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(secret: &str) -> ClusterKey {
        ClusterKey { generation: 1, secret: secret.to_owned() }
    }

    fn record(id: &str, instance: u64, counter: u64) -> ServerRecord {
        ServerRecord {
            node_id: NodeId::parse(id).expect("valid"),
            instance,
            counter,
            name: id.to_owned(),
            servers: vec![format!("{id}:8080"), format!("{id}:9090")],
            version: "1".to_owned(),
            roles: Vec::new(),
            uptime_ms: 5,
            nonce: format!("{id} {instance}"),
            seen: Vec::new(),
        }
    }

    /// The same, written by one that sees the observer.
    fn answer(id: &str, instance: u64, counter: u64) -> ServerRecord {
        ServerRecord { seen: vec!["me".to_owned()], ..record(id, instance, counter) }
    }

    fn ids(members: &[Member]) -> Vec<(&str, bool)> {
        members.iter().map(|member| (member.record.node_id.as_str(), member.is_active)).collect()
    }

    #[test]
    fn a_record_reads_back_under_its_own_key_only() {
        let signed = sign(&record("n-a", 1, 2), &key("right"));
        let keys = [key("older"), key("right")];
        assert_eq!(verify("server/n-a", &signed, &keys), Some(record("n-a", 1, 2)));
        assert_eq!(verify("server/n-b", &signed, &keys), None, "copied to another server's place");
        assert_eq!(verify("server/n-a", &signed, &[key("wrong")]), None);
        assert_eq!(verify("server/n-a", &signed.replace("8080", "8081"), &keys), None, "altered");
    }

    #[test]
    fn what_is_no_record_harms_nobody() {
        let signed = sign(&record("n-a", 1, 2), &key("right"));
        let long = "x".repeat(RECORD_BYTES_MAX + 1);
        let short_mac = {
            let Signed { record, mac } = serde_json::from_str(&signed).expect("reads");
            serde_json::to_string(&Signed { record, mac: mac[..32].to_owned() }).expect("writes")
        };
        for text in [
            "",
            "{}",
            "{\"record\":\"\",\"mac\":\"zz\"}",
            "{\"record\":\"{}\",\"mac\":\"ü\"}",
            &long,
            &short_mac,
        ] {
            assert_eq!(verify("server/n-a", text, &[key("right")]), None);
        }
    }

    #[test]
    fn a_server_is_listed_when_it_names_the_observer_and_inactive_when_it_stops() {
        let mut watch = Watch::new("me".to_owned());
        assert!(watch.look(vec![record("n-a", 1, 7)], 0), "a newcomer");
        assert_eq!(watch.seen(), ["me", "n-a 1"]);
        assert!(!watch.look(vec![record("n-a", 1, 8)], 1_000));
        assert!(watch.members(1_000, 30_000).is_empty(), "it may be a copy, and another copy");
        assert!(!watch.look(vec![answer("n-a", 1, 9)], 2_000));
        assert_eq!(ids(&watch.members(2_000, 30_000)), [("n-a", true)]);
        watch.look(vec![answer("n-a", 1, 9)], 32_001);
        assert_eq!(ids(&watch.members(32_001, 30_000)), [("n-a", false)]);
        watch.look(Vec::new(), 2_001 + FORGET_MS);
        assert!(watch.members(0, 30_000).is_empty());
    }

    #[test]
    fn a_record_that_is_put_back_is_never_listed() {
        let mut watch = Watch::new("me".to_owned());
        watch.look(vec![answer("n-a", 2, 1)], 0);
        watch.look(vec![answer("n-a", 2, 9)], 1);
        for old in [answer("n-a", 2, 8), answer("n-a", 1, 99), answer("n-a", 2, 9)] {
            assert!(!watch.look(vec![old], 60_000));
        }
        assert_eq!(ids(&watch.members(60_000, 30_000)), [("n-a", false)]);
        assert!(watch.look(vec![record("n-a", 3, 1)], 60_001), "a new life is to be answered");
        assert!(watch.members(60_001, 30_000).is_empty(), "and is listed when it answers");
        watch.look(vec![answer("n-a", 3, 2)], 60_002);
        assert_eq!(ids(&watch.members(60_002, 30_000)), [("n-a", true)]);
    }

    #[test]
    fn no_more_servers_are_watched_than_there_may_be() {
        let mut watch = Watch::new("me".to_owned());
        watch.look((0..500).map(|n| answer(&format!("n-{n:03}"), 1, 1)).collect(), 0);
        assert_eq!(watch.members(1, 30_000).len(), SERVERS_MAX);
        watch.forget(&NodeId::parse("n-000").expect("valid"));
        assert_eq!(watch.members(1, 30_000).len(), SERVERS_MAX - 1);
    }

    #[test]
    fn agents_are_told_one_place_of_each_server_before_a_second_of_any() {
        let mut watch = Watch::new("me".to_owned());
        watch.look(vec![answer("n-b", 1, 1), answer("n-a", 1, 1)], 0);
        let members = watch.members(0, 30_000);
        assert_eq!(places(&members, 3), ["n-a:8080", "n-b:8080", "n-a:9090"]);
        watch.look(vec![answer("n-b", 1, 2)], 60_000);
        let members = watch.members(60_000, 30_000);
        assert_eq!(places(&members, 3), ["n-b:8080", "n-b:9090", "n-a:8080"], "who may come back is last");
    }
}
