//! The limits that the system sets for this process: open files, and memory.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A limit this large means none: cgroup v1 writes the largest number of pages for "no limit".
const NO_LIMIT: u64 = 1 << 60;

/// Raises the limit of open files to the allowed maximum, and returns it; `None`: there is none.
pub fn raise_open_files() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!("the limit of open files cannot be raised: {error}");
            current
        }
    }
}

/// How many bytes of memory may be used: three quarters of the cgroup's limit, or half of the process's own, whichever is less; `None`:
/// there is no limit. The process's own limit (`ulimit -v`, `-d`) also counts memory that is reserved and unused.
#[must_use]
pub fn spare_memory() -> Option<u64> {
    let own = [Resource::As, Resource::Data].into_iter().filter_map(|resource| getrlimit(resource).current);
    let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let cgroup = cgroup_memory(&membership, Path::new("/sys/fs/cgroup"));
    spare(own.filter(|bytes| *bytes < NO_LIMIT).min(), cgroup.filter(|bytes| *bytes < NO_LIMIT))
}

fn spare(own: Option<u64>, cgroup: Option<u64>) -> Option<u64> {
    [own.map(|bytes| bytes / 2), cgroup.map(|bytes| bytes / 4 * 3)].into_iter().flatten().min()
}

/// The smallest limit of the cgroup that `membership` (`/proc/self/cgroup`) names, and of its parents. In a container only the innermost
/// may be visible, at the top.
fn cgroup_memory(membership: &str, mounted: &Path) -> Option<u64> {
    membership.lines().filter_map(|line| cgroup_of_line(line, mounted)).min()
}

fn cgroup_of_line(line: &str, mounted: &Path) -> Option<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let (top, file) = if controllers.is_empty() {
        (mounted.to_owned(), "memory.max")
    } else if controllers.split(',').any(|controller| controller == "memory") {
        (mounted.join("memory"), "memory.limit_in_bytes")
    } else {
        return None;
    };
    let own: PathBuf = top.join(path.trim_start_matches('/'));
    own.ancestors()
        .take_while(|folder| folder.starts_with(&top))
        // `max` is not a number: no limit.
        .filter_map(|folder| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok())
        .filter(|bytes| *bytes < NO_LIMIT)
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, file: &str, text: &str) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join(file), text).unwrap();
    }

    #[test]
    fn the_least_limit_around_a_cgroup_counts() {
        let top = tempfile::TempDir::new().unwrap();
        let top = top.path();
        write(&top.join("pods/pod1/app"), "memory.max", "max\n");
        write(&top.join("pods/pod1"), "memory.max", "268435456\n");
        write(&top.join("pods"), "memory.max", "1073741824\n");
        assert_eq!(cgroup_memory("0::/pods/pod1/app\n", top), Some(268_435_456));
        assert_eq!(cgroup_memory("0::/pods\n", top), Some(1_073_741_824));
        assert_eq!(cgroup_memory("0::/elsewhere\n", top), None);
        // In a container: the path is the host's, and the limit is at the top.
        write(top, "memory.max", "134217728");
        assert_eq!(cgroup_memory("0::/kubepods/x/y\n", top), Some(134_217_728));
    }

    #[test]
    fn the_least_of_what_is_spare_counts() {
        assert_eq!(spare(None, None), None);
        assert_eq!(spare(Some(256), None), Some(128));
        assert_eq!(spare(None, Some(256)), Some(192));
        assert_eq!((spare(Some(400), Some(256)), spare(Some(256), Some(256))), (Some(192), Some(128)));
    }

    #[test]
    fn version_1_is_read_too() {
        let top = tempfile::TempDir::new().unwrap();
        let top = top.path();
        write(&top.join("memory/docker/x"), "memory.limit_in_bytes", "268435456\n");
        write(&top.join("memory"), "memory.limit_in_bytes", "9223372036854771712\n");
        let membership = "12:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n0::/\n";
        assert_eq!(cgroup_memory(membership, top), Some(268_435_456));
        assert_eq!(cgroup_memory("4:memory:/\n", top), None);
        assert_eq!(cgroup_memory("nonsense\n::\n", top), None);
    }
}
