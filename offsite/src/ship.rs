//! [`Shipper`]: everything that a backup has, and gets, is copied to a store.
//!
//! * [`state`]: how far a run came, for the next one;
//! * [`uploads`]: objects sealed and stored;
//! * [`listing`]: what the copy has; `catalogs`: what is made of that for readers;
//! * `last_upload`: what became of the upload that a run began last;
//! * [`restorable`]: how far a restore from the copy would come.
//!
//! Objects are written once, under names that no other run uses, or with contents that follow from the name. So it does no
//! harm when an upload is repeated, delivered twice, or arrives after its run was killed.

mod catalogs;
mod last_upload;
pub mod listing;
pub mod restorable;
pub mod state;
pub mod uploads;

use std::collections::{HashSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

use common::feed::{Feed, FeedPosition, FinishedFile};
use common::{Backup, Timestamp};
use uuid::Uuid;

use crate::copy_error::CopyError;
use crate::description::{Claim, Heartbeat, to_json};
use crate::keys::master_key::MasterKey;
use crate::log_bytes::{LOG_BYTES_MAX, LogBytes};
use crate::objects::{File, Object, Part, Run, Tail};
use crate::seal::layout::Padding;
use crate::ship::last_upload::Outcome;
use crate::ship::listing::Listing;
use crate::ship::restorable::ShippedTails;
use crate::ship::state::{ShipState, StateFile, Upload};
use crate::ship::uploads::Uploads;
use crate::store::{ConditionalPut, Store};

/// Bytes of a file in each of its parts but the last.
pub const PART_BYTES: u64 = 8 << 20;

/// Where a copy is, and what it is sealed with.
#[derive(Debug, Clone)]
pub struct Target {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Tells the copy from all others.
    pub copy: Uuid,
    /// The key, unless the copy is not encrypted.
    pub key: Option<MasterKey>,
}

/// What one step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Something was stored; there may be more.
    Stored,
    /// There is nothing to ship now.
    Nothing,
}

/// Ships one backup to one copy.
#[derive(Debug)]
pub struct Shipper {
    uploads: Uploads,
    copy: Uuid,
    run: Run,
    /// What the store does with a name that is taken.
    conditional_put: ConditionalPut,
    feed: Feed,
    listing: Listing,
    state: StateFile,
    /// Everything up to here is durable in the copy.
    shipped: FeedPosition,
    /// Whether the logs are shipped once more from their beginning, and it was not said yet where they end.
    begins_anew: bool,
    /// Keeps other processes of this node from shipping to the copy.
    _lock: std::fs::File,
    /// Whether logs are shipped, not only what they are sealed to.
    uses_logs: bool,
    /// Bytes of logs that were read and are not stored.
    queue: VecDeque<Queued>,
    /// The next number of an object with bytes of this log.
    next_tail: (u64, u32),
    /// First seqs of segments with which no catalog can begin.
    no_catalogs_of: HashSet<u64>,
    /// What is known of the records in the objects with bytes of logs.
    tails: ShippedTails,
    /// Since when answers do not wait for the copy, although they should.
    degraded_since: Option<i64>,
}

/// An object with bytes of a log that is on its way. It is sealed once: whatever becomes of an upload, a repetition has the same
/// bytes.
#[derive(Debug)]
struct Queued {
    name: String,
    object: Vec<u8>,
    end: FeedPosition,
}

impl Shipper {
    /// Begins a run: claims the copy, and finds out what it lacks. `state_directory` is where runs leave word to the next one.
    ///
    /// # Errors
    /// When the store or the backup cannot be read, when another process ships to the copy, or when the copy is not an older state
    /// of this backup.
    pub fn begin(backup: Arc<Backup>, target: Target, state_directory: &Path) -> Result<Self, CopyError> {
        let Target { store, copy, key } = target;
        let mut uploads = Uploads::new(store, key);
        let state = StateFile::new(state_directory, copy);
        let lock = state.lock()?;
        // First of all: from now on the goodbye of an earlier run does not count.
        let (run, conditional_put) = claim(&mut uploads)?;
        let mut listing = Listing::read(uploads.store())?;
        let before = state.read().filter(|before| before.copy == copy);
        let last = before.as_ref().and_then(|before| before.last_upload.as_ref());
        let outcome = last.map_or(Ok(Outcome::Whole), |upload| Outcome::of(upload, uploads.store()))?;
        let damaged = last.filter(|_| outcome == Outcome::Damaged).and_then(|it| Object::parse(&it.object));
        damaged.iter().for_each(|object| listing.forget(object));
        let position = before.as_ref().map(|before| match last.and_then(|upload| upload.end) {
            Some(end) if outcome == Outcome::Whole => end,
            _ => before.shipped,
        });
        let resumed = match &position {
            Some(position) => Feed::resume(Arc::clone(&backup), position)?,
            None => None,
        };
        let begins_anew = resumed.is_none() || before.as_ref().is_some_and(|before| before.begins_anew);
        let feed = match resumed {
            Some(feed) => feed,
            None => Feed::begin(Arc::clone(&backup))?,
        };
        listing.expect_older_than(&feed)?;
        let shipped = feed.position();
        let mut shipper = Self {
            uploads,
            copy,
            run,
            conditional_put,
            feed,
            listing,
            state,
            shipped,
            uses_logs: false,
            begins_anew,
            _lock: lock,
            queue: VecDeque::new(),
            next_tail: (0, 0),
            no_catalogs_of: HashSet::new(),
            tails: ShippedTails::default(),
            degraded_since: None,
        };
        if let (Some(damaged), Some(position)) = (damaged, position) {
            shipper.store_again(damaged, position)?;
        }
        shipper.ship_manifest(Overwrite::Never)?;
        Ok(shipper)
    }

    /// The run.
    pub fn run(&self) -> Run {
        self.run
    }

    /// What the store does with a name that is taken.
    pub fn conditional_put(&self) -> ConditionalPut {
        self.conditional_put
    }

    /// Seq behind the last record that the copy has: of its segments, or of the logs that were shipped in this run.
    pub fn shipped(&self) -> u64 {
        let logs = if self.uses_logs { self.shipped.next_seq } else { 1 };
        logs.max(self.listing.sealed_behind())
    }

    /// Seq behind the last record up to which the copy lacks nothing: no snapshot and no segment before it.
    ///
    /// # Errors
    /// When the backup cannot be listed.
    pub fn holds(&self) -> Result<u64, CopyError> {
        let first_missing = self.missing_files()?.into_iter().map(|found| file_of(found).1);
        Ok(first_missing.min().unwrap_or(u64::MAX).min(self.shipped()))
    }

    /// Seq behind the newest record of the backup.
    ///
    /// # Errors
    /// When the backup cannot be read to its end.
    pub fn acknowledged(&self) -> Result<u64, CopyError> {
        Ok(self.feed.read_end()?)
    }

    /// What was uploaded.
    pub fn uploads(&self) -> &Uploads {
        &self.uploads
    }

    /// Ships the next part of a snapshot or segment, or `pruned`, that the copy lacks. What the newest version needs comes first,
    /// from old to new; then the older history, from new to old; then catalogs.
    ///
    /// # Errors
    /// When the store refuses, or the backup cannot be read.
    pub fn ship_file(&mut self) -> Result<Step, CopyError> {
        if self.ship_pruned()? == Step::Stored {
            return Ok(Step::Stored);
        }
        for found in self.missing_files()? {
            let (file, _) = file_of(found);
            if self.ship_part(file, &found.name(), Overwrite::Never)? == Step::Stored {
                return Ok(Step::Stored);
            }
        }
        self.ship_catalog()
    }

    /// The files that the copy lacks, in the order in which they are shipped. What was pruned from the copy is not missing.
    fn missing_files(&self) -> Result<Vec<FinishedFile>, CopyError> {
        let pruned = self.listing.pruned_through();
        let is_missing = |found: &FinishedFile| {
            let last = match file_of(*found).0 {
                File::Segment { last, .. } => last,
                File::Snapshot { seq } => seq,
                File::Pruned { .. } => 0,
            };
            last > pruned && !self.listing.is_complete(file_of(*found).0)
        };
        let missing: Vec<_> = self.feed.finished_files()?.into_iter().filter(is_missing).collect();
        if missing.len() < 2 {
            return Ok(missing);
        }
        let needed_from = self.feed.newest_needs_from()?.get();
        let (mut needed, older): (Vec<_>, Vec<_>) =
            missing.into_iter().partition(|found| file_of(*found).1 >= needed_from);
        needed.extend(older.into_iter().rev());
        Ok(needed)
    }

    /// Ships the file `pruned` when the copy lacks records that were dropped, and has no file that covers them.
    fn ship_pruned(&mut self) -> Result<Step, CopyError> {
        let Some(dropped) = self.feed.dropped_through()? else { return Ok(Step::Nothing) };
        let missing = self.listing.last_missing_up_to(dropped.get());
        if missing == 0 || self.listing.pruned_covers(missing) {
            return Ok(Step::Nothing);
        }
        self.ship_part(File::Pruned { last: dropped.get(), run: 0 }, format::names::PRUNED, Overwrite::Never)
    }

    /// Ships the first missing part of a file; nothing when the file is gone.
    fn ship_part(&mut self, file: File, name: &str, overwrite: Overwrite) -> Result<Step, CopyError> {
        let opened = match self.feed.open(name) {
            Err(error) if error.is_not_found() => return Ok(Step::Nothing),
            opened => opened.map_err(common::ReadError::from)?,
        };
        let len = opened.read_len().map_err(common::ReadError::from)?;
        let of = u32::try_from(len.div_ceil(PART_BYTES).max(1)).unwrap_or(u32::MAX);
        let Some(number) = (1..=of).find(|&number| !self.listing.has(file, Part { number, of })) else {
            return Ok(Step::Nothing);
        };
        let offset = u64::from(number - 1) * PART_BYTES;
        let mut bytes = vec![0; usize::try_from((len - offset).min(PART_BYTES)).unwrap_or(0)];
        let read = opened.read_at(&mut bytes, offset).map_err(common::ReadError::from)?;
        if read < bytes.len() {
            return Err(CopyError::Changing { name: name.to_owned() });
        }
        let part = Part { number, of };
        let name = Object::Part(file, part).to_string();
        let object = self.uploads.seal(&name, &bytes, Padding::None)?;
        self.store(&name, &object, None, overwrite)?;
        self.listing.add(file, part, object.len() as u64);
        Ok(Step::Stored)
    }

    /// Ships what the logs have got since the last call.
    ///
    /// # Errors
    /// When the store refuses, or the logs cannot be read. What was read is shipped by a later call.
    pub fn ship_logs(&mut self) -> Result<Step, CopyError> {
        let mut step = self.drain_queue()?;
        self.uses_logs = true;
        // What comes meanwhile is left to the next call: otherwise a node that is never silent would have it go on for ever.
        let newest_log = self.feed.newest_log().map_err(common::ReadError::from)?;
        while let Some(piece) = self.feed.next_piece()? {
            if piece.offset == 0 {
                // A reader needs what is between: a log that was sealed before all of it was shipped.
                self.ship_segments_between(self.shipped.next_seq, piece.log.get())?;
            }
            // Before anything of it is stored: no record of it may count too early.
            self.tails.begin_piece(self.shipped.next_seq, &piece);
            let is_last = newest_log.is_none_or(|newest| piece.log >= newest) && piece.is_to_the_end();
            let mut bytes = piece.bytes.as_slice();
            let mut offset = piece.offset;
            let mut before = self.shipped;
            loop {
                let (now, rest) = bytes.split_at(bytes.len().min(LOG_BYTES_MAX));
                let end = if rest.is_empty() { piece.end } else { before };
                self.enqueue(piece.log.get(), offset, now, end)?;
                if piece.names_snapshot {
                    self.ship_needed_files()?;
                }
                self.drain_queue()?;
                (before, offset, bytes) = (end, offset + now.len() as u64, rest);
                if bytes.is_empty() {
                    break;
                }
            }
            step = Step::Stored;
            if is_last {
                break;
            }
        }
        if self.begins_anew {
            // What was shipped behind this by an earlier run was lost on the node.
            let end = self.shipped;
            if end.log != 0 {
                self.enqueue(end.log, end.offset, &[], end)?;
                self.drain_queue()?;
            }
            self.begins_anew = false;
            self.write_state(None);
        }
        Ok(step)
    }

    /// Ships the segments that the copy lacks behind its newest one and that end before `to`, if records from `from` on are among
    /// them. From old to new: a reader takes a segment for a sign that those before it are there.
    fn ship_segments_between(&mut self, from: u64, to: u64) -> Result<(), CopyError> {
        if from >= to || self.shipped.log == 0 {
            return Ok(());
        }
        let sealed_behind = self.listing.sealed_behind();
        for found in self.feed.finished_files()? {
            let (file, _) = file_of(found);
            let is_between = matches!(file, File::Segment { first, last } if first >= sealed_behind && last < to);
            while is_between
                && !self.listing.is_complete(file)
                && self.ship_part(file, &found.name(), Overwrite::Never)? == Step::Stored
            {}
        }
        Ok(())
    }

    fn enqueue(&mut self, log: u64, offset: u64, bytes: &[u8], end: FeedPosition) -> Result<(), CopyError> {
        let number = if self.next_tail.0 == log { self.next_tail.1 } else { 0 };
        let tail = Tail { log, run: self.run, number };
        let object = self.seal_log_bytes(tail, offset, bytes, end)?;
        self.next_tail = (log, number + 1);
        self.queue.push_back(Queued { name: Object::Tail(tail).to_string(), object, end });
        Ok(())
    }

    fn seal_log_bytes(&self, tail: Tail, offset: u64, bytes: &[u8], end: FeedPosition) -> Result<Vec<u8>, CopyError> {
        let name = Object::Tail(tail).to_string();
        let contents = LogBytes {
            time: Timestamp::now().as_micros(),
            log: tail.log,
            offset,
            // Before the first whole record the position is that of an earlier log.
            next_seq: end.next_seq.max(tail.log),
            previous_checksum: end.previous_checksum,
            bytes: bytes.to_vec(),
        };
        let contents =
            contents.encode().map_err(|source| CopyError::Local { op: "compress", path: name.clone(), source })?;
        self.uploads.seal(&name, &contents, Padding::PowerOfTwo)
    }

    fn drain_queue(&mut self) -> Result<Step, CopyError> {
        let mut step = Step::Nothing;
        while let Some(queued) = self.queue.pop_front() {
            let stored = self.store(&queued.name, &queued.object, Some(queued.end), Overwrite::Never);
            if stored.is_err() {
                self.queue.push_front(queued);
            }
            stored?;
            step = Step::Stored;
        }
        Ok(step)
    }

    /// Stores a sealed object. `end` is the position behind the bytes of a log that it has.
    ///
    /// If the process is killed right there, or the store fails, the state names the object, and the next run reads it back.
    fn store(
        &mut self,
        name: &str,
        object: &[u8],
        end: Option<FeedPosition>,
        overwrite: Overwrite,
    ) -> Result<(), CopyError> {
        self.write_state(Some(Upload::of(name, object, end)));
        match overwrite {
            Overwrite::Never => self.uploads.put_new(name, object)?,
            Overwrite::Always => self.uploads.replace(name, object)?,
        }
        self.shipped = end.unwrap_or(self.shipped);
        Ok(())
    }

    /// Leaves word to the next run. Without it that ships the logs once more: a full disk of the node does not stop the copy.
    fn write_state(&self, last_upload: Option<Upload>) {
        let Self { copy, shipped, begins_anew, .. } = *self;
        if let Err(error) = self.state.write(&ShipState { copy, shipped, begins_anew, last_upload }) {
            log::warn!("{error}");
        }
    }

    /// Checks that no other run has claimed the copy since this one.
    ///
    /// # Errors
    /// [`CopyError::AnotherWriter`] when one has.
    pub fn check_claim(&self) -> Result<(), CopyError> {
        check_claim(&self.uploads, self.run)
    }

    /// Says that this run is alive, and how far the node and the copy are; or that it ends.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn heartbeat(&mut self, acknowledged: u64, goodbye: bool) -> Result<(), CopyError> {
        self.heartbeat_of(self.run, acknowledged, goodbye)
    }

    fn heartbeat_of(&mut self, run: Run, acknowledged: u64, goodbye: bool) -> Result<(), CopyError> {
        let name = Object::Heartbeat(run).to_string();
        let time = Timestamp::now().as_micros();
        let degraded_since = self.degraded_since;
        let beat = Heartbeat { time, acknowledged, shipped: self.holds()?, goodbye, degraded_since };
        let object = self.uploads.seal(&name, &to_json(&name, &beat)?, Padding::PowerOfTwo)?;
        self.store(&name, &object, None, Overwrite::Always)
    }

    fn ship_manifest(&mut self, overwrite: Overwrite) -> Result<(), CopyError> {
        let manifest = self.feed.backup().manifest();
        // It is replaced once, when the node's id becomes known.
        let number = u32::from(manifest.node_id.is_some());
        if self.listing.manifests().contains(&number) {
            return Ok(());
        }
        let name = Object::Manifest(number).to_string();
        let object = self.uploads.seal(&name, &manifest.encode(), Padding::None)?;
        self.store(&name, &object, None, overwrite)?;
        self.listing.add_manifest(number);
        Ok(())
    }
}

/// What becomes of an object that has the name already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overwrite {
    /// It stays.
    Never,
    /// It is replaced.
    Always,
}

/// A file in the copy, and the seq of its first record.
fn file_of(found: FinishedFile) -> (File, u64) {
    match found {
        FinishedFile::Snapshot { seq } => (File::Snapshot { seq: seq.get() }, seq.get()),
        FinishedFile::Segment { first, last } => (File::Segment { first: first.get(), last: last.get() }, first.get()),
    }
}

/// Claims the copy for a new run.
fn claim(uploads: &mut Uploads) -> Result<(Run, ConditionalPut), CopyError> {
    let highest = claims(uploads)?.into_iter().map(|run| run.epoch).max().unwrap_or(0);
    let random = Uuid::new_v4().as_fields().0;
    let run = Run { epoch: highest.saturating_add(1), random };
    let name = Object::Claim(run).to_string();
    let claim = to_json(&name, &Claim { time: Timestamp::now().as_micros() })?;
    let conditional_put = uploads.put_and_probe(&name, &claim)?;
    check_claim(uploads, run)?;
    Ok((run, conditional_put))
}

fn check_claim(uploads: &Uploads, own: Run) -> Result<(), CopyError> {
    let other = claims(uploads)?.into_iter().find(|run| run.epoch >= own.epoch && *run != own);
    other.map_or(Ok(()), |other| Err(CopyError::AnotherWriter { other }))
}

fn claims(uploads: &Uploads) -> Result<Vec<Run>, CopyError> {
    let listed = uploads.store().list(Object::CLAIMS)?;
    Ok(listed
        .iter()
        .filter_map(|listed| match Object::parse(&listed.name) {
            Some(Object::Claim(run)) => Some(run),
            _ => None,
        })
        .collect())
}

#[cfg(test)]
mod tests;
