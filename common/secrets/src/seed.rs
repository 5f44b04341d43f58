//! [`Seed`]: the root of all keys of a node.

use std::fmt;

use zeroize::Zeroizing;

/// The length of a seed that is stored as it is, in bytes.
pub const RAW_LEN: usize = 32;

/// The length of the seed of a mnemonic (BIP39), in bytes.
pub const MNEMONIC_LEN: usize = 64;

/// The root of all keys of a node, wiped when it is dropped.
///
/// `lightningd` calls it `secret_data` (`common/hsm_secret.h`).
pub enum Seed {
    /// 32 bytes, as in an `hsm_secret` that has no mnemonic.
    Raw(Zeroizing<[u8; RAW_LEN]>),
    /// The 64 bytes that BIP39 derives from a mnemonic.
    Mnemonic(Zeroizing<[u8; MNEMONIC_LEN]>),
}

impl Seed {
    /// The bytes of the seed: 32, or the 64 of a mnemonic.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Raw(bytes) => bytes.as_slice(),
            Self::Mnemonic(bytes) => bytes.as_slice(),
        }
    }

    /// The first 32 bytes, from which `lightningd` derives the node's key.
    pub fn first_half(&self) -> &[u8] {
        &self.bytes()[..RAW_LEN]
    }
}

impl fmt::Debug for Seed {
    /// The kind of seed only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw(_) => "Seed::Raw(..)",
            Self::Mnemonic(_) => "Seed::Mnemonic(..)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_never_shown() {
        let raw = Seed::Raw(Zeroizing::new([7; RAW_LEN]));
        let mnemonic = Seed::Mnemonic(Zeroizing::new([7; MNEMONIC_LEN]));
        assert_eq!(format!("{raw:?} {mnemonic:?}"), "Seed::Raw(..) Seed::Mnemonic(..)");
        assert_eq!((raw.bytes().len(), mnemonic.bytes().len()), (32, 64));
        assert_eq!((raw.first_half().len(), mnemonic.first_half().len()), (32, 32));
    }
}
