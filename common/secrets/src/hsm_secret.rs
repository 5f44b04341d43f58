//! [`HsmSecret`]: the forms of the file `hsm_secret`, and the [`Seed`] in it.
//!
//! The form follows from the length (`detect_hsm_secret_type` in `common/hsm_secret.c` of Core Lightning):
//!
//! | bytes | form |
//! | --- | --- |
//! | 32 | the seed |
//! | 73 | the seed, encrypted with a passphrase: one message of a [secret stream](crate::secret_stream) under a key that Argon2id makes of the passphrase |
//! | others, more than 32 | since v25.12: 32 bytes, then the words of a BIP39 mnemonic. The 32 bytes are zeros, or, if it has a passphrase, the SHA-256 of the 64-byte seed |

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use bip39::{Language, Mnemonic};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::derive::Key;
use crate::passphrase::Passphrase;
use crate::secret_stream::{EXTRA_LEN, HEADER_LEN, open};
use crate::seed::{MNEMONIC_LEN, RAW_LEN, Seed};

/// The name of the file in a lightning-dir.
pub const HSM_SECRET: &str = "hsm_secret";

/// The longest file that is read, in bytes: 24 of the longest words take 247.
pub const HSM_SECRET_MAX: u64 = 4096;

/// The length of an encrypted seed.
const ENCRYPTED_LEN: usize = HEADER_LEN + RAW_LEN + EXTRA_LEN;

/// The length of what is in front of a mnemonic.
const SEED_HASH_LEN: usize = 32;

/// The salt of the passphrase, `MODERATE` limits and one lane, as libsodium's `crypto_pwhash` has them: three passes over 256 MiB.
const SALT: &[u8; 16] = b"c-lightning\0\0\0\0\0";
const PASSES: u32 = 3;
const MEMORY_KIB: u32 = 256 << 10;
const LANES: u32 = 1;

/// The file `hsm_secret`. What is in it is wiped when this is dropped.
pub struct HsmSecret(Form);

enum Form {
    Raw(Key),
    Encrypted(Box<[u8; ENCRYPTED_LEN]>),
    /// The hash of the seed, if it has a passphrase, and the words.
    Mnemonic {
        seed_hash: Option<[u8; SEED_HASH_LEN]>,
        words: Zeroizing<String>,
    },
}

/// The form of an `hsm_secret`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HsmSecretForm {
    /// 32 bytes, as they are.
    Raw,
    /// 32 bytes, encrypted with a passphrase.
    Encrypted,
    /// A mnemonic without a passphrase.
    Mnemonic,
    /// A mnemonic with a passphrase.
    MnemonicWithPassphrase,
}

/// The reason why `hsm_secret` gives no seed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HsmSecretError {
    /// No `hsm_secret` is so short.
    #[error("it has {len} bytes, fewer than the {RAW_LEN} of the shortest hsm_secret")]
    TooShort {
        /// Length of the file, in bytes.
        len: usize,
    },
    /// The bytes behind the hash of the seed are not text, so they are no mnemonic.
    #[error("it is neither a seed nor a mnemonic: what follows its first {SEED_HASH_LEN} bytes is not text")]
    NotText,
    /// A mnemonic has not this many words.
    #[error("its mnemonic has {0} words; there are mnemonics of 12, 15, 18, 21 and 24 words")]
    WordCount(usize),
    /// A word that BIP39 does not have. The word itself is not shown.
    #[error("word {0} of its mnemonic is not in the English list of BIP39; is there a typo in it?")]
    UnknownWord(usize),
    /// The words do not belong together.
    #[error("the checksum of its mnemonic is wrong; is there a typo in it, or are two words exchanged?")]
    Checksum,
    /// `lightningd` takes single spaces only.
    #[error(
        "between the words of its mnemonic there must be single spaces, and nothing before and after them: lightningd does not take it otherwise"
    )]
    Spaces,
    /// The mnemonic is protected by a passphrase, and none was given.
    #[error("it is protected by a passphrase")]
    PassphraseNeeded,
    /// The mnemonic is not protected by a passphrase, and one was given.
    #[error("it is not protected by a passphrase, but one was given")]
    PassphraseNotNeeded,
    /// The passphrase is not that of this file.
    #[error("the passphrase is wrong")]
    WrongPassphrase,
    /// The key of the passphrase cannot be computed.
    #[error("there is not enough memory for the key of the passphrase, which takes {} MiB", MEMORY_KIB >> 10)]
    NoMemory,
}

impl HsmSecret {
    /// Reads the bytes of the file.
    ///
    /// # Errors
    /// When they have none of the forms, or a mnemonic is not valid.
    pub fn decode(bytes: &[u8]) -> Result<Self, HsmSecretError> {
        if let Ok(seed) = bytes.try_into() {
            return Ok(Self(Form::Raw(Key::new(seed))));
        }
        if let Ok(encrypted) = bytes.try_into() {
            return Ok(Self(Form::Encrypted(Box::new(encrypted))));
        }
        let (seed_hash, words) = bytes.split_first_chunk().ok_or(HsmSecretError::TooShort { len: bytes.len() })?;
        // `lightningd` reads a C string.
        let words = words.split(|&byte| byte == 0).next().unwrap_or_default();
        let words = Zeroizing::new(std::str::from_utf8(words).map_err(|_| HsmSecretError::NotText)?.to_owned());
        mnemonic(&words)?;
        let seed_hash = (*seed_hash != [0; SEED_HASH_LEN]).then_some(*seed_hash);
        Ok(Self(Form::Mnemonic { seed_hash, words }))
    }

    /// The form of the file.
    pub fn form(&self) -> HsmSecretForm {
        match &self.0 {
            Form::Raw(_) => HsmSecretForm::Raw,
            Form::Encrypted(_) => HsmSecretForm::Encrypted,
            Form::Mnemonic { seed_hash: None, .. } => HsmSecretForm::Mnemonic,
            Form::Mnemonic { seed_hash: Some(_), .. } => HsmSecretForm::MnemonicWithPassphrase,
        }
    }

    /// Whether [`seed`](Self::seed) needs a passphrase.
    pub fn needs_passphrase(&self) -> bool {
        matches!(self.form(), HsmSecretForm::Encrypted | HsmSecretForm::MnemonicWithPassphrase)
    }

    /// The seed.
    ///
    /// # Errors
    /// When a passphrase is missing, wrong, or not needed.
    pub fn seed(&self, passphrase: Option<&Passphrase>) -> Result<Seed, HsmSecretError> {
        match (&self.0, passphrase) {
            (Form::Raw(seed), None) => Ok(Seed::Raw(seed.clone())),
            (Form::Mnemonic { seed_hash: None, words }, None) => Ok(Seed::Mnemonic(seed_of(words, "")?)),
            (Form::Raw(_) | Form::Mnemonic { seed_hash: None, .. }, Some(_)) => {
                Err(HsmSecretError::PassphraseNotNeeded)
            }
            (Form::Encrypted(_) | Form::Mnemonic { .. }, None) => Err(HsmSecretError::PassphraseNeeded),
            (Form::Encrypted(encrypted), Some(passphrase)) => {
                let seed =
                    open(encrypted.as_slice(), &key_of(passphrase)?).map_err(|_| HsmSecretError::WrongPassphrase)?;
                let seed = seed.as_slice().try_into().map_err(|_| HsmSecretError::WrongPassphrase)?;
                Ok(Seed::Raw(Zeroizing::new(seed)))
            }
            (Form::Mnemonic { seed_hash: Some(seed_hash), words }, Some(passphrase)) => {
                let seed = seed_of(words, passphrase.as_str())?;
                let hash: [u8; SEED_HASH_LEN] = Sha256::digest(seed.as_slice()).into();
                if hash != *seed_hash {
                    return Err(HsmSecretError::WrongPassphrase);
                }
                Ok(Seed::Mnemonic(seed))
            }
        }
    }
}

impl fmt::Debug for HsmSecret {
    /// The form only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HsmSecret").field(&self.form()).finish()
    }
}

/// A mnemonic, if it is one that `lightningd` takes.
fn mnemonic(words: &str) -> Result<Mnemonic, HsmSecretError> {
    let mnemonic = Mnemonic::parse_in_normalized(Language::English, words).map_err(|error| match error {
        bip39::Error::BadWordCount(count) => HsmSecretError::WordCount(count),
        bip39::Error::UnknownWord(index) => HsmSecretError::UnknownWord(index + 1),
        _ => HsmSecretError::Checksum,
    })?;
    let is_canonical = words.split(' ').eq(mnemonic.words());
    if is_canonical { Ok(mnemonic) } else { Err(HsmSecretError::Spaces) }
}

/// The seed of BIP39. The passphrase is taken byte for byte: `lightningd` does not normalise it, unlike BIP39.
fn seed_of(words: &str, passphrase: &str) -> Result<Zeroizing<[u8; MNEMONIC_LEN]>, HsmSecretError> {
    Ok(Zeroizing::new(mnemonic(words)?.to_seed_normalized(passphrase)))
}

/// The key that an encrypted seed is encrypted with (`get_encryption_key`).
fn key_of(passphrase: &Passphrase) -> Result<Key, HsmSecretError> {
    let mut key = Key::default();
    let params = Params::new(MEMORY_KIB, PASSES, LANES, Some(key.len())).map_err(|_| HsmSecretError::NoMemory)?;
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_str().as_bytes(), SALT, key.as_mut_slice())
        .map_err(|_| HsmSecretError::NoMemory)?;
    Ok(key)
}

#[cfg(test)]
mod tests;
