//! What the recorder and the process that ships say to each other, one line each, where answers wait for a copy.
//!
//! [`ToShip`] goes to the standard input of the process, [`FromShip`] comes from its standard output.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// A line from the recorder to the process that ships.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToShip {
    /// The record with this seq is durable in the backup, and a copy that is waited for lacks it and more than it should.
    Recorded(u64),
    /// Answers wait for a copy, or they do not for now.
    Answers {
        /// The URL of the copy.
        url: String,
        /// Since when they do not, in microseconds since 1970; `None` while they do.
        degraded_since: Option<i64>,
    },
}

/// A line from the process that ships to the recorder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromShip {
    /// A restore of the newest version from this copy has everything up to a record.
    Shipped {
        /// The URL of the copy.
        url: String,
        /// Seq of the record; 0 when there is none.
        through: u64,
        /// The checksum of the record, which covers those before it; `None` when it is not known.
        checksum: Option<u32>,
    },
    /// The node has to answer before it can be said how far this copy is: the key of the copy comes from there.
    NeedsNode {
        /// The URL of the copy.
        url: String,
    },
}

/// A line with its end.
pub fn to_line(words: &impl Serialize) -> String {
    // These types are numbers and texts, which JSON has.
    let mut line = serde_json::to_string(words).unwrap_or_default();
    line.push('\n');
    line
}

/// The words in a line; `None` for another release's, or anything else.
pub fn from_line<T: DeserializeOwned>(line: &str) -> Option<T> {
    serde_json::from_str(line).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_is_written() {
        let to = [
            ToShip::Recorded(u64::MAX),
            ToShip::Answers { url: "s3://b/a\nb \"c\"".to_owned(), degraded_since: Some(-1) },
            ToShip::Answers { url: String::new(), degraded_since: None },
        ];
        for words in to {
            let line = to_line(&words);
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            assert_eq!(from_line(line.trim_end()), Some(words));
        }
        let needs = FromShip::NeedsNode { url: "/copy".to_owned() };
        assert_eq!(from_line(to_line(&needs).trim_end()), Some(needs));
        let from = FromShip::Shipped { url: "/copy".to_owned(), through: 7, checksum: Some(3) };
        assert_eq!(to_line(&from), "{\"shipped\":{\"url\":\"/copy\",\"through\":7,\"checksum\":3}}\n");
        assert_eq!(from_line(to_line(&from).trim_end()), Some(from));
        for other in ["", "/copy: everything up to record 7 is in the copy", "{\"shipped\":7}", "{\"later\":{}}"] {
            assert_eq!(from_line::<FromShip>(other), None, "{other}");
        }
    }
}
