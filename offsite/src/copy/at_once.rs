//! [`at_once`]: many requests at the same time, because each way to the store and back takes long.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// The number of requests at a time.
const AT_ONCE: usize = 32;

/// Calls `each` for every item, 32 at a time, and returns the results in the order of the items.
pub(super) fn at_once<T: Sync, R: Send>(items: &[T], each: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(items.len())));
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { break };
            let result = each(item);
            done.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
        }
    };
    thread::scope(|scope| {
        for _ in 1..AT_ONCE.min(items.len()) {
            // Without the thread the others do its work.
            if let Err(error) = thread::Builder::new().name("requests".to_owned()).spawn_scoped(scope, work) {
                log::debug!("fewer requests at the same time: {error}");
            }
        }
        work();
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items() {
        for count in [0, 1, 5, 16, 100] {
            let items: Vec<u32> = (0..count).collect();
            let doubled = at_once(&items, |&item| {
                thread::sleep(std::time::Duration::from_micros(u64::from((count - item) % 7) * 100));
                item * 2
            });
            assert_eq!(doubled, items.iter().map(|item| item * 2).collect::<Vec<_>>());
        }
    }
}
