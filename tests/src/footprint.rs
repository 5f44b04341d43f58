//! [`Footprint`]: what a process takes of the machine.

use std::fs;
use std::io;

/// Memory and descriptors of a process at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// KiB in memory now.
    pub resident_kib: u64,
    /// KiB in memory at most, so far.
    pub peak_kib: u64,
    /// Open descriptors now.
    pub descriptors: usize,
}

impl Footprint {
    /// Of the process with this id, which must live.
    ///
    /// # Errors
    /// When it does not, or `/proc` is not what it is on Linux.
    pub fn of(pid: u32) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok())
                .ok_or_else(|| io::Error::other(format!("no {name} in /proc/{pid}/status")))
        };
        Ok(Self {
            resident_kib: kib("VmRSS")?,
            peak_kib: kib("VmHWM")?,
            descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_sees_memory_and_descriptors() {
        let before = Footprint::of(std::process::id()).unwrap();
        let open: Vec<_> = (0..50).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let memory = vec![1_u8; 32 << 20];
        let after = Footprint::of(std::process::id()).unwrap();
        assert!(after.resident_kib > before.resident_kib + (24 << 10), "{before:?} {after:?}");
        assert!(after.peak_kib >= after.resident_kib);
        // Other tests of this process open and close files, too.
        assert!(after.descriptors + 20 >= before.descriptors + open.len(), "{before:?} {after:?}");
        assert_eq!(memory.iter().filter(|&&byte| byte == 1).count(), memory.len());
    }
}
