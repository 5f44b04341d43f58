//! The file `checked`: results of SQLite's check of snapshots, which are copies of the node's own database.

use uuid::Uuid;

use super::Damage;
use super::FORMAT_VERSION;
use super::check_envelope;
use super::checksum;
use super::fields::Reader;
use crate::units::{DataVersion, Seq};

const MAGIC: [u8; 8] = *b"BKPFSCHK";

/// Maximum number of damaged snapshots that are listed; older ones are dropped.
const UNSOUND_MAX: usize = 64;

/// Maximum length of SQLite's message for one snapshot, in bytes.
const FOUND_LEN_MAX: usize = 400;

const HEADER_LEN: usize = 40;

/// Maximum length of the file in bytes.
pub const CHECKED_LEN_MAX: usize = HEADER_LEN + UNSOUND_MAX * (14 + FOUND_LEN_MAX) + 4;

/// A snapshot of a database that was damaged when it was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsoundSnapshot {
    /// Seq of the snapshot's record.
    pub seq: Seq,
    /// Version of the snapshot.
    pub data_version: DataVersion,
    /// SQLite's message, in one line.
    pub found: String,
}

/// Results of the checks of a backup's snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedSnapshots {
    /// The newest snapshot that was checked.
    pub newest: Seq,
    /// The damaged snapshots, in order.
    pub unsound: Vec<UnsoundSnapshot>,
}

impl CheckedSnapshots {
    /// Adds the result of a snapshot newer than all others.
    pub fn add(before: Option<Self>, seq: Seq, data_version: DataVersion, found: Option<&str>) -> Self {
        let mut unsound = before.map_or_else(Vec::new, |before| before.unsound);
        if let Some(found) = found {
            unsound.push(UnsoundSnapshot { seq, data_version, found: shortened(found) });
        }
        let forgotten = unsound.len().saturating_sub(UNSOUND_MAX);
        unsound.drain(..forgotten);
        Self { newest: seq, unsound }
    }

    /// The newest checked snapshot, if it is damaged.
    pub fn newest_unsound(&self) -> Option<&UnsoundSnapshot> {
        self.unsound.last().filter(|unsound| unsound.seq == self.newest)
    }

    /// Encodes the file.
    pub fn encode(&self, uuid: Uuid) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN + 4);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&u16::try_from(self.unsound.len()).unwrap_or(u16::MAX).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(uuid.as_bytes());
        out.extend_from_slice(&self.newest.get().to_le_bytes());
        for UnsoundSnapshot { seq, data_version, found } in &self.unsound {
            out.extend_from_slice(&seq.get().to_le_bytes());
            out.extend_from_slice(&data_version.get().to_le_bytes());
            out.extend_from_slice(&u16::try_from(found.len()).unwrap_or(u16::MAX).to_le_bytes());
            out.extend_from_slice(found.as_bytes());
        }
        out.extend_from_slice(&checksum(&[&out]).to_le_bytes());
        out
    }

    /// Decodes the file of the backup with this UUID.
    ///
    /// # Errors
    /// When the bytes are damaged, of another kind or backup, or of a newer format.
    pub fn decode(bytes: &[u8], uuid: Uuid) -> Result<Self, Damage> {
        check_envelope(bytes, MAGIC, "note of checked snapshots")?;
        let mut fields = Reader::new(bytes.split_last_chunk::<4>().map_or(bytes, |(covered, _)| covered));
        fields.bytes(MAGIC.len() + 2)?;
        let count = fields.u16()?;
        if usize::from(count) > UNSOUND_MAX {
            return Err(Damage::Field { field: "count", value: count.into() });
        }
        fields.zeros(4, "reserved")?;
        if fields.array::<16>()? != *uuid.as_bytes() {
            return Err(Damage::Foreign);
        }
        let newest = seq(&mut fields)?;
        let mut unsound: Vec<UnsoundSnapshot> = Vec::new();
        for _ in 0..count {
            let (seq, data_version) = (seq(&mut fields)?, DataVersion::new(fields.u32()?));
            if seq > newest || unsound.last().is_some_and(|before| before.seq >= seq) {
                return Err(Damage::Field { field: "seq", value: seq.get() });
            }
            let len = fields.u16()?;
            let text = std::str::from_utf8(fields.bytes(len.into())?).ok();
            let found = text.filter(|text| text.len() <= FOUND_LEN_MAX && !text.contains(char::is_control));
            let found = found.ok_or(Damage::Field { field: "found", value: len.into() })?.to_owned();
            unsound.push(UnsoundSnapshot { seq, data_version, found });
        }
        match fields.rest().len() {
            0 => Ok(Self { newest, unsound }),
            more => Err(Damage::Field { field: "end", value: more as u64 }),
        }
    }
}

fn seq(fields: &mut Reader<'_>) -> Result<Seq, Damage> {
    let value = fields.u64()?;
    Seq::new(value).ok_or(Damage::Field { field: "seq", value })
}

/// Makes a message one line, cut to the maximum length.
fn shortened(found: &str) -> String {
    let line = found.replace(char::is_control, " ");
    let end = (0..=FOUND_LEN_MAX.min(line.len())).rfind(|&end| line.is_char_boundary(end));
    line.get(..end.unwrap_or(0)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: Uuid = Uuid::from_u128(7);

    fn checked(found: &[Option<&str>]) -> CheckedSnapshots {
        let mut checked = None;
        for (at, found) in (1..).zip(found) {
            checked = Some(CheckedSnapshots::add(checked, Seq::new(at).unwrap(), DataVersion::new(9), *found));
        }
        checked.unwrap()
    }

    #[test]
    fn decodes_what_it_encodes_and_nothing_else() {
        for checked in [checked(&[None]), checked(&[Some("Tree 2 page 2"), None, Some("ö")])] {
            let bytes = checked.encode(UUID);
            assert_eq!(CheckedSnapshots::decode(&bytes, UUID), Ok(checked));
            assert_eq!(CheckedSnapshots::decode(&bytes, Uuid::from_u128(8)), Err(Damage::Foreign));
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(CheckedSnapshots::decode(&flipped, UUID).is_err(), "bit {bit}");
            }
            for cut in 0..bytes.len() {
                assert!(CheckedSnapshots::decode(&bytes[..cut], UUID).is_err(), "cut at {cut}");
            }
            assert!(CheckedSnapshots::decode(&[&bytes[..], &[0]].concat(), UUID).is_err());
        }
    }

    #[test]
    fn it_stays_small_and_in_one_line_for_any_text_of_sqlite() {
        let text = "a\nlong\u{1b}[2J line ".repeat(99) + "ö";
        let checked = checked(&[Some(&*text); 100]);
        assert_eq!((checked.unsound.len(), checked.newest_unsound().unwrap().seq.get()), (UNSOUND_MAX, 100));
        let bytes = checked.encode(UUID);
        assert!(bytes.len() <= CHECKED_LEN_MAX);
        assert_eq!(CheckedSnapshots::decode(&bytes, UUID), Ok(checked));
    }

    #[test]
    fn only_the_newest_says_how_the_database_is() {
        assert!(checked(&[Some("bad"), None]).newest_unsound().is_none());
        assert_eq!(checked(&[None, Some("bad")]).newest_unsound().unwrap().found, "bad");
    }
}
