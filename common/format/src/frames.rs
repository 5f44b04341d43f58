//! zstd frames, decompressed with what each thread keeps for it: making that anew costs more than most frames.

use std::cell::RefCell;

use zstd::zstd_safe::DCtx;

use super::Damage;

thread_local! {
    static CONTEXT: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
}

/// Decompresses a frame that fills `out` exactly.
///
/// # Errors
/// When it does not.
pub fn decompress(frame: &[u8], out: &mut [u8]) -> Result<(), Damage> {
    let result = CONTEXT.with_borrow_mut(|context| context.decompress(out, frame));
    check(result.ok(), out)
}

/// As [`decompress`], of a frame that may copy from `before`.
///
/// # Errors
/// As there.
pub fn decompress_with(frame: &[u8], before: &[u8], out: &mut [u8]) -> Result<(), Damage> {
    let result = CONTEXT.with_borrow_mut(|context| context.decompress_using_dict(out, frame, before));
    check(result.ok(), out)
}

fn check(len: Option<usize>, out: &[u8]) -> Result<(), Damage> {
    if len == Some(out.len()) { Ok(()) } else { Err(Damage::Compression) }
}
