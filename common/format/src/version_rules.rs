//! The version rules: what an incoming `db_write` shows about the version on `lightningd`'s disk, and what to do about it.
//!
//! CLN increments `vars.data_version` inside the transaction, calls the hook with the new value, then commits (CLN
//! `db/exec.c`, `wallet/db.c`). So the version on `lightningd`'s disk while it waits in the hook is
//!
//! ```text
//! committed = data_version - (1 if the write contains the bump, else 0)        in wrapping u32 arithmetic
//! ```
//!
//! Comparing it with the newest recorded version decides everything. The rule in the documentation of the hook ("the same version
//! again: the previous one was not committed") is wrong for riders and is not used. This module is pure.

use crate::units::DataVersion;

/// Whether a write contains the *bump*, the statement that increments `vars.data_version`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bump {
    /// An ordinary change.
    Present,
    /// A rider: a change outside of any transaction, such as `PRAGMA foreign_keys = OFF;` in a migration.
    Absent,
}

impl Bump {
    /// Searches statements for the bump of `data_version`.
    pub fn find<S: AsRef<str>>(data_version: DataVersion, statements: &[S]) -> Self {
        // The bump is the last statement of every write seen so far; searching the others costs little, and prevents that a CLN
        // release that appends a statement loses a version.
        let found = statements.iter().rev().any(|statement| is_bump_of(statement.as_ref(), data_version));
        if found { Self::Present } else { Self::Absent }
    }

    /// Whether a statement seems to increment `vars.data_version` in other words than the bump, as an unknown release of CLN
    /// might.
    pub fn is_worded_otherwise<S: AsRef<str>>(statements: &[S]) -> bool {
        statements.iter().any(|statement| {
            // An INSERT into `vars` belongs to a new database.
            let statement = statement.as_ref().trim_start().to_ascii_lowercase();
            let is_update = statement.strip_prefix("update").is_some_and(|rest| rest.starts_with(char::is_whitespace));
            is_update && statement.contains("data_version")
        })
    }

    /// The version on `lightningd`'s disk while it waits for the answer to a write of this version.
    pub const fn committed(self, data_version: DataVersion) -> DataVersion {
        match self {
            Self::Present => data_version.previous(),
            Self::Absent => data_version,
        }
    }
}

/// The text of a bump up to the previous version.
pub const BUMP: &str = "UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = ";

/// Whether a statement is the bump that leads to `data_version` (CLN `wallet/db.c`, `db_data_version_incr`).
pub fn is_bump_of(statement: &str, data_version: DataVersion) -> bool {
    // CLN binds the old value as an int: above 2^31 it is printed as a negative number with the same 32 bits.
    statement
        .strip_prefix(BUMP)
        .and_then(|number| number.trim_end().trim_end_matches(';').parse::<i64>().ok())
        .is_some_and(|old| {
            i64::from(i32::MIN) <= old
                && old <= i64::from(u32::MAX)
                && DataVersion::from_database(old) == data_version.previous()
        })
}

/// Whether `lightningd` is known to have committed the newest recorded version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// The newest record is a change with a bump, and nothing follows it: `lightningd` may have died before COMMIT.
    Unknown,
    /// The version was in the database when the run ended. A power cut soon after can still undo it: SQLite does not sync the
    /// directory when it removes the journal (SQLite, "PRAGMA synchronous": EXTRA), so the journal may come back.
    Seen,
    /// The version was on disk when a rider, a snapshot or the repeat after a rewind was recorded.
    Certain,
}

impl Commit {
    /// The state of a change when it is recorded. A rider acts on a version that was already on disk.
    pub const fn after(bump: Bump) -> Self {
        match bump {
            Bump::Present => Self::Unknown,
            Bump::Absent => Self::Certain,
        }
    }
}

/// The newest version of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Newest {
    /// The version.
    pub data_version: DataVersion,
    /// Whether the version is known to be committed.
    pub commit: Commit,
}

/// The action for a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The write follows the newest version: record it.
    Append,
    /// `lightningd` died between hook and COMMIT of the newest change: record a rewind, then the write.
    Rewind,
    /// `lightningd` committed versions that were not recorded: take a snapshot of `committed`, then record the write.
    Heal {
        /// The version now on `lightningd`'s disk.
        committed: DataVersion,
    },
    /// The node runs on an old state: recording the write would bury the newer one.
    Refuse {
        /// The version now on `lightningd`'s disk.
        committed: DataVersion,
        /// The newest recorded version.
        newest: DataVersion,
    },
}

/// Applies the rules.
///
/// | committed, seen from the newest recorded version | decision |
/// | --- | --- |
/// | nothing recorded yet, and committed is 0: a new node | append |
/// | nothing recorded yet, and committed is not 0 | heal |
/// | equal | append |
/// | one behind, and the newest is a change that may have died before COMMIT, or been undone | rewind |
/// | one behind, and the newest is certain to be committed | refuse |
/// | ahead | heal |
/// | further behind | refuse |
pub fn decide(newest: Option<Newest>, data_version: DataVersion, bump: Bump) -> Decision {
    let committed = bump.committed(data_version);
    let Some(newest) = newest else {
        return if committed == DataVersion::new(0) { Decision::Append } else { Decision::Heal { committed } };
    };
    match (committed.distance_from(newest.data_version), newest.commit) {
        (0, _) => Decision::Append,
        (-1, Commit::Unknown | Commit::Seen) => Decision::Rewind,
        (distance, _) if distance > 0 => Decision::Heal { committed },
        _ => Decision::Refuse { committed, newest: newest.data_version },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(number: u32) -> DataVersion {
        DataVersion::new(number)
    }

    #[test]
    fn a_bump_in_other_words_is_noticed() {
        for statement in [
            "UPDATE vars SET intval=intval+1 WHERE name='data_version'",
            "update vars set intval = 8 where name = 'data_version' and intval = 7",
            "UPDATE vars SET data_version = data_version + 1",
        ] {
            assert_eq!(Bump::find(v(8), &[statement]), Bump::Absent, "{statement}");
            assert!(Bump::is_worded_otherwise(&["PRAGMA x", statement]), "{statement}");
        }
        for statement in
            ["PRAGMA foreign_keys = OFF;", "UPDATE vars SET intval = 1 WHERE name = 'next_pubkey'", "UPDATED"]
        {
            assert!(!Bump::is_worded_otherwise(&[statement]), "{statement}");
        }
    }

    #[test]
    fn truth_table() {
        use Bump::{Absent as Rider, Present as Change};
        use Commit::{Certain, Seen, Unknown};
        let heal = |n| Decision::Heal { committed: v(n) };
        let refuse = |committed, newest| Decision::Refuse { committed: v(committed), newest: v(newest) };
        const MAX: u32 = u32::MAX;
        const HALF: u32 = 1 << 31;
        #[rustfmt::skip]
        let rows = [
            // newest recorded            write         decision
            (None,                        (1, Change),  Decision::Append),
            (None,                        (0, Rider),   Decision::Append),
            (None,                        (1, Rider),   heal(1)),
            (None,                        (2, Change),  heal(1)),
            (None,                        (0, Change),  heal(MAX)),
            (Some((7, Unknown)),          (8, Change),  Decision::Append),
            (Some((7, Certain)),          (8, Change),  Decision::Append),
            (Some((7, Unknown)),          (7, Rider),   Decision::Append),
            (Some((7, Certain)),          (7, Rider),   Decision::Append),
            (Some((7, Unknown)),          (7, Change),  Decision::Rewind),
            (Some((7, Unknown)),          (6, Rider),   Decision::Rewind),
            (Some((7, Seen)),             (8, Change),  Decision::Append),
            (Some((7, Seen)),             (7, Change),  Decision::Rewind),
            (Some((7, Seen)),             (9, Change),  heal(8)),
            (Some((7, Seen)),             (6, Change),  refuse(5, 7)),
            (Some((7, Certain)),          (7, Change),  refuse(6, 7)),
            (Some((7, Certain)),          (6, Rider),   refuse(6, 7)),
            (Some((7, Unknown)),          (9, Change),  heal(8)),
            (Some((7, Unknown)),          (8, Rider),   heal(8)),
            (Some((7, Certain)),          (1000, Change), heal(999)),
            (Some((7, Unknown)),          (6, Change),  refuse(5, 7)),
            (Some((7, Unknown)),          (5, Rider),   refuse(5, 7)),
            (Some((7, Certain)),          (1, Change),  refuse(0, 7)),
            // the counter wraps at 2^32
            (Some((MAX, Unknown)),        (0, Change),  Decision::Append),
            (Some((MAX, Unknown)),        (MAX, Rider), Decision::Append),
            (Some((MAX, Unknown)),        (MAX, Change), Decision::Rewind),
            (Some((0, Unknown)),          (0, Change),  Decision::Rewind),
            (Some((0, Unknown)),          (MAX, Rider), Decision::Rewind),
            (Some((0, Certain)),          (0, Change),  refuse(MAX, 0)),
            (Some((0, Unknown)),          (MAX, Change), refuse(MAX - 1, 0)),
            (Some((MAX, Unknown)),        (1, Change),  heal(0)),
            (Some((MAX, Unknown)),        (2, Change),  heal(1)),
            (Some((2, Unknown)),          (MAX, Change), refuse(MAX - 1, 2)),
            // the farthest ahead that is still ahead, and the nearest that is behind
            (Some((7, Unknown)),          (7 + HALF, Change), heal(6 + HALF)),
            (Some((7, Unknown)),          (7 + HALF, Rider), refuse(7 + HALF, 7)),
        ];
        for (newest, (data_version, bump), expected) in rows {
            let newest = newest.map(|(number, commit)| Newest { data_version: v(number), commit });
            assert_eq!(decide(newest, v(data_version), bump), expected, "{newest:?} then {data_version} {bump:?}");
        }
    }

    #[test]
    fn bump_is_recognised_by_its_exact_text_and_number() {
        let bump =
            |n: &str| format!("UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = {n}");
        assert!(is_bump_of(&bump("41"), v(42)));
        assert!(is_bump_of(&bump("41;"), v(42)));
        assert!(!is_bump_of(&bump("42"), v(42)));
        assert!(!is_bump_of(&bump(""), v(42)));
        assert!(!is_bump_of(&bump("41 OR 1"), v(42)));
        assert!(!is_bump_of("PRAGMA foreign_keys = OFF;", v(42)));
        // 2^31 and above are printed as negative ints
        assert!(is_bump_of(&bump("-2147483648"), v((1 << 31) + 1)));
        assert!(is_bump_of(&bump("2147483648"), v((1 << 31) + 1)));
        assert!(is_bump_of(&bump("-1"), v(0)));
        assert!(is_bump_of(&bump("4294967295"), v(0)));
        assert!(!is_bump_of(&bump("4294967336"), v(41)), "more than 32 bits are another number");
    }

    #[test]
    fn bump_is_found_wherever_it_stands() {
        let bump = "UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = 4";
        assert_eq!(Bump::find(v(5), &["INSERT INTO a VALUES (1)", bump]), Bump::Present);
        assert_eq!(Bump::find(v(5), &[bump, "INSERT INTO a VALUES (1)"]), Bump::Present);
        assert_eq!(Bump::find(v(6), &[bump]), Bump::Absent);
        assert_eq!(Bump::find::<&str>(v(6), &[]), Bump::Absent);
    }
}
