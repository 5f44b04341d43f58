//! The images of a campaign: each is checked once, and what is wrong is reported.

use std::collections::BTreeSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::check::{Depth, check};
use super::disk::{Call, Tree};
use super::home::Home;
use super::images::{Image, Tearing, Watch};
use super::model::Promise;
use super::random::Random;

/// How large the campaigns are. With N there are N scripts, cut at more places and torn N times as often; from 3 on every call
/// that changes something fails, in every way. The default is 1, torn half as often, and of fewer images all
/// databases are looked at.
const SIZE_VARIABLE: &str = "BACKUPFS_POWER_CUTS";

pub(super) fn size() -> u32 {
    std::env::var(SIZE_VARIABLE).ok().and_then(|size| size.parse().ok()).unwrap_or(1)
}

/// Whether no size is set.
pub(super) fn is_short() -> bool {
    std::env::var_os(SIZE_VARIABLE).is_none()
}

/// Failures that are printed before a campaign gives up.
pub(super) const TOLD_MAX: usize = 5;

/// The images that were checked, each once.
pub(super) struct Images {
    pub(super) home: Arc<Home>,
    seen: BTreeSet<u64>,
    made: usize,
    checked: usize,
    databases: usize,
    pub(super) failures: Vec<String>,
    random: Random,
    /// Of so many images one is looked at with all its databases.
    databases_every: usize,
}

impl Images {
    pub(super) fn new(databases_every: usize) -> Self {
        let databases_every = if is_short() { 3 * databases_every } else { databases_every };
        let (home, seen, random) = (Arc::new(Home::new()), BTreeSet::new(), Random(11));
        Self { home, seen, made: 0, checked: 0, databases: 0, failures: Vec::new(), random, databases_every }
    }

    pub(super) fn check(&mut self, image: &Image, what: &str) {
        self.made += 1;
        let fingerprint = fingerprint(&image.tree, &image.promise);
        if self.failures.len() >= TOLD_MAX || !self.seen.insert(fingerprint) {
            return;
        }
        self.checked += 1;
        let is_deep = self.random.below(self.databases_every) == 0;
        self.databases += usize::from(is_deep);
        let depth = if is_deep { Depth::Databases } else { Depth::Records };
        if let Err(error) = check(&self.home, &image.tree, &image.promise, depth) {
            self.seen.remove(&fingerprint);
            let names: Vec<_> = image.tree.paths().into_keys().collect();
            self.failures.push(format!("{what}{}: {error}\n  there is {names:?}", image.cut));
        }
    }

    /// Checks what a power cut leaves soon after so many calls of a journal, whenever something was acknowledged, and at
    /// the end.
    pub(super) fn check_behind(&mut self, journal: &[Call], after: usize, what: &str) {
        let mut watch = Watch::new(&Home::disk());
        for (position, call) in journal.iter().enumerate() {
            watch.see(call);
            let is_soon = (after..after + CUTS_BEHIND).contains(&position) && call.acknowledges();
            if is_soon || position + 1 == journal.len() {
                let mut random = Random(position as u64);
                watch.for_images(Tearing::WHOLE, &mut random, &mut |image| self.check(&image, what));
            }
        }
    }

    #[track_caller]
    pub(super) fn end(self, what: &str) -> usize {
        assert!(self.failures.is_empty(), "{what}:\n{}", self.failures.join("\n"));
        println!(
            "{what}: {} images, {} of them different and checked, {} with every database",
            self.made, self.checked, self.databases
        );
        self.checked
    }
}

fn fingerprint(tree: &Tree, promise: &Arc<Promise>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (path, contents) in tree.paths() {
        (path, contents.len(), crc32c::crc32c(&contents)).hash(&mut hasher);
    }
    Arc::as_ptr(promise).hash(&mut hasher);
    hasher.finish()
}

/// Calls behind one that fails at which power may fail, too.
const CUTS_BEHIND: usize = 20;
