//! [`Covered`]: which records a copy had at which time, from when the server stored what.

use std::time::{Duration, Instant};

use ::offsite::connect::{key_files, open_store};
use ::offsite::keys::node::NodeSecret;
use ::offsite::keys::unlock::{Unlock, unlock};
use ::offsite::log_bytes::LogBytes;
use ::offsite::objects::{File, Object};
use ::offsite::seal::{self, Opening};
use ::offsite::testing::Stored;
use anyhow::Context as _;

use super::copied_node::{CopiedNode, PREFIX, SECRET};

/// Records that the copy had from a time on.
#[derive(Debug, Clone, Copy)]
pub struct Covered {
    /// Seq of the first.
    pub from: u64,
    /// Seq behind the last.
    pub behind: u64,
    /// When the server had stored them.
    pub at: Instant,
}

/// What the server has stored since a time. Of segments only those of one part: all others are told by the logs.
pub fn since(node: &CopiedNode<'_>, began: Instant) -> anyhow::Result<Vec<Covered>> {
    let store = open_store(&node.url().parse()?, node.credentials().as_deref(), None)?;
    let keys = unlock(&key_files(&*store)?, &Unlock::Node(NodeSecret::from_hsm_secret(&SECRET, None)?))?;
    let mut found = Vec::new();
    for Stored { name, bytes, at } in node.stored()?.into_iter().filter(|stored| stored.at >= began) {
        let name = name.strip_prefix(PREFIX).context("the server has an object of another copy")?;
        match Object::parse(name) {
            Some(Object::Tail(_)) => {
                let log = LogBytes::decode(name, &seal::open(Opening::Keys(&keys), name, &bytes)?)?;
                // They are shipped in order: what comes before is there.
                found.push(Covered { from: 0, behind: log.next_seq, at });
            }
            Some(Object::Part(File::Segment { first, last }, part)) if part.of == 1 => {
                found.push(Covered { from: first, behind: last + 1, at });
            }
            _ => {}
        }
    }
    Ok(found)
}

/// How long after its answer each record was in the copy, and how many never were. A record is a seq and the time of its answer.
pub fn lags(records: impl Iterator<Item = (u64, Instant)>, covered: &[Covered]) -> (Vec<Duration>, usize) {
    let (mut lags, mut missing) = (Vec::new(), 0);
    for (seq, answered) in records {
        let first = covered.iter().filter(|it| (it.from..it.behind).contains(&seq)).map(|it| it.at).min();
        match first {
            Some(at) => lags.push(at.saturating_duration_since(answered)),
            None => missing += 1,
        }
    }
    (lags, missing)
}

/// Segments in a copy, from the names of its objects: how many, and how many changes and uploads each has on average.
pub fn segments<'a>(names: impl Iterator<Item = &'a str>) -> Option<(usize, f64, f64)> {
    let (mut count, mut changes, mut parts) = (0_usize, 0, 0_u32);
    for object in names.filter_map(|name| Object::parse(name.strip_prefix(PREFIX)?)) {
        let Object::Part(File::Segment { first, last }, part) = object else { continue };
        parts += 1;
        if part.number == 1 {
            count += 1;
            changes += last + 1 - first;
        }
    }
    (count > 0).then(|| (count, changes as f64 / count as f64, f64::from(parts) / count as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_in_the_copy_from_the_first_object_on_that_covers_it() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let covered = [
            Covered { from: 0, behind: 4, at: at(10) },
            Covered { from: 0, behind: 6, at: at(20) },
            Covered { from: 2, behind: 4, at: at(5) },
        ];
        let records = (1..=6).map(|seq| (seq, at(seq)));
        let (lags, missing) = lags(records, &covered);
        assert_eq!(lags.iter().map(Duration::as_secs).collect::<Vec<_>>(), [9, 3, 2, 16, 15]);
        assert_eq!(missing, 1);
    }

    #[test]
    fn segments_are_counted_by_their_names() {
        let segment = |first, last, number| {
            let part = ::offsite::objects::Part { number, of: 2 };
            format!("{PREFIX}{}", Object::Part(File::Segment { first, last }, part))
        };
        let names = [segment(1, 10, 1), segment(1, 10, 2), segment(11, 40, 1), format!("{PREFIX}id")];
        assert_eq!(segments(names.iter().map(String::as_str)), Some((2, 20.0, 1.5)));
        assert_eq!(segments(["other"].into_iter()), None);
    }
}
