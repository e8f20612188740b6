//! The kernel's memory: one page allocator, made by vCPU 0 of what the VMM gave, and objects on top of it.

use core::alloc::Layout;
use core::ptr::NonNull;
use core::slice;
use core::sync::atomic::AtomicU32;

use abi::boot::BootInfo;
use abi::config::fault;
use abi::memory::{EVENTS, MEMORY_REPORT, MemoryReport, ORDERS, TYPES, WINDOW_EVENTS, ZONES, ZoneReport};
use mm::{
    BadPage, Event, FRAME_SIZE, FrameNumber, FrameRange, Heap, Mark, MigrateType, Movable, Order,
    PageAllocator, PhysAddr, Platform, Request, User, WindowEvent, Zone, ZoneKind,
};
use pvlock::Platform as _;

use crate::cpu::Cpu;
use crate::once::Once;
use crate::pv::Pv;
use crate::spinlock::SpinLock;
use crate::workload::compaction;
use crate::{hypercall, interrupts};

/// What `mm` needs of this machine.
pub(crate) struct Machine;

// SAFETY: a kernel context stays on its vCPU, and with interrupts masked no other one runs there that allocates:
// handlers of NMIs do not. Memory is mapped one to one, by the VMM and for good.
unsafe impl Platform for Machine {
    type Lock = SpinLock;

    #[inline]
    fn on_this_cpu<R>(&self, f: impl FnOnce(mm::Cpu) -> R) -> R {
        let cpu = Cpu::current();
        let _masked = interrupts::mask(cpu);
        f(mm::Cpu(cpu.index()))
    }

    #[inline]
    fn frame_ptr(&self, frame: FrameNumber) -> *mut u8 {
        frame.start().0 as *mut u8
    }

    #[cold]
    fn bad_page(&self, report: BadPage) {
        panic!("{report}");
    }

    fn movable(&self, user: User) -> Option<&dyn Movable> {
        match user {
            User::Window => compaction::mover(),
            User::Balloon => None,
        }
    }

    fn wait(&self, word: &AtomicU32, value: u32) {
        Pv::wait(word, u32::MAX, value);
    }

    fn kick(&self, cpu: mm::Cpu) {
        if Cpu::current().boot().run.fault != fault::NO_KICK {
            hypercall::kick(cpu.0);
        }
    }

    fn may_wait(&self) -> bool {
        interrupts::may_wait(Cpu::current())
    }
}

static PAGES: Once<PageAllocator<Machine>> = Once::new();
static HEAP: Once<Heap<'static, Machine>> = Once::new();

/// Makes the allocator. vCPU 0 calls it while it boots, before anything allocates.
pub(crate) fn init(boot: &BootInfo) {
    let regions = boot
        .memory
        .map(|region| FrameRange::inside(PhysAddr(region.base), region.len));
    // SAFETY: the VMM gives this memory to the kernel, zeroed, and this is called once.
    match unsafe { PageAllocator::new(Machine, &regions, boot.vcpus) } {
        Ok(pages) => PAGES.set(pages),
        Err(error) => panic!("no memory: {error}"),
    }
    HEAP.set(Heap::new(pages()));
}

/// The allocator.
#[inline]
pub(crate) fn pages() -> &'static PageAllocator<Machine> {
    PAGES.get()
}

/// Objects smaller than a frame.
#[inline]
pub(crate) fn heap() -> &'static Heap<'static, Machine> {
    HEAP.get()
}

/// Gives back what this vCPU keeps in store.
pub(crate) fn drain() {
    heap().drain_this_cpu();
    pages().drain_this_cpu();
}

/// Memory for something that stays, as large and aligned as `layout` says, of at most a frame's alignment.
fn place(layout: Layout) -> Option<NonNull<u8>> {
    if let Some(cache) = heap().cache(layout) {
        return cache.alloc().ok();
    }
    let order = Order::all().find(|order| u64::from(order.frames()) * FRAME_SIZE >= layout.size() as u64)?;
    let frame = pages().alloc(Request::new(order, MigrateType::Unmovable)).ok()?;
    NonNull::new(pages().platform().frame_ptr(frame))
}

/// A slice of `len` elements made by `make`, for good: an object of the heap, or frames of its own if it is larger.
///
/// # Panics
///
/// If there is no block of memory left that is so large.
pub(crate) fn slice<T>(len: usize, make: impl Fn() -> T) -> &'static [T] {
    const { assert!(align_of::<T>() as u64 <= FRAME_SIZE) };
    let place = Layout::array::<T>(len).ok().and_then(place);
    let Some(first) = place.map(|place| place.as_ptr().cast::<T>()) else {
        panic!("out of memory: no room for {len} times {} bytes", size_of::<T>());
    };
    for i in 0..len {
        // SAFETY: the memory is mapped, as large as `len` elements, and nobody else's.
        let place = unsafe { first.add(i) };
        // SAFETY: as above; it is aligned for `T`.
        unsafe { place.write(make()) };
    }
    // SAFETY: `len` elements were just written there, and the block is never freed.
    unsafe { slice::from_raw_parts(first, len) }
}

const _: () = assert!(
    ZoneKind::COUNT == ZONES
        && Order::COUNT == ORDERS
        && MigrateType::COUNT == TYPES
        && Event::ALL.len() <= EVENTS
        && WindowEvent::ALL.len() <= WINDOW_EVENTS
);

/// What the allocator has counted, and what is free now.
pub(crate) fn report() -> MemoryReport {
    let mut report = MemoryReport::default();
    for zone in pages().zones() {
        report.zones[zone.kind() as usize] = zone_report(zone);
    }
    report
}

/// Frames by which what is free differs, and those of blocks that are not as large as they were.
pub(crate) fn difference(before: &MemoryReport, after: &MemoryReport) -> u64 {
    let zones = before.zones.iter().zip(&after.zones);
    let frames = zones.map(|(before, after)| {
        let of_order = |order: Order| {
            let count = |zone: &ZoneReport| -> u64 {
                zone.free_blocks
                    .iter()
                    .map(|row| row[usize::from(order.get())])
                    .sum()
            };
            count(before).abs_diff(count(after)) * u64::from(order.frames())
        };
        before.free.abs_diff(after.free) + Order::all().map(of_order).sum::<u64>()
    });
    frames.sum()
}

/// Takes what had been counted `before` off what was counted until `after`.
pub(crate) fn count_from(before: &MemoryReport, after: &mut MemoryReport) {
    let zones = before.zones.iter().zip(&mut after.zones);
    let events = zones.flat_map(|(before, after)| before.events.iter().zip(&mut after.events));
    for (before, after) in events.chain(before.window.iter().zip(&mut after.window)) {
        *after = after.saturating_sub(*before);
    }
}

fn zone_report(zone: &Zone<Machine>) -> ZoneReport {
    let mut report = ZoneReport {
        managed: zone.managed(),
        free: zone.free(),
        min: zone.watermarks().get(Mark::Min),
        low: zone.watermarks().get(Mark::Low),
        high: zone.watermarks().get(Mark::High),
        ..ZoneReport::default()
    };
    for event in Event::ALL {
        report.events[event as usize] = pages().count(zone.kind(), event);
    }
    for (order, counts) in pages().free_counts(zone.kind()).into_iter().enumerate() {
        for (of_type, count) in report.free_blocks.iter_mut().zip(counts) {
            of_type[order] = count.into();
        }
    }
    for pageblock in zone.pageblocks() {
        report.pageblocks[pageblock.migrate_type() as usize] += 1;
    }
    report
}

/// Leaves `report` for the VMM: vCPU 0's job.
pub(crate) fn write_report(boot: &BootInfo, report: MemoryReport) {
    // SAFETY: the VMM reserved it; only vCPU 0 gets here, and the VMM reads it only when no vCPU runs any more.
    unsafe { ((boot.report.base + MEMORY_REPORT) as *mut MemoryReport).write(report) };
}
