//! [`Wrap`]: a master key, encrypted by something that an operator keeps.

use secrets::derive::NodeId;
use serde::Deserialize;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::age::{self, Identity, Recipient};
use super::master_key::{KeyId, MasterKey};
use super::node::NodeSecret;
use crate::crypto::{Cipher, KEY_LEN, Key, NoRandomness, ONLY_NONCE, TAG_LEN, derive, random};
use crate::hex;

/// The length of a wrapped key, in bytes.
const WRAPPED_LEN: usize = KEY_LEN + TAG_LEN;

/// The length of the salt of a node's wrap, in bytes.
const SALT_LEN: usize = 16;

/// What the key of a node's wrap is derived with.
const NODE_DOMAIN: &[u8] = b"backupfs offsite v1 node";

/// The names of the kinds.
const NODE: &str = "node";
const AGE: &str = "age";

/// The longest name of a kind, in bytes.
const KIND_MAX: usize = 32;

/// A master key, encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrap {
    /// By the secret of a node.
    Node(NodeWrap),
    /// For a recipient of age.
    Age(AgeWrap),
    /// In a way that only later versions know. It is kept as it is.
    Other(OtherWrap),
}

/// A master key, encrypted by the secret of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeWrap {
    node_id: NodeId,
    salt: [u8; SALT_LEN],
    wrapped: [u8; WRAPPED_LEN],
}

/// A master key, encrypted for a recipient of age.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgeWrap {
    recipient: Recipient,
    ephemeral: [u8; 32],
    wrapped: [u8; WRAPPED_LEN],
}

/// A wrap of a kind that is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherWrap {
    kind: String,
    json: Map<String, Value>,
}

impl Wrap {
    /// What it looks like in a key file.
    pub(super) fn to_json(&self) -> Map<String, Value> {
        let text = |fields: &[(&str, String)]| {
            fields.iter().map(|(name, value)| ((*name).to_owned(), Value::String(value.clone()))).collect()
        };
        match self {
            Self::Node(NodeWrap { node_id, salt, wrapped }) => text(&[
                ("kind", NODE.to_owned()),
                ("node_id", hex::encode(node_id)),
                ("salt", hex::encode(salt)),
                ("wrapped", hex::encode(wrapped)),
            ]),
            Self::Age(AgeWrap { recipient, ephemeral, wrapped }) => text(&[
                ("kind", AGE.to_owned()),
                ("recipient", recipient.to_string()),
                ("ephemeral", hex::encode(ephemeral)),
                ("wrapped", hex::encode(wrapped)),
            ]),
            Self::Other(OtherWrap { json, .. }) => json.clone(),
        }
    }

    /// Reads what a key file has; what is wrong with it otherwise.
    pub(super) fn from_json(json: Map<String, Value>) -> Result<Self, String> {
        match json.get("kind").and_then(Value::as_str) {
            Some(NODE) => {
                let read: NodeJson = serde_json::from_value(Value::Object(json)).map_err(|error| error.to_string())?;
                let node_id = digits("node_id", &read.node_id)?;
                Ok(Self::Node(NodeWrap {
                    node_id,
                    salt: digits("salt", &read.salt)?,
                    wrapped: digits("wrapped", &read.wrapped)?,
                }))
            }
            Some(AGE) => {
                let read: AgeJson = serde_json::from_value(Value::Object(json)).map_err(|error| error.to_string())?;
                let recipient = read.recipient.parse().map_err(|error| format!("\"recipient\": {error}"))?;
                let (ephemeral, wrapped) = (digits("ephemeral", &read.ephemeral)?, digits("wrapped", &read.wrapped)?);
                Ok(Self::Age(AgeWrap { recipient, ephemeral, wrapped }))
            }
            // It is shown.
            Some(kind) if is_kind(kind) => Ok(Self::Other(OtherWrap { kind: kind.to_owned(), json })),
            _ => Err(format!("\"kind\" must be a text of 1 to {KIND_MAX} lower-case letters, digits and hyphens")),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeJson {
    #[serde(rename = "kind")]
    _kind: String,
    node_id: String,
    salt: String,
    wrapped: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AgeJson {
    #[serde(rename = "kind")]
    _kind: String,
    recipient: String,
    ephemeral: String,
    wrapped: String,
}

fn digits<const N: usize>(field: &str, text: &str) -> Result<[u8; N], String> {
    hex::decode(text).ok_or_else(|| format!("\"{field}\" must have {} lower-case hexadecimal digits", 2 * N))
}

fn is_kind(kind: &str) -> bool {
    (1..=KIND_MAX).contains(&kind.len()) && kind.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

impl NodeWrap {
    /// Wraps a key under a new salt.
    pub(super) fn new(node: &NodeSecret, key: &MasterKey) -> Result<Self, NoRandomness> {
        Ok(Self::with_salt(node, key, *random()?))
    }

    fn with_salt(node: &NodeSecret, key: &MasterKey, salt: [u8; SALT_LEN]) -> Self {
        let mut bytes = Zeroizing::new(*key.bytes());
        let tag = cipher(node, &node.node_id(), &salt).seal(ONLY_NONCE, key.id().bytes(), bytes.as_mut_slice());
        let mut wrapped = [0; WRAPPED_LEN];
        wrapped.iter_mut().zip(bytes.iter().chain(&tag)).for_each(|(to, from)| *to = *from);
        Self { node_id: node.node_id(), salt, wrapped }
    }

    /// The node whose secret unwraps it.
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// The key of this id; `None` if the secret is another one, or a bit was changed.
    pub(super) fn unwrap(&self, node: &NodeSecret, key: KeyId) -> Option<MasterKey> {
        let mut opened = Zeroizing::new(self.wrapped);
        cipher(node, &self.node_id, &self.salt).open(ONLY_NONCE, key.bytes(), opened.as_mut_slice()).ok()?;
        master_key(opened.as_slice().get(..KEY_LEN)?, key)
    }
}

/// The cipher that a node wraps one key with.
fn cipher(node: &NodeSecret, node_id: &NodeId, salt: &[u8; SALT_LEN]) -> Cipher {
    Cipher::new(&derive(node.bytes(), salt, &[NODE_DOMAIN, node_id]))
}

impl AgeWrap {
    /// Wraps a key under a new ephemeral key.
    pub(super) fn new(recipient: &Recipient, key: &MasterKey) -> Result<Self, NoRandomness> {
        let (ephemeral, bytes) = age::wrap(recipient, key.bytes())?;
        let mut wrapped = [0; WRAPPED_LEN];
        wrapped.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        Ok(Self { recipient: *recipient, ephemeral, wrapped })
    }

    /// The recipient whose identity unwraps it.
    pub fn recipient(&self) -> Recipient {
        self.recipient
    }

    /// The key of this id; `None` if the identity is another one, or a bit was changed.
    pub(super) fn unwrap(&self, identity: &Identity, key: KeyId) -> Option<MasterKey> {
        master_key(&identity.unwrap(&self.ephemeral, &self.wrapped)?, key)
    }
}

impl OtherWrap {
    /// The name of the kind: 1 to 32 lower-case letters, digits and hyphens.
    pub fn kind(&self) -> &str {
        &self.kind
    }
}

/// The key with these bytes, if it has this id.
fn master_key(bytes: &[u8], id: KeyId) -> Option<MasterKey> {
    let mut key = Key::default();
    key.copy_from_slice(bytes.get(..KEY_LEN)?);
    Some(MasterKey::from_key(key)).filter(|key| key.id() == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The wrap in docs/offsite-format.md, which was made with another program.
    #[test]
    fn a_wrap_of_a_node_is_that_of_the_document() {
        let key = MasterKey::from_key(Key::new(std::array::from_fn(|at| u8::try_from(at).unwrap())));
        let mut hsm_secret = [0; 32];
        hsm_secret[..11].copy_from_slice(b"lightning-1");
        let node = NodeSecret::from_hsm_secret(&hsm_secret, None).unwrap();
        let salt = std::array::from_fn(|at| 0xa0 + u8::try_from(at).unwrap());
        let wrap = Wrap::Node(NodeWrap::with_salt(&node, &key, salt));
        let document = include_str!("../../../docs/offsite-format.md");
        let json = serde_json::to_string(&wrap.to_json()).unwrap();
        assert!(document.contains(&json), "docs/offsite-format.md shows another wrap; the code writes\n{json}");
    }
}
