//! The keys of a copy: the master key, what it is wrapped by, and how it is unlocked again.
//!
//! * [`master_key`]: the random key that everything is encrypted with, and [`key_ring`]: several of them;
//! * [`words`]: a master key as 24 words on paper;
//! * [`key_file`]: the object that has a master key, wrapped in several ways ([`wrap`]): by the secret of the [`node`], or for
//!   recipients of [`age`](mod@age), whose identities are in an [`identity_file`];
//! * [`mod@unlock`]: from what an operator has to the keys.
//!
//! Keys and secrets are wiped when they are dropped, and none has a `Debug` output or an error that shows it.

pub mod age;
pub mod identity_file;
pub mod key_file;
pub mod key_ring;
pub mod master_key;
pub mod node;
pub mod unlock;
pub mod words;
pub mod wrap;
