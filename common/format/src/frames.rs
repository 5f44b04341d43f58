//! Decompression of zstd frames with one context per thread: to create a context costs more than most frames.

use std::cell::RefCell;

use zstd::zstd_safe::DCtx;

use super::Damage;

thread_local! {
    static CONTEXT: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
}

/// Decompresses a frame that fills `out` exactly.
///
/// # Errors
/// When the frame is damaged or has another length.
pub fn decompress(frame: &[u8], out: &mut [u8]) -> Result<(), Damage> {
    let result = CONTEXT.with_borrow_mut(|context| context.decompress(out, frame));
    check(result.ok(), out)
}

/// Like [`decompress`], for a frame that was compressed with `before` as dictionary.
///
/// # Errors
/// The same.
pub fn decompress_with(frame: &[u8], before: &[u8], out: &mut [u8]) -> Result<(), Damage> {
    let result = CONTEXT.with_borrow_mut(|context| context.decompress_using_dict(out, frame, before));
    check(result.ok(), out)
}

fn check(len: Option<usize>, out: &[u8]) -> Result<(), Damage> {
    if len == Some(out.len()) { Ok(()) } else { Err(Damage::Compression) }
}
