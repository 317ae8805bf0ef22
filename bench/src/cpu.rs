//! CPU time of processes, from `/proc`.

use std::fs;
use std::time::Duration;

use anyhow::Context;

/// The kernel counts in hundredths of a second for every program on Linux (`USER_HZ`), whatever its own clock.
const TICK: Duration = Duration::from_millis(10);

/// Processes whose time is added up.
pub(crate) struct Processes(Vec<u32>);

impl Processes {
    pub(crate) fn of(pids: &[u32]) -> Self {
        Self(pids.to_vec())
    }

    /// User and system time so far, of all threads, those that have ended included.
    pub(crate) fn used(&self) -> anyhow::Result<Duration> {
        let mut ticks = 0;
        for pid in &self.0 {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
                .with_context(|| format!("process {pid} has ended, or there is no /proc: this needs Linux"))?;
            ticks += times(&stat).with_context(|| format!("/proc/{pid}/stat reads unlike proc(5)"))?;
        }
        Ok(TICK * ticks)
    }
}

/// The processes that `parent` has started.
pub(crate) fn children(parent: u32) -> anyhow::Result<Vec<u32>> {
    let pids = fs::read_dir("/proc").context("there is no /proc: this needs Linux")?;
    let pids = pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| ppid(&s) == Some(parent));
    Ok(pids.filter(is_child).collect())
}

/// The fields after the program's name, which may hold spaces and parentheses itself.
fn fields(stat: &str) -> Option<std::str::SplitAsciiWhitespace<'_>> {
    Some(stat.rsplit_once(')')?.1.split_ascii_whitespace())
}

fn ppid(stat: &str) -> Option<u32> {
    fields(stat)?.nth(1)?.parse().ok()
}

/// `utime` and `stime`, in ticks.
fn times(stat: &str) -> Option<u32> {
    let mut fields = fields(stat)?.skip(11);
    let (user, system): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    user.checked_add(system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_name_may_hold_anything() {
        let stat = "42 (a) b (c) S 7 42 42 0 -1 4194560 1 2 3 4 150 25 9 9 20 0 3 0";
        assert_eq!(ppid(stat), Some(7));
        assert_eq!(times(stat), Some(175));
    }

    #[test]
    fn own_time_is_counted() {
        let own = Processes::of(&[std::process::id()]);
        let before = own.used().unwrap();
        while own.used().unwrap() < before + 2 * TICK {}
    }
}
