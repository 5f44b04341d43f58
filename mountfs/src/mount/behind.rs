//! The warnings of a command when the backup is behind the spool of its node.

use common::spool::BehindSpool;
use common::{DataVersion, SpoolStatus, counted};
use serde_json::{Value, json};

use crate::note;

/// The warning, or the note, about changes that may not be in the backup; `None` when it is known to have all.
pub fn warning(sight: &SpoolStatus) -> Option<String> {
    match sight {
        SpoolStatus::Complete => None,
        SpoolStatus::Behind(BehindSpool { path, changes, from_version, to_version, .. }) => Some(format!(
            "warning: THIS BACKUP IS BEHIND by {} ({}): the newest changes are in {}; start the node with the backup \
             reachable to drain them",
            counted(*changes, "change"),
            versions(*from_version, *to_version),
            path.display()
        )),
        SpoolStatus::OutOfSight { host, path } => Some(format!(
            "note: the node of this backup may have newer changes in {} on {host}, which cannot be seen from here",
            path.display()
        )),
        SpoolStatus::Unreadable { path, reason } => Some(format!(
            "warning: whether this backup is behind is not known: {} cannot be read ({reason})",
            path.display()
        )),
    }
}

/// Prints the warning, if there is one.
pub fn warn(sight: &SpoolStatus) {
    if let Some(warning) = warning(sight) {
        note!("{warning}");
    }
}

/// The reason not to restore the newest version of the backup: the spool has, or may have, newer ones.
pub fn stale(sight: &SpoolStatus) -> Option<String> {
    let what = match sight {
        SpoolStatus::Behind(BehindSpool { path, changes, from_version, to_version, .. }) => format!(
            "behind by {} ({}): the newest changes are in {}",
            counted(*changes, "change"),
            versions(*from_version, *to_version),
            path.display()
        ),
        SpoolStatus::Unreadable { path, reason } => {
            format!("maybe behind its spool: {} cannot be read ({reason})", path.display())
        }
        SpoolStatus::Complete | SpoolStatus::OutOfSight { .. } => return None,
    };
    Some(format!(
        "this backup is {what}. A node that is started without the missing changes can broadcast a revoked state, and the \
         peer then takes ALL funds of that channel. Start the old node once with backup and spool reachable: then \
         the spool is drained"
    ))
}

/// The spool in JSON; `None` when the backup is known to have all changes. The fields are named as in `backup-status`; `host` and
/// `problem` are added.
pub fn to_json(sight: &SpoolStatus) -> Option<Value> {
    match sight {
        SpoolStatus::Complete => None,
        SpoolStatus::Behind(behind) => Some(json!({
            "path": behind.path,
            "changes": behind.changes,
            "from_version": behind.from_version.map(DataVersion::get),
            "to_version": behind.to_version.map(DataVersion::get),
        })),
        SpoolStatus::OutOfSight { host, path } => {
            Some(json!({"path": path, "host": host, "changes": null, "problem": "it cannot be seen from here"}))
        }
        SpoolStatus::Unreadable { path, reason } => Some(json!({"path": path, "changes": null, "problem": reason})),
    }
}

fn versions(from: Option<DataVersion>, to: Option<DataVersion>) -> String {
    match (from, to) {
        (Some(from), Some(to)) if from != to => format!("versions {from}..{to}"),
        (Some(one), _) | (None, Some(one)) => format!("version {one}"),
        (None, None) => "none of them a version".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use format::version_rules::Commit;

    use super::*;

    #[test]
    fn only_what_can_be_seen_stands_in_the_way() {
        let behind = |to| {
            SpoolStatus::Behind(BehindSpool {
                path: "/spool/x".into(),
                changes: 3,
                from_version: Some(DataVersion::new(7)),
                to_version: Some(DataVersion::new(to)),
                commit: Commit::Certain,
            })
        };
        assert!(warning(&behind(9)).is_some_and(|text| text.contains("3 changes (versions 7..9)")));
        assert!(
            warning(&behind(7))
                .is_some_and(|text| text.contains("by 3 changes (version 7): the newest changes are in /spool/x"))
        );
        assert!(stale(&behind(9)).is_some_and(|text| text.contains("/spool/x")));
        let unknown = SpoolStatus::Unreadable { path: "/backup/spool-note".into(), reason: "EIO".to_owned() };
        for text in [warning(&unknown), stale(&unknown)] {
            assert!(text.is_some_and(|text| text.contains("/backup/spool-note cannot be read (EIO)")));
        }
        let elsewhere = SpoolStatus::OutOfSight { host: "node".to_owned(), path: "/spool/x".into() };
        assert!(warning(&elsewhere).is_some_and(|text| text.contains("/spool/x on node")));
        assert_eq!(stale(&elsewhere), None);
        assert_eq!((warning(&SpoolStatus::Complete), stale(&SpoolStatus::Complete)), (None, None));
    }
}
