//! [`CopiedNode`]: a node that goes on as in a trace, its backup, and the copy of it in a server of objects.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ::offsite::testing::{Access, FaultyServer, Sshd, Stored};
use anyhow::Context as _;
use common::{Backup, BackupLock, Every, OffsiteEntry, OffsiteWait};
use mountfs::demo::pretend_lightningd::RecorderProcess;
use mountfs::demo::trace::TraceWrite;
use tests::binaries;

use crate::db_write::Call;
use crate::record::call;
use crate::scale::laps::Laps;
use crate::scale::making::Node;
use crate::scale::node_database::NodeDatabase;
use crate::scale::place::{HistoryDir, Made};
use crate::watched::{self, Watched};

/// The secret of the node.
pub const SECRET: [u8; 32] = [7; 32];

/// What the names of all objects of the copy begin with in the bucket.
pub const PREFIX: &str = "node/";

/// The copy in the directory of the SSH server.
const SFTP_DIRECTORY: &str = "home/node.copy";

/// The node and its copy.
pub struct CopiedNode<'a> {
    /// The store of the first copy.
    pub server: FaultyServer,
    /// The store of the copy since [`copy_over_sftp`](Self::copy_over_sftp).
    sftp: Option<Sshd>,
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
        Ok(Self { server, sftp: None, dir, node, entry, calls: 0 })
    }

    /// From now on the copy is a new one, on an OpenSSH server of this machine, which is not slowed down. `false` when there is none.
    pub fn copy_over_sftp(&mut self) -> anyhow::Result<bool> {
        let Some(sshd) = Sshd::start(Access::ReadWrite) else { return Ok(false) };
        let lightning_dir = self.lightning_dir();
        let mut add = Command::new(binaries::backupfs());
        add.args(["offsite", "add", "--lightning-dir"]).arg(&lightning_dir);
        watched::run(add.arg(sshd.url(SFTP_DIRECTORY).to_string()))?;
        self.entry = BackupLock::read(&lightning_dir)?.offsite.pop().context("no copy was added")?;
        self.sftp = Some(sshd);
        self.set_shipping(Some(Duration::from_secs(10)))?;
        Ok(true)
    }

    /// The copy that the next recorders ship to is a new one, in a directory of this machine. Returns the one before, for
    /// [`go_back_to`](Self::go_back_to).
    pub fn copy_in_directory(&mut self) -> anyhow::Result<OffsiteEntry> {
        let lightning_dir = self.lightning_dir();
        let mut add = Command::new(binaries::backupfs());
        add.args(["offsite", "add", "--lightning-dir"]).arg(&lightning_dir);
        watched::run(add.arg(lightning_dir.join("node.copy")))?;
        let entry = BackupLock::read(&lightning_dir)?.offsite.pop().context("no copy was added")?;
        Ok(std::mem::replace(&mut self.entry, entry))
    }

    /// The copy is this one again.
    pub fn go_back_to(&mut self, entry: OffsiteEntry) {
        self.entry = entry;
    }

    /// Has answers of the next recorder wait for the copy; never for `None`.
    pub fn set_wait(&mut self, wait: Option<OffsiteWait>) {
        self.entry.wait = wait;
    }

    /// What the copy has, with when it was stored.
    pub fn stored(&self) -> anyhow::Result<Vec<Stored>> {
        let Some(sshd) = &self.sftp else { return Ok(self.server.stored()) };
        let (mut stored, mut directories) = (Vec::new(), vec![sshd.path(SFTP_DIRECTORY)]);
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory)? {
                let entry = entry?;
                let (path, metadata) = (entry.path(), entry.metadata()?);
                if metadata.is_dir() {
                    directories.push(path);
                    continue;
                }
                // Its name was given last.
                let named = Duration::new(u64::try_from(metadata.ctime())?, u32::try_from(metadata.ctime_nsec())?);
                let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + named).unwrap_or_default();
                let at = Instant::now().checked_sub(age).context("BUG: it is older than this machine runs")?;
                let name = path.strip_prefix(sshd.path(SFTP_DIRECTORY))?.display();
                stored.push(Stored { name: format!("{PREFIX}{name}"), bytes: fs::read(&path)?.into(), at });
            }
        }
        Ok(stored)
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

    /// The file with the credentials of the bucket, if the copy is in one.
    pub fn credentials(&self) -> Option<PathBuf> {
        self.sftp.is_none().then(|| self.lightning_dir().join("bucket.cred"))
    }

    /// A command of `backupfs` that reads the copy, as one that has read nothing of it before.
    pub fn reader(&self, subcommand: &str, cache: &Path) -> Command {
        let mut command = self.reader_options(subcommand, cache);
        command.arg(self.url());
        command
    }

    /// The same without the URL.
    pub fn reader_options(&self, subcommand: &str, cache: &Path) -> Command {
        let mut command = Command::new(binaries::backupfs());
        command.env("XDG_CACHE_HOME", cache).args([subcommand, "--hsm-secret"]).arg(self.secret());
        if let Some(credentials) = self.credentials() {
            command.arg("--credentials").arg(credentials);
        }
        command
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
