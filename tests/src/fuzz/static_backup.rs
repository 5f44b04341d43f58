//! What is in a decrypted `emergency.recover`, and the bytes of an `hsm_secret`. Both are of the node itself, but a disk may rot, and
//! another file may be named by mistake.

use secrets::hsm_secret::HsmSecret;
use secrets::static_backup::StaticBackup;

use crate::witness::{WitnessChannel, decrypted};

/// The fewest bytes of a channel.
const CHANNEL_LEN_MIN: usize = 8 + 32 + 33 + 1 + 2 + 32 + 4 + 8 + 2;

/// A decrypted file. What follows the channels does not count.
pub(super) fn static_backup(input: &[u8]) -> bool {
    let Ok(backup) = StaticBackup::decode(input) else { return false };
    assert!(backup.channels.len() <= input.len() / CHANNEL_LEN_MIN, "{} channels", backup.channels.len());
    for channel in &backup.channels {
        assert!(channel.revocations.is_none_or(|it| it.get() <= 1 << 48), "{channel:?}");
    }
    let longer = [input, &[0x5a]].concat();
    assert_eq!(StaticBackup::decode(&longer).as_ref(), Ok(&backup), "with a byte more");
    true
}

/// The forms of `hsm_secret`. Nothing is derived: that takes long on purpose.
pub(super) fn hsm_secret(input: &[u8]) -> bool {
    let secret = HsmSecret::decode(input);
    assert!(secret.is_ok() || input.len() != 32 && input.len() != 73, "{} bytes", input.len());
    secret.is_ok()
}

pub(super) fn static_backups() -> Vec<Vec<u8>> {
    let channel = |id| WitnessChannel { id, revocations: id.into() };
    let legacy = {
        let mut legacy = decrypted(&[]);
        legacy[1] = 0xf7;
        legacy
    };
    vec![decrypted(&[channel(0)]), decrypted(&[channel(1), channel(2), channel(3)]), legacy]
}

pub(super) fn hsm_secrets() -> Vec<Vec<u8>> {
    let words = b"legal winner thank year wave sausage worth useful legal winner thank yellow";
    vec![vec![7; 32], vec![7; 73], [&[0; 32], words.as_slice()].concat(), [&[1; 32], words.as_slice()].concat()]
}
