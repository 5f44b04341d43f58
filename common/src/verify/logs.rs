//! The logs behind damage: which records are intact there, and up to which version.
//!
//! Readers stop at damage, so records behind it are lost. They are examined all the same, for a complete report with the full
//! impact.

use uuid::Uuid;

use super::finding::{Findings, Where, Wrong};
use crate::log::{LONGEST_LOG, check_len, intact_record_after};
use crate::storage::read_error::ReadError;
use crate::storage::{Access, Directory, StorageError, StoredFile, read_exact_at};
use format::log_header::{LOG_HEADER_LEN, LogHeader};
use format::record::{Parsed, parse};
use format::units::{DataVersion, Seq};
use format::{Damage, names};

/// Maximum number of breaks of the chain that are reported per log.
const BREAKS_MAX: usize = 100;

/// Checks the lengths of the logs. A log with another length that can be read to its end has lost no record; one that cannot is
/// reported elsewhere. `file` returns the name of a log in reports.
pub(super) fn check_lengths(
    directory: &dyn Directory,
    uuid: Uuid,
    logs: impl IntoIterator<Item = Seq>,
    file: impl Fn(String) -> String,
    findings: &mut Findings,
) {
    for log in logs {
        let name = names::log(log);
        let read = || -> Result<Option<(u64, u64)>, StorageError> {
            let file = directory.open(&name, Access::Read)?;
            let mut bytes = [0; LOG_HEADER_LEN];
            let is_whole = read_exact_at(&*file, &mut bytes, 0)?;
            let header = LogHeader::decode(&bytes).ok().filter(|header| is_whole && header.uuid == uuid);
            header.map(|header| Ok((file.read_len()?, header.unit))).transpose()
        };
        // It may have been sealed meanwhile.
        let Ok(Some((len, unit))) = read() else { continue };
        if let Err(damage) = check_len(len, unit) {
            findings.add(&file(name), Some(len), Wrong::Damaged(damage));
        }
    }
}

/// The intact records behind damage.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// The newest version of a record.
    pub(super) newest: Option<DataVersion>,
    /// The findings on the way.
    pub(super) found: Vec<Where>,
}

/// Examines the logs from the damage on: from `damaged`, a log and an offset in it, and all later logs.
pub(super) fn look_behind(
    directory: &dyn Directory,
    uuid: Uuid,
    damaged: Option<(Seq, u64)>,
    logs: &[Seq],
    findings: &mut Findings,
) -> Behind {
    let mut look = Look { directory, uuid, findings, behind: Behind::default(), expected: None };
    for &log in logs {
        let from = match damaged {
            Some((damaged, offset)) if log == damaged => offset.max(LOG_HEADER_LEN as u64),
            Some((damaged, _)) if log < damaged => continue,
            _ => 0,
        };
        if let Err(error) = look.log(log, from) {
            let at = look.findings.add_read(&error);
            look.behind.found.push(at);
        }
    }
    look.behind
}

struct Look<'a> {
    directory: &'a dyn Directory,
    uuid: Uuid,
    findings: &'a mut Findings,
    behind: Behind,
    /// Expected seq of the next record and checksum of the one before it; `None` where unknown.
    expected: Option<(Seq, u32)>,
}

impl Look<'_> {
    fn log(&mut self, log: Seq, from: u64) -> Result<(), ReadError> {
        let file = self.directory.open(&names::log(log), Access::Read)?;
        let bytes = read_all(&*file)?;
        let mut at = usize::try_from(from).unwrap_or(usize::MAX);
        if at == 0 {
            self.header(log, &*file, &bytes)?;
            at = LOG_HEADER_LEN;
        } else {
            // The damaged record here is already reported.
            self.expected = None;
            match intact_record_after(&*file, self.uuid, from, Seq::FIRST)? {
                Some(next) => at = usize::try_from(next).unwrap_or(usize::MAX),
                None => return Ok(()),
            }
        }
        for _ in 0..BREAKS_MAX {
            let (end, damage) = self.records(&bytes, at);
            let next = intact_record_after(&*file, self.uuid, end as u64, Seq::FIRST)?;
            let Some(next) = next.and_then(|next| usize::try_from(next).ok()) else { return Ok(()) };
            self.report(log, end, damage);
            at = next;
        }
        Ok(())
    }

    fn header(&mut self, log: Seq, file: &dyn StoredFile, bytes: &[u8]) -> Result<(), ReadError> {
        let damaged = |damage| ReadError::damaged(file.path(), 0, damage);
        let short = Damage::Short { have: bytes.len(), want: LOG_HEADER_LEN };
        let header = bytes.first_chunk().ok_or(short).and_then(LogHeader::decode).map_err(damaged)?;
        if header.uuid != self.uuid || header.first_seq != log {
            return Err(damaged(Damage::Foreign));
        }
        let found = (header.first_seq, header.previous_checksum);
        if self.expected.is_some_and(|expected| expected != found) {
            self.report(log, 0, Damage::Contradiction("it does not continue the log before it"));
        }
        self.expected = Some(found);
        Ok(())
    }

    /// Reads consecutive records; returns where they end, and the damage there.
    fn records(&mut self, bytes: &[u8], from: usize) -> (usize, Damage) {
        let mut at = from;
        loop {
            match parse(self.uuid, bytes.get(at..).unwrap_or_default()) {
                Ok(Parsed::Record { record, checksum, len }) => {
                    let found = (record.header.seq, record.header.previous_checksum);
                    if let Some(expected) = self.expected.filter(|expected| *expected != found) {
                        self.expected = None;
                        return (at, Damage::Missing { expected: expected.0 });
                    }
                    self.behind.newest = Some(record.header.data_version);
                    self.expected = Some((record.header.seq.next(), checksum));
                    at += len;
                }
                other => {
                    let damage = match other {
                        Ok(Parsed::NotUnderstood(damage)) | Err(damage) => damage,
                        Ok(Parsed::Short { wanted }) => {
                            Damage::Short { have: bytes.len().saturating_sub(at), want: wanted }
                        }
                        _ => Damage::Missing { expected: self.expected.map_or(Seq::FIRST, |(seq, _)| seq) },
                    };
                    self.expected = None;
                    return (at, damage);
                }
            }
        }
    }

    fn report(&mut self, log: Seq, at: usize, damage: Damage) {
        let at = self.findings.add(&names::log(log), Some(at as u64), Wrong::Damaged(damage));
        self.behind.found.push(at);
    }
}

fn read_all(file: &dyn StoredFile) -> Result<Vec<u8>, ReadError> {
    let len = file.read_len()?;
    let wanted = usize::try_from(len).ok().filter(|&len| len <= LONGEST_LOG);
    let wanted =
        wanted.ok_or_else(|| ReadError::damaged(file.path(), 0, Damage::Field { field: "log length", value: len }))?;
    let mut bytes = vec![0; wanted];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}
