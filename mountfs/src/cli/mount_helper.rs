//! `mount.fuse.backupfs`: the helper that mount(8) runs for `mount -t fuse.backupfs URL DIR` and for such a line in fstab(5).
//!
//! It is this program under another name, a link to it. The arguments are those that mount(8) documents under "external
//! helpers": `mount.fuse.backupfs URL DIR [-sfnv] [-N namespace] [-o options] [-t type]`; so are the exit codes.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::Parser;

use super::mount::MountArgs;
use super::read_url::{ReadArgs, ReadUrl};
use super::{Verbosity, daemon};
use crate::mount::mounted::MountSettings;
use crate::note;

/// The exit code of mount(8) for wrong usage.
const USAGE: u8 = 1;

/// The exit code of mount(8) when nothing was mounted.
const NOT_MOUNTED: u8 = 32;

/// The options of fstab(5) and mount(8) that are ignored: they do not apply, or are always in effect.
const NOT_FOR_US: [&str; 39] = [
    "rw",
    "ro",
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "_netdev",
    "nofail",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noexec",
    "exec",
    "noatime",
    "relatime",
    "norelatime",
    "atime",
    "diratime",
    "nodiratime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "dirsync",
    "silent",
    "loud",
    "symfollow",
    "nosymfollow",
    "nousers",
    "comment",
    "async",
    "sync",
    "default_permissions",
    "fsname",
];

/// The arguments of a mount helper.
#[derive(Debug, Parser)]
#[command(
    name = "mount.fuse.backupfs",
    version,
    about = "Mount a backup; run by mount(8)",
    disable_help_subcommand = true
)]
struct HelperArgs {
    /// The backup
    url: ReadUrl,
    /// An empty directory
    mountpoint: PathBuf,
    /// Options, with commas between them: allow_other, cache_mb=N; of a copy words=FILE, identity=FILE, hsm_secret=FILE, credentials=FILE
    #[arg(short, value_delimiter = ',')]
    options: Vec<String>,
    /// Ignore unknown options
    #[arg(short)]
    sloppy: bool,
    /// Mount nothing
    #[arg(short)]
    fake: bool,
    /// Taken for the sake of mount(8)
    #[arg(short)]
    no_mtab: bool,
    /// Log more
    #[arg(short, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Taken for the sake of mount(8)
    #[arg(short = 't')]
    file_system_type: Option<String>,
    /// Taken for the sake of mount(8)
    #[arg(short = 'N')]
    namespace: Option<OsString>,
}

/// Whether this program was started by mount(8), judging by the name it was started with.
pub fn is_asked_for(name: Option<&OsStr>) -> bool {
    let name = name.and_then(|name| Path::new(name).file_name());
    name.is_some_and(|name| name.as_encoded_bytes().starts_with(b"mount."))
}

/// Mounts, in the background, and returns the exit code.
pub fn run(arguments: impl Iterator<Item = OsString>) -> u8 {
    let args = match HelperArgs::try_parse_from(arguments) {
        Ok(args) => args,
        Err(error) => {
            // A failed write is ignored.
            let _: std::io::Result<()> = error.print();
            return if error.use_stderr() { USAGE } else { 0 };
        }
    };
    let settings = match settings(&args) {
        Ok(settings) => settings,
        Err(error) => {
            note!("mount.fuse.backupfs: {error}");
            return USAGE;
        }
    };
    if args.fake {
        return 0;
    }
    match daemon::start(&settings, Verbosity { quiet: false, verbose: args.verbose }) {
        Ok(()) => 0,
        Err(failure) => {
            note!("mount.fuse.backupfs: {failure}");
            NOT_MOUNTED
        }
    }
}

/// The arguments as those of `backupfs mount`.
fn settings(args: &HelperArgs) -> Result<MountArgs, String> {
    let mut settings = MountArgs {
        allow_other: false,
        daemon: true,
        syslog: true,
        detached: false,
        cache_mb: MountSettings::CACHE_MIB,
        url: args.url.clone(),
        read: ReadArgs::default(),
        mountpoint: args.mountpoint.clone(),
    };
    for option in &args.options {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        match name {
            "allow_other" => settings.allow_other = true,
            "cache_mb" => {
                let bad = |_| format!("option cache_mb={value}: write a number of MiB");
                settings.cache_mb = value.parse().map_err(bad)?;
            }
            "words" => settings.read.copy.words = Some(value.into()),
            "identity" => settings.read.copy.identity = Some(value.into()),
            "credentials" => settings.read.copy.credentials = Some(value.into()),
            "hsm_secret" => settings.read.keys.hsm_secret = Some(value.into()),
            _ if name.is_empty() || name.starts_with("x-") || NOT_FOR_US.contains(&name) || args.sloppy => {}
            _ => {
                return Err(format!(
                    "unknown option {option}; there are allow_other and cache_mb=N, and for an off-site copy \
                     words=FILE, identity=FILE, hsm_secret=FILE and credentials=FILE"
                ));
            }
        }
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings_of(options: &[&str]) -> Result<MountArgs, String> {
        let arguments = ["/sbin/mount.fuse.backupfs", "file:///b/node.bkp", "/mnt/restore"];
        settings(&HelperArgs::try_parse_from(arguments.iter().chain(options)).unwrap())
    }

    #[test]
    fn what_mount_passes_on_is_understood() {
        let settings =
            settings_of(&["-o", "rw,nosuid,nodiratime,lazytime,allow_other,x-systemd.automount,cache_mb=64", "-v"])
                .unwrap();
        assert_eq!((settings.allow_other, settings.cache_mb), (true, 64));
        assert_eq!(settings.mountpoint, Path::new("/mnt/restore"));
        assert!(!settings_of(&[]).unwrap().allow_other);
        assert!(settings_of(&["-o", "cache_mb=lots"]).unwrap_err().contains("MiB"));
        assert!(settings_of(&["-o", "passphrase=x"]).unwrap_err().contains("passphrase"));
        settings_of(&["-s", "-o", "passphrase=x"]).unwrap();
    }

    #[test]
    fn the_name_decides() {
        assert!(is_asked_for(Some("/sbin/mount.fuse.backupfs".as_ref())));
        assert!(!is_asked_for(Some("/usr/bin/backupfs".as_ref())));
        assert!(!is_asked_for(None));
    }
}
