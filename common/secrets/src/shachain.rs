//! [`Revocations`]: how many commitments a peer has revoked, from the shachain of its secrets.
//!
//! A peer reveals one secret for each of its commitments that it revokes. The first one has the index 2^48 - 1, and each later one
//! the index below (BOLT #3; `shachain_index` in `common/derive_basepoints.h`). A shachain keeps at most 49 of the secrets, from
//! which all others follow, and `min_index`, the index of the newest one. So `2^48 - min_index` secrets were received
//! (`revocations_received`, in the same file). Before the first one, `num_valid` is 0 and `min_index` is `2^48`
//! (`shachain_init` in `ccan/ccan/crypto/shachain/shachain.c`).
//!
//! The table `shachains` has the columns `min_index` and `num_valid` with the same meaning (`wallet_shachain_add_hash` in
//! `wallet/wallet.c`); `emergency.recover` has them in front of the secrets (`towire_shachain` in `common/htlc_wire.c`).

use std::fmt;

/// Number of indices of a shachain: 2 to the power of `SHACHAIN_BITS`.
const INDICES: u64 = 1 << 48;

/// The most secrets that a shachain keeps.
pub const KNOWN_MAX: u32 = 49;

/// The number of commitments that a peer has revoked. It never goes down while a channel lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revocations(u64);

/// A shachain with an index, or a number of secrets, that none can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a shachain with min_index {min_index} and {num_valid} secrets is impossible")]
pub struct ImpossibleShachain {
    /// The value of `min_index`.
    pub min_index: u64,
    /// The value of `num_valid`.
    pub num_valid: u64,
}

impl Revocations {
    /// None yet.
    pub const NONE: Self = Self(0);

    /// The number of revocations that a shachain with these fields has received.
    ///
    /// # Errors
    /// When no shachain has such fields. Of a shachain without secrets `min_index` does not count: Core Lightning says that it is
    /// valid if `num_valid` is not zero.
    pub fn of_shachain(min_index: u64, num_valid: u64) -> Result<Self, ImpossibleShachain> {
        match num_valid {
            0 => Ok(Self::NONE),
            _ if min_index < INDICES && num_valid <= KNOWN_MAX.into() => Ok(Self(INDICES - min_index)),
            _ => Err(ImpossibleShachain { min_index, num_valid }),
        }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_secret_has_the_highest_index() {
        let of = |min_index, num_valid| Revocations::of_shachain(min_index, num_valid).map(Revocations::get);
        assert_eq!(of(1 << 48, 0), Ok(0));
        assert_eq!(of(0, 0), Ok(0), "all zero is a new shachain, too");
        assert_eq!(of(281_474_976_710_655, 1), Ok(1));
        assert_eq!(of(281_474_976_710_654, 2), Ok(2));
        assert_eq!(of(281_474_976_709_975, 10), Ok(681));
        assert_eq!(of(0, 49), Ok(1 << 48));
        for (min_index, num_valid) in [(1 << 48, 1), (u64::MAX, 1), (5, 50), (5, u64::MAX)] {
            assert_eq!(of(min_index, num_valid), Err(ImpossibleShachain { min_index, num_valid }));
        }
    }
}
