//! The campaign would notice if one kind of sync were not made.

use std::collections::{BTreeMap, BTreeSet};

use super::checked::{Images, size};
use super::disk::{Call, NameChange, Node, ROOT, Tree};
use super::home::Home;
use super::images::{Tearing, Watch};
use super::play::journal_of;
use super::random::Random;

/// Syncs that a power cut does not show to be needed, and why they are made.
const NOT_NEEDED: [(&str, &str); 20] = [
    (".backupfs-init.x, in which checked.tmp became checked", "without the note the snapshot is checked again"),
    (".backupfs-init.x, in which log.tmp became log", "that of the snapshot's name comes later"),
    (".backupfs-init.x, in which manifest.tmp became manifest", "the same"),
    (".backupfs-init.x, in which snapshot.tmp became snapshot", "that of the note's name comes later"),
    (".backupfs-init.x/LOCK", "it is empty"),
    (".backupfs-init.x/checked.tmp", "without the note the snapshot is checked again"),
    (".backupfs-init.x/log.tmp", "the first record is synced later; an empty backup has none"),
    ("lightning-dir, in which nothing", "what is not there was removed for good before"),
    ("node.bkp, in which log was removed", "what is removed is not needed, and may stay"),
    ("node.bkp, in which manifest.tmp became manifest", "the old manifest is as good, and written again"),
    ("node.bkp, in which nothing", "by a recorder that cannot know what the one before has left undone"),
    (
        "node.bkp, in which parity-manifest was removed",
        "only if the manifest rots, too, before the next start makes it again",
    ),
    ("node.bkp, in which parity-snapshot.tmp became parity-snapshot", "parity that is missing is made again"),
    ("node.bkp, in which segment was removed", "what is removed is not needed, and may stay"),
    ("node.bkp, in which preallocated was removed", "what is removed is not needed, and may stay"),
    ("node.bkp, in which spool-note.tmp became spool-note", "others follow before anything is spooled"),
    ("spool, in which nothing", "by a recorder that cannot know what the one before has left undone"),
    ("spool, in which preallocated became log", "another recorder is started before the next log is made"),
    ("spool, in which spool was removed", "a header alone is an empty spool"),
    ("spool, in which spool.tmp became spool", "that of the first log's name comes later"),
];

/// A file's name without its number.
fn kind_of(name: &str) -> String {
    name.chars().filter(|c| !c.is_ascii_digit()).collect::<String>().replace("-.", ".").trim_end_matches('-').to_owned()
}

/// What every sync in a journal is a sync of: a file, by the name that it has then; a directory, by what was changed in it
/// last.
fn kinds_of_syncs(start: &Tree, journal: &[Call]) -> Vec<Option<String>> {
    let mut tree = start.clone();
    let mut last_changes: BTreeMap<usize, String> = BTreeMap::new();
    journal
        .iter()
        .map(|call| match call {
            Call::Name { directory, change } => {
                if let NameChange::Create { node: Node::Directory(number), .. } = change {
                    tree.directories.resize(tree.directories.len().max(number + 1), BTreeMap::new());
                }
                change.apply(&mut tree.directories[*directory]);
                let text = match change {
                    NameChange::Create { name, .. } => format!("{} was made", kind_of(name)),
                    NameChange::Rename { from, to } => format!("{} became {}", kind_of(from), kind_of(to)),
                    NameChange::Remove { name } => format!("{} was removed", kind_of(name)),
                };
                last_changes.insert(*directory, text);
                None
            }
            Call::Sync(file) => Some(path_of(&tree, Node::File(*file))),
            Call::SyncNames(directory) => {
                let last = last_changes.remove(directory).unwrap_or("nothing".to_owned());
                Some(format!("{}, in which {last}", path_of(&tree, Node::Directory(*directory))))
            }
            Call::Write { .. } | Call::SyncFailed(_) | Call::Promise(_) => None,
        })
        .collect()
}

fn path_of(tree: &Tree, node: Node) -> String {
    if node == Node::Directory(ROOT) {
        return "the place".to_owned();
    }
    let found = tree.directories.iter().enumerate().find_map(|(directory, names)| {
        let (name, _) = names.iter().find(|(_, of)| **of == node)?;
        Some((directory, kind_of(name)))
    });
    match found {
        Some((ROOT, name)) => name,
        Some((directory, name)) => format!("{}/{name}", path_of(tree, Node::Directory(directory))),
        None => "what has no name".to_owned(),
    }
}

/// Whether a power cut would show that these calls were left out.
fn is_missed(images: &mut Images, journal: &[Call], leave_out: &dyn Fn(usize) -> bool) -> bool {
    let mut random = Random(3);
    // Before the first of them it is as if nothing was left out, and other tests look at that.
    let first = (0..journal.len()).find(|&position| leave_out(position)).unwrap_or(journal.len());
    let mut watch = Watch::new(&Home::disk());
    for (position, call) in journal.iter().enumerate() {
        if leave_out(position) {
            continue;
        }
        watch.see(call);
        // What was not synced shows when something has been acknowledged, or when other names last.
        if position > first && (call.acknowledges() || matches!(call, Call::Name { .. })) {
            watch.for_images(Tearing::WHOLE, &mut random, &mut |image| images.check(&image, ""));
        }
        if !std::mem::take(&mut images.failures).is_empty() {
            return true;
        }
    }
    false
}

#[test]
fn every_kind_of_sync_that_is_left_out_is_noticed() {
    let journal = journal_of(&Home::new(), 0);
    let kinds = kinds_of_syncs(&Home::disk(), &journal);
    let all: BTreeSet<&str> = kinds.iter().flatten().map(String::as_str).collect();
    let not_needed: BTreeSet<&str> = NOT_NEEDED.iter().map(|(kind, _)| *kind).collect();
    assert!(not_needed.is_subset(&all), "{:?}", not_needed.difference(&all));
    let missed = |images: &mut Images, kind: &str| {
        is_missed(images, &journal, &|position| kinds[position].as_deref() == Some(kind))
    };
    // What was found to be good is not looked at again, whichever kind is left out then.
    let mut images = Images::new(10);
    // Some of it shows in a database only, and of those the first look reads a sample.
    let mut is_noticed = |kind: &str| missed(&mut images, kind) || missed(&mut Images::new(1), kind);
    let unnoticed: Vec<_> = all.difference(&not_needed).filter(|kind| !is_noticed(kind)).collect();
    assert!(unnoticed.is_empty(), "no test notices when these are not synced: {unnoticed:?}");
    if size() > 1 {
        for kind in &not_needed {
            assert!(!missed(&mut Images::new(10), kind), "it is needed: {kind}");
        }
    }
    println!("{} kinds of syncs, of which {} are needed", all.len(), all.len() - not_needed.len());
    assert!(all.len() > 30, "{all:?}");
}
