//! A bounded run of the format's fuzz targets: [`format_fuzz::bounded`] says what can be set.

use format_fuzz::TARGETS;
use format_fuzz::allocated::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn no_bytes_do_harm_to_the_format() {
    format_fuzz::bounded::run_all(TARGETS);
}
