//! Every call of the script fails once.

use std::sync::Arc;

use super::checked::{Images, is_short, size};
use super::disk::{Cause, Fault, Kind};
use super::play::{Tally, play_with};
use super::script::{Script, Then};

/// How a call fails: the error, and whether a write leaves its first half.
const FAULTS: [(i32, bool); 3] = [(libc::EIO, false), (libc::ENOSPC, false), (libc::ENOSPC, true)];

/// The reaction to a failed write.
const THEN: [Then; 4] = [Then::Die, Then::Reopen, Then::Die, Then::Spool];

#[test]
fn whichever_changing_call_fails_the_hook_is_refused_or_the_change_is_durable() {
    let (runs, total, checked) = fail_one_call_of(Kind::Changing, 3);
    assert!(total.versions_dropped > 200, "{total:?}");
    assert!(runs > 40 && total.failed_in_the_background > 5 && checked > 100, "{runs} {total:?} {checked}");
}

#[test]
fn whichever_reading_call_fails_the_hook_is_refused_or_the_change_is_durable() {
    let (runs, total, checked) = fail_one_call_of(Kind::Reading, 48);
    assert!(runs > 20 && total.failed_in_the_background > 2 && checked > 50, "{runs} {total:?} {checked}");
}

/// Plays the script once for each of its calls of this kind that is due, which fails. Of so many one is due; of five times as
/// many unless a size is set. Returns the runs, what happened in them, and the images of power cuts behind them.
fn fail_one_call_of(kind: Kind, every: usize) -> (usize, Tally, usize) {
    let size = size() as usize;
    let every = if is_short() { 5 * every + 1 } else { every.div_ceil(size) };
    let mut images = Images::new(100);
    let home = Arc::clone(&images.home);
    let script = Script::new(0, 1);
    let counted = play_with(&home, &script, None, Then::Die);
    let (mut total, mut runs) = (Tally::default(), 0);
    for (turn, nth) in (0..counted.disk.calls(kind)).step_by(every).enumerate() {
        // In turn, or all of them in a larger campaign.
        let faults = FAULTS.into_iter().enumerate().filter(|(position, _)| size > 2 || turn % 3 == *position);
        for (position, (errno, is_short)) in faults {
            let then = THEN[(turn / 3 + position) % THEN.len()];
            let fault = Fault { kind, nth, errno, is_short, cause: Cause::Campaign };
            let mut play = play_with(&home, &script, Some(fault), then);
            let failed = play.disk.failed().into_iter().find(|failed| failed.cause == Cause::Campaign);
            let failed = failed.unwrap_or_else(|| panic!("there is no call {nth}"));
            let what = format!("call {nth} ({}) fails with {errno}, short {is_short}, {then:?}: ", failed.what);
            if let Err(error) = std::mem::replace(&mut play.result, Ok(())) {
                images.failures.push(format!("{what}{error}"));
            }
            runs += 1;
            total.add(&play.tally);
            images.check_behind(&play.disk.journal(), failed.after, &what);
        }
    }
    println!("failing calls, {kind:?}: {runs} runs, {total:?}");
    (runs, total, images.end("power cuts behind them"))
}
