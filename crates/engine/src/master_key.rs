//! The master key of a fleet while it is replaced: which servers have taken up the new one, and who would be
//! shut out if the old one stopped opening anything now.
//!
//! Keys themselves never come here; neither does a store.

use caelum_model::id::NodeId;
use serde::{Deserialize, Serialize};

/// Where a server finds its master key at a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyPlace {
    /// `secrets/master.key` in its data directory, where it can write a new one itself.
    File,
    /// The setting `cluster.cluster_secret`, or its variable.
    Configuration,
    /// A credential that systemd hands over.
    Credential,
}

impl KeyPlace {
    /// Its name in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Configuration => "configuration",
            Self::Credential => "credential",
        }
    }

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "secrets/master.key",
            Self::Configuration => "cluster.cluster_secret",
            Self::Credential => "systemd's credential cluster_secret",
        }
    }
}

/// Which master key a server holds, as it wrote down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The key's number: grows with each rotation.
    pub generation: u64,
    /// Whether it finds this key at its next start.
    pub is_kept: bool,
    /// Where it looks for it then.
    pub place: KeyPlace,
}

/// A server that was admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Which.
    pub node_id: NodeId,
    /// Its name.
    pub name: String,
    /// Whether it lives.
    pub is_active: bool,
}

/// Why a server would be shut out by the end of a hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It lives and never said which key it holds: a version that knows nothing of this.
    Unknown,
    /// It lives and has not taken up the new key yet.
    Old,
    /// It goes on with the new key, and would look for it in vain at its next start.
    Memory(KeyPlace),
    /// It is away, and has the old key.
    Away,
}

impl Wait {
    /// What that is, and what to do.
    pub fn what(self) -> String {
        match self {
            Self::Unknown => {
                "lives, and is of a version that takes up no new master key: update it".to_owned()
            }
            Self::Old => {
                "lives, and has not taken up the new master key yet: it does so within half a minute"
                    .to_owned()
            }
            Self::Memory(KeyPlace::File) => {
                "holds the new master key in memory only, since it could not write \
                                             secrets/master.key: its log says why"
                    .to_owned()
            }
            Self::Memory(place) => format!(
                "holds the new master key in memory only: set {} to it and restart the server",
                place.name()
            ),
            Self::Away => {
                "is away and has the old master key: start it, or revoke it if it is gone for good \
                           (`caelum nodes revoke ID`)"
                    .to_owned()
            }
        }
    }
}

/// Why the hand-over of a key must go on for a server; nothing where it needs none.
pub fn wait(is_active: bool, holder: Option<&Holder>, generation: u64) -> Option<Wait> {
    match holder {
        Some(holder) if holder.generation >= generation => {
            (!holder.is_kept).then_some(Wait::Memory(holder.place))
        }
        Some(_) if is_active => Some(Wait::Old),
        None if is_active => Some(Wait::Unknown),
        _ => Some(Wait::Away),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(generation: u64, is_kept: bool, place: KeyPlace) -> Holder {
        Holder { generation, is_kept, place }
    }

    #[test]
    fn a_server_is_waited_for_until_it_finds_the_new_key_at_its_next_start() {
        let kept = holder(2, true, KeyPlace::File);
        assert_eq!(wait(true, Some(&kept), 2), None);
        assert_eq!(wait(false, Some(&kept), 2), None, "it is away, and starts with the new key");
        assert_eq!(wait(true, Some(&kept), 3), Some(Wait::Old));
        assert_eq!(wait(false, Some(&kept), 3), Some(Wait::Away));
        assert_eq!(wait(true, None, 2), Some(Wait::Unknown));
        assert_eq!(wait(false, None, 2), Some(Wait::Away));
        let memory = holder(2, false, KeyPlace::Configuration);
        let waits = wait(true, Some(&memory), 2).expect("it would start with the old one");
        assert!(waits.what().contains("set cluster.cluster_secret"), "{}", waits.what());
    }
}
