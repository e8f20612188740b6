//! Sizes of blocks.

/// Size of a block: the binary logarithm of its length in frames. A block of an order is aligned to its
/// length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Order(u8);

impl Order {
    /// One frame.
    pub const FRAME: Order = Order(0);

    /// The largest order that CPUs keep lists of: Linux's `PAGE_ALLOC_COSTLY_ORDER`.
    pub const COSTLY: Order = Order(3);

    /// A pageblock, which is 2 MiB, what one entry of a page directory maps: Linux's `pageblock_order`.
    pub const PAGEBLOCK: Order = Order(9);

    /// The largest block, 4 MiB: Linux's `MAX_PAGE_ORDER`.
    pub const MAX: Order = Order(10);

    /// Number of orders.
    pub const COUNT: usize = Order::MAX.0 as usize + 1;

    /// The order `order`, or `None` above [`Order::MAX`].
    #[inline]
    pub const fn new(order: u8) -> Option<Order> {
        if order <= Order::MAX.0 {
            Some(Order(order))
        } else {
            None
        }
    }

    /// The number.
    #[inline]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Length of such a block, in frames.
    #[inline]
    pub const fn frames(self) -> u32 {
        1 << self.0
    }

    /// Place in a table of all orders.
    #[inline]
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }

    /// The next larger order, if there is one.
    pub(crate) const fn up(self) -> Option<Order> {
        Order::new(self.0 + 1)
    }

    /// Half the length. There is one for every order but [`Order::FRAME`].
    pub(crate) const fn down(self) -> Order {
        Order(self.0 - 1)
    }

    /// This order and all larger ones, ascending.
    pub(crate) fn and_up(self) -> impl DoubleEndedIterator<Item = Order> {
        (self.0..=Order::MAX.0).map(Order)
    }

    /// Every order, ascending.
    pub fn all() -> impl DoubleEndedIterator<Item = Order> {
        Order::FRAME.and_up()
    }
}

const _: () = {
    assert!(Order::PAGEBLOCK.frames() as u64 * crate::FRAME_SIZE == 2 << 20);
    assert!(
        Order::MAX.0 > Order::PAGEBLOCK.0,
        "pageblocks can be part of a larger block"
    );
};
