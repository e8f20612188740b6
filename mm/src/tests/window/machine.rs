//! A machine with CPUs that translate addresses by the window's own page tables, in software.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, OnceLock};
use std::vec::Vec;

use crate::fault::Fault;
use crate::tests::host::{Host, Spin, be};
use crate::{
    BadPage, Cpu, FrameNumber, FrameRange, Mmu, Movable, PageAllocator, PageNumber, PageRange, Platform,
    User, Window, WindowError,
};

/// First page of the window, in the upper half as a kernel would have it.
pub(crate) const START: u64 = 0xf_ffff_8000_0000 >> 27 << 27;

/// A page of the window.
pub(crate) fn page(at: u64) -> PageNumber {
    PageNumber::new(START + at)
}

/// Pages of the window.
pub(crate) fn pages(at: u64, count: u64) -> PageRange {
    PageRange::new(page(at), count)
}

/// Address of a word of a page.
pub(crate) fn address(at: u64, word: u64) -> u64 {
    page(at).start() + 8 * word
}

/// What a CPU remembers of a page.
#[derive(Clone, Copy)]
struct Translation {
    frame: FrameNumber,
    writable: bool,
}

/// What is a CPU's own.
#[derive(Default)]
struct Core {
    /// Forgets nothing on its own: what is not flushed is used for ever.
    remembered: Mutex<BTreeMap<u64, Translation>>,
    kicked: Mutex<bool>,
    kick: Condvar,
    /// In `on_this_cpu`.
    busy: AtomicBool,
}

/// The machine. Its user of movable pages is the test's window, once it is known.
pub(crate) struct Machine<const FAULT: u8> {
    host: Host<true, FAULT>,
    cores: Vec<Core>,
    root: OnceLock<FrameNumber>,
    before_flush: OnceLock<fn(&Self)>,
    mover: OnceLock<&'static dyn Movable>,
}

pub(crate) type Allocator<const FAULT: u8> = PageAllocator<Machine<FAULT>>;
pub(crate) type TestWindow<'a, const FAULT: u8> = Window<'a, Machine<FAULT>>;

impl<const FAULT: u8> Machine<FAULT> {
    /// An allocator of such a machine, with so much memory.
    pub(crate) fn allocator(frames: u64, cpus: u32) -> Allocator<FAULT> {
        let all = [FrameRange::new(
            FrameNumber::new(0x400),
            FrameNumber::new(0x400 + frames),
        )];
        let machine = Machine {
            host: Host::new(&all),
            cores: (0..cpus).map(|_| Core::default()).collect(),
            root: OnceLock::new(),
            before_flush: OnceLock::new(),
            mover: OnceLock::new(),
        };
        // SAFETY: the memory is the platform's, which lives as long as the allocator.
        unsafe { PageAllocator::new(machine, &all, cpus) }.expect("regions have room")
    }

    /// A window of the machine, hooked into its page tables.
    pub(crate) fn window(allocator: &Allocator<FAULT>) -> TestWindow<'_, FAULT> {
        let window = Window::new(allocator, PageNumber::new(START)).expect("there is memory");
        allocator
            .platform
            .root
            .set(window.root())
            .expect("there is one window");
        window
    }

    /// Lets others move the pages of a window that lives for ever.
    pub(crate) fn moves(&self, window: &'static dyn Movable) {
        assert!(self.mover.set(window).is_ok(), "there is one window");
    }

    /// From now on every flush begins with that.
    pub(crate) fn before_flush(&self, hook: fn(&Self)) {
        assert!(self.before_flush.set(hook).is_ok());
    }

    pub(crate) fn reports(&self) -> Vec<BadPage> {
        self.host.reports()
    }

    /// A word of physical memory, as a CPU sees it.
    pub(crate) fn word(&self, frame: FrameNumber, word: usize) -> &AtomicU64 {
        assert!(word < 512);
        // SAFETY: within the frame.
        let word = unsafe { self.frame_ptr(frame).cast::<u64>().add(word) };
        // SAFETY: memory of the machine, which lives as long; CPUs use it by such words.
        unsafe { AtomicU64::from_ptr(word) }
    }

    /// What the page tables say, as the hardware reads them.
    fn walk(&self, page: u64) -> Option<Translation> {
        let mut table = *self.root.get().expect("the window is hooked in");
        let mut writable = true;
        for level in (0..3).rev() {
            let entry = self
                .word(table, (page >> (9 * level)) as usize & 0x1ff)
                .load(Ordering::Acquire);
            // Present, and for the user.
            if entry & 5 != 5 {
                return None;
            }
            assert_eq!(entry & 0x20, 0x20, "the CPU would have to set accessed");
            assert!(level != 0 || entry & 0x40 != 0, "the CPU would have to set dirty");
            assert!(level != 0 || entry >> 63 == 1, "the CPU would run what is there");
            writable &= entry & 2 != 0;
            table = FrameNumber::new(entry >> 12 & 0xff_ffff_ffff);
        }
        Some(Translation {
            frame: table,
            writable,
        })
    }

    /// An access to a word on a CPU: what it read, or a page fault. What is remembered is used, right or
    /// wrong.
    pub(crate) fn access(&self, cpu: u32, address: u64, write: Option<u64>) -> Option<u64> {
        let page = address >> 12;
        // Held until the access is done: a flush comes before or after it.
        let mut remembered = self.cores[cpu as usize].remembered.lock().unwrap();
        let enough = |translation: &Translation| translation.writable || write.is_none();
        let found = remembered.get(&page).copied().filter(enough);
        let Some(translation) = found.or_else(|| self.walk(page).filter(enough)) else {
            // A fault forgets what it was about.
            remembered.remove(&page);
            return None;
        };
        remembered.insert(page, translation);
        let word = self.word(translation.frame, (address & 0xfff) as usize / 8);
        Some(match write {
            Some(value) => word.swap(value, Ordering::Relaxed),
            None => word.load(Ordering::Relaxed),
        })
    }
}

/// Reads a word, or replaces it, with all page faults that it takes.
pub(crate) fn access<const FAULT: u8>(
    window: &TestWindow<'_, FAULT>,
    cpu: u32,
    address: u64,
    write: Option<u64>,
) -> Result<u64, WindowError> {
    be(cpu);
    let machine = window_machine(window);
    loop {
        if let Some(value) = machine.access(cpu, address, write) {
            return Ok(value);
        }
        window.fault(address, write.is_some())?;
    }
}

/// The machine that the window is of.
pub(crate) fn window_machine<'w, const FAULT: u8>(window: &'w TestWindow<'_, FAULT>) -> &'w Machine<FAULT> {
    window.platform()
}

// SAFETY: threads of a test have different numbers, and each is one context. Frames are where the memory of
// their region is.
unsafe impl<const FAULT: u8> Platform for Machine<FAULT> {
    type Lock = Spin;
    const CHECKS: bool = true;
    const FAULT: Fault = Fault::numbered(FAULT);
    const LISTS: Option<(u32, u32)> = Some((8, 24));

    fn on_this_cpu<R>(&self, f: impl FnOnce(Cpu) -> R) -> R {
        self.host.on_this_cpu(|cpu| {
            let busy = &self.cores[cpu.0 as usize].busy;
            assert!(!busy.swap(true, Ordering::Acquire), "{cpu:?} is busy");
            let result = f(cpu);
            busy.store(false, Ordering::Release);
            result
        })
    }

    fn frame_ptr(&self, frame: FrameNumber) -> *mut u8 {
        self.host.frame_ptr(frame)
    }

    fn bad_page(&self, report: BadPage) {
        self.host.bad_page(report);
    }

    fn movable(&self, user: User) -> Option<&dyn Movable> {
        let window: &'static dyn Movable = *self.mover.get()?;
        (user == User::Window).then_some(window)
    }

    fn wait(&self, word: &AtomicU32, value: u32) {
        let cpu = self.on_this_cpu(|cpu| cpu.0);
        let core = &self.cores[cpu as usize];
        let mut kicked = core.kicked.lock().unwrap();
        while !*kicked && word.load(Ordering::Acquire) == value {
            kicked = core.kick.wait(kicked).unwrap();
        }
        *kicked = false;
    }

    fn kick(&self, cpu: Cpu) {
        let core = &self.cores[cpu.0 as usize];
        *core.kicked.lock().unwrap() = true;
        core.kick.notify_one();
    }

    fn may_wait(&self) -> bool {
        let cpu = self.host.on_this_cpu(|cpu| cpu.0);
        !self.cores[cpu as usize].busy.load(Ordering::Relaxed)
    }
}

// SAFETY: a CPU looks up what it remembers, and uses it, with the lock held that is taken here.
unsafe impl<const FAULT: u8> Mmu for Machine<FAULT> {
    fn flush(&self, ranges: &[PageRange]) {
        assert!(self.may_wait(), "a flush waits for others");
        if let Some(hook) = self.before_flush.get() {
            hook(self);
        }
        for core in &self.cores {
            let mut remembered = core.remembered.lock().unwrap();
            remembered.retain(|page, _| !ranges.iter().any(|range| range.contains(PageNumber::new(*page))));
        }
    }
}
