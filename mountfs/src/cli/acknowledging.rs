//! [`Acknowledging`]: reports to the recorder how far a copy is that answers wait for, and has such a copy shipped to at once.

use std::io;
use std::time::Duration;

use common::OffsiteWait;
use common::ship_words::{FromShip, to_line};
use offsite::copy_error::CopyError;
use offsite::ship::Shipper;
use offsite::ship::restorable::Restorable;

use super::ship_orders::{Orders, Woken};

/// The pause after a shipment that brought nothing new, although something is wanted: it is in a spool, or not in the backup yet.
const NOTHING_NEW: Duration = Duration::from_millis(50);

/// How far a copy is, as the recorder was told.
#[derive(Debug)]
pub(super) struct Acknowledging {
    url: String,
    /// `None` when nothing waits for the copy, or no recorder is there to be told.
    wait: Option<OffsiteWait>,
    told: Option<Restorable>,
    /// Whether the last shipment of logs brought nothing new.
    is_stuck: bool,
}

/// What was done since the last report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Since {
    /// Logs were shipped, as far as there was something new in them.
    Logs,
    /// A file was shipped, or a part of one. There may be something new in the logs since.
    File,
    /// Nothing.
    Nothing,
}

impl Acknowledging {
    /// Begins anew, for each connection.
    pub(super) fn new(url: &str, wait: Option<OffsiteWait>) -> Self {
        Self { url: url.to_owned(), wait, told: None, is_stuck: false }
    }

    /// Tells the recorder how far the copy is, if that is new.
    ///
    /// # Errors
    /// When the backup cannot be listed.
    pub(super) fn report(&mut self, shipper: &mut Shipper, since: Since) -> Result<(), CopyError> {
        if self.wait.is_none() {
            return Ok(());
        }
        let now = shipper.restorable()?;
        if self.note(now, since) {
            let Restorable { behind, checksum } = now;
            let words = FromShip::Shipped { url: self.url.clone(), through: behind.saturating_sub(1), checksum };
            say_to_recorder(&words);
        }
        Ok(())
    }

    /// Notes how far the copy is; returns whether that is new.
    fn note(&mut self, now: Restorable, since: Since) -> bool {
        let is_new = self.told != Some(now);
        match since {
            Since::Logs => self.is_stuck = !is_new,
            Since::File => self.is_stuck = false,
            Since::Nothing => {}
        }
        self.told = Some(now);
        is_new
    }

    /// Tells the recorder that the node is needed before it can be known how far the copy is.
    pub(super) fn need_node(&self) {
        if self.wait.is_some() {
            say_to_recorder(&FromShip::NeedsNode { url: self.url.clone() });
        }
    }

    /// Waits until something is due, or the recorder wants more shipped than there is.
    pub(super) fn wait(&self, pause: Duration, orders: &Orders) -> Woken {
        let wanted = self.wanted();
        if wanted.is_none() || !self.is_stuck {
            return orders.wait(pause, wanted);
        }
        match orders.wait(pause.min(NOTHING_NEW), None) {
            Woken::InTime => orders.wait(pause.saturating_sub(NOTHING_NEW), wanted),
            woken => woken,
        }
    }

    /// Whether the recorder wants more shipped than there is.
    pub(super) fn is_wanted(&self, orders: &Orders) -> bool {
        !self.is_stuck && orders.wait(Duration::ZERO, self.wanted()) == Woken::Wanted
    }

    /// Seq of the first record with which so many are missing that they are shipped at once.
    fn wanted(&self) -> Option<u64> {
        let (wait, told) = (self.wait?, self.told?);
        Some(told.behind.saturating_sub(1) + wait.ships_from())
    }
}

fn say_to_recorder(words: &FromShip) {
    crate::print::line(&mut io::stdout(), format_args!("{}", to_line(words).trim_end()));
}

#[cfg(test)]
mod tests {
    use common::WaitThen;
    use common::ship_words::ToShip;

    use super::*;

    #[test]
    fn logs_are_tried_again_behind_each_part_of_a_file_and_not_while_they_bring_nothing() {
        let wait = OffsiteWait::new(0, 30, WaitThen::GoOn).unwrap();
        let mut copy = Acknowledging::new("/copy", Some(wait));
        let orders = Orders::default();
        let at = |behind| Restorable { behind, checksum: Some(1) };
        assert!(copy.note(at(6), Since::Logs));
        orders.take_lines(to_line(&ToShip::Recorded(6)).as_bytes());
        assert!(copy.is_wanted(&orders), "a record behind the last one is there");
        assert!(!copy.note(at(6), Since::File));
        assert!(copy.is_wanted(&orders), "a part of a file says nothing of the logs");
        assert!(!copy.note(at(6), Since::Logs));
        assert!(!copy.is_wanted(&orders), "they have brought nothing");
        assert!(!copy.note(at(6), Since::Nothing) && !copy.is_wanted(&orders));
        assert!(!copy.note(at(6), Since::File));
        assert!(copy.is_wanted(&orders), "it took a while");
        assert!(copy.note(at(7), Since::Logs) && !copy.is_wanted(&orders), "it has all that is wanted");
    }
}
