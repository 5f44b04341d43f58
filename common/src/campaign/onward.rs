//! Further recording from any state.

use std::sync::Arc;

use super::model::{Held, State};
use crate::log::DbWrite;
use crate::recording::BackupWriter;
use crate::storage::causes::with_causes;
use format::units::{DataVersion, Timestamp};

/// Length of a change that begins a log wherever the previous one ends.
pub(super) const BEGINS_A_LOG: usize = 2800;

/// The next change, with the expected record.
pub(super) struct Next {
    data_version: u32,
    statements: Vec<String>,
    pub(super) state: Arc<State>,
}

impl Next {
    /// A change of about this length.
    pub(super) fn after(state: &State, recording: &BackupWriter, bytes: usize) -> Self {
        let old = state.newest().unwrap_or_default();
        let data_version = old + 1;
        let insert = format!("INSERT INTO payments (note) VALUES ('{}')", "x".repeat(bytes));
        let bump = format!("UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = {old}");
        let statements = vec![insert, bump];
        let seq = recording.end().next_seq.get();
        // The state of the database is not needed then.
        let contents = Arc::default();
        let held = Held { seq, is_snapshot: false, is_verified: true, statements: statements.clone(), contents };
        Self { data_version, statements, state: Arc::new(state.with(data_version, held)) }
    }

    pub(super) fn record(&self, recording: &mut BackupWriter) -> Result<(), String> {
        let statements: Vec<_> = self.statements.iter().map(|statement| statement.as_str().into()).collect();
        let received_at = Timestamp::from_micros(1).ok_or("no time")?;
        let data_version = DataVersion::new(self.data_version);
        let write = DbWrite { data_version, statements: &statements, received_at };
        recording.record(&write).map(|_| ()).map_err(|error| with_causes(&error))
    }
}
