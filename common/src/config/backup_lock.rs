//! [`BackupLock`]: the file in the lightning-dir that names the backup of this node.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tempfile::{NamedTempFile, PersistError};
use uuid::Uuid;

use crate::config::backup_url::{BackupUrl, BackupUrlError};
use crate::config::keep_policy::KeepPolicy;
use crate::config::offsite::OffsiteEntry;
use crate::config::on_unreachable::OnUnreachable;
use crate::config::python_lock::PythonLock;
use crate::config::scrub_interval::ScrubInterval;
use crate::parity::share::ParityShare;
use crate::storage::small_file::read_small_file;
use crate::storage::unfinished::{Unfinished, Workplace};
use crate::storage::unused_name::unused_name;
use format::units::Timestamp;

/// The reaction to versions that `lightningd` committed without their being recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnGap {
    /// Take a snapshot of the database and go on.
    #[default]
    Heal,
    /// Refuse the write, so that the node stops.
    Stop,
}

/// `backup.lock`: JSON with the key `backend_url` of the Python plugin `backup` and keys of our own. While that plugin has its
/// own `backup.lock` there, which it reads at every start, ours is called `backupfs.lock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupLock {
    /// URL of the backup.
    pub backend_url: BackupUrl,
    /// UUID of the backup; a file written by hand may omit it.
    pub backup_uuid: Option<Uuid>,
    /// The database, when it is not `lightningd.sqlite3` beside this file.
    pub database: Option<PathBuf>,
    /// Reaction to a gap.
    pub on_gap: OnGap,
    /// Reaction while the backup cannot be written to.
    pub on_unreachable: OnUnreachable,
    /// Policy by which the recorder drops history; without it, all history is kept.
    pub compact: Option<KeepPolicy>,
    /// The off-site copies.
    pub offsite: Vec<OffsiteEntry>,
    /// How much parity the recorder makes for sealed files, if not the default.
    pub parity: Option<ParityShare>,
    /// How often the recorder reads everything back, if not by default.
    pub scrub: Option<ScrubInterval>,
}

/// The reason why there is no usable `backup.lock`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupLockError {
    /// The file does not exist.
    #[error("there is no {path}, which names the backup to record to. For a new backup run `backupfs init --lightning-dir {dir} URL`; \
        for one that is there, `backupfs attach --lightning-dir {dir} URL`",
        path = .path.display(), dir = .path.parent().unwrap_or(Path::new(".")).display())]
    Missing {
        /// The expected path.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("cannot read {path}; check its permissions", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The file is not the expected JSON object.
    #[error("{path} is not usable ({reason}); correct it, or move it away and run `backupfs attach`, which writes another", path = .path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The reason, for the operator.
        reason: String,
    },
    /// The URL of the backup is invalid.
    #[error("{path}: backend_url: {source}", path = .path.display())]
    Url {
        /// The file.
        path: PathBuf,
        /// The reason, for the operator.
        source: BackupUrlError,
    },
    /// The file exists already.
    #[error("{path} exists already: this node has a backup; move the file away to give it another one", path = .path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be written.
    #[error("cannot write {path}", path = .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
}

/// The file as JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Json {
    backend_url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    backup_uuid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    database: Option<PathBuf>,
    #[serde(default)]
    on_gap: OnGap,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    on_unreachable: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    compact: Option<KeepPolicy>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    offsite: Vec<OffsiteEntry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parity: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scrub: Option<String>,
}

impl BackupLock {
    /// Name of the file in the lightning-dir.
    pub const FILE_NAME: &str = "backup.lock";

    /// Name beside a `backup.lock` of the Python plugin. If this file exists, `backup.lock` is ignored.
    pub const FILE_NAME_BESIDE: &str = "backupfs.lock";

    /// The default database of `lightningd`.
    const DATABASE: &str = "lightningd.sqlite3";

    /// Maximum length; a normal file has a few hundred bytes.
    pub(crate) const LEN_MAX: u64 = 64 << 10;

    /// The file in effect in `lightning_dir`: `backupfs.lock` if it exists, or else `backup.lock`.
    pub fn path(lightning_dir: &Path) -> PathBuf {
        let beside = lightning_dir.join(Self::FILE_NAME_BESIDE);
        if beside.symlink_metadata().is_ok() { beside } else { lightning_dir.join(Self::FILE_NAME) }
    }

    /// The recorder's method for compaction.
    pub const COMPACT_METHOD: &str = "backup-compact";

    /// Name of the method `backup-compact` beside the Python plugin, which has a method of that name.
    pub const COMPACT_METHOD_BESIDE: &str = "backupfs-compact";

    /// The name of the method of the recorder that runs in `lightning_dir`.
    pub fn compact_method(lightning_dir: &Path) -> &'static str {
        let is_beside = Self::path(lightning_dir).ends_with(Self::FILE_NAME_BESIDE);
        if is_beside { Self::COMPACT_METHOD_BESIDE } else { Self::COMPACT_METHOD }
    }

    /// The file to create or replace in `lightning_dir`: never that of the Python plugin.
    fn path_to_write(lightning_dir: &Path) -> PathBuf {
        match PythonLock::find(lightning_dir) {
            Some(_) => lightning_dir.join(Self::FILE_NAME_BESIDE),
            None => Self::path(lightning_dir),
        }
    }

    /// Reads the file in `lightning_dir`.
    ///
    /// # Errors
    /// When the file is missing, unreadable, not JSON, has unknown keys or wrong types, or an invalid URL.
    pub fn read(lightning_dir: &Path) -> Result<Self, BackupLockError> {
        let path = Self::path(lightning_dir);
        let bytes = match read_small_file(&path, Self::LEN_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(BackupLockError::Missing { path }),
            Err(source) => return Err(BackupLockError::Read { path, source }),
        };
        Self::parse(&path, &bytes)
    }

    /// Parses the contents of the file at `path`.
    ///
    /// # Errors
    /// The same as for [`read`](Self::read).
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, BackupLockError> {
        let bad = |reason: String| BackupLockError::Json { path: path.to_path_buf(), reason };
        let json: Json = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
        let backend_url =
            json.backend_url.parse().map_err(|source| BackupLockError::Url { path: path.to_path_buf(), source })?;
        let backup_uuid = json
            .backup_uuid
            .map(|uuid| uuid.parse().map_err(|_| bad(format!("backup_uuid `{uuid}` is not a UUID"))))
            .transpose()?;
        let on_unreachable = json.on_unreachable.as_ref().map(OnUnreachable::from_json).transpose();
        let on_unreachable = on_unreachable.map_err(|what| bad(format!("on_unreachable {what}")))?.unwrap_or_default();
        if backup_uuid.is_none() && matches!(on_unreachable, OnUnreachable::Spool { .. }) {
            return Err(bad("a spool needs the key backup_uuid, which `backupfs attach` writes".to_owned()));
        }
        if let Some(policy) = json.compact {
            policy.check().map_err(|error| bad(format!("compact: {error}")))?;
        }
        json.offsite.iter().try_for_each(OffsiteEntry::check).map_err(|error| bad(error.to_string()))?;
        let parity = json.parity.map(|share| share.parse().map_err(|error| bad(format!("parity: {error}"))));
        let scrub = json.scrub.map(|text| text.parse().map_err(|error| bad(format!("scrub: {error}"))));
        let Json { database, on_gap, compact, offsite, .. } = json;
        let (parity, scrub) = (parity.transpose()?, scrub.transpose()?);
        Ok(Self { backend_url, backup_uuid, database, on_gap, on_unreachable, compact, offsite, parity, scrub })
    }

    /// Creates the file durably.
    ///
    /// # Errors
    /// [`BackupLockError::Exists`] when there is one: it is unchanged.
    pub fn create(&self, lightning_dir: &Path) -> Result<(), BackupLockError> {
        let path = Self::path_to_write(lightning_dir);
        self.write(lightning_dir, |temporary| temporary.persist_noclobber(&path)).map_err(|source| {
            match source.kind() {
                io::ErrorKind::AlreadyExists => BackupLockError::Exists { path: path.clone() },
                _ => BackupLockError::Write { path: path.clone(), source },
            }
        })
    }

    /// Replaces the file durably. The old file is kept under another name, which is returned; `None` if there was none.
    ///
    /// # Errors
    /// When it cannot be written; then the old file is unchanged.
    pub fn replace(&self, lightning_dir: &Path) -> Result<Option<PathBuf>, BackupLockError> {
        let path = Self::path_to_write(lightning_dir);
        let replace = || -> io::Result<_> {
            let copy = unused_name(&path, Timestamp::now())?;
            // A hard link: the old file may be of any type; it is not opened, and has both names until the new file takes the first.
            let kept = match fs::hard_link(&path, &copy) {
                Ok(()) => Some(copy),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            self.write(lightning_dir, |temporary| temporary.persist(&path)).inspect_err(|_| {
                // Only the first error is reported.
                kept.iter().for_each(|kept| drop(fs::remove_file(kept)));
            })?;
            Ok(kept)
        };
        replace().map_err(|source| BackupLockError::Write { path: path.clone(), source })
    }

    /// Replaces the file durably, by the same file with other settings: after any crash it has the old ones or the new ones.
    ///
    /// # Errors
    /// When it cannot be written; then the old file is unchanged.
    pub fn update(&self, lightning_dir: &Path) -> Result<(), BackupLockError> {
        let path = Self::path(lightning_dir);
        self.write(lightning_dir, |temporary| temporary.persist(&path))
            .map_err(|source| BackupLockError::Write { path: path.clone(), source })
    }

    fn write(
        &self,
        lightning_dir: &Path,
        name: impl FnOnce(NamedTempFile) -> Result<File, PersistError>,
    ) -> io::Result<()> {
        let workplace = Workplace::enter(lightning_dir, Unfinished::BackupLock);
        let mut temporary = workplace.new_file()?;
        temporary.write_all(&self.encode()?)?;
        temporary.as_file().sync_all()?;
        name(temporary).map_err(|error| error.error)?;
        File::open(lightning_dir)?.sync_all()
    }

    /// Encodes the file.
    ///
    /// # Errors
    /// When a path in it is not UTF-8.
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        let json = Json {
            backend_url: self.backend_url.to_string(),
            backup_uuid: self.backup_uuid.map(|uuid| uuid.to_string()),
            database: self.database.clone(),
            on_gap: self.on_gap,
            on_unreachable: Some(&self.on_unreachable)
                .filter(|&policy| *policy != OnUnreachable::default())
                .map(OnUnreachable::to_json),
            compact: self.compact,
            offsite: self.offsite.clone(),
            parity: self.parity.map(|share| share.to_string()),
            scrub: self.scrub.map(|interval| interval.to_string()),
        };
        let mut bytes = serde_json::to_vec_pretty(&json)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Path of the database; a relative path is relative to the lightning-dir.
    pub fn database_path(&self, lightning_dir: &Path) -> PathBuf {
        lightning_dir.join(self.database.as_deref().unwrap_or(Path::new(Self::DATABASE)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<BackupLock, BackupLockError> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(BackupLock::FILE_NAME), json).unwrap();
        BackupLock::read(dir.path())
    }

    #[test]
    fn reads_back_what_it_creates_and_creates_only_once() {
        let dir = tempfile::tempdir().unwrap();
        let lock = BackupLock {
            backend_url: "file:///a/node.bkp".parse().unwrap(),
            backup_uuid: Some(Uuid::from_u128(7)),
            database: Some("/elsewhere/db.sqlite3".into()),
            on_gap: OnGap::Stop,
            on_unreachable: OnUnreachable::Stop,
            compact: Some(KeepPolicy { within: Some("90d".parse().unwrap()), ..KeepPolicy::default() }),
            offsite: vec![serde_json::from_str(r#"{"url": "sftp://nas/srv/node", "every": "segment"}"#).unwrap()],
            parity: Some("2.5%".parse().unwrap()),
            scrub: Some("90d".parse().unwrap()),
        };
        lock.create(dir.path()).unwrap();
        assert_eq!(BackupLock::read(dir.path()).unwrap(), lock);
        assert!(matches!(lock.create(dir.path()), Err(BackupLockError::Exists { .. })));
        assert_eq!(lock.database_path(Path::new("/l")), Path::new("/elsewhere/db.sqlite3"));
    }

    #[test]
    fn the_python_plugins_file_is_enough() {
        let lock = read(r#"{"backend_url": "file:///mnt/node.bkp"}"#).unwrap();
        assert_eq!((lock.backup_uuid, lock.on_gap), (None, OnGap::Heal));
        assert_eq!(lock.on_unreachable, OnUnreachable::default());
        assert_eq!(lock.database_path(Path::new("/l")), Path::new("/l/lightningd.sqlite3"));
    }

    #[test]
    fn the_file_of_the_python_plugin_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let theirs = format!(r#"{{"backend_url": "file://{}"}}"#, dir.path().join("file.bkp").display());
        fs::write(dir.path().join("file.bkp"), "").unwrap();
        fs::write(dir.path().join("backup.lock"), &theirs).unwrap();
        let mut lock = BackupLock {
            backend_url: "file:///a/node.bkp".parse().unwrap(),
            backup_uuid: None,
            database: None,
            on_gap: OnGap::Stop,
            on_unreachable: OnUnreachable::Stop,
            compact: None,
            offsite: Vec::new(),
            parity: None,
            scrub: None,
        };
        lock.create(dir.path()).unwrap();
        assert_eq!(BackupLock::read(dir.path()).unwrap(), lock);
        lock.on_gap = OnGap::Heal;
        let copy = lock.replace(dir.path()).unwrap().unwrap();
        assert!(copy.file_name().unwrap().to_str().unwrap().starts_with("backupfs.lock.replaced-"), "{copy:?}");
        assert_eq!(BackupLock::read(dir.path()).unwrap(), lock);
        assert_eq!(fs::read_to_string(dir.path().join("backup.lock")).unwrap(), theirs);
        // Without the plugin it is still the file in effect.
        fs::remove_file(dir.path().join("backup.lock")).unwrap();
        assert!(matches!(lock.create(dir.path()), Err(BackupLockError::Exists { .. })));
        assert_eq!(BackupLock::read(dir.path()).unwrap(), lock);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let message = |json: &str| read(json).unwrap_err().to_string();
        assert!(message("").contains("backup.lock is not usable"));
        assert!(message("[]").contains("not usable"));
        assert!(message("{}").contains("backend_url"));
        assert!(message(r#"{"backend_url": 7}"#).contains("string"));
        assert!(message(r#"{"backend_url": "file:///a", "on_gpa": "stop"}"#).contains("on_gpa"));
        assert!(message(r#"{"backend_url": "file:///a", "on_gap": "maybe"}"#).contains("maybe"));
        assert!(message(r#"{"backend_url": "file:///a", "backup_uuid": "x"}"#).contains("UUID"));
        assert!(message(r#"{"backend_url": "file:///a", "on_unreachable": 3}"#).contains("on_unreachable 3"));
        assert!(message(r#"{"backend_url": "file:///a", "on_unreachable": {"spool": "/s"}}"#).contains("backup_uuid"));
        let policy = |policy: &str| message(&format!(r#"{{"backend_url": "file:///a", "compact": {policy}}}"#));
        assert!(policy("{}").contains("keeps nothing") && policy(r#"{"keep_within": "0d"}"#).contains("keeps nothing"));
        assert!(policy(r#"{"keep_within": "90"}"#).contains("`90` is no span of time"));
        assert!(policy(r#"{"keep_witin": "90d"}"#).contains("keep_witin") && policy("[]").contains("not usable"));
        let wait = |keys: &str| {
            message(&format!(r#"{{"backend_url": "file:///a", "offsite": [{{"url": "sftp://nas/n", {keys}}}]}}"#))
        };
        let bad = wait(r#""wait": {"changes": 1, "seconds": 0, "then": "stop"}"#);
        assert!(bad.contains("backup.lock is not usable (`wait` has `seconds` 0; write"), "{bad}");
        let bad = wait(r#""every": "segment", "wait": {"changes": 1, "seconds": 9, "then": "stop"}"#);
        assert!(bad.contains("backup.lock is not usable (offsite, sftp://nas/n: answers cannot `wait`"), "{bad}");
        assert!(message(r#"{"backend_url": "ssh://a"}"#).contains("`ssh:` is not supported"));
        let dir = tempfile::tempdir().unwrap();
        let missing = BackupLock::read(dir.path()).unwrap_err().to_string();
        assert!(missing.contains("backupfs init --lightning-dir"), "{missing}");
    }
}
