//! The years before the first recorded version: a database as large as that of a node that has run for long.
//!
//! Its rows are those that a lap of the trace leaves behind, many times over, each time in another disguise: the proportion
//! of the tables, the sizes of rows and the spread of keys are real. Their keys come before those of the laps that are
//! recorded; the indexes over hashes and labels are changed all over. The rows lie close together, as after the VACUUM that
//! `lightningd` does when it migrates.

use std::collections::HashSet;
use std::path::Path;

use anyhow::Context as _;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::disguise::Disguise;
use super::keys::Kind;
use super::laps::Laps;
use super::node_database::NodeDatabase;

/// Of a channel: `lightningd` deletes at its next start what it knows of the payments through channels that are closed.
/// Those before the first recorded version are still open.
const CLOSED: Value = Value::Integer(10);
const OPEN: Value = Value::Integer(3);

/// A table with fewer rows after a lap takes no room that matters.
const ROWS_OF_GROWING: usize = 1000;

/// Seconds that a lap is thought to have taken.
const SECONDS_OF_LAP: i64 = 200_000;

/// Rows that a lap leaves behind.
pub struct Padding<'a> {
    laps: &'a Laps,
    tables: Vec<Table>,
}

struct Table {
    name: String,
    insert: String,
    kinds: Vec<Kind>,
    /// Column with the state of a channel.
    state: Option<usize>,
    /// Whether all rows are there however little of the lap is wanted: others refer to them, or the next lap goes on
    /// counting from them.
    is_whole: bool,
    rows: Vec<Vec<Value>>,
}

impl<'a> Padding<'a> {
    /// Reads what is in the database `end` of the lap and was not in that of its start.
    pub fn read(laps: &'a Laps, start: &Path, end: &Path) -> anyhow::Result<Self> {
        let [start, end] = [start, end].map(Connection::open);
        let (start, end) = (start?, end?);
        let growing = laps.growing_tables();
        let mut tables = Vec::new();
        let mut names = end.prepare("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid")?;
        for name in names.query_map([], |row| row.get::<_, String>(0))? {
            let name = name?;
            if growing.contains(name.as_str()) {
                tables.push(Table::read(&name, laps, &start, &end).with_context(|| format!("table {name}"))?);
            }
        }
        Ok(Self { laps, tables })
    }

    /// Adds to `database` laps of rows until it has about `bytes`. The last of them are whole; of the first there may be a
    /// part only. Returns how many laps; the one to be played next has that number.
    pub fn fill(&self, database: &NodeDatabase, bytes: u64) -> anyhow::Result<u64> {
        let missing = bytes.saturating_sub(database.size()?);
        let lap = self.bytes_of_lap(database)?;
        let whole = missing / lap;
        database.execute("PRAGMA foreign_keys = OFF")?;
        let part = (missing % lap) as f64 / lap as f64;
        self.add(database, 0, part)?;
        for number in 1..=whole {
            self.add(database, number, 1.0)?;
        }
        let laps = whole + 1;
        self.count_variables(database, laps)?;
        database.execute("PRAGMA foreign_keys = ON")?;
        let broken = database.connection().prepare("PRAGMA foreign_key_check")?.exists([])?;
        anyhow::ensure!(!broken, "BUG: rows of the padding refer to others that are not there");
        Ok(laps)
    }

    /// What a lap takes, found in a copy of the schema.
    fn bytes_of_lap(&self, database: &NodeDatabase) -> anyhow::Result<u64> {
        let aside = NodeDatabase::open(Path::new(":memory:"))?;
        let mut schema = database.connection().prepare("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")?;
        for sql in schema.query_map([], |row| row.get::<_, String>(0))? {
            aside.execute(&sql?)?;
        }
        aside.execute("PRAGMA foreign_keys = OFF")?;
        let empty = aside.size()?;
        self.add(&aside, 0, 1.0)?;
        Ok((aside.size()? - empty).max(1))
    }

    /// Adds the rows of a lap, or the last `part` of them.
    fn add(&self, database: &NodeDatabase, lap: u64, part: f64) -> anyhow::Result<()> {
        let disguise = Disguise::of(lap);
        let seconds = i64::try_from(lap)?.saturating_mul(SECONDS_OF_LAP);
        database.execute("BEGIN")?;
        for table in &self.tables {
            let mut insert = database.connection().prepare_cached(&table.insert)?;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a length")]
            let left_out = if table.is_whole { 0 } else { (table.rows.len() as f64 * (1.0 - part)) as usize };
            for row in table.rows.iter().skip(left_out) {
                let values = row.iter().zip(&table.kinds).enumerate().map(|(column, (value, &kind))| {
                    if table.state == Some(column) && *value == CLOSED {
                        return OPEN;
                    }
                    self.laps.value(value, kind, seconds, &disguise)
                });
                insert.execute(params_from_iter(values)).with_context(|| format!("a row of table {}", table.name))?;
            }
        }
        database.execute("COMMIT")?;
        Ok(())
    }

    /// Sets the node's variables to what they are after `laps` laps.
    fn count_variables(&self, database: &NodeDatabase, laps: u64) -> anyhow::Result<()> {
        let disguise = Disguise::of(laps);
        let mut update = database.connection().prepare("UPDATE vars SET intval = intval + ?2 WHERE name = ?1")?;
        let mut insert = database.connection().prepare("INSERT OR IGNORE INTO vars (name, intval) VALUES (?1, 0)")?;
        for (name, domain) in self.laps.keys().variables() {
            insert.execute([name])?;
            let counted = disguise.key(0, self.laps.keys().span(domain));
            if counted > 0 {
                update.execute((name, counted))?;
            }
        }
        Ok(())
    }
}

impl Table {
    fn read(name: &str, laps: &Laps, start: &Connection, end: &Connection) -> anyhow::Result<Self> {
        let keys = laps.keys().table(name).context("BUG: it is in the schema")?;
        let columns: Vec<_> = keys.columns().iter().map(|(column, _)| format!("\"{column}\"")).collect();
        let parameters = vec!["?"; columns.len()].join(", ");
        // A few rows of a lap replace some of the lap before, such as the last blocks after a restart.
        let insert = format!("INSERT OR IGNORE INTO \"{name}\" ({}) VALUES ({parameters})", columns.join(", "));
        let select = format!("SELECT {} FROM \"{name}\" ORDER BY rowid", columns.join(", "));
        let there: HashSet<String> = rows(start, &select)?.iter().map(|row| format!("{row:?}")).collect();
        let mut rows = rows(end, &select)?;
        rows.retain(|row| !there.contains(&format!("{row:?}")));
        let referred = "SELECT 1 FROM sqlite_master AS t, pragma_foreign_key_list(t.name) AS f WHERE t.type = 'table' AND f.\"table\" = ?1";
        let is_whole = rows.len() < ROWS_OF_GROWING || end.prepare(referred)?.exists([name])?;
        let state = keys.columns().iter().position(|(column, _)| name == "channels" && column == "state");
        let kinds = keys.columns().iter().map(|&(_, kind)| kind).collect();
        Ok(Self { name: name.to_owned(), insert, kinds, state, is_whole, rows })
    }
}

fn rows(database: &Connection, select: &str) -> rusqlite::Result<Vec<Vec<Value>>> {
    let mut select = database.prepare(select)?;
    let columns = select.column_count();
    select.query_map([], |row| (0..columns).map(|column| row.get(column)).collect())?.collect()
}
