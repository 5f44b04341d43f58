//! The objects of a copy that are JSON: [`Description`], [`Claim`] and [`Heartbeat`].

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::copy_error::CopyError;

/// The newest format of a copy.
pub const FORMAT: u16 = 1;

/// Whether the objects of a copy are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SealKind {
    /// With a master key that the node can unlock.
    Node,
    /// With a key of each run that only the recipients can unlock.
    WriteOnly,
    /// Not at all.
    None,
}

/// The object `id`: which copy of which backup this is. It is not encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Format of the copy.
    pub format: u16,
    /// Tells this copy from all others.
    pub copy: Uuid,
    /// UUID of the backup.
    pub backup: Uuid,
    /// Whether the objects are encrypted.
    pub seal: SealKind,
}

/// The claim of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// When the run began, in microseconds since 1970.
    pub time: i64,
}

/// What a run says of itself while it has nothing to ship, and at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// When it was written, in microseconds since 1970.
    pub time: i64,
    /// Seq behind the last record that the node had acknowledged.
    pub acknowledged: u64,
    /// Seq behind the last record that the copy has.
    pub shipped: u64,
    /// Whether the run ended in order: as far as the node knew, nothing followed.
    pub goodbye: bool,
    /// Since when the node does not wait for the copy with its answers, although it should, in microseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded_since: Option<i64>,
}

/// Encodes an object as JSON.
///
/// # Errors
/// Never for the types of this module.
pub fn to_json<T: Serialize>(name: &str, value: &T) -> Result<Vec<u8>, CopyError> {
    serde_json::to_vec(value)
        .map_err(|error| CopyError::NotUnderstood { name: name.to_owned(), reason: error.to_string() })
}

/// Decodes an object of JSON.
///
/// # Errors
/// When it is something else.
pub fn from_json<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, CopyError> {
    serde_json::from_slice(bytes)
        .map_err(|error| CopyError::NotUnderstood { name: name.to_owned(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_says_since_when_nothing_waits_for_the_copy() {
        let beat = Heartbeat { time: 5, acknowledged: 8, shipped: 7, goodbye: false, degraded_since: None };
        let text = |beat: &Heartbeat| String::from_utf8(to_json("h", beat).unwrap()).unwrap();
        assert_eq!(text(&beat), r#"{"time":5,"acknowledged":8,"shipped":7,"goodbye":false}"#);
        let degraded = Heartbeat { degraded_since: Some(3), ..beat };
        assert_eq!(text(&degraded), r#"{"time":5,"acknowledged":8,"shipped":7,"goodbye":false,"degraded_since":3}"#);
        for beat in [beat, degraded] {
            assert_eq!(from_json::<Heartbeat>("h", text(&beat).as_bytes()).unwrap(), beat);
        }
    }
}
