//! The checks of debug builds: who had a frame last, and whether free memory was written to.

use core::panic::Location;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

use crate::address::FRAME_SIZE;
use crate::index::FrameIndex;
use crate::order::Order;
use crate::platform::{Cpu, Platform};
use crate::report::{LastOwner, Misuse};
use crate::zone::Zone;

/// What free memory is filled with: Linux's `PAGE_POISON`.
pub const POISON: u8 = 0xaa;

/// What debug builds know of a frame: Linux's `page_owner`, beside [`Frame`](crate::Frame) and not in it, so that
/// its size does not depend on the build.
#[derive(Debug)]
pub(crate) struct Owner {
    place: AtomicPtr<Location<'static>>,
    cpu: AtomicU32,
    /// Whether the frame is free and filled with poison. Memory that nobody has had yet is not.
    poisoned: AtomicBool,
}

const _: () = assert!(size_of::<Owner>() == 16);

// Relaxed, everywhere here: the holder of a block writes, and it got the block from the CPU that wrote before.
// Only a report of misuse may read while another writes, and then names one of the two.
impl Owner {
    pub(crate) const fn new() -> Owner {
        Owner {
            place: AtomicPtr::new(ptr::null_mut()),
            cpu: AtomicU32::new(0),
            poisoned: AtomicBool::new(false),
        }
    }

    fn record(&self, place: &'static Location<'static>, cpu: Cpu, poisoned: bool) {
        self.place
            .store(ptr::from_ref(place).cast_mut(), Ordering::Relaxed);
        self.cpu.store(cpu.0, Ordering::Relaxed);
        self.poisoned.store(poisoned, Ordering::Relaxed);
    }

    fn last(&self) -> Option<LastOwner> {
        let place = self.place.load(Ordering::Relaxed);
        // SAFETY: it is null, or was made from a reference to a `Location` that lives for ever.
        let place = unsafe { place.as_ref() }?;
        Some(LastOwner {
            place,
            cpu: Cpu(self.cpu.load(Ordering::Relaxed)),
        })
    }
}

const FRAME_BYTES: usize = FRAME_SIZE as usize;

impl<P: Platform> Zone<P> {
    /// Who had the frame last. `None` without checks, or if nobody had it yet.
    pub(crate) fn last_owner(&self, index: FrameIndex) -> Option<LastOwner> {
        self.owners.get(index.get())?.last()
    }

    fn owned(&self, index: FrameIndex, order: Order) -> impl Iterator<Item = (FrameIndex, &Owner)> {
        let owners = &self.owners[index.get()..][..order.frames() as usize];
        owners
            .iter()
            .enumerate()
            .map(move |(i, owner)| (index.plus(i as u32), owner))
    }

    /// Fills a block that was just freed with poison. The caller is the only one to have it.
    pub(crate) fn poison(
        &self,
        platform: &P,
        index: FrameIndex,
        order: Order,
        by: &'static Location<'static>,
        cpu: Cpu,
    ) {
        for (index, owner) in self.owned(index, order) {
            let bytes = platform.frame_ptr(self.number(index));
            // SAFETY: the platform promises that the frame can be written there. Its holder has freed it, and
            // nobody else has got it yet.
            unsafe { bytes.write_bytes(POISON, FRAME_BYTES) };
            owner.record(by, cpu, true);
        }
    }

    /// Looks whether a block that is about to be allocated is still as it was when it was freed, and makes it
    /// the caller's. The caller is the only one to have it. If not, says which frame is not.
    pub(crate) fn unpoison(
        &self,
        platform: &P,
        index: FrameIndex,
        order: Order,
        by: &'static Location<'static>,
        cpu: Cpu,
    ) -> Result<(), (FrameIndex, Misuse)> {
        let mut poisoned = self
            .owned(index, order)
            .filter(|(_, o)| o.poisoned.load(Ordering::Relaxed));
        let bad = poisoned.find_map(|(index, _)| {
            let offset = first_change(platform.frame_ptr(self.number(index)), FRAME_BYTES)?;
            Some((index, offset))
        });
        match bad {
            // The last owner stays on record: it is to be reported.
            Some((index, (offset, found))) => Err((index, Misuse::UsedWhileFree { offset, found })),
            None => {
                self.owned(index, order)
                    .for_each(|(_, owner)| owner.record(by, cpu, false));
                Ok(())
            }
        }
    }
}

/// The first of the `length` bytes, a multiple of eight, at `bytes` that is not poison any more, and where it is.
/// The platform's promise about memory holds for `bytes`, and the caller has that memory.
pub(crate) fn first_change(bytes: *mut u8, length: usize) -> Option<(u32, u8)> {
    const WORD: usize = size_of::<u64>();
    let words = bytes.cast::<u64>();
    (0..length / WORD).find_map(|i| {
        // SAFETY: `i` is below the number of words.
        let place = unsafe { words.add(i) };
        // SAFETY: the platform promises that it can be read, and alignment. Volatile, because
        // somebody may be writing to it by mistake just now, and that is what this is to find out.
        let word = unsafe { place.read_volatile() }.to_le_bytes();
        let byte = word.iter().position(|byte| *byte != POISON)?;
        Some(((i * WORD + byte) as u32, word[byte]))
    })
}
