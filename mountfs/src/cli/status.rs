//! `backupfs status`.

use std::io::{self, Write};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use common::{
    Backup, BackupState, BytesByKind, DatabaseDamage, LockStatus, NewestVersion, ReadError, ReplayCheck, SpoolStatus,
    StatusFields, UnsealedChanges, counted,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::Failure;
use super::read_url::{ReadArgs, ReadUrl};
use crate::mount::behind;
use crate::note;
use common::with_causes;

/// Show the state of a backup: newest version, what is sealed, size.
///
/// Reads only the files and takes no lock, so it works beside a recorder that writes, and for a backup that was copied from
/// elsewhere. A running recorder knows more: `lightning-cli backup-status`. The exit code is 1 when the backup cannot be read to
/// its end; the readable part is shown nevertheless.
#[derive(Debug, Args)]
#[command(after_help = "\
--json prints one object: data_version, seq, recorded_at (RFC 3339), destination, bytes, bytes_by_kind, free_bytes, unsealed_changes, sealed_through, sealed_through_seq, replay (through, text, problem) and format as in backup-status; versions, oldest_version, dropped (what compactions have dropped so far: at, versions, segments, remains_bytes), locked (whether a recorder of this machine, or `backupfs seal`, has the backup locked), and problem (why the backup cannot be read to its end). What is not known is null. Fields are only ever added.

Example:
  backupfs status /var/backup/node.bkp")]
pub struct StatusArgs {
    /// The backup
    pub url: ReadUrl,
    /// What opens an off-site copy.
    #[command(flatten)]
    pub read: ReadArgs,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// Shows the state of a backup, from its files alone.
///
/// # Errors
/// Exit code 1 when the backup cannot be read to its end (the readable part is shown), 2 when it cannot be read at all.
pub fn run(args: &StatusArgs) -> Result<(), Failure> {
    let backup = Arc::new(Backup::open(&args.read.open(&args.url)?.source)?);
    let (state, read) = backup.read_state();
    let sight = backup.spool_sight();
    let status = Status::new(args, &backup, &state, &sight, read.as_ref().err());
    let mut out = io::stdout().lock();
    let written = if args.json {
        serde_json::to_writer(&mut out, &status).map_err(io::Error::from).and_then(|()| writeln!(out))
    } else {
        status.write(&mut out)
    };
    if let Some(warning) = behind::warning(&sight) {
        note!("{warning}");
    }
    match written.and_then(|()| out.flush()) {
        Ok(()) => read.map_err(Failure::no),
        // The reader has closed the pipe, which is no error.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => read.map_err(Failure::no),
        Err(error) => Err(error).context("cannot write the status").map_err(Failure::Failed),
    }
}

const NOT_KNOWN: &str = "not known";

/// The state of a backup. The field names are those of `--json`; they mean the same as in `backup-status`.
#[derive(Debug, Serialize)]
struct Status {
    #[serde(flatten)]
    fields: StatusFields,
    versions: Option<u64>,
    oldest_version: Option<u32>,
    /// Whether a recorder, or `backupfs seal`, has the backup locked; null when that is not known.
    locked: Option<bool>,
    /// The spool that has, or may have, newer changes; null when the backup is known to have all.
    spool: Option<Value>,
    /// The dropped versions; null when none was ever dropped.
    dropped: Option<Value>,
    /// The reason why the part after the newest version, or a part before it, cannot be read.
    problem: Option<String>,
}

impl Status {
    fn new(
        args: &StatusArgs,
        backup: &Backup,
        state: &BackupState,
        sight: &SpoolStatus,
        problem: Option<&ReadError>,
    ) -> Self {
        let mut fields = StatusFields::new();
        fields.destination = Some(args.url.to_string());
        if let Some(newest) = &state.newest {
            let (data_version, seq, recorded_at) = (newest.data_version, newest.seq, newest.recorded_at);
            fields.set_newest(&NewestVersion { data_version, seq, recorded_at });
        }
        if let Some(unsealed) = &state.unsealed {
            fields.set_unsealed(unsealed);
        }
        // A sealed log was replayed. Whether the others replay is known to the recorder only.
        let sealed = state.unsealed.as_ref().and_then(UnsealedChanges::sealed_through);
        fields.replay = ReplayCheck::new(sealed.and_then(|sealed| sealed.data_version), None);
        let checked = backup.read_checked().inspect_err(|error| log::warn!("{}", with_causes(error)));
        fields.database_damage = checked.ok().flatten().as_ref().and_then(DatabaseDamage::of);
        match backup.read_bytes() {
            Ok(bytes) => fields.set_bytes(bytes),
            Err(error) => fields.bytes_problem = Some(with_causes(&error)),
        }
        match backup.read_free_bytes() {
            Ok(bytes) => fields.free_bytes = Some(bytes),
            Err(error) => fields.bytes_problem = fields.bytes_problem.or_else(|| Some(with_causes(&error))),
        }
        let locked =
            backup.look_at_lock().inspect_err(|error| log::warn!("cannot read the state of the lock: {error}"));
        Self {
            fields,
            versions: state.versions,
            oldest_version: state.oldest.as_ref().map(|oldest| oldest.data_version.get()),
            locked: locked.ok().map(|look| look != LockStatus::NotSeen),
            spool: behind::to_json(sight),
            dropped: dropped_json(backup),
            problem: problem.map(|error| with_causes(error)),
        }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let fields = &self.fields;
        let mut line = |name: &str, text: &str| writeln!(out, "{name:18}{text}");
        line("backup", fields.destination.as_deref().unwrap_or_default())?;
        match (fields.data_version, &fields.recorded_at) {
            (Some(version), Some(at)) => line("newest version", &format!("{version}, recorded {at}"))?,
            _ if self.problem.is_some() => line("newest version", NOT_KNOWN)?,
            _ => line("newest version", "none yet")?,
        }
        let oldest = self.oldest_version.map(|oldest| format!(", the oldest is {oldest}")).unwrap_or_default();
        line("versions", &self.versions.map_or_else(|| NOT_KNOWN.to_owned(), |count| format!("{count}{oldest}")))?;
        if let Some(dropped) = &self.dropped {
            let versions = counted(dropped["versions"].as_u64().unwrap_or_default(), "version");
            let at = dropped["at"].as_str().unwrap_or(NOT_KNOWN);
            line("dropped", &format!("{versions} before, the last time {at}"))?;
        }
        match (fields.sealed_through, fields.sealed_through_seq, fields.unsealed_changes) {
            (Some(version), ..) => line("sealed", &format!("through version {version}"))?,
            (None, Some(seq), _) => line("sealed", &format!("through record {seq}, without any version"))?,
            (None, None, Some(_)) => line("sealed", "nothing yet")?,
            (None, None, None) => line("sealed", NOT_KNOWN)?,
        }
        let unsealed = fields.unsealed_changes.map(|count| counted(count, "change").to_string());
        line("not sealed yet", unsealed.as_deref().unwrap_or(NOT_KNOWN))?;
        line("replay", &fields.replay.text)?;
        if let Some(DatabaseDamage { data_version, text }) = &fields.database_damage {
            line("node's database", &format!("DAMAGED when version {data_version} was copied from it: {text}"))?;
        }
        match (&fields.bytes_by_kind, &fields.bytes_problem) {
            (Some(bytes), _) => line("bytes", &in_words(bytes))?,
            (None, problem) => line("bytes", &format!("not known: {}", problem.as_deref().unwrap_or_default()))?,
        }
        match fields.free_bytes {
            Some(free) => line("free on its disk", &free.to_string())?,
            None => line("free on its disk", NOT_KNOWN)?,
        }
        line(
            "recorder",
            match self.locked {
                Some(true) => "the backup is locked: it is being recorded to, or sealed",
                Some(false) => "none is seen from here",
                None => NOT_KNOWN,
            },
        )
    }
}

fn dropped_json(backup: &Backup) -> Option<Value> {
    let dropped = backup.read_dropped().inspect_err(|error| log::warn!("{}", with_causes(error))).ok()??;
    Some(json!({
        "at": dropped.at.to_string(),
        "versions": dropped.versions,
        "segments": dropped.segments,
        "remains_bytes": dropped.pruned_bytes,
    }))
}

fn in_words(bytes: &BytesByKind) -> String {
    let BytesByKind { logs, segments, snapshots, parity, other } = bytes;
    format!(
        "{}: logs {logs}, segments {segments}, snapshots {snapshots}, parity {parity}, other {other}",
        bytes.total()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(status: &Status) -> String {
        let mut out = Vec::new();
        status.write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_not_known_is_said_to_be_so() {
        let status = Status {
            fields: StatusFields::new(),
            versions: None,
            oldest_version: None,
            locked: None,
            spool: None,
            dropped: None,
            problem: None,
        };
        let text = text(&status);
        for part in [
            "newest version    none yet\n",
            "versions          not known\n",
            "sealed            not known\n",
            "not sealed yet    not known\n",
            "replay            no change has been replayed yet\n",
            "bytes             not known",
            "free on its disk  not known\n",
            "recorder          not known\n",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn json_is_flat_and_has_every_field() {
        let mut fields = StatusFields::new();
        fields.set_bytes(BytesByKind { logs: 1, segments: 20, snapshots: 300, parity: 50000, other: 4000 });
        fields.database_damage = Some(DatabaseDamage { data_version: 5, text: "Tree 2 page 3".to_owned() });
        let spool = behind::to_json(&SpoolStatus::OutOfSight { host: "node".to_owned(), path: "/spool".into() });
        let status = Status {
            fields,
            versions: Some(7),
            oldest_version: Some(3),
            locked: Some(true),
            spool,
            dropped: None,
            problem: None,
        };
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!((&json["bytes"], &json["versions"]), (&54321.into(), &7.into()));
        assert_eq!((&json["bytes_by_kind"]["snapshots"], &json["locked"]), (&300.into(), &true.into()));
        assert_eq!((&json["spool"]["host"], &json["spool"]["changes"]), (&"node".into(), &Value::Null));
        assert!(json.get("problem").is_some_and(serde_json::Value::is_null));
        assert_eq!(json["database_damage"]["data_version"], 5);
        assert!(text(&status).contains("node's database   DAMAGED when version 5 was copied from it: Tree 2 page 3\n"));
        assert!(text(&status).contains("54321: logs 1, segments 20, snapshots 300, parity 50000, other 4000\n"));
    }
}
