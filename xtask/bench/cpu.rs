//! What the kernel counted: CPU time and memory of processes, the state of the machine.

use anyhow::{Context as _, Result};
use std::fs;

/// Nanoseconds on a CPU, kernel time included, over all threads that live. `/proc/<pid>/stat` counts in ticks of 10 ms,
/// which is too coarse; `schedstat` counts each thread.
pub(crate) fn of_process(pid: u32) -> Result<u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} is gone"))?;
    let mut total = 0;
    for thread in threads {
        let file = thread.with_context(|| format!("process {pid} is gone"))?.path().join("schedstat");
        // A thread that ended between the two readings is no error; its share is lost, and only start-up has such threads.
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let first = text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
        total += first.with_context(|| format!("{}: not the kernel's format", file.display()))?;
    }
    Ok(total)
}

/// Nanoseconds that our ended and awaited children took, in ticks of 10 ms: good enough for the load generator's share.
pub(crate) fn of_ended_children() -> Result<u64> {
    let text = fs::read_to_string("/proc/self/stat").context("cannot read /proc/self/stat")?;
    // Fields 16 and 17; the second, the name, may itself hold spaces and brackets.
    let fields = text.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>()).unwrap_or_default();
    let field = |at: usize| fields.get(at).and_then(|word| word.parse::<u64>().ok());
    let ticks = field(13).zip(field(14)).context("/proc/self/stat: not the kernel's format")?;
    Ok((ticks.0 + ticks.1) * 10_000_000)
}

/// Resident memory in KiB.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid} is gone"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).context("no VmRSS in the process's status")
}

pub(crate) fn machine() -> Result<String> {
    let load = fs::read_to_string("/proc/loadavg").context("cannot read /proc/loadavg")?;
    let load: Vec<&str> = load.split_whitespace().take(3).collect();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's release")?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(format!("{cores} cores, kernel {}, load average {} before the start", kernel.trim(), load.join(" ")))
}
