//! [`KeyFile`]: the object `k/KEYID` of a copy, which has a master key wrapped in several ways. It is JSON, and not encrypted.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::age::Recipient;
use super::master_key::{KeyId, MasterKey};
use super::node::NodeSecret;
use super::wrap::{AgeWrap, NodeWrap, Wrap};
use crate::crypto::NoRandomness;

/// What the names of key files begin with.
pub const KEY_FILES: &str = "k/";

/// The longest key file, in bytes. A wrap takes some 300.
pub const KEY_FILE_MAX: usize = 64 << 10;

/// The longest reason that is shown, in characters.
const REASON_MAX: usize = 200;

/// The version of the format.
const FORMAT: u64 = 1;

/// 9999-12-30T21:59:59Z, the last second that is written, as in docs/format.md.
const CREATED_MAX: u64 = 253_402_207_199;

/// Why a key file cannot be read or made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// It is not JSON, or not of a key file.
    #[error(
        "{name} is not a key file of a copy: {reason}; read it again, take it from another copy, or unlock this one with its 24 words"
    )]
    NotAKeyFile {
        /// Name of the object.
        name: String,
        /// What is wrong, and where.
        reason: String,
    },
    /// A later version of the format.
    #[error(
        "{name} has version {format} of the format, and this backupfs reads version {FORMAT}: use a newer backupfs"
    )]
    NewerFormat {
        /// Name of the object.
        name: String,
        /// The version.
        format: u64,
    },
    /// It would be too long.
    #[error("the file of the key {0} would have more than {KEY_FILE_MAX} bytes: wrap it for fewer recipients")]
    TooManyWraps(KeyId),
    /// The key that is to be wrapped is another one.
    #[error("the key {given} cannot be wrapped in the file of the key {file}: unlock that one")]
    OtherKey {
        /// The key of the file.
        file: KeyId,
        /// The key that was given.
        given: KeyId,
    },
    /// There are no random bytes.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// What a master key is wrapped by.
#[derive(Debug, Clone, Copy)]
pub enum Wrapper<'a> {
    /// The secret of the node: its `hsm_secret` unwraps it.
    Node(&'a NodeSecret),
    /// A recipient of age: its identity unwraps it.
    Recipient(&'a Recipient),
}

/// A master key, wrapped in several ways. It has at most [`KEY_FILE_MAX`] bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile {
    key: KeyId,
    created: u64,
    wraps: Vec<Wrap>,
}

/// The bytes, as JSON has them.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Json {
    format: u64,
    key: String,
    created: u64,
    wraps: Vec<Map<String, Value>>,
}

/// What tells a newer format from a damaged file.
#[derive(Deserialize)]
struct FormatOnly {
    format: u64,
}

impl KeyFile {
    /// The file of a key that is not wrapped yet. `created` are seconds since 1970; later than the year 9999 is the last second of it.
    pub fn new(key: &MasterKey, created: u64) -> Self {
        Self { key: key.id(), created: created.min(CREATED_MAX), wraps: Vec::new() }
    }

    /// The key that is wrapped.
    pub fn key(&self) -> KeyId {
        self.key
    }

    /// When the key was made, in seconds since 1970, by the clock of the machine that made it.
    pub fn created(&self) -> u64 {
        self.created
    }

    /// How the key is wrapped.
    pub fn wraps(&self) -> &[Wrap] {
        &self.wraps
    }

    /// The name of the object: `k/KEYID`.
    pub fn object_name(&self) -> String {
        format!("{KEY_FILES}{}", self.key)
    }

    /// Wraps the key in another way, too.
    ///
    /// # Errors
    /// When it is another key, the file would be too long, or there are no random bytes. The file is then as it was.
    pub fn add_wrap(&mut self, key: &MasterKey, with: Wrapper<'_>) -> Result<(), KeyFileError> {
        if key.id() != self.key {
            return Err(KeyFileError::OtherKey { file: self.key, given: key.id() });
        }
        self.wraps.push(match with {
            Wrapper::Node(node) => Wrap::Node(NodeWrap::new(node, key)?),
            Wrapper::Recipient(recipient) => Wrap::Age(AgeWrap::new(recipient, key)?),
        });
        if self.encode().len() > KEY_FILE_MAX {
            self.wraps.pop();
            return Err(KeyFileError::TooManyWraps(self.key));
        }
        Ok(())
    }

    /// The bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        let wraps = self.wraps.iter().map(Wrap::to_json).collect();
        let json = Json { format: FORMAT, key: self.key.to_string(), created: self.created, wraps };
        match serde_json::to_vec(&json) {
            Ok(bytes) => bytes,
            Err(_) => unreachable!("texts and numbers can be written as JSON"),
        }
    }

    /// Reads the bytes of the object `name`.
    ///
    /// # Errors
    /// When they are none of a key file, or of a later version. Ways of wrapping that are not known are no error.
    pub fn decode(name: &str, bytes: &[u8]) -> Result<Self, KeyFileError> {
        let fail = |reason: String| KeyFileError::NotAKeyFile { name: name.to_owned(), reason: shown(&reason) };
        if bytes.len() > KEY_FILE_MAX {
            return Err(fail(format!("it has more than {KEY_FILE_MAX} bytes")));
        }
        // A list would be taken for the fields in their order.
        if !bytes.trim_ascii_start().starts_with(b"{") {
            return Err(fail("it is not a JSON object".to_owned()));
        }
        let FormatOnly { format } = serde_json::from_slice(bytes).map_err(|error| fail(error.to_string()))?;
        if format > FORMAT {
            return Err(KeyFileError::NewerFormat { name: name.to_owned(), format });
        }
        let json: Json = serde_json::from_slice(bytes).map_err(|error| fail(error.to_string()))?;
        if json.format != FORMAT || json.created > CREATED_MAX {
            return Err(fail("its format or its time is one that no key file has".to_owned()));
        }
        let key = json.key.parse().map_err(|error| fail(format!("\"key\": {error}")))?;
        let wrap = |(at, json): (usize, Map<String, Value>)| {
            Wrap::from_json(json).map_err(|reason| fail(format!("wrap {}: {reason}", at + 1)))
        };
        let wraps = json.wraps.into_iter().enumerate().map(wrap).collect::<Result<_, _>>()?;
        Ok(Self { key, created: json.created, wraps })
    }
}

/// A reason that may repeat what is in the file: its beginning, without what a terminal would obey.
fn shown(reason: &str) -> String {
    reason.chars().filter(|it| !it.is_control()).take(REASON_MAX).collect()
}

#[cfg(test)]
mod tests;
