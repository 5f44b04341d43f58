//! A backup that is mounted ([`mounted`]): where, with which rights, and how it is kept up to date ([`follow`]).

pub mod behind;
pub mod changes;
pub mod follow;
pub mod kernel_mount;
pub mod mount_rights;
pub mod mounted;
pub mod mountpoint;
pub mod newest_view;
pub mod process;
pub mod read_ahead;
pub mod readme_text;
