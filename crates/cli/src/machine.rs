//! The means that the machine gives a server: descriptors and memory.

use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the number of descriptors that the process may open to the greatest that it may have, and
/// returns it; `None` where it is unlimited.
pub(crate) fn raise_descriptors() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum
        || setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok()
    {
        return maximum;
    }
    current
}

/// Returns the bytes of memory of the machine, or of the control group that the process is in if
/// that has less; `None` where neither is known.
pub(crate) fn memory() -> Option<u64> {
    memory_under(Path::new("/"))
}

fn memory_under(root: &Path) -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).ok();
    let machine = read("proc/meminfo").as_deref().and_then(total_of);
    let groups = read("proc/self/cgroup").unwrap_or_default();
    let limits = groups.lines().flat_map(|line| {
        // Inside a container the path may be that of the host: then the root is the container's.
        let (file, path) = match line.strip_prefix("0::") {
            Some(path) => (["sys/fs/cgroup", "memory.max"], path),
            None if line
                .split(':')
                .nth(1)
                .is_some_and(|kinds| kinds.split(',').any(|k| k == "memory")) =>
            {
                let path = line.splitn(3, ':').nth(2).unwrap_or_default();
                (["sys/fs/cgroup/memory", "memory.limit_in_bytes"], path)
            }
            None => return Vec::new(),
        };
        let [at, name] = file;
        let own = Path::new(path.trim_start_matches('/'));
        let all = own.ancestors().filter_map(|group| {
            let group = Path::new(at).join(group).join(name);
            read(group.to_str()?)?.trim().parse().ok()
        });
        all.collect::<Vec<u64>>()
    });
    limits.chain(machine).min()
}

/// Returns the bytes that `/proc/meminfo` names as the machine's.
fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_is_the_least_of_the_machines_and_the_groups() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let memory = || memory_under(root.path());
        assert_eq!(memory(), None);
        write("proc/meminfo", "MemFree: 1 kB\nMemTotal:       4096 kB\n");
        assert_eq!(memory(), Some(4 << 20));
        write("proc/self/cgroup", "0::/a/b\n");
        write("sys/fs/cgroup/a/b/memory.max", "max\n");
        assert_eq!(memory(), Some(4 << 20));
        write("sys/fs/cgroup/a/memory.max", "3145728\n");
        assert_eq!(memory(), Some(3 << 20));
        write("sys/fs/cgroup/memory.max", "2097152\n");
        assert_eq!(memory(), Some(2 << 20));
        write("proc/self/cgroup", "5:cpu,memory:/c\n0::/\n");
        write("sys/fs/cgroup/memory/c/memory.limit_in_bytes", "1048576\n");
        assert_eq!(memory(), Some(1 << 20));
    }

    #[test]
    fn descriptors_are_raised_to_the_hard_limit() {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        let lowered = Rlimit { current: Some(200), maximum };
        setrlimit(Resource::Nofile, lowered).unwrap();
        assert_eq!(raise_descriptors(), maximum);
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
    }
}
