//! [`Acknowledging`]: the recorder is told how far a copy is that answers wait for, and such a copy is shipped to at once.

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
    /// Whether the last shipment brought nothing new.
    is_stuck: bool,
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
    pub(super) fn report(&mut self, shipper: &mut Shipper) -> Result<(), CopyError> {
        if self.wait.is_none() {
            return Ok(());
        }
        let now = shipper.restorable()?;
        self.is_stuck = self.told == Some(now);
        if !self.is_stuck {
            let Restorable { behind, checksum } = now;
            let words = FromShip::Shipped { url: self.url.clone(), through: behind.saturating_sub(1), checksum };
            say_to_recorder(&words);
            self.told = Some(now);
        }
        Ok(())
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
