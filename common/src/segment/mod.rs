//! Sealed segments: written once, then read at random; and the timeline of the versions of a log or segment.

mod base_images;
mod file;
pub(crate) mod live_record;
mod map_walk;
mod open_segments;
mod page_map;
mod pruned;
mod sealed_pages;
pub(crate) mod timeline;
pub(crate) mod version;
mod writer;

pub(crate) use base_images::{BaseImageFinder, BaseImages};
pub(crate) use file::SegmentFile;
pub(crate) use map_walk::{MapItem, MapWalk};
pub(crate) use open_segments::{Dropped, Segments, ends_of};
pub(crate) use page_map::{MapBuilder, MapError};
pub(crate) use pruned::PrunedFile;
pub(crate) use sealed_pages::{SealedPages, SealedState};
pub(crate) use writer::SegmentWriter;
