//! Linux.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use memmap2::MmapRaw;
use rustix::fs::{
    Advice, CWD, MemfdFlags, Mode, OFlags, ResolveFlags, SealFlags, StatVfsMountFlags, fadvise,
    fcntl_add_seals, ioctl_ficlone, memfd_create, openat, openat2, statvfs,
};

use super::Resident;

/// The pinned file of ONNX Runtime.
pub const RUNTIME_FILE: &str = "libonnxruntime.so.1.31.1";

/// What the system's own loader is asked for when nothing else is there.
pub const RUNTIME_LOADER_NAME: &str = "libonnxruntime.so.1";

/// Where the package puts its private copy of it.
pub const RUNTIME_FOLDER: &str = "/usr/lib/gptoss";

/// Advice that brings mapped pages into memory and into the page tables.
pub const POPULATE: rustix::mm::Advice = rustix::mm::Advice::LinuxPopulateRead;

/// Whether there is CoreML.
pub const HAS_COREML: bool = false;

/// Bytes of the machine's memory.
pub fn total_memory() -> Option<u64> {
    let table = std::fs::read_to_string("/proc/meminfo").ok()?;
    field(&table, "MemTotal")
}

/// Bytes that can be used without pushing anything else out of memory.
pub fn available_memory() -> Option<u64> {
    let table = std::fs::read_to_string("/proc/meminfo").ok()?;
    field(&table, "MemAvailable")
}

/// Resident memory of this process.
pub fn resident_memory() -> Option<Resident> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    Some(Resident {
        anonymous: field(&status, "RssAnon")?,
        file: field(&status, "RssFile")? + field(&status, "RssShmem").unwrap_or(0),
    })
}

/// A line `name:   123 kB` of a `/proc` table, in bytes.
fn field(table: &str, name: &str) -> Option<u64> {
    let value = table
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// This program, by the link that the kernel keeps: the same one even where an upgrade
/// has put another in its place.
///
/// # Errors
/// None here.
pub fn this_program() -> io::Result<PathBuf> {
    Ok("/proc/self/exe".into())
}

/// If memory runs out, this process is the one to go. Gives it a name: what lists
/// processes would show that of the link it was started by.
pub fn dies_first(name: &CStr) {
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    let _ = rustix::thread::set_name(name);
}

/// Physical cores, where the system tells.
pub fn physical_cores() -> Option<usize> {
    cores_in(Path::new("/sys/devices/system/cpu"))
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

/// Does `work` on a thread of this name, which threads that it makes inherit.
pub fn named<T>(name: &CStr, work: impl FnOnce() -> T) -> T {
    let before = rustix::thread::name();
    let _ = rustix::thread::set_name(name);
    let done = work();
    if let Ok(before) = before {
        let _ = rustix::thread::set_name(&before);
    }
    done
}

/// Says that a file is read from its beginning to its end. Advice only: a failure costs
/// speed, nothing else.
pub fn reads_in_order(file: &File) {
    let _ = fadvise(file, 0, None, Advice::Sequential);
}

/// Says that all of a file is wanted soon; `false` where the system does not listen.
pub fn reads_soon(file: &File, _length: u64) -> bool {
    fadvise(file, 0, None, Advice::WillNeed).is_ok()
}

/// Has `to` be the same bytes on the disk as `from`.
///
/// # Errors
/// The file system does not do that.
pub fn share_blocks(to: &File, from: &File) -> io::Result<()> {
    Ok(ioctl_ficlone(to, from)?)
}

/// Asks for huge pages for some of a memory's bytes.
///
/// # Errors
/// The system's.
pub fn advise_huge_pages(memory: &MmapRaw, start: usize, length: usize) -> io::Result<()> {
    memory.advise_range(memmap2::Advice::HugePage, start, length)
}

/// Whether no file below a folder may be run or loaded as a library.
pub fn forbids_programs(folder: &Path) -> bool {
    let flags = statvfs(folder).map(|stat| stat.f_flag);
    flags.is_ok_and(|flags| flags.contains(StatVfsMountFlags::NOEXEC))
}

/// Opens a folder that files are opened beneath.
///
/// # Errors
/// The system's.
pub fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}

/// Opens a file beneath a folder, which no link on the way may leave.
///
/// # Errors
/// One does, or the system's.
pub fn open_beneath(folder: &OwnedFd, path: &str, flags: OFlags) -> io::Result<File> {
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(folder, path, flags, Mode::empty(), beneath)?.into())
}

/// An anonymous file that code may be mapped from.
///
/// # Errors
/// The system has none.
pub fn executable_memory(name: &str) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(name, flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 there was no such flag, and every one could be.
        Err(rustix::io::Errno::INVAL) => Ok(memfd_create(name, flags)?.into()),
        made => Ok(made?.into()),
    }
}

/// Has nobody change it any more.
///
/// # Errors
/// The system's.
pub fn seal(memory: &File) -> io::Result<()> {
    let all = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    Ok(fcntl_add_seals(memory, all)?)
}

/// A path by which the loader opens it.
pub fn path_of(memory: &File) -> PathBuf {
    format!("/proc/self/fd/{}", memory.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_tables_are_in_kibibytes() {
        let table = "MemTotal:       24 kB\nMemAvailable:    16 kB\nHugePages_Total:  5\n";
        assert_eq!(field(table, "MemAvailable"), Some(16 * 1024));
        assert_eq!(field(table, "Mem"), None);
        assert_eq!(field(table, "HugePages_Total"), None);
    }

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
    fn a_name_is_lent() {
        let before = rustix::thread::name().unwrap();
        let inside = named(c"lent", || rustix::thread::name().unwrap());
        assert_eq!(inside.as_c_str(), c"lent");
        assert_eq!(rustix::thread::name().unwrap(), before);
    }

    #[test]
    fn mounts_say_whether_they_forbid_programs() {
        let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
        // What is mounted later lies above.
        let mut mounts = std::collections::BTreeMap::new();
        for line in table.lines() {
            let mut words = line.split(' ').skip(1);
            let (folder, options) = (words.next().unwrap(), words.nth(1).unwrap());
            mounts.insert(folder, options.split(',').any(|option| option == "noexec"));
        }
        // Others may be hidden below one of these.
        for folder in ["/", "/proc", "/sys"] {
            if let Some(forbids) = mounts.get(folder) {
                assert_eq!(forbids_programs(Path::new(folder)), *forbids, "{folder}");
            }
        }
        assert!(!forbids_programs(Path::new("/absent")));
    }
}
