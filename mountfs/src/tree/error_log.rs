//! [`ErrorLog`]: logs each failure once, so that `ls` in a loop does not fill the disk.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use crate::tree::fs_error::FsError;
use common::with_causes;

/// The most texts remembered. A damaged file may affect some hundred versions, each with a text of its own.
const TEXTS_MAX: usize = 4096;

/// The texts that have been logged.
#[derive(Debug, Default)]
pub struct ErrorLog(Mutex<HashSet<String>>);

impl ErrorLog {
    /// Logs an error, unless the same was logged before.
    pub fn log_once(&self, error: &FsError) {
        if let Some(text) = self.new_text(error) {
            log::error!("{text}");
        }
    }

    fn new_text(&self, error: &FsError) -> Option<String> {
        let text = with_causes(error);
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.contains(&text) {
            return None;
        }
        if logged.len() >= TEXTS_MAX {
            logged.clear();
        }
        logged.insert(text.clone());
        Some(text)
    }

    /// Forgets all texts: the same text may mean another failure now.
    pub fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_logged_once_and_all_is_remembered_within_bounds() {
        let log = ErrorLog::default();
        let error = |number: usize| FsError::NewestUnknown { problem: number.to_string() };
        assert!(log.new_text(&error(0)).is_some());
        assert!(log.new_text(&error(0)).is_none());
        for number in 1..3 * TEXTS_MAX {
            assert!(log.new_text(&error(number)).is_some());
            assert!(log.0.lock().unwrap().len() <= TEXTS_MAX);
        }
        log.forget();
        assert!(log.new_text(&error(3 * TEXTS_MAX - 1)).is_some());
    }
}
