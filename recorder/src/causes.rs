//! Errors in one line, for messages that are read in a log.

use std::error::Error;

/// An error and what caused it, in one line.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let own = error.to_string();
        // Some errors end with their cause already, and transparent ones are their cause.
        if !text.ends_with(&own) {
            text.push_str(": ");
            text.push_str(&own);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the backup")]
    struct Outer(#[source] std::io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("refused: {source}")]
    struct Twice {
        source: Outer,
    }

    #[test]
    fn every_cause_is_told_once() {
        let error = Outer(std::io::Error::other("the disk is gone"));
        assert_eq!(with_causes(&error), "cannot open the backup: the disk is gone");
        let error = Twice { source: error };
        assert_eq!(with_causes(&error), "refused: cannot open the backup: the disk is gone");
    }
}
