//! [`CopiedNode`]: a node that goes on as in a trace, its backup, and the copy of it in a server of objects.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use ::offsite::testing::FaultyServer;
use anyhow::Context as _;
use common::{Backup, BackupLock, Every, OffsiteEntry};
use mountfs::demo::pretend_lightningd::RecorderProcess;
use mountfs::demo::trace::TraceWrite;
use tests::binaries;

use super::watched::{self, Watched};
use crate::db_write::Call;
use crate::record::call;
use crate::scale::laps::Laps;
use crate::scale::making::Node;
use crate::scale::node_database::NodeDatabase;
use crate::scale::place::{HistoryDir, Made};

/// The secret of the node.
pub const SECRET: [u8; 32] = [7; 32];

/// What the names of all objects of the copy begin with in the bucket.
pub const PREFIX: &str = "node/";

/// The node and its copy.
pub struct CopiedNode<'a> {
    /// The store of the copy.
    pub server: FaultyServer,
    dir: HistoryDir,
    node: Node<'a>,
    /// The copy, as `backupfs offsite add` has noted it.
    entry: OffsiteEntry,
    calls: usize,
}

impl<'a> CopiedNode<'a> {
    /// Begins a copy of a history in a server that takes `delay` for each answer.
    pub fn begin(dir: HistoryDir, laps: &'a Laps, made: &'a mut Made, delay: Duration) -> anyhow::Result<Self> {
        let server = FaultyServer::start();
        server.set_delay(delay);
        let lightning_dir = dir.lightning_dir();
        write_secret(&lightning_dir.join("hsm_secret"), &SECRET)?;
        write_secret(&lightning_dir.join("bucket.cred"), FaultyServer::credentials_file().as_bytes())?;
        let url = server.url(PREFIX.trim_end_matches('/')).to_string();
        let mut add = Command::new(binaries::backupfs());
        add.args(["offsite", "add", "--lightning-dir"]).arg(&lightning_dir);
        watched::run(add.arg("--credentials").arg(lightning_dir.join("bucket.cred")).arg(url))?;
        let entry = BackupLock::read(&lightning_dir)?.offsite.pop().context("no copy was added")?;
        let node = Node::resume(laps, NodeDatabase::open(&dir.database())?, made)?;
        Ok(Self { server, dir, node, entry, calls: 0 })
    }

    /// The node's directory.
    pub fn lightning_dir(&self) -> PathBuf {
        self.dir.lightning_dir()
    }

    /// The directory of the node and its backup.
    pub fn history(&self) -> &HistoryDir {
        &self.dir
    }

    /// The URL of the copy.
    pub fn url(&self) -> &str {
        &self.entry.url
    }

    /// The file with the node's secret.
    pub fn secret(&self) -> PathBuf {
        self.lightning_dir().join("hsm_secret")
    }

    /// The file with the credentials of the bucket.
    pub fn credentials(&self) -> PathBuf {
        self.lightning_dir().join("bucket.cred")
    }

    /// Ships everything that the copy lacks.
    pub fn ship_once(&self) -> anyhow::Result<Watched> {
        let mut ship = Command::new(binaries::backupfs());
        watched::run(ship.args(["ship", "--once", "--lightning-dir"]).arg(self.lightning_dir()))
    }

    /// Has the next recorder ship so often; not at all for `None`.
    pub fn set_shipping(&self, every: Option<Duration>) -> anyhow::Result<()> {
        let mut lock = BackupLock::read(&self.lightning_dir())?;
        let entry = |every| OffsiteEntry { every: Every::Span(every), ..self.entry.clone() };
        lock.offsite = every.map(entry).into_iter().collect();
        Ok(lock.update(&self.lightning_dir())?)
    }

    /// The next change, recorded and committed. Returns how long the node has waited for the answer.
    pub fn record(&mut self, recorder: &mut RecorderProcess) -> anyhow::Result<Duration> {
        self.calls += 1;
        let number = self.calls;
        self.node.next(|data_version, at, change| {
            let statements = change.statements().map(str::to_owned).collect();
            call(recorder, &Call::encode(&TraceWrite { at, data_version, statements }, number)?)
        })
    }

    /// Seq of the newest record of the backup, which must be a version.
    pub fn newest_seq(&self) -> anyhow::Result<u64> {
        let (history, read) = Arc::new(Backup::open(&self.dir.url()?)?).read_history();
        read?;
        Ok(history.newest().context("the backup has no version")?.seq.get())
    }

    /// The number of logs that are not sealed.
    pub fn logs(&self) -> anyhow::Result<usize> {
        let mut logs = 0;
        for entry in fs::read_dir(self.dir.backup())? {
            logs += usize::from(entry?.file_name().as_encoded_bytes().starts_with(b"log-"));
        }
        Ok(logs)
    }
}

fn write_secret(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    fs::write(path, bytes)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o400))?)
}
