//! Memory: what the machine has to give, what this process holds.

use std::path::{Path, PathBuf};

use crate::platform;
pub use crate::platform::Resident;

/// Where the system shows its control groups.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// Bytes that can be used without pushing anything else out of memory: on Linux the
/// kernel's `MemAvailable`, or what is left of the control group's limit where
/// that is less. `None` where the system does not tell.
pub fn available() -> Option<u64> {
    let machine = platform::available_memory()?;
    Some(control_group_headroom().map_or(machine, |group| group.min(machine)))
}

/// Bytes of the machine's memory, whatever the control group's limit; `None` where the
/// system does not tell.
pub fn total() -> Option<u64> {
    platform::total_memory()
}

/// Resident memory of this process, `None` where the system does not tell.
pub fn resident() -> Option<Resident> {
    platform::resident_memory()
}

/// Has the C library give back what it keeps of freed memory.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> i32;
        }
        // SAFETY: glibc's; any thread may call it at any time.
        unsafe {
            malloc_trim(0);
        }
    }
}

/// Has the C library keep freed memory in two places instead of in eight a processor.
/// Threads that come and go each leave pieces in another one, which a long life fills: with
/// 64 clients at work 2 MB in use lay in 31 to 36 MB, growing, where 14 are enough. To be
/// called before there are other threads.
///
/// Source: mallopt(3), `M_ARENA_MAX`; its value is that of glibc's malloc.h.
pub fn share_heap() {
    #[cfg(target_env = "gnu")]
    {
        const M_ARENA_MAX: i32 = -8;
        unsafe extern "C" {
            fn mallopt(parameter: i32, value: i32) -> i32;
        }
        // SAFETY: glibc's; it takes any numbers.
        unsafe {
            mallopt(M_ARENA_MAX, 2);
        }
    }
}

/// The folder of this process's control group, where there is one.
pub fn control_group() -> Option<PathBuf> {
    let membership = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = membership
        .lines()
        .find_map(|line| line.strip_prefix("0::"))?;
    Some(Path::new(CONTROL_GROUPS).join(group.trim_start_matches('/')))
}

/// What a version of control groups calls a limit, a use, and the page cache in it.
struct Files {
    limit: &'static str,
    used: &'static str,
    cached: [&'static str; 2],
}

const VERSION_2: Files = Files {
    limit: "memory.max",
    used: "memory.current",
    cached: ["inactive_file", "active_file"],
};
/// Its limit is a number beyond all memory where there is none.
const VERSION_1: Files = Files {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cached: ["total_inactive_file", "total_active_file"],
};

/// The smallest headroom of this process's control group and its ancestors, of
/// whichever version has one.
fn control_group_headroom() -> Option<u64> {
    let within = |group: Option<PathBuf>, files: &Files| {
        let group = group?;
        let groups = group.ancestors();
        let groups = groups.take_while(|folder| folder.starts_with(CONTROL_GROUPS));
        groups.filter_map(|folder| headroom_of(folder, files)).min()
    };
    let second = within(control_group(), &VERSION_2);
    let membership = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let first = within(first_version_group(&membership), &VERSION_1);
    second.into_iter().chain(first).min()
}

/// The folder of the group that bounds memory where the first version of control groups
/// does, by the lines of `/proc/self/cgroup`.
fn first_version_group(membership: &str) -> Option<PathBuf> {
    let path = membership.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let bounds = controllers.split(',').any(|name| name == "memory");
        bounds.then_some(path)
    })?;
    let folder = Path::new(CONTROL_GROUPS).join("memory");
    Some(folder.join(path.trim_start_matches('/')))
}

/// Limit minus use of one control group; the page cache it could drop counts
/// as free. `None` where it has no limit.
fn headroom_of(folder: &Path, files: &Files) -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    let limit: u64 = read(files.limit)?.trim().parse().ok()?;
    let used: u64 = read(files.used)?.trim().parse().ok()?;
    let statistics = read("memory.stat")?;
    let cached: u64 = statistics
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| files.cached.contains(name))
        .filter_map(|(_, bytes)| bytes.trim().parse::<u64>().ok())
        .sum();
    Some(limit.saturating_sub(used.saturating_sub(cached)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_group_gives_its_limit_less_what_it_cannot_drop() {
        let group = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(group.path().join(name), text).unwrap();
        write("memory.max", "1000\n");
        write("memory.current", "700\n");
        write(
            "memory.stat",
            "anon 400\ninactive_file 200\nactive_file 100\n",
        );
        assert_eq!(headroom_of(group.path(), &VERSION_2), Some(600));
        write("memory.max", "max\n");
        assert_eq!(headroom_of(group.path(), &VERSION_2), None);

        write("memory.limit_in_bytes", "2000\n");
        write("memory.usage_in_bytes", "1500\n");
        write(
            "memory.stat",
            "active_file 9\ntotal_inactive_file 200\ntotal_active_file 100\n",
        );
        assert_eq!(headroom_of(group.path(), &VERSION_1), Some(800));
    }

    #[test]
    fn the_first_version_names_the_group_by_its_controllers() {
        let membership = "4:cpu,memory:/a/b\n3:cpuset:/\n0::/c\n";
        let group = first_version_group(membership).unwrap();
        assert_eq!(group, Path::new("/sys/fs/cgroup/memory/a/b"));
        assert_eq!(first_version_group("0::/c\n"), None);
    }

    #[test]
    fn this_process_holds_something() {
        let resident = resident().unwrap();
        assert!(resident.anonymous > 0 && resident.file > 0);
        assert!(available().unwrap() > 0);
    }
}
