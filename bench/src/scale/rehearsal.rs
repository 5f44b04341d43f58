//! A trace played once, aside: what its lap begins with, what it leads to, and so what must differ between laps.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use mountfs::demo::trace::TraceWrite;
use rusqlite::Connection;
use tempfile::TempDir;

use super::laps::Laps;
use super::node_database::NodeDatabase;
use crate::sequence::Source;

/// The databases before and after the lap, and the lap.
pub struct Rehearsal {
    /// Removed with it.
    dir: TempDir,
    /// The lap, ready to be played.
    pub laps: Laps,
}

impl Rehearsal {
    /// Plays a trace within `place`. What is before its last change of the schema, as at the first start of a node, is not
    /// part of the lap.
    pub fn play(source: &Source, place: &Path) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("rehearsal-").tempdir_in(place)?;
        let [start, end] = [start(dir.path()), end(dir.path())];
        source.start_database(&start);
        let mut writes = source.sequence()?.collect::<anyhow::Result<Vec<_>>>()?;
        let lap = writes.split_off(writes.iter().rposition(changes_schema).map_or(0, |last| last + 1));
        play(&start, &writes)?;
        fs::copy(&start, &end)?;
        play(&end, &lap)?;
        let laps = Laps::prepare(lap, &Connection::open(&start)?, &Connection::open(&end)?)?;
        Ok(Self { dir, laps })
    }

    /// The database before the lap.
    pub fn start(&self) -> PathBuf {
        start(self.dir.path())
    }

    /// The database after it.
    pub fn end(&self) -> PathBuf {
        end(self.dir.path())
    }
}

fn start(dir: &Path) -> PathBuf {
    dir.join("start.sqlite3")
}

fn end(dir: &Path) -> PathBuf {
    dir.join("end.sqlite3")
}

fn play(path: &Path, writes: &[TraceWrite]) -> anyhow::Result<()> {
    let database = NodeDatabase::open(path)?;
    for write in writes {
        let statements = write.statements.iter().map(String::as_str);
        database
            .change(statements, || Ok(()))
            .with_context(|| format!("version {} of the trace", write.data_version))?;
    }
    Ok(())
}

fn changes_schema(write: &TraceWrite) -> bool {
    let changes_rows =
        |sql: &String| ["INSERT", "UPDATE", "DELETE"].iter().any(|verb| sql.trim_start().starts_with(verb));
    !write.statements.iter().all(changes_rows)
}

#[cfg(test)]
mod tests {
    use common::Timestamp;

    use super::super::disguise::Disguise;
    use super::super::keys::VARS;
    use super::super::laps::Change;
    use super::super::literals::Statement;
    use super::*;
    use crate::sequence::SHIPPED;

    /// Rows that each statement of a lap changes, but those of the node's variables.
    fn play_lap(laps: &Laps, lap: u64, database: &NodeDatabase) -> Vec<(String, u64)> {
        let (disguise, mut change) = (Disguise::of(lap), Change::default());
        let mut changed = Vec::new();
        for position in lap * laps.len()..(lap + 1) * laps.len() {
            let at =
                Timestamp::from_micros(1_800_000_000_000_000 + i64::try_from(position).unwrap() * 7_000_000).unwrap();
            laps.write(position, at, &disguise, &mut change).unwrap();
            let before = laps.version_before(position).unwrap().to_string();
            let bump = change.statements().last().unwrap().to_owned();
            assert!(bump.ends_with(&before), "{bump} at {before}");
            database.execute("BEGIN").unwrap();
            for sql in change.statements() {
                let rows = database.execute(sql).unwrap();
                let table = Statement::read(sql).unwrap().table.to_owned();
                if table != VARS {
                    changed.push((table, rows));
                } else if sql == bump {
                    assert_eq!(rows, 1, "{sql}");
                }
            }
            database.execute("COMMIT").unwrap();
        }
        changed
    }

    #[test]
    fn laps_of_the_shipped_trace_do_the_same_to_other_rows() {
        let dir = tempfile::tempdir().unwrap();
        let rehearsal = Rehearsal::play(&Source::find(SHIPPED).unwrap(), dir.path()).unwrap();
        let laps = &rehearsal.laps;
        let database = NodeDatabase::open(&rehearsal.start()).unwrap();
        let first = play_lap(laps, 0, &database);
        let rows = || {
            let count = |table: &str| -> i64 {
                database.connection().query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
            };
            ["channel_htlcs", "payments", "invoices", "channel_moves", "channels", "peers"].map(count)
        };
        let after_first = rows();
        for lap in 1..3 {
            let again = play_lap(laps, lap, &database);
            assert_eq!(again.len(), first.len());
            for (index, (again, first)) in again.iter().zip(&first).enumerate() {
                assert_eq!(again, first, "statement {index} of lap {lap}");
            }
            assert_eq!(rows(), after_first.map(|count| count * (i64::try_from(lap).unwrap() + 1)), "after lap {lap}");
        }
        let check: String = database.connection().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        let broken = database.connection().query_row("PRAGMA foreign_key_check", [], |_| Ok(()));
        assert_eq!(broken, Err(rusqlite::Error::QueryReturnedNoRows));
    }
}
