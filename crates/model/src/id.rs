//! Ids as types of their own: text that was checked once, so that no floor checks it again.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// Why a text is no id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// Nothing was given.
    #[error("is empty")]
    Empty,
    /// More bytes than the id may have.
    #[error("is longer than {max} bytes")]
    TooLong {
        /// The most bytes allowed.
        max: usize,
    },
    /// A control character would corrupt logs and pages.
    #[error("contains a control character")]
    Control,
}

fn check(text: &str, max: usize) -> Result<(), InvalidId> {
    if text.is_empty() {
        return Err(InvalidId::Empty);
    }
    if text.len() > max {
        return Err(InvalidId::TooLong { max });
    }
    if text.chars().any(char::is_control) {
        return Err(InvalidId::Control);
    }
    Ok(())
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schema(value_type = String)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The most bytes this id may have.
            pub const MAX_BYTES: usize = $max;

            /// Checks the text and wraps it.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                check(text, $max)?;
                Ok(Self(Arc::from(text)))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &self.0)
            }
        }
    };
}

text_id! {
    /// A machine that has joined; random, stored at its first start, stable over restarts.
    NodeId, 64
}
text_id! {
    /// A probe, as named in the events it sends (`client_id` of the seed).
    ClientId, 128
}
text_id! {
    /// A configured target; its URL is what events and rollups are keyed by.
    TargetId, 64
}

text_id! {
    /// A task.
    TaskId, 64
}

/// One of the fixed number of partitions of the event stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PartitionId(pub u16);

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A position in a partition: the first record has offset 1, 0 means "before everything".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Offset(pub u64);

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_text_without_controls_and_within_its_length() {
        assert_eq!(NodeId::parse(""), Err(InvalidId::Empty));
        assert_eq!(NodeId::parse("a\nb"), Err(InvalidId::Control));
        assert_eq!(NodeId::parse(&"x".repeat(65)), Err(InvalidId::TooLong { max: 64 }));
        assert_eq!(NodeId::parse("n-1").map(String::from).as_deref(), Ok("n-1"));
    }

    #[test]
    fn an_id_travels_as_plain_json_text_and_is_checked_on_arrival() {
        let id: ClientId = serde_json::from_str("\"probe-1\"").expect("valid");
        assert_eq!(serde_json::to_string(&id).expect("text"), "\"probe-1\"");
        assert!(serde_json::from_str::<ClientId>("\"\"").is_err());
    }
}
