//! [`Unlock`]: what an operator has to unlock a copy with, and [`unlock`]: the keys that it opens.

use std::collections::BTreeSet;
use std::fmt;

use super::age::Identity;
use super::key_file::KeyFile;
use super::key_ring::KeyRing;
use super::master_key::{KeyId, MasterKey};
use super::node::NodeSecret;
use super::wrap::Wrap;
use crate::hex;

/// How many ways, or keys, are listed in a sentence.
const LISTED_MAX: usize = 8;

/// What an operator has.
#[derive(Debug, Clone)]
pub enum Unlock {
    /// The secret of the node, from its `hsm_secret` or from the node itself.
    Node(NodeSecret),
    /// The 24 words: the key itself.
    Words(MasterKey),
    /// Identities of age.
    Identities(Vec<Identity>),
}

/// Why no key was unlocked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnlockError {
    /// The copy has no key file.
    #[error(
        "this copy has no key file: see whether the URL is right; if the key file was lost, its 24 words open the copy without it"
    )]
    NoKeyFile,
    /// Nothing is wrapped in this way.
    #[error("{had} opens no key of this copy; this copy can be opened with: {ways}")]
    NoWrap {
        /// What was tried.
        had: Had,
        /// What is there.
        ways: Ways,
    },
    /// The words are of another copy.
    #[error("these words are of the key {given}, and this copy has other keys ({keys}): they are of another copy")]
    OtherWords {
        /// The key of the words.
        given: KeyId,
        /// The keys of the copy.
        keys: Keys,
    },
    /// The wrap is there, and does not authenticate.
    #[error(
        "the file of the key {key} is wrapped for {had}, but does not authenticate: it was changed or damaged; read it again, take it from another copy, or unlock this copy in another way: {ways}"
    )]
    NotAuthentic {
        /// The key.
        key: KeyId,
        /// What was tried.
        had: Had,
        /// What is there.
        ways: Ways,
    },
}

/// What was tried, for a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Had(String);

impl fmt::Display for Had {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Had {
    fn of(unlock: &Unlock) -> Self {
        Self(match unlock {
            Unlock::Node(node) => format!("the hsm_secret of node {}", hex::encode(&node.node_id())),
            Unlock::Words(_) => "its 24 words".to_owned(),
            Unlock::Identities(identities) => {
                let recipients: BTreeSet<_> = identities.iter().map(|it| it.recipient().to_string()).collect();
                format!("the age identity of {}", listed(&recipients, " or "))
            }
        })
    }
}

/// Everything that opens a copy, as a list for a sentence: its wraps, and its 24 words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ways(BTreeSet<String>);

impl Ways {
    /// All ways to open a copy with these key files.
    pub fn of(files: &[KeyFile]) -> Self {
        let way = |wrap: &Wrap| match wrap {
            Wrap::Node(wrap) => format!("the node's hsm_secret (node {})", hex::encode(&wrap.node_id())),
            Wrap::Age(wrap) => format!("the age identity of {}", wrap.recipient()),
            Wrap::Other(wrap) => format!("\"{}\", which a newer backupfs knows", wrap.kind()),
        };
        Self(files.iter().flat_map(|file| file.wraps().iter().map(way)).collect())
    }
}

impl fmt::Display for Ways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.is_empty() {
            true => f.write_str("its 24 words"),
            false => write!(f, "{}, or its 24 words", listed(&self.0, ", ")),
        }
    }
}

/// The keys of a copy, as a list for a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys(BTreeSet<KeyId>);

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&listed(&self.0, ", "))
    }
}

/// The first few of a list, which a hostile store can make long.
fn listed<T: fmt::Display>(items: &BTreeSet<T>, between: &str) -> String {
    let mut shown: Vec<String> = items.iter().take(LISTED_MAX).map(T::to_string).collect();
    if items.len() > shown.len() {
        shown.push(format!("{} more", items.len() - shown.len()));
    }
    shown.join(between)
}

/// Unlocks all keys of a copy that this opens. Files whose key it does not open are passed over, as long as there is another.
///
/// Words are the key itself: they are taken without any key file, too.
///
/// # Errors
/// When no key is unlocked.
pub fn unlock(files: &[KeyFile], with: &Unlock) -> Result<KeyRing, UnlockError> {
    if let Unlock::Words(key) = with {
        return match files.is_empty() || files.iter().any(|file| file.key() == key.id()) {
            true => Ok([key.clone()].into_iter().collect()),
            false => {
                Err(UnlockError::OtherWords { given: key.id(), keys: Keys(files.iter().map(KeyFile::key).collect()) })
            }
        };
    }
    if files.is_empty() {
        return Err(UnlockError::NoKeyFile);
    }
    let ring: KeyRing = files.iter().filter_map(|file| unlocked(file, with)).collect();
    if !ring.is_empty() {
        return Ok(ring);
    }
    let (had, ways) = (Had::of(with), Ways::of(files));
    match files.iter().find(|file| file.wraps().iter().any(|wrap| fits(wrap, with))) {
        Some(file) => Err(UnlockError::NotAuthentic { key: file.key(), had, ways }),
        None => Err(UnlockError::NoWrap { had, ways }),
    }
}

/// The key of a file, if one of its wraps can be opened.
fn unlocked(file: &KeyFile, with: &Unlock) -> Option<MasterKey> {
    file.wraps().iter().filter(|wrap| fits(wrap, with)).find_map(|wrap| match (wrap, with) {
        (Wrap::Node(wrap), Unlock::Node(node)) => wrap.unwrap(node, file.key()),
        (Wrap::Age(wrap), Unlock::Identities(identities)) => identities
            .iter()
            .filter(|identity| identity.recipient() == wrap.recipient())
            .find_map(|identity| wrap.unwrap(identity, file.key())),
        _ => None,
    })
}

/// Whether a wrap says that it is for this.
fn fits(wrap: &Wrap, with: &Unlock) -> bool {
    match (wrap, with) {
        (Wrap::Node(wrap), Unlock::Node(node)) => wrap.node_id() == node.node_id(),
        (Wrap::Age(wrap), Unlock::Identities(identities)) => {
            identities.iter().any(|identity| identity.recipient() == wrap.recipient())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;

/// The newest of the keys that were unlocked: an older one was replaced.
pub fn newest_key(files: &[KeyFile], ring: &KeyRing) -> Option<MasterKey> {
    let unlocked = files.iter().filter_map(|file| Some((file.created(), ring.get(file.key())?)));
    unlocked.max_by_key(|(created, _)| *created).map(|(_, key)| key.clone())
}
