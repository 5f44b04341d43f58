//! [`Passphrase`]: what an `hsm_secret` is protected by.

use std::fmt;

use zeroize::Zeroizing;

/// The longest passphrase that is taken, in bytes. It bounds what is read of a file that is named by mistake.
pub const PASSPHRASE_MAX: usize = 4096;

/// A passphrase, wiped when it is dropped.
pub struct Passphrase(Zeroizing<String>);

/// The reason why a text is no passphrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PassphraseError {
    /// The first line is empty.
    #[error("the passphrase is empty")]
    Empty,
    /// The first line is longer than [`PASSPHRASE_MAX`].
    #[error("the passphrase is longer than {PASSPHRASE_MAX} bytes")]
    TooLong,
    /// The first line is not UTF-8.
    #[error("the passphrase is not UTF-8")]
    NotUtf8,
    /// The first line has a NUL byte, which `lightningd` takes for the end of the text.
    #[error("the passphrase has a NUL byte in it")]
    Nul,
}

impl Passphrase {
    /// The first line of `text`, without its line feed: that is what `lightningd` reads from a terminal or a pipe
    /// (`read_stdin_pass` in `common/hsm_secret.c`).
    ///
    /// # Errors
    /// [`PassphraseError`]. The bytes of `text` are the caller's to wipe.
    pub fn from_first_line(text: &[u8]) -> Result<Self, PassphraseError> {
        let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
        if line.is_empty() {
            return Err(PassphraseError::Empty);
        }
        if line.len() > PASSPHRASE_MAX {
            return Err(PassphraseError::TooLong);
        }
        if line.contains(&0) {
            return Err(PassphraseError::Nul);
        }
        let line = std::str::from_utf8(line).map_err(|_| PassphraseError::NotUtf8)?;
        Ok(Self(Zeroizing::new(line.to_owned())))
    }

    /// The characters, as they were typed: nothing is normalised, because `lightningd` does not, either.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Passphrase {
    /// Writes no part of the passphrase.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_taken_as_it_is() {
        let taken = |text: &[u8]| Passphrase::from_first_line(text).map(|it| it.as_str().to_owned());
        assert_eq!(taken(b"one two \nthree").unwrap(), "one two ");
        assert_eq!(taken("pässwort".as_bytes()).unwrap(), "pässwort");
        assert_eq!(taken(b"\nsecond"), Err(PassphraseError::Empty));
        assert_eq!(taken(b""), Err(PassphraseError::Empty));
        assert_eq!(taken(&[0xff, 0xfe]), Err(PassphraseError::NotUtf8));
        assert_eq!(taken(b"a\0b"), Err(PassphraseError::Nul));
        assert_eq!(taken(&[b'x'; PASSPHRASE_MAX + 1]), Err(PassphraseError::TooLong));
        assert_eq!(format!("{:?}", Passphrase::from_first_line(b"secret").unwrap()), "Passphrase(..)");
    }
}
