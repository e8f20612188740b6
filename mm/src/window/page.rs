//! Pages of virtual memory, and where in the window they are.

use crate::address::FRAME_SHIFT;

/// Number of a 4 KiB page: its virtual address divided by the page size, sign extension and all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PageNumber(u64);

impl PageNumber {
    /// The page that holds the virtual address.
    pub const fn containing(address: u64) -> PageNumber {
        PageNumber(address >> FRAME_SHIFT)
    }

    /// Virtual address of the page's first byte.
    pub const fn start(self) -> u64 {
        self.0 << FRAME_SHIFT
    }

    /// The page with this number.
    pub const fn new(number: u64) -> PageNumber {
        PageNumber(number)
    }

    /// The number itself.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The page `pages` further on.
    pub const fn plus(self, pages: u64) -> PageNumber {
        PageNumber(self.0 + pages)
    }
}

/// Pages that follow each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRange {
    start: PageNumber,
    pages: u64,
}

impl PageRange {
    /// So many pages from `start`.
    pub const fn new(start: PageNumber, pages: u64) -> PageRange {
        PageRange { start, pages }
    }

    /// The first page.
    pub const fn start(&self) -> PageNumber {
        self.start
    }

    /// The first page after the range.
    pub const fn end(&self) -> PageNumber {
        self.start.plus(self.pages)
    }

    /// Number of pages.
    pub const fn len(&self) -> u64 {
        self.pages
    }

    /// Whether there is no page in it.
    pub const fn is_empty(&self) -> bool {
        self.pages == 0
    }

    /// Whether `page` is in the range.
    pub const fn contains(&self, page: PageNumber) -> bool {
        page.0.wrapping_sub(self.start.0) < self.pages
    }

    /// Whether some page is in both.
    pub const fn intersects(&self, other: &PageRange) -> bool {
        self.start.0 < other.end().0 && other.start.0 < self.end().0
    }

    /// Its pages, ascending.
    pub fn iter(self) -> impl Iterator<Item = PageNumber> {
        (self.start.0..self.end().0).map(PageNumber)
    }
}

/// Place of a page in the window, below [`Slot::COUNT`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Slot(u32);

impl Slot {
    /// Pages that one entry of a PML4 maps: 512 GiB.
    pub(crate) const COUNT: u64 = 1 << 27;
    /// What a link says that leads nowhere.
    const NONE: u32 = u32::MAX;

    pub(crate) const fn new(number: u32) -> Slot {
        Slot(number)
    }

    pub(crate) const fn number(self) -> u32 {
        self.0
    }

    /// Place of its entry in the table of a level: 0 is the leaf, 2 the root.
    pub(crate) const fn index(self, level: u32) -> usize {
        (self.0 >> (9 * level)) as usize & 0x1ff
    }

    /// The slot that a link leads to.
    pub(crate) const fn from_link(link: u32) -> Option<Slot> {
        if link == Self::NONE {
            None
        } else {
            Some(Slot(link))
        }
    }

    /// A link to that slot, or nowhere.
    pub(crate) const fn to_link(slot: Option<Slot>) -> u32 {
        match slot {
            Some(slot) => slot.0,
            None => Self::NONE,
        }
    }
}
