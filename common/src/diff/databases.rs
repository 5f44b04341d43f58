//! Comparison of two versions as databases.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::ControlFlow;

use rusqlite::Connection;

use super::DiffError;
use super::entries::{DiffEntry, RowChange, RowFate, SchemaChange, TableTotals};
use super::hidden::HiddenPages;
use super::leaves::{Leaves, Scope};
use super::tree::{TreeError, Trees};
use crate::compare::any_order::for_other_rows_in_any_order;
use crate::compare::rows::{for_other_rows, values};
use crate::compare::table::{Layout, SchemaEntries, schema_entries, tables};
use crate::compare::value::Value;
use crate::pages::{MountedOverlay, OverlayPages};
use crate::replay::reason;
use format::units::PageNo;

/// Page cache of SQLite for each database, in KiB.
const CACHE_KIB: u32 = 32 << 10;

/// Callback for a difference; whether to continue.
type Take<'t> = &'t mut dyn FnMut(DiffEntry<'_>) -> ControlFlow<()>;

/// The two databases, open.
pub(super) struct Databases {
    // Dropped before the overlays that they use.
    connections: [Connection; 2],
    mounted: [MountedOverlay; 2],
    /// `None` when one of them is empty, or cannot be followed page by page.
    trees: Option<[Trees; 2]>,
}

/// A table of a database.
#[derive(Debug, Clone)]
struct OpenTable {
    layout: Layout,
    root: Option<PageNo>,
    sql: Option<String>,
}

/// The method of comparing a table.
enum Way {
    /// The table is not compared: it cannot differ.
    Same,
    /// The table is compared leaf by leaf.
    Paged(Leaves, [PageNo; 2]),
    /// Row by row.
    Whole,
}

impl Databases {
    pub(super) fn open(from: OverlayPages, to: OverlayPages) -> Result<Self, DiffError> {
        let trees = match (Trees::new(from.clone()), Trees::new(to.clone())) {
            (Ok(from), Ok(to)) => Some([from, to]),
            (Err(TreeError::Read(error)), _) | (_, Err(TreeError::Read(error))) => return Err(error.into()),
            _ => None,
        };
        let mounted = [from, to].map(MountedOverlay::new);
        let connect = |mounted: &MountedOverlay| {
            let connection = mounted.connect()?;
            connection.execute_batch(&format!("PRAGMA query_only = ON; PRAGMA cache_size = -{CACHE_KIB}"))?;
            Ok::<_, rusqlite::Error>(connection)
        };
        let connections = [connect(&mounted[0]), connect(&mounted[1])];
        match connections {
            [Ok(from), Ok(to)] => Ok(Self { connections: [from, to], mounted, trees }),
            [Err(error), _] | [_, Err(error)] => Err(error_of(&mounted, &error)),
        }
    }

    /// Compares the databases, and passes all differences to `take`.
    pub(super) fn compare(&self, scope: Scope, wanted: &[String], take: Take<'_>) -> Result<(), DiffError> {
        let fail = |error: rusqlite::Error| error_of(&self.mounted, &error);
        let schemas = [schema_entries(&self.connections[0]), schema_entries(&self.connections[1])];
        let [ours, theirs] = schemas;
        let schemas = [ours.map_err(fail)?, theirs.map_err(fail)?];
        let opened = [self.tables(0, &schemas[0]), self.tables(1, &schemas[1])];
        let [ours, theirs] = opened;
        let opened = [ours.map_err(fail)?, theirs.map_err(fail)?];
        let names: BTreeSet<&String> = opened.iter().flat_map(BTreeMap::keys).collect();
        let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted.eq_ignore_ascii_case(name));
        if let Some(unknown) = wanted.iter().find(|wanted| !names.iter().any(|name| name.eq_ignore_ascii_case(wanted)))
        {
            return Err(DiffError::NoSuchTable { table: unknown.clone() });
        }
        for change in schema_changes(&schemas).iter().filter(|change| is_wanted(&change.table)) {
            if take(DiffEntry::Schema(change)).is_break() {
                return Ok(());
            }
        }
        let names: Vec<&String> = names.into_iter().filter(|name| is_wanted(name)).collect();
        let pairs: Vec<_> = names.iter().map(|&name| (name, [opened[0].get(name), opened[1].get(name)])).collect();
        let mut ways = self.ways(&scope, &pairs)?;
        for ((name, tables), way) in pairs.into_iter().zip(&mut ways) {
            let mut totals = TableTotals::new(name);
            let mut take_row = |change: &RowChange<'_>| {
                totals.add(change.fate);
                take(DiffEntry::Row(change))
            };
            let compared = match (way, tables) {
                (Way::Same, _) => ControlFlow::Continue(()),
                (Way::Paged(leaves, _), [Some(ours), Some(_)]) => match self.rowids(leaves)? {
                    Some(rowids) => self.compare_rows(name, &ours.layout, &rowids, &mut take_row).map_err(fail)?,
                    None => self.compare_whole(name, tables, &mut take_row).map_err(fail)?,
                },
                _ => self.compare_whole(name, tables, &mut take_row).map_err(fail)?,
            };
            if compared.is_break() || (totals.is_some() && take(DiffEntry::Table(&totals)).is_break()) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn tables(&self, side: usize, schema: &SchemaEntries) -> rusqlite::Result<BTreeMap<String, OpenTable>> {
        let connection = &self.connections[side];
        let mut roots = connection.prepare("SELECT rootpage FROM sqlite_schema WHERE type = 'table' AND name = ?1")?;
        tables(connection)?
            .into_iter()
            .map(|table| {
                let layout = Layout::of(connection, &table)?;
                let root: i64 = roots.query_row([&table.name], |row| row.get(0))?;
                let root = u32::try_from(root).ok().and_then(PageNo::new);
                let sql = schema.get(&("table".to_owned(), table.name.clone())).and_then(|(_, sql)| sql.clone());
                Ok((table.name, OpenTable { layout, root, sql }))
            })
            .collect()
    }

    /// The way of comparing each table.
    fn ways(&self, scope: &Scope, pairs: &[(&String, [Option<&OpenTable>; 2])]) -> Result<Vec<Way>, DiffError> {
        let Some(trees) = self.trees.as_ref().map(|trees| trees.each_ref()) else {
            return Ok(pairs.iter().map(|_| Way::Whole).collect());
        };
        let mut interior = HashSet::new();
        let mut ways = Vec::with_capacity(pairs.len());
        for (_, tables) in pairs {
            let way = match tables {
                [Some(ours), Some(theirs)] if ours.sql == theirs.sql && ours.layout == theirs.layout => {
                    match [ours.root, theirs.root] {
                        [Some(ours_root), Some(theirs_root)] => {
                            let roots = [ours_root, theirs_root];
                            if scope.excludes(roots) {
                                Way::Same
                            } else if ours.layout.rowid.is_some() {
                                readable(scope.leaves(trees, roots, &mut interior))?
                                    .map_or(Way::Whole, |leaves| Way::Paged(leaves, roots))
                            } else {
                                Way::Whole
                            }
                        }
                        _ => Way::Whole,
                    }
                }
                _ => Way::Whole,
            };
            ways.push(way);
        }
        if let Scope::Differing(differing) = scope
            && readable(find_hidden(trees, differing, interior, &mut ways))?.is_none()
        {
            // Hidden changes cannot be located: all tables are compared as a whole.
            ways.iter_mut().for_each(|way| *way = Way::Whole);
        }
        Ok(ways)
    }

    /// The rowids of rows with different bytes on these leaves; `None` when the leaves are invalid.
    fn rowids(&self, leaves: &Leaves) -> Result<Option<Vec<i64>>, DiffError> {
        match &self.trees {
            Some(trees) => readable(other_rowids(trees.each_ref(), leaves)),
            None => Ok(None),
        }
    }

    /// Compares the rows with these rowids.
    fn compare_rows(
        &self,
        table: &str,
        layout: &Layout,
        rowids: &[i64],
        take: &mut dyn FnMut(&RowChange<'_>) -> ControlFlow<()>,
    ) -> rusqlite::Result<ControlFlow<()>> {
        if rowids.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        let sql = format!("{} WHERE {} = ?1", layout.select(table, &layout.columns), layout.rowid.unwrap_or("rowid"));
        let mut statements = [self.connections[0].prepare(&sql)?, self.connections[1].prepare(&sql)?];
        let count = statements[0].column_count();
        for rowid in rowids {
            let [ours, theirs] = &mut statements;
            let our = values(ours.query([rowid])?.next()?, count)?;
            let their = values(theirs.query([rowid])?.next()?, count)?;
            if matches!((&our, &their), (Some(our), Some(their)) if our == their) {
                continue;
            }
            if hand_out(table, layout, our.as_deref(), their.as_deref(), take).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Compares all rows of a table, with any columns.
    fn compare_whole(
        &self,
        table: &str,
        tables: [Option<&OpenTable>; 2],
        take: &mut dyn FnMut(&RowChange<'_>) -> ControlFlow<()>,
    ) -> rusqlite::Result<ControlFlow<()>> {
        let layouts = tables.map(|table| table.map(|table| &table.layout));
        let both = match layouts {
            [Some(ours), Some(theirs)] => {
                let is_rowid = |layout: &Layout| layout.rowid.is_some();
                let same_key =
                    (&ours.key, &ours.order, is_rowid(ours)) == (&theirs.key, &theirs.order, is_rowid(theirs));
                same_key && (!ours.key.is_empty() || ours.columns == theirs.columns)
            }
            _ => false,
        };
        // Rows that cannot be matched: first all of one side, then all of the other.
        let passes = if both { vec![layouts] } else { vec![[layouts[0], None], [None, layouts[1]]] };
        for pass in passes {
            let Some(layout) = joined(pass) else { continue };
            let queries =
                pass.map(|own| own.map(|own| format!("{} {}", own.select(table, &layout.columns), own.in_order())));
            let source = |side: usize| queries[side].as_deref().map(|sql| (&self.connections[side], sql));
            let mut flow = ControlFlow::Continue(());
            // Rows without a key are matched by contents.
            let compare = if layout.key.is_empty() { for_other_rows_in_any_order } else { for_other_rows };
            compare((source(0), source(1)), &layout.order, &mut |our, their| {
                flow = hand_out(table, &layout, our, their, take);
                flow
            })?;
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// The columns of either layout.
fn joined(layouts: [Option<&Layout>; 2]) -> Option<Layout> {
    let mut all = layouts[0].or(layouts[1])?.clone();
    for column in layouts.into_iter().flatten().flat_map(|layout| &layout.columns) {
        if !all.columns.contains(column) {
            all.columns.push(column.clone());
        }
    }
    Some(all)
}

fn hand_out(
    table: &str,
    layout: &Layout,
    our: Option<&[Value]>,
    their: Option<&[Value]>,
    take: &mut dyn FnMut(&RowChange<'_>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let fate = match (our, their) {
        (Some(_), Some(_)) => RowFate::Changed,
        (Some(_), None) => RowFate::Removed,
        (None, Some(_)) => RowFate::Added,
        (None, None) => return ControlFlow::Continue(()),
    };
    let key_len = layout.key.len();
    let (our_key, before) = our.and_then(|row| row.split_at_checked(key_len)).unzip();
    let (their_key, after) = their.and_then(|row| row.split_at_checked(key_len)).unzip();
    take(&RowChange {
        table,
        fate,
        key_columns: &layout.key,
        key: our_key.or(their_key).unwrap_or_default(),
        columns: &layout.columns,
        before,
        after,
    })
}

/// `None` for a tree that cannot be followed.
fn readable<T>(followed: Result<T, TreeError>) -> Result<Option<T>, DiffError> {
    match followed {
        Ok(found) => Ok(Some(found)),
        Err(TreeError::Malformed) => Ok(None),
        Err(TreeError::Read(error)) => Err(error.into()),
    }
}

fn find_hidden(
    trees: [&Trees; 2],
    differing: &HashSet<PageNo>,
    mut known: HashSet<PageNo>,
    ways: &mut [Way],
) -> Result<(), TreeError> {
    let paged = |ways: &[Way], each: &mut dyn FnMut(&Leaves) -> Result<(), TreeError>| {
        ways.iter().try_for_each(|way| if let Way::Paged(leaves, _) = way { each(leaves) } else { Ok(()) })
    };
    paged(ways, &mut |leaves| {
        known.extend(leaves.candidates.iter().flatten().copied());
        Ok(())
    })?;
    let mut hidden = HiddenPages::find(trees, differing, &known)?;
    paged(ways, &mut |leaves| hidden.leave_out(trees, leaves))?;
    for way in ways {
        if let Way::Paged(leaves, roots) = way {
            let owners = hidden.owners(trees[0], leaves)?;
            leaves.add(trees, *roots, &owners)?;
        }
    }
    Ok(())
}

/// The rowids of rows that only one side has on its leaves, or that have different bytes.
fn other_rowids(trees: [&Trees; 2], leaves: &Leaves) -> Result<Vec<i64>, TreeError> {
    let [mut ours, mut theirs] = [0, 1].map(|side: usize| trees[side].rows(&leaves.candidates[side]));
    let (mut our, mut their) = (ours.next()?, theirs.next()?);
    let mut found = Vec::new();
    loop {
        let (order, rowid) = match (&our, &their) {
            (None, None) => return Ok(found),
            (Some(our), None) => (Ordering::Less, our.rowid),
            (None, Some(their)) => (Ordering::Greater, their.rowid),
            (Some(our), Some(their)) => (our.rowid.cmp(&their.rowid), our.rowid.min(their.rowid)),
        };
        let is_same = match (&our, &their) {
            (Some(our), Some(their)) if order.is_eq() => ours.is_same(our, &theirs, their)?,
            _ => false,
        };
        if !is_same {
            found.push(rowid);
        }
        if order.is_le() {
            our = ours.next()?;
        }
        if order.is_ge() {
            their = theirs.next()?;
        }
    }
}

fn schema_changes([ours, theirs]: &[SchemaEntries; 2]) -> Vec<SchemaChange> {
    let keys: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    let change = |key: &(String, String)| {
        let (before, after) = (ours.get(key), theirs.get(key));
        let fate = match (before, after) {
            (Some(before), Some(after)) if before == after => return None,
            (Some(_), Some(_)) => RowFate::Changed,
            (Some(_), None) => RowFate::Removed,
            (None, _) => RowFate::Added,
        };
        let (table, _) = after.or(before)?;
        let sql = |entry: Option<&(String, Option<String>)>| entry.and_then(|(_, sql)| sql.clone());
        let (kind, name) = key.clone();
        Some(SchemaChange { kind, name, table: table.clone(), fate, before: sql(before), after: sql(after) })
    };
    keys.into_iter().filter_map(change).collect()
}

/// SQLite reports only a read error; the overlay has the page and the reason.
fn error_of(mounted: &[MountedOverlay; 2], error: &rusqlite::Error) -> DiffError {
    let problem = mounted.iter().find_map(MountedOverlay::take_problem);
    problem.map_or_else(|| DiffError::Unreadable { reason: reason(error) }, DiffError::Read)
}
