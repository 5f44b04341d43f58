//! Power fails at every call of the script; also after a recorder was killed there and another has gone on.

use std::sync::Arc;

use super::check::state_of;
use super::checked::{Images, is_short, size};
use super::disk::{Call, Disk};
use super::home::{BACKUP, Home, drain};
use super::images::{Tearing, Watch};
use super::model::{Existence, Promise, State};
use super::onward::{BEGINS_A_LOG, Next};
use super::play::journal_of;
use super::random::Random;
use crate::recording::BackupWriter;

#[test]
fn a_power_cut_at_any_call_loses_nothing_that_was_acknowledged() {
    let size = size();
    let mut images = Images::new(12);
    let mut calls = 0;
    let times = if is_short() { 1 } else { 2 * size as usize };
    let tearing = Tearing { bytes: times, samples: times };
    for seed in 0..size.into() {
        let journal = journal_of(&images.home, seed);
        let mut watch = Watch::new(&Home::disk());
        let mut random = Random(seed);
        for call in &journal {
            watch.see(call);
            calls += 1;
            // Unless a size is set, at each third.
            if is_short() && calls % 3 != 0 {
                continue;
            }
            watch.for_images(tearing, &mut random, &mut |image| images.check(&image, &format!("seed {seed}, ")));
        }
    }
    let checked = images.end(&format!("power cuts after calls out of {calls}"));
    assert!(checked > 400, "{checked}: the script is shorter now");
}

/// A recorder is killed at any call, and the next recorder goes on. Only the next recorder can make the records that it goes on
/// from durable. Then power fails.
#[test]
fn a_recorder_that_goes_on_from_one_that_was_killed_loses_nothing_in_a_power_cut() {
    let size = size();
    let mut images = Images::new(20);
    let (mut kills, mut random) = (0, Random(5));
    for seed in 0..size.into() {
        let journal = journal_of(&images.home, seed);
        let mut watch = Watch::new(&Home::disk());
        for (position, call) in journal.iter().enumerate() {
            watch.see(call);
            // All of them in a larger campaign; names are what the next one depends on most.
            let is_due = matches!(call, Call::Name { .. }) || size > 1 && !matches!(call, Call::Promise(_));
            if !is_due && position % if is_short() { 24 } else { 8 } != 0 {
                continue;
            }
            kills += 1;
            let Some(gone_on) = go_on_from(&images.home, &watch) else { continue };
            let mut watch = watch.clone();
            let what = format!("seed {seed}, killed after call {position}, ");
            for call in &gone_on {
                watch.see(call);
                if call.acknowledges() || size > 1 {
                    watch.for_images(Tearing::WHOLE, &mut random, &mut |image| images.check(&image, &what));
                }
            }
        }
    }
    let checked = images.end(&format!("power cuts behind each of {kills} kills"));
    assert!(checked > 400, "{checked}: the script is shorter now");
}

/// What the next recorder does: it opens what is there, drains it, records, begins a log without a preallocated file, makes one,
/// and begins another log. `None` when there is no backup yet.
fn go_on_from(home: &Home, watch: &Watch) -> Option<Vec<Call>> {
    let disk = Disk::of(watch.visible(), Vec::new());
    disk.directory(BACKUP)?;
    // No recorder starts before `init` has written `backup.lock`, which is its last step.
    let promise = watch.promise().filter(|promise| promise.existence == Existence::Certain)?;
    let mut recording = home.open_alone(&disk).unwrap();
    let state = state_of(home, &disk.tree(), &promise.whole).unwrap();
    let spooled = recording.spooled().is_some();
    let mut play = Continued { disk, state, backup: if spooled { promise.backup.clone() } else { Vec::new() } };
    play.record(&mut recording, 10);
    if spooled {
        drain(&play.disk, &mut recording).unwrap();
        play.backup.clear();
        play.promise(&[]);
    }
    play.record(&mut recording, BEGINS_A_LOG);
    recording.preallocate().unwrap();
    play.record(&mut recording, BEGINS_A_LOG);
    play.record(&mut recording, 10);
    Some(play.disk.journal())
}

/// A recorder that goes on from another one.
struct Continued {
    disk: Disk,
    state: Arc<State>,
    backup: Vec<Arc<State>>,
}

impl Continued {
    fn promise(&self, more: &[Arc<State>]) {
        let mut whole = vec![Arc::clone(&self.state)];
        whole.extend(more.iter().cloned());
        let backup = self.backup.iter().chain(&whole).cloned().collect();
        self.disk.promise(Promise { backup, whole, existence: Existence::Certain });
    }

    fn record(&mut self, recording: &mut BackupWriter, bytes: usize) {
        let next = Next::after(&self.state, recording, bytes);
        self.promise(&[Arc::clone(&next.state)]);
        next.record(recording).unwrap();
        self.backup.extend((!self.backup.is_empty()).then(|| Arc::clone(&next.state)));
        self.state = next.state;
        self.promise(&[]);
    }
}
