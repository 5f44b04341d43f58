//! The images of one page in a segment: the newest whole, each older one as its difference to the one after it.
//!
//! Whoever wants the newest, which is what nearly every version of later segments wants, decompresses one frame and
//! nothing else. The difference is what zstd makes of the page when it may copy from the later image: rows that moved
//! within the page cost nothing, where XOR pays for every byte.

use std::cell::Cell;

use zstd::zstd_safe::CParameter;

use super::fields::{Reader, put_varint};
use super::{Damage, frames};
use crate::PageNo;

/// zstd's level for the newest image, which is most of what a segment stores beside the statements.
const WHOLE_LEVEL: i32 = 6;

/// zstd's level for differences: higher ones cost more time and save a hundredth.
const DIFFERENCE_LEVEL: i32 = 1;

/// What every zstd frame begins with (RFC 8878). Images are so many and so short that it is left out.
const FRAME_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Number of a keyframe within its segment. 0 is the database before the first change of the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Keyframe(pub u32);

/// Compresses images; keeps what zstd needs for it.
pub struct ImageCodec {
    whole: zstd::bulk::Compressor<'static>,
    difference: zstd::bulk::Compressor<'static>,
}

impl std::fmt::Debug for ImageCodec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ImageCodec")
    }
}

impl ImageCodec {
    /// A codec.
    ///
    /// # Errors
    /// When zstd gets no memory.
    pub fn new() -> std::io::Result<Self> {
        // The length is that of a page.
        let compressor = |level| {
            let mut compressor = zstd::bulk::Compressor::new(level)?;
            compressor.set_parameter(CParameter::ContentSizeFlag(false))?;
            Ok::<_, std::io::Error>(compressor)
        };
        Ok(Self { whole: compressor(WHOLE_LEVEL)?, difference: compressor(DIFFERENCE_LEVEL)? })
    }

    /// Encodes the images of a page: each with the keyframe it belongs to, in order, at least one.
    ///
    /// # Errors
    /// When zstd gets no memory.
    pub fn encode(&mut self, page: PageNo, images: &[(Keyframe, &[u8])]) -> std::io::Result<Vec<u8>> {
        let mut out = Vec::new();
        put_varint(page.get().into(), &mut out);
        put_varint(images.len() as u64, &mut out);
        let mut before = 0;
        for (keyframe, _) in images {
            put_varint(u64::from(keyframe.0 - before), &mut out);
            before = keyframe.0;
        }
        let mut frames = Vec::new();
        let mut later: Option<&[u8]> = None;
        for &(_, image) in images.iter().rev() {
            let frame = match later {
                None => self.whole.compress(image)?,
                Some(later) => {
                    self.difference.set_dictionary(DIFFERENCE_LEVEL, later)?;
                    self.difference.compress(image)?
                }
            };
            let frame = frame.strip_prefix(&FRAME_MAGIC).unwrap_or_default();
            put_varint(frame.len() as u64, &mut out);
            frames.extend_from_slice(frame);
            later = Some(image);
        }
        out.extend_from_slice(&frames);
        Ok(out)
    }
}

thread_local! {
    static SCRATCH: Cell<Scratch> = const { Cell::new(Scratch { frame: Vec::new(), image: Vec::new() }) };
}

/// What a thread keeps for the next image.
#[derive(Default)]
struct Scratch {
    /// The frame, behind the magic that is not stored.
    frame: Vec<u8>,
    /// The image that another one is the difference to.
    image: Vec<u8>,
}

/// Copies into `out` the newest image of `page` that belongs to `upto` or a keyframe before; `Ok(false)` when all are of
/// later ones.
///
/// # Errors
/// When the bytes are not images of that page.
pub fn read_image(bytes: &[u8], page: PageNo, upto: Keyframe, out: &mut [u8]) -> Result<bool, Damage> {
    let mut images = PageImages::decode(bytes, page, upto)?;
    let Some(steps) = images.wanted else {
        return Ok(false);
    };
    let mut scratch = SCRATCH.take();
    let Scratch { frame, image } = &mut scratch;
    // Each image is decompressed to where the one before the last was, so that the last one is in `out`.
    image.resize(out.len(), 0);
    let (mut now, mut then) = if steps % 2 == 0 { (out, &mut image[..]) } else { (&mut image[..], out) };
    images.next_frame(frame)?;
    frames::decompress(frame, now)?;
    for _ in 0..steps {
        std::mem::swap(&mut now, &mut then);
        images.next_frame(frame)?;
        frames::decompress_with(frame, then, now)?;
    }
    SCRATCH.set(scratch);
    Ok(true)
}

/// The parts of encoded images.
struct PageImages<'a> {
    /// How many steps it is from the newest image back to the one that is wanted, if there is one.
    wanted: Option<usize>,
    /// The lengths of the frames.
    lens: Reader<'a>,
    /// The frame of the newest image, then those of the others back to the oldest.
    frames: Reader<'a>,
}

impl<'a> PageImages<'a> {
    fn decode(bytes: &'a [u8], page: PageNo, upto: Keyframe) -> Result<Self, Damage> {
        let mut fields = Reader::new(bytes);
        if fields.varint()? != u64::from(page.get()) {
            return Err(Damage::Contradiction("the page map leads to another page"));
        }
        let count = fields.varint()?;
        // Every image takes at least two bytes, so a count cannot make us look for more than the bytes there are.
        let count = usize::try_from(count)
            .ok()
            .filter(|&count| count > 0 && count <= bytes.len() / 2)
            .ok_or(Damage::Field { field: "image count", value: count })?;
        let (mut keyframe, mut upto_wanted) = (0_u32, 0);
        for index in 0..count {
            let step = fields.varint_u32("keyframe")?;
            let next = keyframe.checked_add(step).filter(|_| step > 0 || index == 0);
            keyframe = next.ok_or(Damage::Field { field: "keyframe", value: step.into() })?;
            upto_wanted += usize::from(keyframe <= upto.0);
        }
        let lens = fields.clone();
        let mut total = 0_u64;
        for _ in 0..count {
            total += u64::from(fields.varint_u32("image length")?);
        }
        let have = fields.rest().len();
        match usize::try_from(total) {
            Ok(want) if want < have => Err(Damage::Contradiction("the images of a page have a rest")),
            Ok(want) if want == have => {
                let wanted = (upto_wanted > 0).then(|| count - upto_wanted);
                Ok(Self { wanted, lens, frames: fields })
            }
            want => Err(Damage::Short { have, want: want.unwrap_or(usize::MAX) }),
        }
    }

    /// The next frame as zstd reads it.
    fn next_frame(&mut self, out: &mut Vec<u8>) -> Result<(), Damage> {
        let len = self.lens.varint_u32("image length")?;
        out.clear();
        out.extend_from_slice(&FRAME_MAGIC);
        out.extend_from_slice(self.frames.bytes(len as usize)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGE: PageNo = PageNo::FIRST;

    fn read(bytes: &[u8], upto: u32) -> Result<Option<Vec<u8>>, Damage> {
        let mut out = vec![0; 512];
        Ok(read_image(bytes, PAGE, Keyframe(upto), &mut out)?.then_some(out))
    }

    proptest! {
        #[test]
        fn every_keyframe_has_the_newest_image_up_to_it(
            steps in proptest::collection::vec((1..5_u32, 0..500_usize, any::<[u8; 12]>()), 1..12)
        ) {
            let mut codec = ImageCodec::new().unwrap();
            let mut image = vec![0_u8; 512];
            let mut keyframe = 0;
            let mut images = Vec::new();
            for (step, at, bytes) in steps {
                keyframe += step;
                image[at..at + 12].copy_from_slice(&bytes);
                images.push((Keyframe(keyframe), image.clone()));
            }
            let borrowed: Vec<_> = images.iter().map(|(keyframe, image)| (*keyframe, &image[..])).collect();
            let bytes = codec.encode(PAGE, &borrowed).unwrap();
            for upto in 0..=keyframe + 1 {
                let expected = images.iter().rev().find(|(keyframe, _)| keyframe.0 <= upto).map(|(_, image)| image.clone());
                prop_assert_eq!(read(&bytes, upto).unwrap(), expected);
            }
            let mut out = vec![0; 512];
            prop_assert!(read_image(&bytes, PageNo::new(2).unwrap(), Keyframe(9), &mut out).is_err());
            for cut in 0..bytes.len() {
                prop_assert!(read(&bytes[..cut], keyframe).is_err());
            }
        }

        #[test]
        fn any_bytes_are_images_or_an_error(bytes: Vec<u8>, upto: u32) {
            let _ = read(&[&[1], &bytes[..]].concat(), upto);
        }
    }
}
