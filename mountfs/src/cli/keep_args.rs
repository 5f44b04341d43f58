//! [`KeepArgs`]: the options that say which versions are kept.

use clap::Args;
use common::{KeepPolicy, KeepSpan};

/// Which versions are kept, as `compact` and `offsite prune` take it.
#[derive(Debug, Clone, Args)]
pub struct KeepArgs {
    /// Keep all versions of this span
    #[arg(long, value_name = "SPAN")]
    pub keep_within: Option<KeepSpan>,
    /// Keep the newest version of every hour of this span
    #[arg(long, value_name = "SPAN")]
    pub keep_hourly: Option<KeepSpan>,
    /// Keep the newest version of every day of this span
    #[arg(long, value_name = "SPAN")]
    pub keep_daily: Option<KeepSpan>,
    /// Keep the newest version of every week of this span
    #[arg(long, value_name = "SPAN")]
    pub keep_weekly: Option<KeepSpan>,
}

impl KeepArgs {
    /// The policy.
    pub fn policy(&self) -> KeepPolicy {
        KeepPolicy {
            within: self.keep_within,
            hourly: self.keep_hourly,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
        }
    }
}
