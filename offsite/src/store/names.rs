//! Names of objects, and of the temporary files of uploads.

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use super::{Failure, OBJECT_BYTES_MAX, StoreError};

/// The maximum length of a name.
const NAME_BYTES_MAX: usize = 200;

/// The maximum number of parts of a name: directories and file.
pub(super) const PARTS_MAX: usize = 8;

/// What the names of temporary files begin with. No name of an object has a part that begins so.
const TEMPORARY_PREFIX: &str = ".upload-";

/// Whether this can be the name of an object.
pub(super) fn is_name(name: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-')
    };
    name.len() <= NAME_BYTES_MAX && name.split('/').count() <= PARTS_MAX && name.split('/').all(is_part)
}

/// Refuses a name that cannot be the name of an object.
pub(super) fn check_name(name: &str) -> Result<(), StoreError> {
    if is_name(name) {
        return Ok(());
    }
    let shown: String = name.chars().take(NAME_BYTES_MAX).collect();
    Err(StoreError::new(
        Failure::Protocol,
        format!("{shown:?} cannot be the name of an object: this is an error of the program, so please report it"),
    ))
}

/// Refuses bytes that are too many for an object.
pub(super) fn check_len(name: &str, bytes: &[u8]) -> Result<(), StoreError> {
    if bytes.len() <= OBJECT_BYTES_MAX {
        return Ok(());
    }
    Err(StoreError::new(
        Failure::Protocol,
        format!("{name} is larger than an object may be: this is an error of the program, so please report it"),
    ))
}

/// The error for an object in the store that is larger than any object of a copy.
pub(super) fn too_large(name: &str, url: &str) -> StoreError {
    StoreError::new(
        Failure::Protocol,
        format!(
            "{name} in {url} is larger than an object of a copy can be: something else has written it, so look there"
        ),
    )
}

/// A name for a temporary file that nothing has.
pub(super) fn temporary_name() -> String {
    format!("{TEMPORARY_PREFIX}{}", Uuid::new_v4().simple())
}

/// Whether a file of a directory has a temporary name.
pub(super) fn is_temporary(file_name: &str) -> bool {
    file_name.starts_with(TEMPORARY_PREFIX)
}

/// The time `age` ago, in seconds since 1970; `None` where there is none.
pub(super) fn seconds_before_now(age: Duration) -> Option<i64> {
    let since = SystemTime::now().checked_sub(age)?.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok()
}

/// Whether objects below the directory `directory` (without `/` at its end) can have names that begin with `prefix`.
pub(super) fn leads_to(directory: &str, prefix: &str) -> bool {
    let directory = format!("{directory}/");
    directory.starts_with(prefix) || prefix.starts_with(&directory)
}

/// The bytes of `range` that an object of `len` bytes has.
pub(super) fn clip(range: Option<&Range<u64>>, len: u64) -> Range<u64> {
    match range {
        None => 0..len,
        Some(range) => {
            let end = range.end.min(len);
            range.start.min(end)..end
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_objects_are_those_of_the_interface() {
        for name in ["id", "s/1", "t/12.34", "k/0aF-9", "a/b/c/d/e/f/g/h"] {
            assert!(is_name(name), "{name}");
        }
        let long = "x".repeat(201);
        for name in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            ".",
            "..",
            "a/..",
            "a/.b",
            "a_b",
            "a b",
            "ä",
            "a\0",
            "a/b/c/d/e/f/g/h/i",
            &long,
        ] {
            assert!(!is_name(name), "{name}");
            assert_eq!(check_name(name).unwrap_err().failure, Failure::Protocol);
        }
        assert!(!is_name(&temporary_name()) && is_temporary(&temporary_name()));
    }

    #[test]
    fn a_directory_leads_to_names_by_a_prefix() {
        assert!(leads_to("s", "") && leads_to("s", "s/1") && leads_to("s", "s") && leads_to("s/t", "s/"));
        assert!(!leads_to("s", "t/") && !leads_to("s", "sx") && !leads_to("sx", "s/"));
    }

    #[test]
    fn a_range_ends_where_the_object_ends() {
        assert_eq!(clip(None, 5), 0..5);
        assert_eq!(clip(Some(&(1..3)), 5), 1..3);
        assert_eq!(clip(Some(&(3..u64::MAX)), 5), 3..5);
        assert!(clip(Some(&(9..12)), 5).is_empty());
        #[expect(clippy::reversed_empty_ranges, reason = "an error of the caller")]
        let reversed = clip(Some(&(4..2)), 5);
        assert!(reversed.is_empty());
    }
}
