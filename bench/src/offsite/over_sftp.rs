//! The same over SFTP, with an OpenSSH server of this machine: the whole history, the lag, and a restore.

use std::time::Duration;

use serde::Serialize;

use super::copied_node::CopiedNode;
use super::lag::{self, LagReport};
use crate::scale::measured::{settle, within};
use crate::watched::{self, Watched};

/// The measurements.
#[derive(Debug, Clone, Serialize)]
pub struct SftpReport {
    /// A new copy of everything.
    pub first_shipping: Watched,
    pub restore: Watched,
    pub lag: LagReport,
}

/// Begins a copy over SFTP, and ships at this rate for a while; `None` when no server is installed.
pub fn measure(node: &mut CopiedNode<'_>, rate: u32, span: Duration) -> anyhow::Result<Option<SftpReport>> {
    eprintln!("the same over SFTP");
    if !node.copy_over_sftp()? {
        return Ok(None);
    }
    let first_shipping = node.ship_once()?;
    let scratch = node.history().scratch()?;
    settle(scratch.path())?;
    let mut restore = node.reader("restore", &within(&scratch, "cache"));
    let restore = watched::run(restore.arg(within(&scratch, "restored.sqlite3")))?;
    let lag = lag::measure(node, rate, span)?;
    Ok(Some(SftpReport { first_shipping, restore, lag }))
}
