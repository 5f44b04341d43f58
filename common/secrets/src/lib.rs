//! A node's `hsm_secret`, the keys that `lightningd` derives from it, and `emergency.recover`.
//!
//! `lightningd` keeps the file `emergency.recover` beside its database and rewrites it at every commitment revocation (plugin
//! `chanbackup`). It has, for each channel, how many revocations the peer has sent. A database with fewer is an old state. The file
//! is encrypted, and readable with nothing but `hsm_secret`.
//!
//! * [`hsm_secret`]: the forms of that file, and the [`Seed`](seed::Seed) in it;
//! * [`derive`](mod@derive): the secrets and the node id that follow from the seed;
//! * [`secret_stream`]: one message of libsodium's `crypto_secretstream`;
//! * [`static_backup`]: the channels in a decrypted `emergency.recover`, and [`shachain`]: what each says about revocations.
//!
//! The bytes may be hostile: no input panics, or allocates more than a small multiple of its length. Keys, seeds, mnemonics and
//! decrypted bytes are wiped when they are dropped, and none has a `Debug` output that shows it. Revealed secrets of a peer are never
//! copied out of the decrypted bytes.

pub mod derive;
pub mod emergency_recover;
pub mod hsm_secret;
pub mod passphrase;
pub mod secret_stream;
pub mod seed;
pub mod shachain;
pub mod static_backup;
mod wire;
