//! Output for the operator: [`say!`](crate::say) for results, [`note!`](crate::note) for everything else.
//!
//! Unlike `println!` these do not panic when the output fails: a closed pipe or a full disk behind the output is no reason
//! to leave a half-finished demo behind, or to report a restore that is complete as a failure.

/// Prints a line to standard output.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => {
        $crate::print::line(&mut ::std::io::stdout(), ::std::format_args!($($text)*))
    };
}

/// Prints a line to standard error.
#[macro_export]
macro_rules! note {
    ($($text:tt)*) => {
        $crate::print::line(&mut ::std::io::stderr(), ::std::format_args!($($text)*))
    };
}

/// Writes a line at once; ignores errors.
pub fn line(to: &mut impl std::io::Write, text: std::fmt::Arguments<'_>) {
    let _: std::io::Result<()> = writeln!(to, "{text}").and_then(|()| to.flush());
}

#[cfg(test)]
mod tests {
    use std::io;

    struct Closed;

    impl io::Write for Closed {
        fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    #[test]
    fn a_closed_output_is_no_failure() {
        super::line(&mut Closed, format_args!("{}", 7));
        let mut heard = Vec::new();
        super::line(&mut heard, format_args!("{} is heard", 7));
        assert_eq!(heard, b"7 is heard\n");
    }
}
