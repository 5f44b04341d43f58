//! What the kernel says of a process: its memory and its processor time.

use std::fs;

use anyhow::Context as _;
use serde::Serialize;

/// Ticks of a second in `/proc/PID/stat`: fixed for programs, and independent of the kernel's own tick.
const TICKS: f64 = 100.0;

/// Memory of a process, in bytes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Memory {
    /// Memory of the process that is in RAM, in bytes.
    pub rss: u64,
    /// Memory in RAM that is not backed by a file, in bytes.
    pub anonymous: u64,
    /// The most that there was at any time.
    pub peak_rss: u64,
}

impl Memory {
    /// Memory of the process now.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).with_context(|| path.clone())?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            kilobytes.map(|kilobytes| kilobytes << 10).with_context(|| format!("{path} has no {name}"))
        };
        Ok(Self { rss: field("VmRSS")?, anonymous: field("RssAnon")?, peak_rss: field("VmHWM")? })
    }
}

/// Processor time used so far, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct ProcessorTime {
    /// Processor time of this thread, in seconds.
    pub thread: f64,
    /// Processor time of all threads of this process, ended ones included, in seconds.
    pub process: f64,
}

impl ProcessorTime {
    /// Processor time of this process and this thread until now.
    pub fn now() -> anyhow::Result<Self> {
        Ok(Self { thread: used("/proc/thread-self/stat")?, process: used("/proc/self/stat")? })
    }
}

/// Processor time of all threads of another process until now, in seconds.
pub fn processor_time_of(pid: u32) -> anyhow::Result<f64> {
    used(&format!("/proc/{pid}/stat"))
}

/// User and system time, the 14th and 15th field.
fn used(path: &str) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(path).with_context(|| path.to_owned())?;
    // The second is a name in parentheses, which may have anything in it.
    let (_, fields) = stat.rsplit_once(')').with_context(|| format!("{path} is not understood"))?;
    let ticks = fields.split_ascii_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks: u64 = ticks.sum::<Result<_, _>>().with_context(|| format!("{path} is not understood"))?;
    Ok(ticks as f64 / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_and_time() {
        let memory = Memory::of(std::process::id()).unwrap();
        assert!(0 < memory.anonymous && memory.anonymous <= memory.rss && memory.rss <= memory.peak_rss, "{memory:?}");
        let before = ProcessorTime::now().unwrap();
        let since = std::time::Instant::now();
        while since.elapsed().as_millis() < 60 {}
        let now = ProcessorTime::now().unwrap();
        assert!(now.thread > before.thread && now.process >= now.thread, "{before:?} {now:?}");
    }
}
