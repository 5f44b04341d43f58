//! Catalogs: made of segments that the copy has, so that readers find what is in them without asking for each.

use format::names;
use format::units::Seq;

use crate::catalog::{Catalog, SEGMENTS};
use crate::copy_error::CopyError;
use crate::objects::{File, Object};
use crate::seal::header::HEADER_LEN;
use crate::seal::layout::Padding;
use crate::ship::{Overwrite, Shipper, Step};

impl Shipper {
    /// Stores the next catalog of segments that the copy has and no catalog names. There is none of segments that the backup does not
    /// have any more, or that cannot be read: they can be read without.
    ///
    /// # Errors
    /// When the store does not take it.
    pub(super) fn ship_catalog(&mut self) -> Result<Step, CopyError> {
        for run in self.listing.uncatalogued(SEGMENTS) {
            if self.store_catalog(&run, Overwrite::Never)? == Step::Stored {
                return Ok(Step::Stored);
            }
        }
        Ok(Step::Nothing)
    }

    /// Stores a damaged catalog again, which the listing lacks.
    pub(super) fn store_catalog_again(&mut self, (first, last): (u64, u64)) -> Result<(), CopyError> {
        let is_wanted = |run: &Vec<(u64, u64)>| {
            run.first().is_some_and(|it| it.0 == first) && run.last().is_some_and(|it| it.1 == last)
        };
        match self.listing.uncatalogued(SEGMENTS).into_iter().find(is_wanted) {
            Some(run) => self.store_catalog(&run, Overwrite::Always).map(drop),
            // Of other segments: readers pass over the damaged one.
            None => Ok(()),
        }
    }

    fn store_catalog(&mut self, run: &[(u64, u64)], overwrite: Overwrite) -> Result<Step, CopyError> {
        let (Some(&(first, _)), Some(&(_, last))) = (run.first(), run.last()) else { return Ok(Step::Nothing) };
        if self.no_catalogs_of.contains(&first) {
            return Ok(Step::Nothing);
        }
        let Some(bytes) = self.catalog_of(run) else {
            self.no_catalogs_of.insert(first);
            return Ok(Step::Nothing);
        };
        let name = Object::Catalog { first, last }.to_string();
        let object = self.uploads.seal(&name, &bytes, Padding::None)?;
        self.store(&name, &object, None, overwrite)?;
        self.listing.add_catalog((first, last), object.len() as u64);
        Ok(Step::Stored)
    }

    /// The catalog of these segments; `None` when one of them is not there any more, or cannot be read.
    fn catalog_of(&self, segments: &[(u64, u64)]) -> Option<Vec<u8>> {
        let open = |&(first, last): &(u64, u64)| {
            let file = self.feed.open(&names::segment(Seq::new(first)?)).ok()?;
            // The same segment, and nothing else of its name, is in the copy.
            let copied = self.listing.len_of(File::Segment { first, last });
            (copied == file.read_len().ok()).then_some(file)
        };
        let files: Vec<_> = segments.iter().map(open).collect::<Option<_>>()?;
        let mut bytes = match Catalog::encode(&files) {
            Ok(bytes) => bytes?,
            Err(error) => {
                log::debug!("no catalog is made: {error}");
                return None;
            }
        };
        for (position, &(first, last)) in segments.iter().enumerate() {
            // Without it a reader asks for it.
            if let [only] = self.listing.object_names(File::Segment { first, last }).as_slice()
                && let Ok(header) = self.uploads.store().get(only, Some(0..HEADER_LEN as u64))
            {
                Catalog::set_object(&mut bytes, position, &header);
            }
        }
        Some(bytes)
    }
}
