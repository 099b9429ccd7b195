//! macOS. What has no counterpart there says so: no page is asked for in advance but
//! through the file, no memory can be sealed, threads do not inherit names.

use std::ffi::{CStr, c_int};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use memmap2::MmapRaw;
use rustix::fs::{CWD, Mode, OFlags, fcntl_rdadvise, openat, statfs};

use super::{Resident, beneath};

/// The pinned file of ONNX Runtime.
pub const RUNTIME_FILE: &str = "libonnxruntime.1.31.1.dylib";

/// What the system's own loader is asked for when nothing else is there.
pub const RUNTIME_LOADER_NAME: &str = "libonnxruntime.dylib";

/// Where the package puts its private copy of it.
pub const RUNTIME_FOLDER: &str = "/usr/local/lib/gptoss";

/// Advice that brings mapped pages into memory.
pub const POPULATE: rustix::mm::Advice = rustix::mm::Advice::WillNeed;

/// Whether there is CoreML.
pub const HAS_COREML: bool = true;

/// Bytes of the machine's memory.
pub fn total_memory() -> Option<u64> {
    number(c"hw.memsize")
}

/// Bytes that can be used without pushing anything else out of memory: free pages, and
/// those that cost nothing to give back, of files and purgeable ones. (Pages that were
/// read ahead are among those of files.)
///
/// Source: xnu, `bsd/vm/vm_unix.c`.
pub fn available_memory() -> Option<u64> {
    let names = [
        c"vm.page_free_count",
        c"vm.page_purgeable_count",
        c"vm.page_pageable_external_count",
    ];
    let pages: Option<u64> = names.into_iter().map(number).sum();
    let bytes = pages?.checked_mul(number(c"hw.pagesize")?)?;
    Some(bytes.min(number(c"hw.memsize")?))
}

/// Resident memory of this process: what it answers for, and the rest of what is there.
///
/// Source: xnu, `bsd/sys/resource.h`.
pub fn resident_memory() -> Option<Resident> {
    let mut usage = MaybeUninit::<libc::rusage_info_v4>::zeroed();
    let process = c_int::try_from(std::process::id()).ok()?;
    // SAFETY: the flavour says how large the structure is that the pointer leads to, and
    // it is this process' own.
    let failed =
        unsafe { libc::proc_pid_rusage(process, libc::RUSAGE_INFO_V4, usage.as_mut_ptr().cast()) };
    if failed != 0 {
        return None;
    }
    // SAFETY: zeroed, which is a value of it, and then filled in by the system.
    let usage = unsafe { usage.assume_init() };
    let own = usage.ri_phys_footprint;
    Some(Resident {
        anonymous: own,
        file: usage.ri_resident_size.saturating_sub(own),
    })
}

/// This program.
///
/// # Errors
/// The system does not tell.
pub fn this_program() -> io::Result<PathBuf> {
    std::env::current_exe()
}

/// The system chooses by itself who goes if memory runs out.
pub fn dies_first(_name: &CStr) {}

/// Physical cores, the fast ones where there are two kinds.
pub fn physical_cores() -> Option<usize> {
    let cores = number(c"hw.perflevel0.physicalcpu").or_else(|| number(c"hw.physicalcpu"))?;
    usize::try_from(cores).ok()
}

/// A number of the system's, of four or eight bytes.
fn number(name: &CStr) -> Option<u64> {
    // The least significant byte comes first on every processor that macOS runs on.
    let mut value = 0u64;
    let mut size = size_of::<u64>();
    // SAFETY: the name ends with a zero byte, and at most `size` bytes are written to
    // `value`, which has as many.
    let failed = unsafe {
        let value = std::ptr::from_mut(&mut value).cast();
        libc::sysctlbyname(name.as_ptr(), value, &mut size, std::ptr::null_mut(), 0)
    };
    (failed == 0 && (size == 4 || size == 8)).then_some(value)
}

/// Does `work`. Threads that it makes inherit no name here.
pub fn named<T>(_name: &CStr, work: impl FnOnce() -> T) -> T {
    work()
}

/// Says nothing: the system sees by itself that a file is read in order.
pub fn reads_in_order(_file: &File) {}

/// Says that all of a file is wanted soon; `false` where the system does not listen.
pub fn reads_soon(file: &File, length: u64) -> bool {
    // A call takes a length of 31 bits.
    const MOST: u64 = 1 << 30;
    let mut starts = (0..length).step_by(MOST as usize);
    starts.all(|start| fcntl_rdadvise(file, start, MOST.min(length - start)).is_ok())
}

/// Copies: a clone is a new file here, and these two are open already.
///
/// # Errors
/// Always.
pub fn share_blocks(_to: &File, _from: &File) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Does nothing: the system decides alone.
///
/// # Errors
/// Never.
pub fn advise_huge_pages(_: &MmapRaw, _start: usize, _length: usize) -> io::Result<()> {
    Ok(())
}

/// Whether no file below a folder may be run or loaded as a library.
///
/// Source: xnu, `bsd/sys/mount.h`.
pub fn forbids_programs(folder: &Path) -> bool {
    let noexec = libc::MNT_NOEXEC as u32;
    statfs(folder).is_ok_and(|stat| stat.f_flags & noexec != 0)
}

/// Opens a folder that files are opened beneath.
///
/// # Errors
/// The system's.
pub fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}

/// Opens a file beneath a folder, which no link on the way may leave.
///
/// # Errors
/// One does, or the system's.
pub fn open_beneath(folder: &OwnedFd, path: &str, flags: OFlags) -> io::Result<File> {
    beneath::open(folder, path, flags)
}

/// An anonymous file that code may be mapped from: none.
///
/// # Errors
/// Always.
pub fn executable_memory(_name: &str) -> io::Result<File> {
    let why = "macOS has no memory that can be sealed; install ONNX Runtime, or set ORT_DYLIB_PATH";
    Err(io::Error::new(io::ErrorKind::Unsupported, why))
}

/// Has nobody change it any more.
///
/// # Errors
/// Always.
pub fn seal(_memory: &File) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A path by which the loader opens it.
pub fn path_of(_memory: &File) -> PathBuf {
    PathBuf::new()
}
