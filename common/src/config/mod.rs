//! Configuration: `backup.lock`, its parts, and the limits of logs.

pub(crate) mod backup_lock;
pub(crate) mod backup_url;
pub(crate) mod keep_policy;
pub(crate) mod log_limits;
pub(crate) mod offsite;
pub(crate) mod offsite_wait;
pub(crate) mod on_unreachable;
pub(crate) mod python_lock;
pub(crate) mod scrub_interval;
