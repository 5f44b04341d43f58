//! A bounded run of the fuzz targets. `BACKUPFS_FUZZ_INPUTS`: how many inputs, for each target as many as it is cheap;
//! `BACKUPFS_FUZZ_SEED`: others; `BACKUPFS_FUZZ_TARGET`: of one target only; `BACKUPFS_FUZZ_CORPUS`: a directory that gets
//! the corpus, for cargo-fuzz.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use tests::fuzz::allocated::{Counting, peak_of};
use tests::fuzz::corpus::CORPUS;
use tests::fuzz::mutator::Mutator;
use tests::fuzz::{TARGETS, Target};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// For one input of any target, on a busy machine.
const LONGEST: Duration = Duration::from_secs(20);

fn from_env(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Runs a target on an input; whether that was understood, or what went wrong.
fn wrong(target: &Target, input: &[u8]) -> Result<bool, String> {
    let started = Instant::now();
    let mut understood = None;
    let peak = peak_of(|| {
        understood = catch_unwind(AssertUnwindSafe(|| (target.run)(input))).ok();
    });
    let took = started.elapsed();
    let most = (target.bytes_max)(input.len() as u64);
    match understood {
        None => Err("panicked".to_owned()),
        _ if peak > most => Err(format!("allocated {peak} bytes where {most} are the most")),
        _ if took > LONGEST => Err(format!("took {took:?}")),
        Some(understood) => Ok(understood),
    }
}

/// The input without what is not needed for it to go wrong.
fn smallest(target: &Target, mut input: Vec<u8>) -> Vec<u8> {
    let mut step = input.len() / 2;
    while step > 0 {
        let mut at = 0;
        while at < input.len() {
            let mut shorter = input.clone();
            shorter.drain(at..(at + step).min(input.len()));
            if wrong(target, &shorter).is_err() {
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
    let corpus = (target.corpus)(&CORPUS);
    let mut mutator = Mutator::new(&corpus, seed);
    let (started, mut tried, mut understood) = (Instant::now(), 0_u64, 0_u64);
    let made = std::iter::repeat_with(|| mutator.next_input()).take(usize::try_from(inputs).unwrap_or(usize::MAX));
    for input in corpus.iter().cloned().chain(made) {
        tried += 1;
        match wrong(target, &input) {
            Ok(was_understood) => understood += u64::from(was_understood),
            Err(what) => {
                let small = if input.len() < 20_000 { smallest(target, input) } else { input };
                let shown = &small[..small.len().min(400)];
                return Err(format!("{}: {what}: {} bytes: {shown:02x?}", target.name, small.len()));
            }
        }
    }
    println!(
        "{:16} {tried:8} inputs, {understood:8} understood, {:8.2} s",
        target.name,
        started.elapsed().as_secs_f64()
    );
    assert!(understood > 0, "{}: not even its corpus is understood", target.name);
    Ok(())
}

#[test]
fn no_bytes_do_harm() {
    let inputs = from_env("BACKUPFS_FUZZ_INPUTS", 60_000);
    let seed = from_env("BACKUPFS_FUZZ_SEED", 1);
    if let Some(to) = std::env::var_os("BACKUPFS_FUZZ_CORPUS") {
        tests::fuzz::write_corpus(to.as_ref()).expect("a directory for the corpus");
    }
    let only = std::env::var("BACKUPFS_FUZZ_TARGET").ok();
    let targets = TARGETS.iter().filter(|target| only.as_ref().is_none_or(|only| only == target.name));
    let (targets, wrong) = (Mutex::new(targets), Mutex::new(Vec::new()));
    let work = || {
        // Not held while a target runs.
        let next = || targets.lock().expect("nobody panics with it").next();
        while let Some(target) = next() {
            let outcome = run(target, inputs / target.weight, seed);
            wrong.lock().expect("nobody panics with it").extend(outcome.err());
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let wrong = wrong.into_inner().expect("nobody panics with it");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
