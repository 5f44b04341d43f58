//! [`Verbosity`]: `-q` and `-v`.

use clap::{ArgAction, Args};
use log::LevelFilter;

use super::progress::Progress;

/// The options for the log and progress bars.
#[derive(Debug, Clone, Copy, Args)]
pub struct Verbosity {
    /// No progress bars, errors only; warnings about the backup are still shown
    #[arg(short, long, global = true, help_heading = "Global options", conflicts_with = "verbose")]
    pub quiet: bool,
    /// Log more: what is done; with -vv also why
    #[arg(short, long, global = true, help_heading = "Global options", action = ArgAction::Count)]
    pub verbose: u8,
}

impl Verbosity {
    /// The log level of a command whose default level is `usual`.
    pub fn level(self, usual: LevelFilter) -> LevelFilter {
        if self.quiet {
            return LevelFilter::Error;
        }
        let more = usize::from(self.verbose);
        LevelFilter::iter().nth(usual as usize + more).unwrap_or(LevelFilter::Trace)
    }

    /// Whether progress is shown.
    pub(super) fn progress(self) -> Progress {
        if self.quiet { Progress::Hidden } else { Progress::OnTerminals }
    }

    /// The options, as arguments for another process.
    pub fn to_arguments(self) -> Vec<String> {
        let quiet = self.quiet.then(|| "--quiet".to_owned());
        quiet.into_iter().chain((0..self.verbose).map(|_| "--verbose".to_owned())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_v_is_a_level_and_q_leaves_only_errors() {
        let verbosity = |quiet, verbose| Verbosity { quiet, verbose };
        for (quiet, verbose, usual, expected) in [
            (false, 0, LevelFilter::Warn, LevelFilter::Warn),
            (false, 1, LevelFilter::Warn, LevelFilter::Info),
            (false, 2, LevelFilter::Warn, LevelFilter::Debug),
            (false, 1, LevelFilter::Info, LevelFilter::Debug),
            (false, 200, LevelFilter::Info, LevelFilter::Trace),
            (true, 0, LevelFilter::Info, LevelFilter::Error),
        ] {
            assert_eq!(verbosity(quiet, verbose).level(usual), expected);
        }
    }
}
