//! Random numbers: ids, jitter, choices. Never keys.

use std::cell::Cell;

thread_local! {
    static STATE: Cell<u64> = const { Cell::new(0) };
}

/// The next number of this core's stream, seeded by the operating system.
pub fn rng_u64() -> u64 {
    #[cfg(any(test, feature = "sim"))]
    if let Some(world) = crate::sim::world::current() {
        return world.draw(crate::sim::Stream::Code);
    }
    let mut state = STATE.get();
    if state == 0 {
        state = os_seed();
    }
    // SplitMix64 (Steele, Lea, Flood 2014): passes BigCrush, one add and three multiplies.
    state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    STATE.set(state);
    let mut mixed = state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn os_seed() -> u64 {
    let mut bytes = [0_u8; 8];
    // SAFETY: the buffer is valid for its eight bytes.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    assert_eq!(
        got, 8,
        "the kernel's random source answers short reads whole"
    );
    u64::from_ne_bytes(bytes) | 1
}
