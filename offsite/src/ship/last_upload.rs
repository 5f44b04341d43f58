//! [`Outcome`]: what became of the upload that a run began last.
//!
//! A store that is killed in the middle of an upload may keep a part of it under the right name; one that does not sync may lose what it
//! has answered for. Counted by its name, the object would stay in the copy for ever, and no reader could open it. So the next run reads
//! it back, and stores it again when it differs.

use common::feed::FeedPosition;
use sha2::{Digest as _, Sha256};

use crate::copy_error::CopyError;
use crate::hex;
use crate::objects::{Object, Tail};
use crate::ship::state::Upload;
use crate::ship::{Overwrite, Shipper, Step, file_of};
use crate::store::{Failure, Store};

/// What became of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The store has no such object.
    Missing,
    /// The store has the object.
    Whole,
    /// The store has another object of this name.
    Damaged,
}

impl Upload {
    /// The upload of this object.
    pub(super) fn of(name: &str, object: &[u8], end: Option<FeedPosition>) -> Self {
        Self { object: name.to_owned(), sha256: hex::encode(&Sha256::digest(object)), end }
    }
}

impl Outcome {
    /// Reads the object back.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) fn of(upload: &Upload, store: &dyn Store) -> Result<Self, CopyError> {
        match store.get(&upload.object, None) {
            Ok(bytes) if hex::encode(&Sha256::digest(&bytes)) == upload.sha256 => Ok(Self::Whole),
            Ok(_) => Ok(Self::Damaged),
            Err(error) if error.failure == Failure::NotFound => Ok(Self::Missing),
            Err(error) => Err(error.into()),
        }
    }
}

impl Shipper {
    /// Replaces an object that an earlier run left damaged; `shipped` is how far that run came before it. The listing lacks the object.
    ///
    /// # Errors
    /// When the store refuses, or the backup cannot be read.
    pub(super) fn store_again(&mut self, object: Object, shipped: FeedPosition) -> Result<(), CopyError> {
        log::warn!(
            "{object}: the upload that was begun last left this object damaged in {}; it is stored again",
            self.uploads.store().url()
        );
        match object {
            Object::Tail(tail) => self.end_with(tail, shipped),
            Object::Manifest(_) => self.ship_manifest(Overwrite::Always),
            Object::Heartbeat(run) => self.heartbeat_of(run, self.acknowledged()?, false),
            Object::Part(file, _) => {
                // A file that the backup does not have any more is not needed: readers pass over one that lacks a part.
                for found in self.feed.finished_files()? {
                    if file_of(found).0 == file {
                        let _: Step = self.ship_part(file, &found.name(), Overwrite::Always)?;
                    }
                }
                Ok(())
            }
            Object::Catalog { first, last } => self.store_catalog_again((first, last)),
            // The name of a claim says all, and the others are not stored by a run.
            Object::Claim(_) | Object::Id | Object::Key(_) => Ok(()),
        }
    }

    /// Makes a tail end where the one before it ends: with no bytes. What it was to have is shipped by this run.
    fn end_with(&mut self, tail: Tail, shipped: FeedPosition) -> Result<(), CopyError> {
        let offset = if shipped.log == tail.log { shipped.offset } else { 0 };
        let object = self.seal_log_bytes(tail, offset, &[], shipped)?;
        let (ours, name) = (self.shipped, Object::Tail(tail).to_string());
        self.shipped = shipped;
        self.store(&name, &object, Some(shipped), Overwrite::Always)?;
        self.shipped = ours;
        Ok(())
    }
}
