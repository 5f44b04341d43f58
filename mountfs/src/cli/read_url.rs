//! [`ReadUrl`]: a backup to read, in its directory or in an off-site copy; and the options that open a copy.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use common::preflight::key_file::KeyFileError;
use common::{BackupUrl, Source};
use format::names;
use offsite::connect::{expect_copy, key_files, open_store};
use offsite::copy::CopyDirectory;
use offsite::copy::chunks::Chunks;
use offsite::copy::contents::UseOfCatalogs;
use offsite::copy::disk_cache::{BYTES_MAX, DiskCache};
use offsite::description::{Description, SealKind};
use offsite::keys::identity_file::IdentityFile;
use offsite::keys::key_ring::KeyRing;
use offsite::keys::node::{MAKESECRET, NodeSecret};
use offsite::keys::unlock::{Unlock, Ways, unlock};
use offsite::keys::words::{WORDS_TEXT_MAX, from_words};
use offsite::objects::ID;
use offsite::store::{Store, StoreUrl};
use zeroize::Zeroizing;

use super::keys::{KeyArgs, ask};
use crate::note;
use crate::restore::lightning_dir::HSM_SECRET;

/// A backup to read: its directory, or an off-site copy of it.
#[derive(Debug, Clone)]
pub enum ReadUrl {
    /// A directory: the backup itself, or a copy on another disk.
    Directory(BackupUrl),
    /// A copy in a store.
    Store(StoreUrl),
}

impl FromStr for ReadUrl {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        if text.starts_with("s3://") || text.starts_with("sftp://") {
            return Ok(Self::Store(text.parse()?));
        }
        match text.parse() {
            Ok(url) => Ok(Self::Directory(url)),
            Err(error) if text.contains("://") => {
                Err(anyhow!("{error}; an off-site copy begins with s3:// or sftp://"))
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl ReadUrl {
    /// The path of a directory, or the URL of a store.
    pub fn place(&self) -> String {
        match self {
            Self::Directory(url) => url.path().display().to_string(),
            Self::Store(url) => url.to_string(),
        }
    }
}

impl fmt::Display for ReadUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(url) => url.fmt(f),
            Self::Store(url) => url.fmt(f),
        }
    }
}

impl From<BackupUrl> for ReadUrl {
    fn from(url: BackupUrl) -> Self {
        Self::Directory(url)
    }
}

/// What opens an off-site copy, besides the node's `hsm_secret`.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Off-site copies")]
pub struct CopyArgs {
    /// A file with the 24 words of the copy
    #[arg(long, value_name = "FILE")]
    pub words: Option<PathBuf>,
    /// A file with an identity of age (AGE-SECRET-KEY-1…), for a copy of a write-only node
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Read a copy that is not encrypted: without this it is refused, because a hostile store can make one
    #[arg(long)]
    pub unencrypted: bool,
    /// A file with access_key=… and secret_key=… of the bucket; without it AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY
    #[arg(long, value_name = "FILE")]
    pub credentials: Option<PathBuf>,
    /// The proxy that the bucket is reached through: socks5://HOST:PORT or http://HOST:PORT
    #[arg(long, value_name = "URL")]
    pub proxy: Option<String>,
}

/// What opens an off-site copy.
#[derive(Debug, Clone, Default, Args)]
pub struct ReadArgs {
    /// The options of copies.
    #[command(flatten)]
    pub copy: CopyArgs,
    /// The keys of the node.
    #[command(flatten)]
    pub keys: KeyArgs,
}

impl ReadArgs {
    /// Opens what a URL names.
    ///
    /// # Errors
    /// When there is no such copy, or nothing that opens it.
    pub fn open(&self, url: &ReadUrl) -> anyhow::Result<Opened> {
        self.copy.open(url, &self.keys, None)
    }

    /// Like [`open`](Self::open), for a check of what the store has: everything is read where it is.
    ///
    /// # Errors
    /// When there is no such copy, or nothing that opens it.
    pub fn open_uncached(&self, url: &ReadUrl) -> anyhow::Result<Opened> {
        self.copy.open_with(url, &self.keys, None, Shortcuts::Ignored)
    }

    /// The options, for another process.
    pub(super) fn to_arguments(&self) -> Vec<OsString> {
        let paths = [
            ("--words", &self.copy.words),
            ("--identity", &self.copy.identity),
            ("--credentials", &self.copy.credentials),
            ("--hsm-secret", &self.keys.hsm_secret),
            ("--passphrase-file", &self.keys.passphrase_file),
        ];
        let given = paths.into_iter().filter_map(|(name, path)| Some((name, path.clone()?.into_os_string())));
        let unencrypted = self.copy.unencrypted.then(|| "--unencrypted".into());
        let proxy = self.copy.proxy.clone().map(|proxy| ("--proxy", proxy.into()));
        given.chain(proxy).flat_map(|(name, value)| [name.into(), value]).chain(unencrypted).collect()
    }
}

/// Whether what an earlier process has kept, and what catalogs say, is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shortcuts {
    Used,
    Ignored,
}

/// A backup that can be read.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Where it is read from.
    pub source: Source,
    /// The copy, if it is one.
    pub copy: Option<OpenedCopy>,
}

/// An off-site copy that can be read.
#[derive(Debug, Clone)]
pub struct OpenedCopy {
    /// Its files.
    pub directory: Arc<CopyDirectory>,
}

impl CopyArgs {
    /// Opens what a URL names. The `hsm_secret` of `lightning_dir` is used, too, if there is one.
    ///
    /// # Errors
    /// When there is no such copy, or nothing that opens it.
    pub fn open(&self, url: &ReadUrl, keys: &KeyArgs, lightning_dir: Option<&Path>) -> anyhow::Result<Opened> {
        self.open_with(url, keys, lightning_dir, Shortcuts::Used)
    }

    fn open_with(
        &self,
        url: &ReadUrl,
        keys: &KeyArgs,
        lightning_dir: Option<&Path>,
        shortcuts: Shortcuts,
    ) -> anyhow::Result<Opened> {
        let store_url = match url {
            ReadUrl::Directory(url) if !is_copy(url.path()) => {
                return Ok(Opened { source: Source::from(url), copy: None });
            }
            ReadUrl::Directory(url) => StoreUrl::File(url.path().to_owned()),
            ReadUrl::Store(url) => url.clone(),
        };
        let store = open_store(&store_url, self.credentials.as_deref(), self.proxy.as_deref())?;
        let description = expect_copy(&*store)?;
        let ring = self.unlock(&*store, &description, keys, lightning_dir)?;
        let (cache, catalogs) = match shortcuts {
            Shortcuts::Used => (cache(&description), UseOfCatalogs::Used),
            Shortcuts::Ignored => (None, UseOfCatalogs::Ignored),
        };
        let chunks = Arc::new(Chunks::new(store, ring, cache));
        let directory = Arc::new(CopyDirectory::open(chunks, catalogs)?);
        let source = Source::new(store_url.to_string(), Arc::clone(&directory) as _);
        Ok(Opened { source, copy: Some(OpenedCopy { directory }) })
    }

    /// The keys of a copy; `None` for one that is not encrypted.
    ///
    /// # Errors
    /// When nothing opens it, or it is not encrypted as was said.
    pub(super) fn unlock(
        &self,
        store: &dyn Store,
        description: &Description,
        keys: &KeyArgs,
        lightning_dir: Option<&Path>,
    ) -> anyhow::Result<Option<KeyRing>> {
        // What is expected is said by the operator, not by the store, which could show another copy that is not encrypted.
        match (description.seal, self.unencrypted) {
            (SealKind::None, true) => return Ok(None),
            (SealKind::None, false) => bail!(
                "the copy at {} is NOT ENCRYPTED; if it was made so on purpose, add --unencrypted. If not, do not trust it",
                store.url()
            ),
            (_, true) => bail!("the copy at {} is encrypted; leave out --unencrypted", store.url()),
            (_, false) => {}
        }
        let files = key_files(store)?;
        let with = if let Some(path) = &self.words {
            Unlock::Words(from_words(&text_of(path)?).with_context(|| path.display().to_string())?)
        } else if let Some(path) = &self.identity {
            Unlock::Identities(IdentityFile::read(path)?.identities().to_vec())
        } else if let Some(node) = node_secret(keys, lightning_dir)? {
            Unlock::Node(node)
        } else if io::stdin().is_terminal() {
            let question = format!("The 24 words of the copy {}: ", store.url());
            Unlock::Words(from_words(&ask(&question, WORDS_TEXT_MAX)?)?)
        } else {
            bail!(
                "the copy is encrypted; it can be opened with: {}. Give one of them: --hsm-secret FILE, --words FILE or \
                 --identity FILE",
                Ways::of(&files)
            );
        };
        Ok(Some(unlock(&files, &with)?))
    }
}

/// The secret of the node whose `hsm_secret` was named, or is in the lightning-dir.
///
/// # Errors
/// When it is there, but cannot be read or unlocked.
pub fn node_secret(keys: &KeyArgs, lightning_dir: Option<&Path>) -> anyhow::Result<Option<NodeSecret>> {
    let named = keys.hsm_secret.is_some();
    let directory = lightning_dir.filter(|directory| named || directory.join(HSM_SECRET).exists());
    let directory = match (directory, named) {
        (Some(directory), _) => directory,
        (None, true) => Path::new("."),
        (None, false) => return Ok(None),
    };
    let found = keys.keys(directory)?.map_err(|error: KeyFileError| anyhow!(error))?;
    let node_id = found.node_id().ok_or_else(|| anyhow!("{} has no node key", found.path().display()))?;
    Ok(Some(NodeSecret::new(node_id, found.make_secret(MAKESECRET))))
}

/// Whether a directory is a copy, not a backup.
fn is_copy(path: &Path) -> bool {
    path.join(ID).is_file() && !path.join(names::MANIFEST).exists()
}

fn text_of(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let read = || {
        let mut text = Zeroizing::new(String::with_capacity(WORDS_TEXT_MAX));
        File::open(path)?.take(WORDS_TEXT_MAX as u64).read_to_string(&mut text)?;
        Ok::<_, io::Error>(text)
    };
    read().with_context(|| format!("cannot read the words in {}", path.display()))
}

/// Where chunks of this copy are kept between runs; none where that is not possible.
fn cache(description: &Description) -> Option<DiskCache> {
    let named = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = named.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    match DiskCache::open(&caches.join("backupfs").join(description.copy.to_string()), BYTES_MAX) {
        Ok(cache) => Some(cache),
        Err(error) => {
            note!("warning: {error}; it is fetched anew each time");
            None
        }
    }
}
