//! Limits a program's processors, and reads the CPU time of processes, from `/proc`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

/// The kernel reports hundredths of a second to every program on Linux (`USER_HZ`), whatever its own clock.
const TICK: Duration = Duration::from_millis(10);

/// A command limited to so many processors, which then starts as many worker threads: programs count the processors they may use.
pub(crate) fn limited(program: &Path, processors: usize) -> anyhow::Result<Command> {
    let status = fs::read_to_string("/proc/self/status").context("there is no /proc: this needs Linux")?;
    let ours = allowed(&status).context("/proc/self/status reads unlike proc(5)")?;
    ensure!(processors <= ours.len(), "--threads {processors}: this machine lets us use {} processors", ours.len());
    let list: Vec<String> = ours.iter().take(processors).map(ToString::to_string).collect();
    let mut command = Command::new("taskset");
    command.arg("--cpu-list").arg(list.join(",")).arg(program);
    Ok(command)
}

/// The numbers in `Cpus_allowed_list: 0-2,5`.
fn allowed(status: &str) -> Option<Vec<usize>> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut numbers = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        numbers.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    Some(numbers)
}

/// Processes whose CPU time is added up.
pub(crate) struct Processes(Vec<u32>);

impl Processes {
    pub(crate) fn of(pids: &[u32]) -> Self {
        Self(pids.to_vec())
    }

    /// The CPU time of the living threads, from the scheduler, in nanoseconds.
    pub(crate) fn used(&self) -> anyhow::Result<Duration> {
        let mut nanos = 0;
        for pid in &self.0 {
            let tasks = fs::read_dir(format!("/proc/{pid}/task"))
                .with_context(|| format!("process {pid} has ended, or there is no /proc: this needs Linux"))?;
            // A thread that ends during the read does not matter.
            let texts = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("schedstat")).ok());
            nanos += texts.filter_map(|text| text.split(' ').next()?.parse::<u64>().ok()).sum::<u64>();
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// User and system time so far in ticks, of all threads, including those that have ended.
    pub(crate) fn ticks(&self) -> anyhow::Result<Duration> {
        let mut ticks = 0;
        for pid in &self.0 {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
                .with_context(|| format!("process {pid} has ended, or there is no /proc: this needs Linux"))?;
            ticks += times(&stat).with_context(|| format!("/proc/{pid}/stat reads unlike proc(5)"))?;
        }
        Ok(TICK * ticks)
    }
}

/// The CPU time that all programs have used so far on all processors, including steal time.
pub(crate) fn of_the_machine() -> anyhow::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat").context("there is no /proc: this needs Linux")?;
    Ok(TICK * busy(&stat).context("/proc/stat reads unlike proc(5)")?)
}

/// The first line of `/proc/stat` without idle and I/O wait; guest time is part of user time.
fn busy(stat: &str) -> Option<u32> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line.split_ascii_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
    let [user, nice, system, _idle, _waiting, irq, softirq, steal] = fields.try_into().ok()?;
    u32::try_from(user + nice + system + irq + softirq + steal).ok()
}

/// The child processes of `parent`.
pub(crate) fn children(parent: u32) -> anyhow::Result<Vec<u32>> {
    let pids = fs::read_dir("/proc").context("there is no /proc: this needs Linux")?;
    let pids = pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| ppid(&s) == Some(parent));
    Ok(pids.filter(is_child).collect())
}

/// This process and all its descendants.
pub(crate) fn tree() -> anyhow::Result<Processes> {
    let mut pids = vec![std::process::id()];
    let mut looked_at = 0;
    while let Some(pid) = pids.get(looked_at) {
        pids.extend(children(*pid)?);
        looked_at += 1;
    }
    Ok(Processes(pids))
}

/// The fields after the program's name, which may itself hold spaces and parentheses.
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
    fn a_program_sees_as_many_processors_as_it_may_use() {
        let output = limited(Path::new("nproc"), 1).unwrap().output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "1");
        assert!(limited(Path::new("nproc"), 100_000).unwrap_err().to_string().contains("--threads 100000"));
    }

    #[test]
    fn processors_are_numbers_and_ranges() {
        assert_eq!(allowed("Name: x\nCpus_allowed_list:\t0-2,5\n"), Some(vec![0, 1, 2, 5]));
        assert_eq!(allowed("Cpus_allowed_list:\t0-x\n"), None);
    }

    #[test]
    fn own_time_is_counted() {
        let own = Processes::of(&[std::process::id()]);
        let (before, ticks) = (own.used().unwrap(), own.ticks().unwrap());
        while own.used().unwrap() < before + 2 * TICK || own.ticks().unwrap() < ticks + 2 * TICK {}
    }

    #[test]
    fn a_machine_is_busy_but_for_idling_and_waiting() {
        assert_eq!(busy("cpu  1 20 300 4000 50000 600 7 80000 9 9\ncpu0 1 1\n"), Some(80_928));
        assert_eq!(busy("cpu0 1 1\n"), None);
        assert!(of_the_machine().unwrap() > Duration::ZERO);
    }
}
