//! Beacons as bytes: both dialects, the canonical form, the seal, and what every field may hold.
//!
//! No state: what was said before, and whether it may be believed now, is for [`super::hearing`].

use caelum_model::{
    beacon::{Beacon, ClusterBeacon, DATAGRAM_ACCEPTED_MAX, DATAGRAM_SENT_MAX, MESSAGE_TYPE},
    cluster::ClusterKey,
    id::NodeId,
};
use serde_json::{Map, Value};

use super::Refusal;
use crate::seal;

/// Most services in a beacon.
const SERVICES_MAX: usize = 64;
/// Most roles or capabilities in a beacon.
const WORDS_MAX: usize = 64;
/// Longest name of a host or cluster, bytes.
pub(super) const NAME_MAX: usize = 255;
/// Longest of the other texts, bytes.
const TEXT_MAX: usize = 128;
/// Deepest object or list in a beacon; ours have three levels, and others may add to them.
const DEPTH_MAX: i32 = 16;
/// An HMAC-SHA-256 in hex.
const AUTH_LENGTH: usize = 64;

/// What a datagram is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Opened {
    /// The first dialect, with the generation of the key under which its seal is right. None: it claims
    /// nothing, or claims a generation that we do not have.
    First(Box<Beacon>, Option<u32>),
    /// The second dialect.
    Second(ClusterBeacon),
}

/// Reads a datagram and checks each field and the seal.
pub(super) fn open(bytes: &[u8], keys: &[ClusterKey]) -> Result<Opened, Refusal> {
    if bytes.len() > DATAGRAM_ACCEPTED_MAX {
        return Err(Refusal::Oversized);
    }
    if !is_shallow(bytes) {
        return Err(Refusal::Malformed);
    }
    let Ok(Value::Object(object)) = serde_json::from_slice(bytes) else { return Err(Refusal::Malformed) };
    let text = |name: &str| object.get(name).map(|value| value.as_str().unwrap_or_default());
    match (text("message_type"), text("type")) {
        (Some(MESSAGE_TYPE), _) => open_first(object, keys),
        (None, Some("beacon" | "discovery")) => open_second(object),
        _ => Err(Refusal::UnknownType),
    }
}

/// Whether this may be an object of few levels. A parser that meets a wrong byte on the hundredth level looks
/// for the line of it once a level, which is the dearest thing that a stranger could make us do.
fn is_shallow(bytes: &[u8]) -> bool {
    let (mut depth, mut is_text, mut is_escaped) = (0, false, false);
    for byte in bytes {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = is_text,
            b'"' => is_text = !is_text,
            b'{' | b'[' if !is_text => depth += 1,
            b'}' | b']' if !is_text => depth -= 1,
            _ => {}
        }
        if depth > DEPTH_MAX {
            return false;
        }
    }
    bytes.trim_ascii_start().first() == Some(&b'{') && bytes.trim_ascii_end().last() == Some(&b'}')
}

fn open_first(mut object: Map<String, Value>, keys: &[ClusterKey]) -> Result<Opened, Refusal> {
    // The seal covers the object as it came, so that it covers fields that we do not know.
    let auth = object.remove("auth").unwrap_or_default();
    let generation = match auth.as_str() {
        None if auth.is_null() => None,
        Some("") => None,
        _ => {
            let claimed = object.get("key_generation").map_or(Some(0), Value::as_u64);
            let key = keys.iter().find(|key| Some(u64::from(key.generation)) == claimed);
            match key {
                Some(key) if is_sealed(&object, auth.as_str().unwrap_or_default(), key) => {
                    Some(key.generation)
                }
                Some(_) => return Err(Refusal::BadAuth),
                None => None,
            }
        }
    };
    let beacon: Beacon = read(object)?;
    let is_right = NodeId::parse(&beacon.machine_id).is_ok()
        && beacon.websocket_port != 0
        && is_text(&beacon.hostname, NAME_MAX)
        && is_text(&beacon.cluster_name, NAME_MAX)
        && [&beacon.primary_ip, &beacon.cluster_id, &beacon.instance, &beacon.timestamp]
            .into_iter()
            .chain([&beacon.version, &beacon.nonce, &beacon.echo])
            .all(|text| is_text(text, TEXT_MAX))
        && are_words(&beacon.roles)
        && beacon.services.len() <= SERVICES_MAX
        && beacon
            .services
            .iter()
            .flat_map(|service| [&service.name, &service.kind, &service.status])
            .all(|text| is_text(text, TEXT_MAX));
    if is_right { Ok(Opened::First(Box::new(beacon), generation)) } else { Err(Refusal::Malformed) }
}

fn open_second(object: Map<String, Value>) -> Result<Opened, Refusal> {
    let beacon: ClusterBeacon = read(object)?;
    let is_right = NodeId::parse(&beacon.cluster_id).is_ok()
        && beacon.ws_port != 0
        && is_text(&beacon.cluster_name, NAME_MAX)
        && is_text(&beacon.role, TEXT_MAX)
        && are_words(&beacon.capabilities);
    if is_right { Ok(Opened::Second(beacon)) } else { Err(Refusal::Malformed) }
}

/// Other programs write `null` for what they do not know.
fn read<T: serde::de::DeserializeOwned>(mut object: Map<String, Value>) -> Result<T, Refusal> {
    object.retain(|_, value| !value.is_null());
    serde_json::from_value(Value::Object(object)).map_err(|_| Refusal::Malformed)
}

fn is_text(text: &str, max: usize) -> bool {
    text.len() <= max && !text.chars().any(char::is_control)
}

fn are_words(words: &[String]) -> bool {
    words.len() <= WORDS_MAX && words.iter().all(|word| is_text(word, TEXT_MAX))
}

/// Writes a beacon, sealed where there is a key, and never larger than a datagram may be: what a link tells
/// as well is left out first.
pub(super) fn seal_first(mut beacon: Beacon, key: Option<&ClusterKey>) -> Vec<u8> {
    let bytes = sealed(&beacon, key);
    if bytes.len() <= DATAGRAM_SENT_MAX {
        return bytes;
    }
    beacon.service_count = beacon.services.len() as u64;
    beacon.services.clear();
    let bytes = sealed(&beacon, key);
    if bytes.len() <= DATAGRAM_SENT_MAX {
        return bytes;
    }
    // Only names of hundreds of characters that need escaping come here.
    beacon.roles.clear();
    beacon.cluster_name.clear();
    beacon.hostname = cut(&beacon.hostname, 32);
    sealed(&beacon, key)
}

fn sealed(beacon: &Beacon, key: Option<&ClusterKey>) -> Vec<u8> {
    let generation = key.map_or(0, |key| u64::from(key.generation));
    let beacon = Beacon { key_generation: generation, auth: String::new(), ..beacon.clone() };
    let mut object = to_object(&beacon);
    if let Some(key) = key {
        let code = seal::mac(key, &[&canonical(&object)]);
        object.insert("auth".to_owned(), Value::String(hex(&code)));
    }
    canonical(&object)
}

/// Writes a beacon of the second dialect.
pub(super) fn write_second(beacon: &ClusterBeacon) -> Vec<u8> {
    canonical(&to_object(beacon))
}

fn to_object(value: &impl serde::Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(object)) => object,
        _ => unreachable!("a struct of plain values is an object"),
    }
}

fn is_sealed(object: &Map<String, Value>, auth: &str, key: &ClusterKey) -> bool {
    unhex(auth).is_some_and(|code| seal::is_mac(key, &[&canonical(object)], &code))
}

/// JSON without white space, members in the order of their names' bytes, in objects of every depth.
pub(super) fn canonical(object: &Map<String, Value>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    write_object(object, &mut bytes);
    bytes
}

fn write_object(object: &Map<String, Value>, bytes: &mut Vec<u8>) {
    let mut members: Vec<_> = object.iter().collect();
    // serde_json keeps either this order or that of the text, as its features say; we need this one.
    members.sort_unstable_by_key(|(name, _)| name.as_bytes());
    bytes.push(b'{');
    for (index, (name, value)) in members.into_iter().enumerate() {
        if index > 0 {
            bytes.push(b',');
        }
        write_plain(name, bytes);
        bytes.push(b':');
        write_value(value, bytes);
    }
    bytes.push(b'}');
}

fn write_value(value: &Value, bytes: &mut Vec<u8>) {
    match value {
        Value::Object(object) => write_object(object, bytes),
        Value::Array(values) => {
            bytes.push(b'[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    bytes.push(b',');
                }
                write_value(value, bytes);
            }
            bytes.push(b']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => write_plain(value, bytes),
    }
}

fn write_plain<T: serde::Serialize + ?Sized>(value: &T, bytes: &mut Vec<u8>) {
    serde_json::to_writer(bytes, value).expect("plain values have a JSON form, and memory takes it");
}

/// The text, or as much of its beginning as has room.
pub(super) fn cut(text: &str, max: usize) -> String {
    text[..text.floor_char_boundary(max)].to_owned()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if text.len() != AUTH_LENGTH {
        return None;
    }
    text.as_bytes().chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}
