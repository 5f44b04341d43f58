//! The images of one page in a segment: the newest first, each older one as the difference to the next newer one.
//!
//! The newest image is whole, or the difference to a *base image*: an image that is stored whole in the full snapshot or in an
//! earlier segment. A base image is never a difference itself, so the newest image, which nearly every version of later segments
//! needs, takes at most two frames. A difference is a zstd frame with the other image as dictionary: rows that moved within the
//! page cost nothing, where XOR would pay for every byte.

use std::cell::Cell;

use zstd::zstd_safe::CParameter;

use super::Damage;
use super::fields::{Reader, put_varint};
use super::frames;
use super::segment::{BlockHandle, Location};
use crate::units::{Keyframe, PageNo, Seq};

/// zstd level for newest images, which are most of a segment beside the statements.
const WHOLE_LEVEL: i32 = 6;

/// zstd level for differences: higher levels cost more time and save one percent.
const DIFFERENCE_LEVEL: i32 = 1;

/// Magic of a zstd frame (RFC 8878). It is not stored, because images are many and short.
const FRAME_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Magic of zstd's own dictionary format.
const DICTIONARY_MAGIC: [u8; 4] = [0x37, 0xa4, 0x30, 0xec];

/// A difference shorter than this is used without comparing it with the whole image.
const SHORT_DIFFERENCE: usize = 256;

/// An image as raw dictionary; without its first byte if zstd would take it for a dictionary of its own format.
fn dictionary(image: &[u8]) -> &[u8] {
    if image.starts_with(&DICTIONARY_MAGIC) { &image[1..] } else { image }
}

/// The base image of the newest image of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaseImage {
    /// The page in the full snapshot.
    Snapshot,
    /// The newest image in another block, which is stored whole.
    Segment(Location),
}

/// Compresses images; keeps the zstd contexts.
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
    /// Creates a codec.
    ///
    /// # Errors
    /// When zstd cannot allocate memory.
    pub fn new() -> std::io::Result<Self> {
        // The length of an image is the page size.
        let compressor = |level| {
            let mut compressor = zstd::bulk::Compressor::new(level)?;
            compressor.set_parameter(CParameter::ContentSizeFlag(false))?;
            Ok::<_, std::io::Error>(compressor)
        };
        Ok(Self { whole: compressor(WHOLE_LEVEL)?, difference: compressor(DIFFERENCE_LEVEL)? })
    }

    /// Encodes the images of a page for the segment `own`: at least one, each with its keyframe, in order. The newest is stored
    /// as the difference to `base_image` if that is less than half as long.
    ///
    /// # Errors
    /// When zstd cannot allocate memory.
    pub fn encode(
        &mut self,
        page: PageNo,
        own: Seq,
        images: &[(Keyframe, &[u8])],
        base_image: Option<(BaseImage, &[u8])>,
    ) -> std::io::Result<Vec<u8>> {
        let mut later = images.last().map(|(_, image)| *image).unwrap_or_default();
        let (base_image, newest) = self.newest(later, base_image)?;
        let mut out = Vec::new();
        put_varint(page.get().into(), &mut out);
        match base_image {
            None => put_varint(0, &mut out),
            Some(BaseImage::Snapshot) => put_varint(1, &mut out),
            Some(BaseImage::Segment(at)) => {
                put_varint(2, &mut out);
                put_varint(own.get() - at.segment.get(), &mut out);
                put_varint(at.block.offset, &mut out);
                put_varint(at.block.len.into(), &mut out);
            }
        }
        put_varint(images.len() as u64, &mut out);
        let mut before = 0;
        for (keyframe, _) in images {
            put_varint(u64::from(keyframe.0 - before), &mut out);
            before = keyframe.0;
        }
        let mut frames = vec![newest];
        for &(_, image) in images.iter().rev().skip(1) {
            frames.push(self.difference(image, later)?);
            later = image;
        }
        for frame in &frames {
            put_varint(frame.len() as u64, &mut out);
        }
        out.extend(frames.concat());
        Ok(out)
    }

    /// Encodes the newest image: as a difference with its base, or whole.
    fn newest(
        &mut self,
        image: &[u8],
        base_image: Option<(BaseImage, &[u8])>,
    ) -> std::io::Result<(Option<BaseImage>, Vec<u8>)> {
        let difference = base_image.map(|(_, bytes)| self.difference(image, bytes)).transpose()?;
        if let (Some((base_image, _)), Some(difference)) = (base_image, &difference)
            && difference.len() < SHORT_DIFFERENCE
        {
            return Ok((Some(base_image), difference.clone()));
        }
        let whole = without_magic(self.whole.compress(image)?);
        match (base_image, difference) {
            (Some((base_image, _)), Some(difference)) if difference.len() < whole.len() / 2 => {
                Ok((Some(base_image), difference))
            }
            _ => Ok((None, whole)),
        }
    }

    fn difference(&mut self, image: &[u8], other: &[u8]) -> std::io::Result<Vec<u8>> {
        self.difference.set_dictionary(DIFFERENCE_LEVEL, dictionary(other))?;
        Ok(without_magic(self.difference.compress(image)?))
    }
}

fn without_magic(frame: Vec<u8>) -> Vec<u8> {
    frame.strip_prefix(&FRAME_MAGIC).map(<[u8]>::to_vec).unwrap_or_default()
}

thread_local! {
    static SCRATCH: Cell<Scratch> = const { Cell::new(Scratch { frame: Vec::new(), image: Vec::new() }) };
}

/// Buffers that a thread reuses.
#[derive(Default)]
struct Scratch {
    /// The frame, with the magic that is not stored.
    frame: Vec<u8>,
    /// The base image of a difference.
    image: Vec<u8>,
}

/// Copies the images without those older than the one for `oldest`: that of this keyframe, or of the last keyframe before it that
/// has one. With `Keyframe::END` only the newest is left: older ones are needed by versions of their own segment only.
///
/// # Errors
/// When the bytes are not images of the page.
pub fn from_keyframe(bytes: &[u8], page: PageNo, own: Seq, oldest: Keyframe) -> Result<Vec<u8>, Damage> {
    let mut images = PageImages::open(bytes, page, own, oldest)?;
    // All images are newer: older ones are in another segment.
    let kept = images.wanted.map_or(images.count, |back| back + 1);
    let mut head = Reader::new(bytes);
    head.varint()?;
    if head.varint()? == 2 {
        (0..3).try_for_each(|_| head.varint().map(drop))?;
    }
    let mut out = bytes[..bytes.len() - head.rest().len()].to_vec();
    put_varint(kept as u64, &mut out);
    let mut keyframe = 0_u64;
    for back in (0..images.count).rev() {
        keyframe += images.keyframes.varint()?;
        if back < kept {
            put_varint(keyframe, &mut out);
            keyframe = 0;
        }
    }
    let mut total = 0;
    for _ in 0..kept {
        let len = images.lens.varint()?;
        put_varint(len, &mut out);
        total += len;
    }
    out.extend_from_slice(images.frames.bytes(usize::try_from(total).unwrap_or(usize::MAX))?);
    Ok(out)
}

/// A reader for the images of a page, positioned at one of them.
pub struct PageImages<'a> {
    base_image: Option<BaseImage>,
    /// Steps from the newest image back to the wanted one; `None` when all are too new.
    wanted: Option<usize>,
    /// Number of images.
    count: usize,
    /// The distances between keyframes.
    keyframes: Reader<'a>,
    /// Lengths of the frames.
    lens: Reader<'a>,
    /// The frames, from the newest image to the oldest.
    frames: Reader<'a>,
}

impl<'a> PageImages<'a> {
    /// Opens the images of the segment `own` and finds the newest that belongs to `upto` or an earlier keyframe.
    ///
    /// # Errors
    /// When the bytes are not images of the page.
    pub fn open(bytes: &'a [u8], page: PageNo, own: Seq, upto: Keyframe) -> Result<Self, Damage> {
        let mut fields = Reader::new(bytes);
        if fields.varint()? != u64::from(page.get()) {
            return Err(Damage::Contradiction("the page map leads to another page"));
        }
        let base_image = match fields.varint()? {
            0 => None,
            1 => Some(BaseImage::Snapshot),
            2 => {
                let older = fields.varint()?;
                let segment = own.get().checked_sub(older).filter(|_| older > 0).and_then(Seq::new);
                let segment = segment.ok_or(Damage::Field { field: "base image", value: older })?;
                let block = BlockHandle { offset: fields.varint()?, len: fields.varint_u32("block length")? };
                Some(BaseImage::Segment(Location { segment, block }))
            }
            other => return Err(Damage::Field { field: "base image", value: other }),
        };
        let count = fields.varint()?;
        // Every image takes at least two bytes, so the count cannot exceed the bytes.
        let count = usize::try_from(count)
            .ok()
            .filter(|&count| count > 0 && count <= bytes.len() / 2)
            .ok_or(Damage::Field { field: "image count", value: count })?;
        let keyframes = fields.clone();
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
                Ok(Self { base_image, wanted, count, keyframes, lens, frames: fields })
            }
            want => Err(Damage::Short { have, want: want.unwrap_or(usize::MAX) }),
        }
    }

    /// Whether an image was found.
    pub fn is_wanted(&self) -> bool {
        self.wanted.is_some()
    }

    /// Position of the wanted image: 0 for the newest, 1 for the one before it; `None` when all are too new.
    pub fn wanted_back(&self) -> Option<usize> {
        self.wanted
    }

    /// The keyframe of the oldest image.
    ///
    /// # Errors
    /// When the bytes are not images.
    pub fn oldest(&self) -> Result<Keyframe, Damage> {
        self.keyframes.clone().varint_u32("keyframe").map(Keyframe)
    }

    /// The base of the newest image; `None` when that is whole.
    pub fn base_image(&self) -> Option<BaseImage> {
        self.base_image
    }

    /// Decodes the wanted image into `out`. `base_image` is the image that [`base_image`](Self::base_image) names.
    ///
    /// # Errors
    /// When no image is wanted, or the bytes are not images.
    pub fn read(mut self, base_image: Option<&[u8]>, out: &mut [u8]) -> Result<(), Damage> {
        let steps = self.wanted.ok_or(Damage::Contradiction("a page has no image that old"))?;
        let mut scratch = SCRATCH.take();
        let Scratch { frame, image } = &mut scratch;
        // The two buffers alternate so that the last image ends up in `out`.
        image.resize(out.len(), 0);
        let (mut now, mut then) = if steps % 2 == 0 { (out, &mut image[..]) } else { (&mut image[..], out) };
        self.next_frame(frame)?;
        match (self.base_image, base_image) {
            (None, _) => frames::decompress(frame, now)?,
            (Some(_), Some(base_image)) => frames::decompress_with(frame, dictionary(base_image), now)?,
            (Some(_), None) => {
                return Err(Damage::Contradiction("an image is the difference to one that is not whole"));
            }
        }
        for _ in 0..steps {
            std::mem::swap(&mut now, &mut then);
            self.next_frame(frame)?;
            frames::decompress_with(frame, dictionary(then), now)?;
        }
        SCRATCH.set(scratch);
        Ok(())
    }

    /// Passes every image with its keyframe to `take`, the newest first. `base_image` is the image that
    /// [`base_image`](Self::base_image) names.
    ///
    /// # Errors
    /// When an image cannot be decoded: it and all older ones are lost.
    pub fn read_each(
        mut self,
        base_image: Option<&[u8]>,
        page_bytes: usize,
        mut take: impl FnMut(Keyframe, &[u8]),
    ) -> Result<(), Damage> {
        let mut keyframes = Vec::with_capacity(self.count);
        let mut keyframe = 0_u32;
        for _ in 0..self.count {
            keyframe = keyframe.saturating_add(self.keyframes.varint_u32("keyframe")?);
            keyframes.push(Keyframe(keyframe));
        }
        let (mut later, mut image, mut frame) = (Vec::new(), vec![0; page_bytes], Vec::new());
        for keyframe in keyframes.into_iter().rev() {
            self.next_frame(&mut frame)?;
            match (self.base_image, base_image) {
                _ if !later.is_empty() => frames::decompress_with(&frame, dictionary(&later), &mut image)?,
                (None, _) => frames::decompress(&frame, &mut image)?,
                (Some(_), Some(base_image)) => frames::decompress_with(&frame, dictionary(base_image), &mut image)?,
                (Some(_), None) => {
                    return Err(Damage::Contradiction("an image is the difference to one that is not whole"));
                }
            }
            take(keyframe, &image);
            later.resize(page_bytes, 0);
            std::mem::swap(&mut later, &mut image);
        }
        Ok(())
    }

    /// Reads the next frame, with its magic.
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
    const OWN: Seq = Seq::new(9).unwrap();
    const BASE: [u8; 512] = [7; 512];

    /// A page that zstd would take for a dictionary of its own format.
    const MISTAKEN: [u8; 512] = {
        let mut page = [5; 512];
        page.split_at_mut(4).0.copy_from_slice(&DICTIONARY_MAGIC);
        page
    };

    fn codec_base(kind: u8) -> Option<BaseImage> {
        let block = BlockHandle { offset: 99, len: 1000 };
        match kind {
            0 => None,
            1 => Some(BaseImage::Snapshot),
            _ => Some(BaseImage::Segment(Location { segment: Seq::FIRST, block })),
        }
    }

    fn read(bytes: &[u8], upto: u32) -> Result<Option<Vec<u8>>, Damage> {
        let images = PageImages::open(bytes, PAGE, OWN, Keyframe(upto))?;
        if !images.is_wanted() {
            return Ok(None);
        }
        let mut out = vec![0; 512];
        images.read(Some(&BASE), &mut out)?;
        Ok(Some(out))
    }

    proptest! {
        #[test]
        fn every_keyframe_has_the_newest_image_up_to_it(
            steps in proptest::collection::vec((1..5_u32, 0..500_usize, any::<[u8; 12]>()), 1..12),
            based_on in 0..3_u8,
            first in prop_oneof![Just(BASE), Just([0; 512]), Just(MISTAKEN)],
        ) {
            let mut codec = ImageCodec::new().unwrap();
            let mut image = first.to_vec();
            let mut keyframe = 0;
            let mut images = Vec::new();
            for (step, at, bytes) in steps {
                keyframe += step;
                image[at..at + 12].copy_from_slice(&bytes);
                images.push((Keyframe(keyframe), image.clone()));
            }
            let borrowed: Vec<_> = images.iter().map(|(keyframe, image)| (*keyframe, &image[..])).collect();
            let base_image = (codec_base(based_on), &BASE[..]);
            let bytes = codec.encode(PAGE, OWN, &borrowed, base_image.0.map(|name| (name, base_image.1))).unwrap();
            for upto in 0..=keyframe + 1 {
                let expected = images.iter().rev().find(|(keyframe, _)| keyframe.0 <= upto).map(|(_, image)| image.clone());
                prop_assert_eq!(read(&bytes, upto).unwrap(), expected);
            }
            prop_assert!(PageImages::open(&bytes, PageNo::new(2).unwrap(), OWN, Keyframe(9)).is_err());
            let opened = PageImages::open(&bytes, PAGE, OWN, Keyframe(9)).unwrap();
            let base_image = opened.base_image();
            let mut each = Vec::new();
            opened.read_each(Some(&BASE), 512, |keyframe, image| each.insert(0, (keyframe, image.to_vec()))).unwrap();
            prop_assert_eq!(&each, &images);
            prop_assert!(base_image.is_none() || base_image == codec_base(based_on));
            for oldest in (0..=keyframe + 1).chain([u32::MAX]) {
                let fewer = from_keyframe(&bytes, PAGE, OWN, Keyframe(oldest)).unwrap();
                let before = images.iter().filter(|(keyframe, _)| keyframe.0 <= oldest).count().saturating_sub(1);
                prop_assert_eq!(PageImages::open(&fewer, PAGE, OWN, Keyframe(0)).unwrap().count, images.len() - before);
                for upto in (oldest..=keyframe + 1).chain([u32::MAX]) {
                    prop_assert_eq!(read(&fewer, upto), read(&bytes, upto), "{}", upto);
                }
                prop_assert_eq!(from_keyframe(&fewer, PAGE, OWN, Keyframe(oldest)).unwrap(), fewer);
            }
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
