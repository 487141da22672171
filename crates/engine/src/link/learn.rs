//! Machine information as it travels: under `machine_info`, as the first programs have it, or as the payload
//! itself. What only Caelum says stands beside it, since those programs refuse members that they don't know.

use caelum_model::{
    envelope::{CaelumInfo, MachineInfo, RosterDelta},
    id::NodeId,
};
use serde_json::{Map, Value};

/// Member with the machine information.
const INFO: &str = "machine_info";
/// Member with what only Caelum says.
const OURS: &str = "caelum";
/// Member with keys, revocations and servers.
pub(super) const ROSTER: &str = "roster";

/// Writes machine information.
pub(super) fn payload(me: &MachineInfo, roster: Option<&RosterDelta>) -> Map<String, Value> {
    let plain = |value: serde_json::Result<Value>| value.expect("plain values with text keys");
    let mut payload = Map::new();
    let theirs = MachineInfo { caelum: None, ..me.clone() };
    payload.insert(INFO.to_owned(), plain(serde_json::to_value(theirs)));
    if let Some(ours) = &me.caelum {
        payload.insert(OURS.to_owned(), plain(serde_json::to_value(ours)));
    }
    if let Some(roster) = roster {
        payload.insert(ROSTER.to_owned(), plain(serde_json::to_value(roster)));
    }
    payload
}

/// Whether a payload says anything about a machine.
pub(super) fn is_there(payload: &Value) -> bool {
    payload.get(INFO).is_some_and(Value::is_object) || payload.get("machine_id").is_some()
}

/// Reads machine information; its id is checked.
pub(super) fn parse(payload: &Value) -> Result<MachineInfo, String> {
    let info = payload.get(INFO).filter(|info| info.is_object()).unwrap_or(payload);
    let mut info: MachineInfo = serde_json::from_value(without_nulls(info))
        .map_err(|error| format!("the machine information cannot be read: {error}"))?;
    NodeId::parse(&info.machine_id).map_err(|error| format!("machine_id {error}"))?;
    if let Some(ours) = payload.get(OURS) {
        let ours: CaelumInfo = serde_json::from_value(without_nulls(ours))
            .map_err(|error| format!("the member caelum cannot be read: {error}"))?;
        info.caelum = Some(ours);
    }
    Ok(info)
}

/// The value without members that are null, down to the members' members: the first programs say null where
/// they know nothing.
fn without_nulls(value: &Value) -> Value {
    fn strip(value: &Value, depth: u8) -> Value {
        match value {
            Value::Object(members) if depth > 0 => Value::Object(
                members
                    .iter()
                    .filter(|(_, value)| !value.is_null())
                    .map(|(name, value)| (name.clone(), strip(value, depth - 1)))
                    .collect(),
            ),
            other => other.clone(),
        }
    }
    strip(value, 2)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn machine_information_is_read_wrapped_bare_and_with_nulls() {
        let bare =
            json!({"machine_id": "m-1", "hostname": null, "resources": {"cpu_cores": 4, "gpu_info": null}});
        assert!(is_there(&bare));
        assert_eq!(parse(&bare).expect("reads").resources.cpu_cores, 4);
        let wrapped = json!({"machine_info": bare, "caelum": {"instance": "i-1"}});
        let info = parse(&wrapped).expect("reads");
        assert_eq!(info.machine_id, "m-1");
        assert_eq!(info.caelum.expect("is there").instance, "i-1");
    }

    #[test]
    fn what_is_written_is_read_back_and_keeps_ours_beside_theirs() {
        let caelum = CaelumInfo { instance: "i-1".into(), ..CaelumInfo::default() };
        let me = MachineInfo { machine_id: "m-1".into(), caelum: Some(caelum), ..MachineInfo::default() };
        let written = Value::Object(payload(&me, None));
        assert_eq!(written["machine_info"].get("caelum"), None);
        assert_eq!(parse(&written).expect("reads"), me);
    }

    #[test]
    fn an_id_that_is_none_is_refused() {
        assert!(parse(&json!({"machine_id": ""})).is_err());
        assert!(parse(&json!({"machine_info": {"machine_id": "a\nb"}})).is_err());
        assert!(parse(&json!({"machine_id": 7})).is_err());
        assert!(parse(&json!(null)).is_err());
        assert!(!is_there(&json!([])));
    }
}
