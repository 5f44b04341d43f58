//! The chain alone: what is missing, exchanged or cut off is reported without reading what lies between.

use std::fs;

use super::{Copy, sample};
use crate::verify::{Depth, Report, Scope};

fn chain(copy: &Copy) -> Report {
    copy.verify_within(Scope { depth: Depth::Chain, ..Scope::default() }).unwrap()
}

#[test]
fn an_undamaged_backup_is_one_chain_with_as_many_versions() {
    let node = sample();
    let copy = Copy::of(node.backup_path());
    let (whole, chain) = (copy.verify(), chain(&copy));
    assert!(whole.is_clean() && chain.is_clean(), "{:?}", chain.findings);
    assert_eq!((chain.versions, chain.files, chain.bytes), (whole.versions, whole.files, whole.bytes));
    assert!(chain.newest.is_none() && chain.versions > 0);
}

#[test]
fn what_is_missing_cut_off_or_exchanged_is_reported() {
    let node = sample();
    let sound = Copy::of(node.backup_path());
    let segments = sound.names("segment-");
    assert!(segments.len() > 2, "{segments:?}");
    let files: Vec<String> = [segments.clone(), sound.names("snapshot-"), sound.names("log-")].concat();
    for name in &files {
        let changed = |change: &dyn Fn(&Copy)| {
            let copy = Copy::of(node.backup_path());
            change(&copy);
            let report = chain(&copy);
            let whole = copy.verify();
            assert_eq!(report.is_clean(), whole.is_clean(), "{name}: {:?} {:?}", report.findings, whole.findings);
            assert!(report.lost.without(&whole.lost).is_empty(), "{name}: {:?} {:?}", report.lost, whole.lost);
        };
        changed(&|copy| fs::remove_file(copy.path(name)).unwrap());
        if !name.starts_with("log-") {
            changed(&|copy| {
                let bytes = fs::read(copy.path(name)).unwrap();
                fs::write(copy.path(name), &bytes[..bytes.len() - 1]).unwrap();
            });
            changed(&|copy| copy.flip(name, 20));
        }
    }
    for pair in segments.windows(2) {
        let copy = Copy::of(node.backup_path());
        fs::copy(sound.path(&pair[0]), copy.path(&pair[1])).unwrap();
        assert!(!chain(&copy).is_clean(), "{pair:?}");
    }
}

/// What the chain costs is that damage in the middle is not seen.
#[test]
fn damage_in_the_middle_of_a_segment_is_left_to_a_deeper_look() {
    let node = sample();
    let copy = Copy::of(node.backup_path());
    let segment = copy.names("segment-")[1].clone();
    let len = fs::metadata(copy.path(&segment)).unwrap().len();
    copy.flip(&segment, usize::try_from(len / 2).unwrap());
    assert!(chain(&copy).is_clean());
    assert!(!copy.verify().is_clean());
}
