//! What a process has used, from `/proc`: CPU time and memory, where the noise of the machine stays out.

use std::fs;

use anyhow::Context as _;

/// CPU time of a process since its start, user and system, in seconds. Its ended threads are included, its children are not.
///
/// # Errors
/// When the process is gone or `/proc` is not as proc(5) says.
pub fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/schedstat");
    // Threads that are alive: nanoseconds on a CPU, to the nanosecond where `stat` counts in hundredths of a second.
    let mut nanoseconds = 0u64;
    for task in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid}"))? {
        let text = fs::read_to_string(task?.path().join("schedstat")).with_context(|| path.clone())?;
        let first = text.split_whitespace().next().with_context(|| path.clone())?;
        nanoseconds += first.parse::<u64>().with_context(|| path.clone())?;
    }
    #[expect(clippy::cast_precision_loss, reason = "a benchmark's seconds")]
    Ok(nanoseconds as f64 / 1e9)
}

/// Resident memory of a process, in bytes, and its peak (`VmRSS` and `VmHWM`).
///
/// # Errors
/// When the process is gone or `/proc` is not as proc(5) says.
pub fn resident(pid: u32) -> anyhow::Result<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid}"))?;
    let field = |name: &str| -> anyhow::Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| name.to_string())?;
        let kilobytes =
            line.trim_start_matches(':').split_whitespace().next().with_context(|| name.to_string())?;
        Ok(kilobytes.parse::<u64>()? * 1024)
    };
    Ok((field("VmRSS")?, field("VmHWM")?))
}

/// Direct children of a process.
///
/// # Errors
/// When the process is gone.
pub fn children(pid: u32) -> anyhow::Result<Vec<u32>> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .with_context(|| format!("process {pid}"))?;
    text.split_whitespace().map(|child| Ok(child.parse()?)).collect()
}

/// CPU time of the kernel's own threads for interrupts that wait (`ksoftirqd`), in seconds: network work that was put off.
///
/// # Errors
/// When `/proc` is not as proc(5) says.
pub fn softirq_seconds() -> anyhow::Result<f64> {
    let mut seconds = 0.0;
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let pid = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        let Some(pid) = pid else { continue };
        // Processes end while one looks.
        let Ok(name) = fs::read_to_string(path.join("comm")) else { continue };
        if name.starts_with("ksoftirqd/") {
            seconds += cpu_seconds(pid)?;
        }
    }
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_time_and_memory() {
        let own = std::process::id();
        assert!(cpu_seconds(own).unwrap() > 0.0);
        let (now, peak) = resident(own).unwrap();
        assert!(0 < now && now <= peak, "{now} {peak}");
    }
}
