//! [`CommitNote`]: the content of a commit record, about the node's database at the end of a run.

use uuid::Uuid;

use super::Damage;
use super::fields::Reader;

/// Bytes of an encoded note.
pub const COMMIT_NOTE_LEN: usize = 32;

/// Three numbers on page 1 of a SQLite database that show whether it was written to (SQLite file format §1.3: file change
/// counter, bytes 24 to 27; database size in pages, 28 to 31; schema cookie, 40 to 43).
///
/// Each transaction that changes the database increments the change counter, and so does VACUUM. Reads, rolled back transactions
/// and copies of the file leave all three unchanged. In WAL mode the counter does not change with each transaction, so a database
/// in WAL mode has no stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatabaseStamp {
    /// The file change counter.
    pub change_counter: u32,
    /// Number of pages of the database.
    pub page_count: u32,
    /// The schema cookie.
    pub schema_cookie: u32,
}

/// Length of the part of page 1 that a stamp is read from, in bytes.
pub const STAMPED_HEADER_LEN: usize = 44;

impl DatabaseStamp {
    /// The stamp of the database whose first page begins with these bytes; `None` in WAL mode, or when the bytes are not those of
    /// a database.
    pub fn of_first_page(bytes: &[u8]) -> Option<Self> {
        const MAGIC: &[u8] = b"SQLite format 3\0";
        const ROLLBACK_JOURNAL: [u8; 2] = [1, 1];
        let header = bytes.first_chunk::<STAMPED_HEADER_LEN>()?;
        if !header.starts_with(MAGIC) || header[18..20] != ROLLBACK_JOURNAL {
            return None;
        }
        // SQLite's file format is big-endian.
        let number = |at: usize| header[at..at + 4].iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        Some(Self { change_counter: number(24), page_count: number(28), schema_cookie: number(40) })
    }
}

/// The note that the recorder writes when the newest version is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitNote {
    /// Boot ID of the machine (`/proc/sys/kernel/random/boot_id`); nil when unknown. Within one boot no power cut can have undone
    /// the commit.
    pub boot: Uuid,
    /// Stamp of the database; `None` when it has none.
    pub stamp: Option<DatabaseStamp>,
}

impl CommitNote {
    /// Appends the payload of a commit record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.boot.as_bytes());
        let DatabaseStamp { change_counter, page_count, schema_cookie } =
            self.stamp.unwrap_or(DatabaseStamp { change_counter: 0, page_count: 0, schema_cookie: 0 });
        for number in [change_counter, page_count, schema_cookie] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&[u8::from(self.stamp.is_some()), 0, 0, 0]);
    }

    /// Reads the payload of a commit record.
    pub fn decode(fields: &mut Reader<'_>) -> Result<Self, Damage> {
        let boot = Uuid::from_bytes(fields.array()?);
        let stamp =
            DatabaseStamp { change_counter: fields.u32()?, page_count: fields.u32()?, schema_cookie: fields.u32()? };
        let none = DatabaseStamp { change_counter: 0, page_count: 0, schema_cookie: 0 };
        let stamp = match fields.u8()? {
            0 if stamp == none => None,
            1 => Some(stamp),
            other => return Err(Damage::Field { field: "has_stamp", value: other.into() }),
        };
        fields.zeros(3, "reserved")?;
        Ok(Self { boot, stamp })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_back_and_other_bytes_are_none() {
        let stamp = DatabaseStamp { change_counter: 1, page_count: 2, schema_cookie: 3 };
        for note in
            [CommitNote { boot: Uuid::from_u128(7), stamp: Some(stamp) }, CommitNote { boot: Uuid::nil(), stamp: None }]
        {
            let mut bytes = Vec::new();
            note.encode(&mut bytes);
            assert_eq!(bytes.len(), COMMIT_NOTE_LEN);
            assert_eq!(CommitNote::decode(&mut Reader::new(&bytes)), Ok(note));
            assert!(CommitNote::decode(&mut Reader::new(&bytes[..31])).is_err());
            bytes[28] = 2;
            assert!(CommitNote::decode(&mut Reader::new(&bytes)).is_err());
        }
        assert_eq!(DatabaseStamp::of_first_page(b""), None);
        assert_eq!(DatabaseStamp::of_first_page(&[0; 100]), None);
    }
}
