//! A bounded run of fuzz targets, as a test.
//!
//! `BACKUPFS_FUZZ_INPUTS` is the number of inputs of a target of weight 1; heavier ones get fewer. `BACKUPFS_FUZZ_SEED`
//! makes other inputs, `BACKUPFS_FUZZ_TARGET` runs one target only.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use super::Target;
use super::allocated::peak_of;
use super::mutator::Mutator;

/// Time limit for one input of any target, on a busy machine.
const LONGEST: Duration = Duration::from_secs(20);

fn from_env(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Runs a target on an input: whether that was valid, or what failed.
fn try_input(target: &Target, input: &[u8]) -> Result<bool, String> {
    let started = Instant::now();
    let mut valid = None;
    let peak = peak_of(|| {
        valid = catch_unwind(AssertUnwindSafe(|| (target.run)(input))).ok();
    });
    let took = started.elapsed();
    let most = (target.bytes_max)(input.len() as u64);
    match valid {
        None => Err("panicked".to_owned()),
        _ if peak > most => Err(format!("allocated {peak} bytes where {most} are the most")),
        _ if took > LONGEST => Err(format!("took {took:?}")),
        Some(valid) => Ok(valid),
    }
}

/// The input without the bytes that the failure does not need.
fn smallest(target: &Target, mut input: Vec<u8>) -> Vec<u8> {
    let mut step = input.len() / 2;
    while step > 0 {
        let mut at = 0;
        while at < input.len() {
            let mut shorter = input.clone();
            shorter.drain(at..(at + step).min(input.len()));
            if try_input(target, &shorter).is_err() {
                input = shorter;
            } else {
                at += step;
            }
        }
        step /= 2;
    }
    input
}

fn run(target: &Target, inputs: u64, seed: u64) -> Result<(), String> {
    let corpus = (target.corpus)();
    let mut mutator = Mutator::new(&corpus, seed);
    let (started, mut tried, mut valid) = (Instant::now(), 0_u64, 0_u64);
    let made = std::iter::repeat_with(|| mutator.next_input()).take(usize::try_from(inputs).unwrap_or(usize::MAX));
    for input in corpus.iter().cloned().chain(made) {
        tried += 1;
        match try_input(target, &input) {
            Ok(is_valid) => valid += u64::from(is_valid),
            Err(what) => {
                let small = if input.len() < 20_000 { smallest(target, input) } else { input };
                let shown = &small[..small.len().min(400)];
                return Err(format!("{}: {what}: {} bytes: {shown:02x?}", target.name, small.len()));
            }
        }
    }
    println!("{:16} {tried:8} inputs, {valid:8} valid, {:8.2} s", target.name, started.elapsed().as_secs_f64());
    assert!(valid > 0, "{}: not even its corpus is valid", target.name);
    Ok(())
}

/// Runs targets in as many threads as there are processors. [`Counting`](super::allocated::Counting) must be the allocator, or
/// allocations are not limited.
///
/// # Panics
/// When a target fails, with the shortest input for which it does.
pub fn run_all(targets: &[Target]) {
    let inputs = from_env("BACKUPFS_FUZZ_INPUTS", 60_000);
    let seed = from_env("BACKUPFS_FUZZ_SEED", 1);
    let only = std::env::var("BACKUPFS_FUZZ_TARGET").ok();
    let targets = targets.iter().filter(|target| only.as_ref().is_none_or(|only| only == target.name));
    let (targets, failures) = (Mutex::new(targets), Mutex::new(Vec::new()));
    let work = || {
        // Not locked while a target runs.
        let next = || targets.lock().expect("not poisoned").next();
        while let Some(target) = next() {
            let outcome = run(target, inputs / target.weight, seed);
            failures.lock().expect("not poisoned").extend(outcome.err());
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let failures = failures.into_inner().expect("not poisoned");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
