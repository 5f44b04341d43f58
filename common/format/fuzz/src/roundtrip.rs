//! What was decoded is the same when it is encoded and decoded again.

use std::fmt::Debug;

use format::Damage;

/// Whether the bytes were decoded.
///
/// # Panics
/// When another encoding than theirs decodes to the same: every other byte must be refused.
pub fn exactly<const N: usize, T: Debug>(
    input: &[u8],
    decode: impl FnOnce(&[u8; N]) -> Result<T, Damage>,
    encode: impl FnOnce(&T) -> [u8; N],
) -> bool {
    let Some((bytes, [])) = input.split_first_chunk::<N>() else { return false };
    let found = decode(bytes);
    if let Ok(found) = &found {
        assert_eq!(&encode(found), bytes, "{found:?}");
    }
    found.is_ok()
}

/// Whether the bytes were decoded.
///
/// # Panics
/// When what was decoded changes by being encoded and decoded.
pub fn again<T: Debug + PartialEq>(
    found: Result<T, Damage>,
    encode: impl FnOnce(&T) -> Vec<u8>,
    decode: impl FnOnce(&[u8]) -> Result<T, Damage>,
) -> bool {
    if let Ok(found) = &found {
        assert_eq!(decode(&encode(found)).as_ref(), Ok(found));
    }
    found.is_ok()
}
