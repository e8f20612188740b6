//! Guest memory, and the only ways in which the VMM touches it.

use std::sync::atomic::Ordering;

use abi::Plain;
use abi::boot::Region;
use vm_memory::bytes::{AtomicAccess, Bytes};
use vm_memory::{ByteValued, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::error::Error;

/// The guest's memory. Every access is checked against its bounds; none can reach outside.
pub(crate) struct GuestMemory(GuestMemoryMmap);

/// A [`Plain`] value as vm-memory copies it.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
struct Wire<T>(T);

// SAFETY: `Plain` promises what `ByteValued` asks for: no padding, no invalid bit patterns, no pointers.
unsafe impl<T: Plain + Send + Sync + 'static> ByteValued for Wire<T> {}

/// An access the guest's memory has no room for: a bug of the layout, since the guest chooses no addresses.
fn outside(address: u64) -> Error {
    Error::Host(format!(
        "guest address {address:#x} is not memory: please report this as a bug"
    ))
}

impl GuestMemory {
    /// Maps anonymous memory for `ram`, all of it zero.
    pub(crate) fn new(ram: &[Region]) -> Result<Self, Error> {
        let ranges: Vec<_> = ram
            .iter()
            .map(|region| (GuestAddress(region.base), region.len as usize))
            .collect();
        GuestMemoryMmap::from_ranges(&ranges).map(Self).map_err(|error| {
            Error::Host(format!(
                "cannot map the guest's memory ({error}): give it less with --memory"
            ))
        })
    }

    /// For the ELF loader.
    pub(crate) fn backend(&self) -> &GuestMemoryMmap {
        &self.0
    }

    /// The regions, as guest address, length and host address.
    pub(crate) fn regions(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        self.0.iter().filter_map(|region| {
            let host = region.get_host_address(vm_memory::MemoryRegionAddress(0)).ok()?;
            Some((region.start_addr().0, region.len(), host as u64))
        })
    }

    /// Copies `value` to the guest.
    pub(crate) fn write<T: Plain + Send + Sync + 'static>(
        &self,
        address: u64,
        value: T,
    ) -> Result<(), Error> {
        self.0
            .write_obj(Wire(value), GuestAddress(address))
            .map_err(|_| outside(address))
    }

    /// Copies `bytes` to the guest.
    pub(crate) fn write_bytes(&self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        self.0
            .write_slice(bytes, GuestAddress(address))
            .map_err(|_| outside(address))
    }

    /// Copies a value from the guest. What it says is the guest's word.
    pub(crate) fn read<T: Plain + Send + Sync + 'static>(&self, address: u64) -> Result<T, Error> {
        let value: Wire<T> = self
            .0
            .read_obj(GuestAddress(address))
            .map_err(|_| outside(address))?;
        Ok(value.0)
    }

    /// Stores a hint for a running guest: atomically, relaxed.
    pub(crate) fn store_hint(&self, address: u64, value: u32) {
        // The address is the layout's; were it wrong, a hint would be lost.
        let _ = self.0.store(value, GuestAddress(address), Ordering::Relaxed);
    }

    /// Loads a hint that the guest may be writing: atomically, relaxed.
    pub(crate) fn load_hint<T: AtomicAccess + Default>(&self, address: u64) -> T {
        self.0
            .load(GuestAddress(address), Ordering::Relaxed)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Default)]
    #[repr(transparent)]
    struct Word(u64);

    // SAFETY: an integer has no padding and no invalid bit patterns, and this one is no pointer.
    unsafe impl Plain for Word {}

    #[test]
    fn nothing_outside_is_reached() {
        let region = |base, len| Region { base, len };
        let memory = GuestMemory::new(&[region(0, 0x2000), region(0x1_0000, 0x1000)]).unwrap();
        memory.write(0x1ff8, Word(1)).unwrap();
        assert_eq!(memory.read::<Word>(0x1ff8).unwrap().0, 1);
        for address in [0x1ff9, 0x2000, 0xfff9, 0x1_0ff9, 0x1_1000, u64::MAX - 7, u64::MAX] {
            assert!(memory.write(address, Word(1)).is_err(), "{address:#x}");
            assert!(memory.read::<Word>(address).is_err(), "{address:#x}");
            assert!(memory.write_bytes(address, &[0; 8]).is_err(), "{address:#x}");
        }
        for address in [0x1ffd, 0x2000, u64::MAX - 3, u64::MAX] {
            memory.store_hint(address, 1);
            assert_eq!(memory.load_hint::<u32>(address), 0, "{address:#x}");
        }
    }
}
