//! Memory management of the guest kernel, free of what it runs on.
//!
//! The crate knows nothing of KVM, ports or the VMM: what it needs of the machine is a [`Platform`], so that the
//! same code runs in the guest, in tests over threads, under the model checker loom, and in benches. It allocates
//! nothing but out of the memory that it is given.
//!
//! # Memory
//!
//! A [`PageAllocator`] has two [`Zone`]s, with metadata of their own, off the front of each zone's largest region:
//!
//! ```text
//!   0          regions of the memory map                  3 GiB      4 GiB
//!   |    +-----------------+      +--------------------------+ (hole) +---------------------------+
//!   |    |metadata|  free  |      |           free           |        |metadata|       free       |
//!   |    +-----------------+      +--------------------------+        +---------------------------+
//!   '----------------- zone DMA32, used last ----------------'        '---- zone Normal, first ---'
//!
//!   metadata   Frame      one per 4 KiB: state, links, private word, mappings     32 bytes
//!              Pageblock  one per 2 MiB: migrate type, skip hint                   1 byte
//!              Owner      one per frame, with checks only: last owner, poisoned   16 bytes
//!              PerCpu     one per CPU: lists, counters                             6 KiB
//! ```
//!
//! A zone starts at a multiple of 4 MiB, so that blocks and their [`FrameIndex`]es are aligned alike; blocks
//! of holes in it are [`Kind::Reserved`]. Memory is zero at first, and so is metadata, which is touched only for
//! what is used: an allocator of 64 GiB is made as fast as one of 64 MiB.
//!
//! # Blocks
//!
//! Memory is allocated in blocks of 2^[`Order`] frames. The first frame of a block, its head, says what the
//! block is; all others are [`Kind::Tail`]:
//!
//! ```text
//!   frames   | H t t t t t t t | H t t t | H t | H | H |     H  head      t  tail
//!   block    |  Free, order 3  | Alloc.2 | F.1 | A | L |     F  on a free list of the buddy, A  somebody's,
//!   state    '-- one word: kind, order, type, references     L  on a CPU's list
//! ```
//!
//! # Allocation
//!
//! ```text
//!   alloc(Request)                                                        free(frame, order)
//!     │   ▲                                                                 │
//!     │   └──── this CPU's list of the order (0..=3) and type ◄─────────────┤ no lock, no locked instruction
//!     │ empty             ▲                      │ full, or asked to drain  │
//!     ▼                   │ refill: a batch      ▼ a batch                  ▼ order above 3
//!   watermark ──────► buddy of the zone, under its lock: split, merge ◄─────┤
//!     │                   │ nothing of the type                             │
//!     │                   ▼                                                 │ pages that moved away
//!     │               fallback: claim a pageblock, or steal the smallest    │
//!     │                   │ nothing large enough                            │
//!     ▼                   ▼                                                 │
//!   drain this CPU, try again; ask other CPUs to drain                      │
//!     │ no memory         │ fragmented ─── a note ──► kcompactd ──► compaction: a pass of two scanners
//!     ▼                   ▼                                                 ▲
//!   AllocError ◄──── may the caller wait? ── yes ───────────────────────────┘
//! ```
//!
//! Frames on CPUs' lists have left the free ones, so watermarks are looked at when lists are refilled.
//!
//! # Memory that moves
//!
//! ```text
//!   page of the window ──► page table entry ──► frame ──► its pages (reverse map)
//!
//!   migrate: tell notifiers ► entries say "in flight" ► all TLBs forget ► copy ► entries say where ► wake
//!                                └── who touches it faults, and halts ──────────────────────────────┘
//! ```
//!
//! `window`'s own documentation has the states of an entry, the rules of locking, and why nobody ever sees an
//! old frame.
//!
//! # Compaction
//!
//! ```text
//!   | m  m | FREE | m U  |mm m  |mmmmmm|      m  page that can be moved      U  frame that cannot
//!     ──► pages               frames ◄──      two scanners, until they meet
//!      └──────── migrate ────────┘
//! ```
//!
//! Who uses a page that can be moved is a [`Movable`]; `compaction`'s own documentation has the rest.
//!
//! # Checks
//!
//! A free is always checked against the state of the frame, which costs a comparison: a double free, a wrong
//! order, a frame that is no head or not memory is reported to [`Platform::bad_page`] and has no effect. With
//! [`Platform::CHECKS`], as in debug builds, the report has the frame's last owner, of two frees that race one is
//! reported, and free memory is poisoned and looked at when it is allocated.
//!
//! # Where things are
//!
//! - `address`: [`PhysAddr`], [`FrameNumber`], [`FrameRange`]. `index`: places in a zone. `order`,
//!   `migrate_type`, `request`: what is asked for.
//! - `state`, `frame`, `pageblock`: metadata. `carve`: where it lives. `zone`, `zone_kind`: what has it. `init`:
//!   how it is made.
//! - `buddy`, `fallback`: free lists and what is taken when a type has run out. `watermark`: how much stays free.
//! - `lists`, `pcp`: CPUs' lists. `allocator`: the fast paths; `slow`, `drain`: the others. `share`: blocks with
//!   several holders.
//! - `slab`: objects smaller than a frame.
//! - `movable`: pages that can be moved, and by whom. `window`: virtual memory whose pages can, and who is told
//!   of it. `compaction`: why, when and where to. `lazy_flush`: TLBs of halted CPUs, flushed when they resume.
//! - `report`, `bad`, `owner`: misuse, how it is found, and who did it.
//! - `stat`, `view`: what is counted, and `/proc` as text.
//! - `platform`: the machine. `sync`: core's atomics or loom's. `fault`: what tests do wrong on purpose.
#![no_std]

#[cfg(test)]
extern crate std;

mod address;
mod allocator;
mod bad;
mod buddy;
mod carve;
mod compaction;
mod drain;
mod fallback;
mod fault;
mod frame;
mod index;
mod init;
mod lazy_flush;
mod lists;
mod migrate_type;
mod movable;
mod order;
mod owner;
mod pageblock;
mod pcp;
mod platform;
mod report;
mod request;
mod share;
mod slab;
mod slow;
mod stat;
mod state;
mod sync;
#[cfg(all(test, not(loom)))]
mod tests;
mod view;
mod watermark;
mod window;
mod zone;
mod zone_kind;

pub use address::{FRAME_SHIFT, FRAME_SIZE, FrameNumber, FrameRange, PhysAddr};
pub use allocator::PageAllocator;
pub use compaction::CompactResult;
#[cfg(any(test, loom))]
#[doc(hidden)]
pub use fault::Fault;
pub use frame::Frame;
pub use index::{BlockIndex, FrameIndex};
pub use lazy_flush::LazyFlush;
pub use migrate_type::MigrateType;
pub use movable::{MigrateError, Movable, Move, User};
pub use order::Order;
pub use owner::POISON;
pub use pageblock::Pageblock;
pub use platform::{Cpu, Platform};
pub use report::{BadPage, LastOwner, Misuse};
pub use request::{AllocError, Effort, Request};
pub use slab::{Cache, Heap, Object};
pub use stat::Event;
pub use state::{Kind, State};
pub use watermark::{Mark, Watermarks, min_free};
#[cfg(loom)]
#[doc(hidden)]
pub use window::Waits;
pub use window::{
    Checks, Entry, Interval, IntervalNotifier, Invalidation, Mmu, Notifier, Notifiers, PageNumber, PageRange,
    Secondary, Sequence, Subscription, Window, WindowError, WindowEvent, WouldBlock,
};
pub use zone::Zone;
pub use zone_kind::{InitError, ZoneKind};
