//! Limits a program's processors, and reads the CPU time of processes, from `/proc`.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

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

    /// The CPU time of each living thread so far, from the scheduler.
    pub(crate) fn used(&self) -> anyhow::Result<Used> {
        let mut threads = HashMap::new();
        for pid in &self.0 {
            let tasks = fs::read_dir(format!("/proc/{pid}/task"))
                .with_context(|| format!("process {pid} has ended, or there is no /proc: this needs Linux"))?;
            // A thread that ends during the read does not matter.
            threads.extend(tasks.filter_map(|task| {
                let task = task.ok()?;
                let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
                let nanos = text.split(' ').next()?.parse::<u64>().ok()?;
                Some((task.file_name().to_str()?.parse::<u32>().ok()?, nanos))
            }));
        }
        Ok(Used(threads))
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

/// The CPU time of threads so far, in nanoseconds.
pub(crate) struct Used(HashMap<u32, u64>);

impl Used {
    /// What they have used since `before`. A thread that has ended since then takes nothing away from the others.
    pub(crate) fn since(&self, before: &Self) -> Duration {
        let until = |thread: &u32| before.0.get(thread).copied().unwrap_or_default();
        Duration::from_nanos(self.0.iter().map(|(thread, nanos)| nanos.saturating_sub(until(thread))).sum())
    }
}

/// What programs other than this one and its children use of the machine from now on.
pub(crate) struct Others {
    own: Processes,
    before: Duration,
    began: Instant,
}

impl Others {
    pub(crate) fn watch() -> anyhow::Result<Self> {
        let own = tree()?;
        let before = of_the_machine()?.saturating_sub(own.ticks()?);
        Ok(Self { own, before, began: Instant::now() })
    }

    /// The processor time that they used, and in what time.
    pub(crate) fn used(&self) -> anyhow::Result<[Duration; 2]> {
        let used = of_the_machine()?.saturating_sub(self.own.ticks()?).saturating_sub(self.before);
        Ok([used, self.began.elapsed()])
    }

    /// The share of the machine that this is.
    pub(crate) fn share([used, took]: [Duration; 2]) -> f64 {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        used.as_secs_f64() / took.as_secs_f64() / cores as f64
    }
}

/// The CPU time that all programs have used so far on all processors, including steal time.
fn of_the_machine() -> anyhow::Result<Duration> {
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
fn tree() -> anyhow::Result<Processes> {
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
        while own.used().unwrap().since(&before) < 2 * TICK || own.ticks().unwrap() < ticks + 2 * TICK {}
    }

    #[test]
    fn a_thread_that_has_ended_takes_nothing_away_from_the_others() {
        let before = Used([(1, 900), (2, 100)].into());
        assert_eq!(Used([(2, 150), (3, 30)].into()).since(&before), Duration::from_nanos(80));
    }

    #[test]
    fn a_machine_is_busy_but_for_idling_and_waiting() {
        assert_eq!(busy("cpu  1 20 300 4000 50000 600 7 80000 9 9\ncpu0 1 1\n"), Some(80_928));
        assert_eq!(busy("cpu0 1 1\n"), None);
        assert!(of_the_machine().unwrap() > Duration::ZERO);
    }
}
