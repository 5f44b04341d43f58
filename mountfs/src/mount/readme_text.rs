//! The text of `README` in the root of the mount.

use std::path::Path;

use common::Source;

/// The text for an operator who needs the backup in an emergency.
///
/// `warning` comes first: the backup may not have the newest changes.
pub fn readme_text(source: &Source, mountpoint: &Path, warning: Option<&str>) -> String {
    let mountpoint = shell_word(&mountpoint.display().to_string());
    let backup = shell_word(&source.to_string());
    let warning = warning.map(wrapped).unwrap_or_default();
    format!(
        "\
{warning}This is a backup of the database of a Core Lightning node, mounted read-only.
Backup: {source}

  latest                             the newest recorded version; moves while the node runs. It cannot be read when
                                     the end of the backup is damaged: what is left then is an OLD state
  versions/N/lightningd.sqlite3      the whole database as it was at data_version N
  versions/N/changes.sql             the statements that led from the version before to this one
  versions/N/info.json               when it was recorded, how big it is
  by-time/YEAR/MONTH/DAY/HOURh/      the same versions by the time they were recorded (UTC)


WHICH VERSION TO RESTORE

The newest one. No other.

A lightning node must never run on an old state. Every payment revokes the state of the channel before it. A node that
was put back to such a state can publish a revoked commitment without knowing it, and the peer may then take ALL the
funds of that channel, as a penalty. The older versions are here to look at: to see what happened and when.


HOW TO RESTORE

1. Make sure that the old node does not run and cannot start again, on any machine.

2. Copy the newest version into the lightning directory of the new node (usually ~/.lightning/bitcoin). There must be
   no lightningd.sqlite3, lightningd.sqlite3-journal or lightningd.sqlite3-wal in it yet:

     cp {mountpoint}/latest/lightningd.sqlite3 ~/.lightning/bitcoin/lightningd.sqlite3
     chmod 600 ~/.lightning/bitcoin/lightningd.sqlite3

   (the files in here cannot be written to, and cp copies that, too) or, the same with all checks:

     backupfs restore {backup} ~/.lightning/bitcoin

3. Copy your hsm_secret to the same directory. It is never in a backup made by this program: it does not change, and it
   is the key to everything. Without it the database is worthless.

4. To go on recording to this backup, connect the node to it:

     backupfs attach --lightning-dir ~/.lightning/bitcoin {backup}

5. Ask whether the database is an old state. This compares it with the file emergency.recover, which lightningd keeps
   beside its database, so copy that from the old disk, too, if it can still be read:

     backupfs preflight ~/.lightning/bitcoin

6. Start lightningd, then look at `lightning-cli listpeerchannels`.


TO LOOK AT A VERSION

     sqlite3 -readonly {mountpoint}/latest/lightningd.sqlite3 'SELECT * FROM vars'

Nothing here can be changed: every attempt to write is refused (read-only file system).
"
    )
}

/// A text in lines of at most 116 characters, and an empty line.
fn wrapped(text: &str) -> String {
    let (mut lines, mut line) = (String::new(), String::new());
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + word.chars().count() > 115 {
            lines.push_str(&line);
            lines.push('\n');
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    format!("{lines}{line}\n\n")
}

/// A path as a shell takes it for one word: in quotes if it needs them.
pub(crate) fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_one_word_to_the_shell() {
        assert_eq!(shell_word("/mnt/restore"), "/mnt/restore");
        assert_eq!(shell_word("/mnt/my node's"), r"'/mnt/my node'\''s'");
    }

    #[test]
    fn the_commands_name_this_mount_and_this_backup() {
        let source = |text: &str| Source::from(&text.parse::<common::BackupUrl>().unwrap());
        let url = source("file:///var/backup/node.bkp");
        let text = readme_text(&url, Path::new("/mnt/restore"), None);
        assert!(text.contains("cp /mnt/restore/latest/lightningd.sqlite3 "));
        assert!(text.contains("backupfs restore file:///var/backup/node.bkp "));
        assert!(text.contains("backupfs preflight ~/.lightning/bitcoin\n"));
        let spaced = readme_text(&source("file:///my disk/node.bkp"), Path::new("/mnt/my restore"), None);
        let behind = "warning: THIS BACKUP IS BEHIND ".repeat(9);
        let behind = readme_text(&url, Path::new("/mnt/restore"), Some(&behind));
        assert!(behind.starts_with("warning: THIS BACKUP") && behind.lines().all(|line| line.len() <= 120));
        assert!(behind.ends_with(&text));
        assert!(spaced.contains("cp '/mnt/my restore'/latest/lightningd.sqlite3 "));
        assert!(spaced.contains("backupfs restore 'file:///my disk/node.bkp' "));
        assert!(text.ends_with('\n'));
        assert!(text.lines().all(|line| line.len() <= 120));
    }
}
