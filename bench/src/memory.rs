//! Measures the memory of processes, from `/proc`.

use std::time::Duration;

use anyhow::Context;

/// The resident memory of processes once it stops shrinking: an allocator returns freed memory only after a while.
pub(crate) async fn stable_resident(pids: &[u32]) -> anyhow::Result<u64> {
    let mut least = resident(pids)?;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        least = least.min(resident(pids)?);
    }
    Ok(least)
}

/// The total resident memory of processes, in bytes.
pub(crate) fn resident(pids: &[u32]) -> anyhow::Result<u64> {
    let mut sum = 0;
    for pid in pids {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
            .with_context(|| format!("process {pid} has ended, or there is no /proc: this needs Linux"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        sum += 1024 * kib.with_context(|| format!("/proc/{pid}/status reads unlike proc(5)"))?;
    }
    Ok(sum)
}
