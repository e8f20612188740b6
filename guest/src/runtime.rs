//! What compiled Rust expects to be linked with: memory intrinsics, and two symbols that unwinding would use.

use core::arch::asm;

/// C's `memcpy`.
///
/// # Safety
///
/// As C's: `n` readable bytes at `source`, `n` writable ones at `destination`, not overlapping.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(destination: *mut u8, source: *const u8, n: usize) -> *mut u8 {
    // SAFETY: the direction flag is clear by the ABI; the caller vouches for both ranges. Not written as a
    // loop, because the compiler would turn that into a call of `memcpy`.
    unsafe {
        asm!("rep movsb", inout("rcx") n => _, inout("rdi") destination => _, inout("rsi") source => _,
            options(nostack, preserves_flags));
    }
    destination
}

/// C's `memmove`.
///
/// # Safety
///
/// As C's: `n` readable bytes at `source`, `n` writable ones at `destination`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(destination: *mut u8, source: *const u8, n: usize) -> *mut u8 {
    if (destination as usize).wrapping_sub(source as usize) >= n {
        // A forward copy reads every byte before it overwrites it.
        // SAFETY: as promised by the caller; an overlap in this direction is harmless to `rep movsb`.
        return unsafe { memcpy(destination, source, n) };
    }
    // SAFETY: copies backwards from the last byte, and restores the direction flag that the ABI wants clear.
    // The pointers to the last bytes are in range because `n` is not 0 here.
    unsafe {
        asm!("std", "rep movsb", "cld",
            inout("rcx") n => _,
            inout("rdi") destination.wrapping_add(n).wrapping_sub(1) => _,
            inout("rsi") source.wrapping_add(n).wrapping_sub(1) => _,
            options(nostack));
    }
    destination
}

/// C's `memset`.
///
/// # Safety
///
/// As C's: `n` writable bytes at `destination`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(destination: *mut u8, value: i32, n: usize) -> *mut u8 {
    // SAFETY: the direction flag is clear by the ABI; the caller vouches for the range.
    unsafe {
        asm!("rep stosb", inout("rcx") n => _, inout("rdi") destination => _, in("al") value as u8,
            options(nostack, preserves_flags));
    }
    destination
}

/// C's `memcmp`.
///
/// # Safety
///
/// As C's: `n` readable bytes at each pointer.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, n: usize) -> i32 {
    for i in 0..n {
        // SAFETY: `i < n`, and the caller vouches for `n` bytes. Volatile, or the compiler would see a
        // `memcmp` here.
        let l = unsafe { left.wrapping_add(i).read_volatile() };
        // SAFETY: as above.
        let r = unsafe { right.wrapping_add(i).read_volatile() };
        if l != r {
            return i32::from(l) - i32::from(r);
        }
    }
    0
}

/// BSD's `bcmp`: 0 if the ranges are equal.
///
/// # Safety
///
/// As for [`memcmp`].
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, n: usize) -> i32 {
    // SAFETY: the caller's promise is the same.
    unsafe { memcmp(left, right, n) }
}

/// The prebuilt `core` names its unwinding personality, though with `panic = "abort"` nothing calls it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() -> ! {
    panic!("unwinding personality called")
}

/// As [`rust_eh_personality`].
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    panic!("unwinding resumed")
}
