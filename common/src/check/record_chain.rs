//! The checksum chain of a segment's records: each is encoded as in its log, with the checksum of the one before. If the last
//! checksum equals that in the footer, every byte of every record is as received.

use std::borrow::Cow;

use format::Damage;
use format::record::{RecordHeader, encode_change, encode_commit, encode_gap, encode_rewind, encode_snapshot};
use format::record_index::{IndexedBody, IndexedRecord, RecordIndex};
use format::segment::{SegmentFooter, SegmentHeader};
use format::statements::StatementBlock;
use format::units::Keyframe;
use format::units::Seq;
use format::version_rules::Bump;

/// The chain up to the current record.
pub(crate) struct RecordChain<'a> {
    header: &'a SegmentHeader,
    /// Seq of the next record, and checksum of the previous one; `None` behind unreadable statements.
    link: Option<(Seq, u32)>,
    newest_change: Seq,
    encoded: Vec<u8>,
}

impl<'a> RecordChain<'a> {
    /// The chain before the first record of a segment.
    pub(crate) fn new(header: &'a SegmentHeader) -> Self {
        let link = Some((header.first_seq, header.previous_checksum));
        Self { header, link, newest_change: header.first_seq, encoded: Vec::new() }
    }

    /// Ends the chain at unreadable statements.
    pub(crate) fn broken(&mut self) {
        self.link = None;
    }

    /// Adds the records of an interval, whose statements are in `block`.
    ///
    /// # Errors
    /// When index and block do not match.
    pub(crate) fn add(
        &mut self,
        index: &RecordIndex,
        interval: Keyframe,
        block: &StatementBlock,
    ) -> Result<(), Damage> {
        let mut position = 0;
        for record in records_of(index, interval) {
            let mut texts = Vec::new();
            if let IndexedBody::Change { bump, statements, bytes, .. } = record.body {
                let stored = block.change(position);
                let stored = stored.ok_or(Damage::Contradiction("a statement block lacks a change"))?;
                texts.extend(stored.map(|statement| statement.text().into_owned()).map(Cow::<str>::Owned));
                position += 1;
                let same = texts.len() == statements as usize
                    && texts.iter().map(|text| text.len() as u64).sum::<u64>() == bytes
                    && Bump::find(record.data_version, &texts) == bump;
                if !same {
                    return Err(Damage::Contradiction("a statement block does not go with the record index"));
                }
            }
            self.add_record(record, &texts)?;
        }
        if position == block.change_count() {
            Ok(())
        } else {
            Err(Damage::Contradiction("a statement block has more changes than the record index"))
        }
    }

    fn add_record(&mut self, record: &IndexedRecord, texts: &[Cow<'_, str>]) -> Result<(), Damage> {
        let Some((seq, previous_checksum)) = self.link else { return Ok(()) };
        let IndexedRecord { data_version, time, .. } = *record;
        let header = RecordHeader { seq, data_version, time, previous_checksum };
        let (uuid, out) = (self.header.uuid, &mut self.encoded);
        out.clear();
        let checksum = match &record.body {
            IndexedBody::Change { flags, .. } => {
                self.newest_change = seq;
                let encoded = encode_change(uuid, &header, *flags, texts, out);
                encoded.map_err(|_| Damage::Contradiction("a change is longer than a record can be"))?
            }
            IndexedBody::Rewind => encode_rewind(uuid, &header, self.newest_change, out),
            IndexedBody::Commit(note) => encode_commit(uuid, &header, note, out),
            IndexedBody::Gap => encode_gap(uuid, &header, out),
            IndexedBody::Snapshot(snapshot) => encode_snapshot(uuid, &header, snapshot, out),
        };
        self.link = Some((seq.next(), checksum));
        Ok(())
    }

    /// Compares the end of the chain with the footer.
    ///
    /// # Errors
    /// When they differ.
    pub(crate) fn check_end(&self, footer: &SegmentFooter) -> Result<(), Damage> {
        match self.link {
            Some((_, computed)) if computed != footer.last_checksum => {
                Err(Damage::Checksum { found: footer.last_checksum, computed })
            }
            _ => Ok(()),
        }
    }
}

/// The records of an interval.
pub(crate) fn records_of(index: &RecordIndex, interval: Keyframe) -> &[IndexedRecord] {
    let first = |number: u32| index.intervals.get(number as usize).map(|interval| interval.first as usize);
    let from = first(interval.0).unwrap_or(index.records.len());
    let to = first(interval.0.saturating_add(1)).unwrap_or(index.records.len());
    index.records.get(from..to).unwrap_or_default()
}
