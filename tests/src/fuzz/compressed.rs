//! What is compressed: page images, tables and blocks of statements.

use format::page_images::PageImages;
use format::statements::Encoded;
use format::units::{Keyframe, PageNo};
use format_fuzz::corpus::OWN;

/// The images of page 1. The first byte says which keyframe is wanted, and the size of pages.
pub(super) fn page_images(input: &[u8]) -> bool {
    let Some((&choice, block)) = input.split_first() else { return false };
    let (upto, page_bytes) = (Keyframe(u32::from(choice & 31)), [512, 4096][usize::from(choice >> 7)]);
    let Ok(images) = PageImages::open(block, PageNo::FIRST, OWN, upto) else { return false };
    let has_base_image = images.base_image().is_some();
    let is_wanted = images.is_wanted();
    let mut page = vec![0x5a; page_bytes];
    let read = images.read(has_base_image.then_some(&vec![7; page_bytes]), &mut page);
    assert!(is_wanted || read.is_err(), "an image that there is not");
    let newest = PageImages::open(block, PageNo::FIRST, OWN, Keyframe::END).expect("it was opened before");
    assert!(newest.is_wanted(), "there is a newest image");
    newest.read(None, &mut page).is_ok() || read.is_ok()
}

/// A table or block as it is stored, compressed.
pub(super) fn compressed(input: &[u8]) -> bool {
    Encoded::decompress(input).is_ok_and(|found| {
        let bytes = found.compress(1).expect("memory for zstd");
        assert!(Encoded::decompress(&bytes).as_ref() == Ok(&found), "other bytes than were compressed");
        true
    })
}
