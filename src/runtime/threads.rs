//! How many threads inference should use.

use std::collections::BTreeSet;
use std::path::Path;

/// Physical cores this process may run on, at least 1.
///
/// Two hardware threads of one core share its vector units, so a second one
/// gains nothing in matrix products. A processor affinity or a control group's
/// quota lowers the number.
pub fn physical_cores() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, |n| n.get());
    let cores = cores_in(Path::new("/sys/devices/system/cpu"));
    cores.map_or(allowed, |cores| cores.min(allowed)).max(1)
}

/// Distinct sibling sets under `cpu*/topology`, if the kernel tells.
fn cores_in(folder: &Path) -> Option<usize> {
    let mut cores = BTreeSet::new();
    for entry in std::fs::read_dir(folder).ok()?.flatten() {
        let siblings = entry.path().join("topology/thread_siblings_list");
        if let Ok(siblings) = std::fs::read_to_string(siblings) {
            cores.insert(siblings);
        }
    }
    (!cores.is_empty()).then_some(cores.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_count_once() {
        let root = tempfile::tempdir().unwrap();
        for (cpu, siblings) in [(0, "0,2\n"), (1, "1,3\n"), (2, "0,2\n"), (3, "1,3\n")] {
            let topology = root.path().join(format!("cpu{cpu}/topology"));
            std::fs::create_dir_all(&topology).unwrap();
            std::fs::write(topology.join("thread_siblings_list"), siblings).unwrap();
        }
        std::fs::create_dir(root.path().join("cpufreq")).unwrap();
        assert_eq!(cores_in(root.path()), Some(2));
        assert_eq!(cores_in(&root.path().join("absent")), None);
    }

    #[test]
    fn there_is_always_one() {
        assert!(physical_cores() >= 1);
    }
}
