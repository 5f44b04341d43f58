//! The file `emergency.recover`: a [`StaticBackup`], encrypted with a key that follows from the node's seed.
//!
//! `plugins/chanbackup.c` of Core Lightning writes it: one message of a [secret stream](crate::secret_stream) under
//! `makesecret("scb secret")`.

use crate::derive::make_secret;
use crate::secret_stream::{EXTRA_LEN, HEADER_LEN, open};
use crate::seed::Seed;
use crate::static_backup::{StaticBackup, StaticBackupError};

/// The name of the file in a lightning-dir.
pub const EMERGENCY_RECOVER: &str = "emergency.recover";

/// The longest file that is read, in bytes. The largest real one, with 65,535 channels, is some 150 MiB; a node has a few kB.
pub const EMERGENCY_RECOVER_MAX: u64 = 160 << 20;

/// The name of the secret that the file is encrypted with.
const SECRET_NAME: &[u8] = b"scb secret";

/// The reason why `emergency.recover` cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EmergencyRecoverError {
    /// The file is shorter than one without channels.
    #[error("it has {len} bytes, fewer than the {min} of an empty one: it was cut off, or is another file", min = HEADER_LEN + EXTRA_LEN)]
    TooShort {
        /// Length of the file, in bytes.
        len: usize,
    },
    /// The authenticator does not fit.
    #[error("it cannot be decrypted with this hsm_secret: it is of another node, or was cut off or damaged")]
    NotAuthentic,
    /// The decrypted bytes are not those of a static backup.
    #[error(transparent)]
    Layout(#[from] StaticBackupError),
}

/// Decrypts and reads the file.
///
/// # Errors
/// [`EmergencyRecoverError`]. A file of another node and a damaged one give the same error.
pub fn read(bytes: &[u8], seed: &Seed) -> Result<StaticBackup, EmergencyRecoverError> {
    if bytes.len() < HEADER_LEN + EXTRA_LEN {
        return Err(EmergencyRecoverError::TooShort { len: bytes.len() });
    }
    let key = make_secret(seed, SECRET_NAME);
    let decrypted = open(bytes, &key).map_err(|_| EmergencyRecoverError::NotAuthentic)?;
    Ok(StaticBackup::decode(&decrypted)?)
}

#[cfg(test)]
mod tests {
    use crypto_secretstream::{Key, PushStream, Tag};
    use rand_core::OsRng;
    use zeroize::Zeroizing;

    use super::*;

    /// A message without channels.
    const EMPTY: &[u8] = &[0x17, 0xf9, 0, 0, 0, 0, 0, 0, 0, 1, 0x65, 0, 0, 0, 0, 0];

    fn encrypted(seed: &Seed, message: &[u8]) -> Vec<u8> {
        let (header, mut stream) = PushStream::init(OsRng, &Key::from(*make_secret(seed, SECRET_NAME)));
        let mut message = message.to_vec();
        stream.push(&mut message, &[], Tag::Message).unwrap();
        [header.as_ref().as_slice(), &message].concat()
    }

    #[test]
    fn a_file_is_read_with_the_seed_of_its_node_only() {
        let [ours, theirs] = [7, 8].map(|byte| Seed::Raw(Zeroizing::new([byte; 32])));
        let file = encrypted(&ours, EMPTY);
        assert_eq!(read(&file, &ours), Ok(StaticBackup { timestamp: 0x6500_0000, channels: Vec::new() }));
        assert_eq!(read(&file, &theirs), Err(EmergencyRecoverError::NotAuthentic));
        assert_eq!(read(&file[..file.len() - 1], &ours), Err(EmergencyRecoverError::NotAuthentic));
        assert_eq!(read(&file[..40], &ours), Err(EmergencyRecoverError::TooShort { len: 40 }));
        assert_eq!(read(&[], &ours), Err(EmergencyRecoverError::TooShort { len: 0 }));
        let other = read(&encrypted(&ours, b"something else"), &ours);
        assert!(matches!(other, Err(EmergencyRecoverError::Layout(_))), "{other:?}");
    }
}
