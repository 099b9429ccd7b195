//! Intel's advanced matrix extensions: whether they may be used, and the shape of
//! the tiles.
//!
//! A thread has eight tile registers of 16 rows of 64 bytes. `tdpbf16ps` adds to a
//! tile of float32 `[16, 16]` the products of a tile of bf16 `[16, 32]` with one of
//! `[16, 16, 2]`. The instructions stand in assembly, since the compiler's functions
//! for them are not stable. (Intel 64 and IA-32 Architectures Software Developer's
//! Manual, volume 1, chapter 18.)

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::marker::PhantomData;

/// Rows of a tile.
const ROWS: u8 = 16;
/// Bytes of a tile's row.
const ROW_BYTES: u16 = 64;
/// Tile registers.
const TILES: usize = 8;

/// Whether this processor has tiles of bf16 and the system lets this process use
/// them. The first call asks the system; the answer holds for all threads.
pub(super) fn is_permitted() -> bool {
    use std::sync::OnceLock;
    static PERMITTED: OnceLock<bool> = OnceLock::new();
    *PERMITTED.get_or_init(|| is_supported() && request())
}

fn is_supported() -> bool {
    const OSXSAVE: u32 = 1 << 27;
    /// `AMX-BF16` and `AMX-TILE`.
    const TILES_OF_BF16: u32 = 1 << 22 | 1 << 24;
    /// The system saves tiles and their configuration.
    const TILE_STATE: u64 = 1 << 17 | 1 << 18;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    // SAFETY: OSXSAVE says that there is such an instruction.
    let state = unsafe { xgetbv() };
    __cpuid_count(7, 0).edx & TILES_OF_BF16 == TILES_OF_BF16 && state & TILE_STATE == TILE_STATE
}

#[target_feature(enable = "xsave")]
fn xgetbv() -> u64 {
    // SAFETY: register 0 is always there.
    unsafe { _xgetbv(0) }
}

/// Asks Linux for tiles: their state is large, and saved only for who asks
/// (Documentation/arch/x86/xstate.rst). It refuses where a thread's stack for
/// signals could not hold it, and where it is too old to know of tiles.
#[cfg(target_os = "linux")]
fn request() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const XFEATURE_XTILE_DATA: libc::c_ulong = 18;
    // SAFETY: the call takes two numbers and touches no memory of this process.
    unsafe {
        libc::syscall(
            libc::SYS_arch_prctl,
            ARCH_REQ_XCOMP_PERM,
            XFEATURE_XTILE_DATA,
        ) == 0
    }
}

/// Other systems are not known to save tiles for this process.
#[cfg(not(target_os = "linux"))]
fn request() -> bool {
    false
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// The calling thread's tiles, all of full size. What they hold is released with this.
pub(super) struct Tiles(PhantomData<*const ()>);

impl Tiles {
    /// Shapes this thread's tiles.
    ///
    /// # Safety
    /// [`is_permitted`] has answered with yes, and this thread has no other `Tiles`.
    pub(super) unsafe fn new() -> Self {
        let mut configuration = Configuration {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        configuration.rows[..TILES].fill(ROWS);
        configuration.row_bytes[..TILES].fill(ROW_BYTES);
        // SAFETY: the processor has tiles, by the caller's promise, and the
        // configuration is one that it allows.
        unsafe {
            asm!(
                "ldtilecfg [{}]",
                in(reg) &raw const configuration,
                options(readonly, nostack, preserves_flags)
            );
        }
        Self(PhantomData)
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: only `new` makes one, where there are tiles.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}
