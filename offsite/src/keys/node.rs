//! [`NodeSecret`]: what a node derives from its `hsm_secret` for off-site copies.

use std::fmt;

use secrets::derive::{NodeId, make_secret, node_id};
use secrets::hsm_secret::{HsmSecret, HsmSecretError};
use secrets::passphrase::Passphrase;
use secrets::seed::Seed;

use crate::crypto::Key;
use crate::hex;

/// What `makesecret` is asked for: its parameter `string`. `lightningd` answers it while the node runs; without one it follows from
/// `hsm_secret`.
pub const MAKESECRET: &str = "backupfs offsite v1";

/// The secret of a node that wraps master keys. Wiped when it is dropped.
#[derive(Clone)]
pub struct NodeSecret {
    node_id: NodeId,
    secret: Key,
}

/// Why there is no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeSecretError {
    /// The file, or its passphrase.
    #[error(transparent)]
    HsmSecret(#[from] HsmSecretError),
    /// A seed that no node has.
    #[error("no node key follows from this hsm_secret: it is of no node; is it another file?")]
    NoNodeKey,
}

impl NodeSecret {
    /// The secret that the node of this id answered for [`MAKESECRET`].
    pub fn new(node_id: NodeId, secret: Key) -> Self {
        Self { node_id, secret }
    }

    /// The secret that follows from the bytes of the file `hsm_secret`. A passphrase that is not needed is not used: the same command
    /// must do for every node. A passphrase takes seconds and 256 MiB.
    ///
    /// # Errors
    /// When they are no `hsm_secret`, or the passphrase is missing or wrong.
    pub fn from_hsm_secret(bytes: &[u8], passphrase: Option<&Passphrase>) -> Result<Self, NodeSecretError> {
        let file = HsmSecret::decode(bytes)?;
        Self::from_seed(&file.seed(passphrase.filter(|_| file.needs_passphrase()))?)
    }

    /// The secret that follows from a node's seed.
    ///
    /// # Errors
    /// When the seed is of no node.
    pub fn from_seed(seed: &Seed) -> Result<Self, NodeSecretError> {
        let node_id = node_id(seed).ok_or(NodeSecretError::NoNodeKey)?;
        Ok(Self { node_id, secret: make_secret(seed, MAKESECRET.as_bytes()) })
    }

    /// The id of the node.
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// The bytes of the secret.
    pub(super) fn bytes(&self) -> &[u8] {
        self.secret.as_slice()
    }
}

impl fmt::Debug for NodeSecret {
    /// The node only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeSecret({})", hex::encode(&self.node_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::from_first_line(text.as_bytes()).unwrap()
    }

    /// The seed of the first node of Core Lightning's tests, whose id is known; the secret was computed with another program.
    #[test]
    fn the_secret_is_that_of_makesecret() {
        let mut file = [0; 32];
        file[..11].copy_from_slice(b"lightning-1");
        let secret = NodeSecret::from_hsm_secret(&file, None).unwrap();
        assert_eq!(hex::encode(secret.bytes()), "0eb34684c0cf2ef3308779a0eeef44fb0b390147d36522001100f4125c8897e0");
        let id = "0266e4598d1d3c415f572a8488830b60f7e744ed9235eb0b1ba93283b315c03518";
        assert_eq!(
            (hex::encode(&secret.node_id()), format!("{secret:?}")),
            (id.to_owned(), format!("NodeSecret({id})"))
        );
        let unused = NodeSecret::from_hsm_secret(&file, Some(&passphrase("not needed"))).unwrap();
        assert_eq!(unused.bytes(), secret.bytes());
    }

    #[test]
    fn a_mnemonic_with_its_passphrase_gives_a_secret() {
        let words = "legal winner thank year wave sausage worth useful legal winner thank yellow";
        let seed_hash = "ef627689ebfaea17d3b367d63cda71b59bd333462163aa2e4e98a54c1999886e";
        let seed_hash: [u8; 32] = hex::decode(seed_hash).unwrap();
        let file = [seed_hash.as_slice(), words.as_bytes()].concat();
        let secret = NodeSecret::from_hsm_secret(&file, Some(&passphrase("TREZOR"))).unwrap();
        let plain = NodeSecret::from_hsm_secret(&[&[0; 32], words.as_bytes()].concat(), None).unwrap();
        assert_ne!((secret.node_id(), secret.bytes()), (plain.node_id(), plain.bytes()));
        let refused = |passphrase| NodeSecret::from_hsm_secret(&file, passphrase).unwrap_err();
        assert_eq!(refused(None), HsmSecretError::PassphraseNeeded.into());
        assert_eq!(refused(Some(&passphrase("trezor"))), HsmSecretError::WrongPassphrase.into());
        assert_eq!(NodeSecret::from_hsm_secret(b"", None).unwrap_err(), HsmSecretError::TooShort { len: 0 }.into());
    }
}
