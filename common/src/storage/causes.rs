//! An error with its causes in one line, for messages and logs.

use std::error::Error;

use super::trouble::Trouble;

/// An error and its causes, in one line, each said once.
pub fn with_causes(error: &dyn Error) -> String {
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

/// The text of [`with_causes`], and a remedy if the operating system's error is a known [`Trouble`].
pub fn with_remedy(error: &(dyn Error + 'static)) -> String {
    let text = with_causes(error);
    match Trouble::behind(error).and_then(Trouble::remedy) {
        Some(remedy) => format!("{text}; {remedy}"),
        None => text,
    }
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
    fn every_cause_is_named_once() {
        let error = Outer(std::io::Error::other("the disk is gone"));
        assert_eq!(with_causes(&error), "cannot open the backup: the disk is gone");
        let error = Twice { source: error };
        assert_eq!(with_causes(&error), "refused: cannot open the backup: the disk is gone");
        assert_eq!(with_remedy(&error), with_causes(&error), "nothing is known of it");
        let error = Outer(std::io::ErrorKind::StorageFull.into());
        assert_eq!(with_remedy(&error), format!("{}; the disk is full: make room on it", with_causes(&error)));
    }
}
