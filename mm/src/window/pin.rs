//! Pinning: pages that are to stay where they are.

use crate::address::FrameNumber;
use crate::window::count::WindowEvent;
use crate::window::entry::Entry;
use crate::window::mmu::Mmu;
use crate::window::page::PageNumber;
use crate::window::{Window, WindowError};

impl<P: Mmu> Window<'_, P> {
    /// Pins the page at a virtual address and says in which frame it is. The frame does not move and the page
    /// stays in it, until it is unpinned as often, or unmapped: then the frame is the pins' alone.
    ///
    /// The page is made writable first, its own: a copy that is made of it later is one at once. Who writes to
    /// the frame by its number, and not through the page, sees to it that the page is not forked meanwhile.
    ///
    /// # Errors
    ///
    /// [`WindowError::NoRange`], [`WindowError::NoMemory`].
    pub fn pin(&self, address: u64) -> Result<FrameNumber, WindowError> {
        self.may_wait();
        let page = PageNumber::containing(address);
        let slot = self.slot(page).ok_or(WindowError::NoRange)?;
        let place = self.place(slot).ok_or(WindowError::NoRange)?;
        loop {
            self.touch(page, true)?;
            let found = place.entry();
            let Entry::Present {
                frame,
                writable: true,
            } = found
            else {
                continue;
            };
            // While the entry says so, the frame has a reference.
            if self.locked(frame, |metadata| place.entry() == found && metadata.get::<P>()) {
                self.add(WindowEvent::FollPinAcquired, 1);
                return Ok(frame);
            }
        }
    }

    /// Unpins a frame.
    ///
    /// # Safety
    ///
    /// It was [pinned](Window::pin), and the caller uses it no more.
    pub unsafe fn unpin(&self, frame: FrameNumber) {
        // SAFETY: the reference is the pin's, which is the caller's.
        unsafe { self.allocator.put(frame) };
        self.add(WindowEvent::FollPinReleased, 1);
    }
}
