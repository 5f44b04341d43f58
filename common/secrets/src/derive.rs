//! The secrets and the node id that `lightningd` derives from a [`Seed`].
//!
//! Sources: `hsmd/libhsmd.c` of Core Lightning, functions `hsmd_init`, `handle_derive_secret` and `node_key`.

use hkdf::Hkdf;
use k256::SecretKey;
use k256::elliptic_curve::sec1::ToSec1Point as _;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::seed::Seed;

/// A derived key of 32 bytes, wiped when it is dropped.
pub type Key = Zeroizing<[u8; 32]>;

/// The public key that names a node, compressed.
pub type NodeId = [u8; 33];

/// Maximum number of salts tried for a node key. One in 2^127 gives no valid key, so the first one is right in practice.
const SALTS_MAX: u32 = 8;

/// The answer of the RPC method `makesecret` for the string `name`: `HKDF(HKDF(seed, "derived secrets"), name)`.
///
/// The inner key comes from *all* bytes of the seed, of a mnemonic too.
pub fn make_secret(seed: &Seed, name: &[u8]) -> Key {
    let derived = hkdf(None, seed.bytes(), b"derived secrets");
    hkdf(None, derived.as_slice(), name)
}

/// The node's id; `None` for a seed that has no valid key, which no real one is.
///
/// The key comes from the *first 32 bytes* of the seed, of a mnemonic too. The salt is a counter as a C `u32` in memory: little-endian
/// on every machine that `lightningd` runs on.
pub fn node_id(seed: &Seed) -> Option<NodeId> {
    (0..SALTS_MAX).find_map(|salt| {
        let key = hkdf(Some(&salt.to_le_bytes()), seed.first_half(), b"nodeid");
        // `SecretKey` wipes itself.
        let key = SecretKey::from_slice(key.as_slice()).ok()?;
        key.public_key().to_sec1_point(true).as_bytes().try_into().ok()
    })
}

/// RFC 5869 with SHA-256; 32 bytes of output.
fn hkdf(salt: Option<&[u8]>, input: &[u8], info: &[u8]) -> Key {
    let mut key = Key::default();
    // Fails for more than 255 hashes of output only; this is one.
    if Hkdf::<Sha256>::new(salt, input).expand(info, key.as_mut_slice()).is_err() {
        unreachable!("HKDF-SHA256 gives 32 bytes");
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A seed as the test framework of Core Lightning writes it (`contrib/pyln-testing`): a name, padded with zeros.
    fn padded(name: &[u8]) -> Seed {
        let mut bytes = Key::default();
        bytes[..name.len()].copy_from_slice(name);
        Seed::Raw(bytes)
    }

    /// `test_makesecret` in `tests/test_misc.py` of Core Lightning, before its nodes had mnemonics.
    #[test]
    fn makesecret_of_32_bytes_is_that_of_core_lightnings_own_test() {
        let seed = padded(b"lightning-1");
        let expected = "a9a2e742405c28f059349132923a99337ae7f71168b7485496e3365f5bc664ed";
        assert_eq!(hex(&*make_secret(&seed, b"scb secret")), expected);
        for other in [b"scb secreu".as_slice(), b"scb secre", b"scb secret\x01"] {
            assert_ne!(hex(&*make_secret(&seed, other)), expected);
        }
    }

    /// The same test, since its nodes have the mnemonic whose entropy is those first 16 bytes. The seed is all 64 bytes: with 32 of
    /// them, as `lightning-hsmtool makerune` takes, the secret is another one.
    #[test]
    fn makesecret_of_a_mnemonic_is_that_of_core_lightnings_own_test() {
        let mnemonic = bip39::Mnemonic::from_entropy_in(bip39::Language::English, b"lightning-1\0\0\0\0\0").unwrap();
        let seed = Seed::Mnemonic(Zeroizing::new(mnemonic.to_seed_normalized("")));
        let expected = "498a16a6c6b82b7280de7f5b0afa0478b29d3a1cbe52c376249cf46abb6c03da";
        assert_eq!(hex(&*make_secret(&seed, b"scb secret")), expected);
        let half = Seed::Raw(Zeroizing::new(seed.first_half().try_into().unwrap()));
        assert_ne!(hex(&*make_secret(&half, b"scb secret")), expected);
        assert_eq!(node_id(&half), node_id(&seed), "the node's key comes from those 32 bytes only");
    }

    /// The ids of the first nodes of every test of Core Lightning (`tests/test_connection.py` and many others).
    #[test]
    fn the_node_id_is_that_of_core_lightnings_own_tests() {
        let id = |name: &[u8]| hex(&node_id(&padded(name)).unwrap());
        assert_eq!(id(b"lightning-1"), "0266e4598d1d3c415f572a8488830b60f7e744ed9235eb0b1ba93283b315c03518");
        assert_eq!(id(b"lightning-2"), "022d223620a359a47ff7f7ac447c85c46c923da53389221a0054c11c1e3ca31d59");
        assert_eq!(id(b"lightning-3"), "035d2b1192dfba134e10e540875d366ebc8bc353d5aa766b80c090b39c3a5d885d");
    }
}
