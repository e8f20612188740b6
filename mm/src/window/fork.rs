//! Copies of ranges that cost nothing until somebody writes.

use crate::address::FrameNumber;
use crate::fault::{Fault, planted};
use crate::window::entry::Entry;
use crate::window::mmu::Mmu;
use crate::window::page::{PageNumber, PageRange, Slot};
use crate::window::table::Place;
use crate::window::{Window, WindowError};

/// How an attempt to share a page went.
enum Shared {
    /// Both have it.
    Yes,
    /// The target is in use.
    InUse,
    /// The page is not as it was found.
    Changed,
    /// It has more references than mappings, and must stay its page's alone.
    Pinned,
}

impl<P: Mmu> Window<'_, P> {
    /// Maps at `to` a copy of the `pages` mapped at `from`. Both share frames, not writable, until either
    /// writes. Pages that are pinned, or about to move, are copied at once: a pinned frame stays where its
    /// page is.
    ///
    /// Of each page the copy is of one moment between call and return. Nobody touches the target before the
    /// return.
    ///
    /// # Errors
    ///
    /// [`WindowError::NoRange`] if some page at `from` is not mapped or ranges are not in the window,
    /// [`WindowError::InUse`] if some page at `to` is, [`WindowError::NoMemory`]. Nothing is mapped at `to`
    /// then.
    pub fn fork_range(&self, from: PageNumber, to: PageNumber, pages: u64) -> Result<(), WindowError> {
        self.may_wait();
        let source = PageRange::new(from, pages);
        let first_source = self.first_slot(source)?.number();
        let target = PageRange::new(to, pages);
        let first_target = self.first_slot(target)?.number();
        let ranges = [source];
        let _invalidation = self.notifiers.start(&ranges);
        let forked = self.each(target, |slot| {
            let source = Slot::new(first_source + (slot.number() - first_target));
            self.fork_page(source, slot)
        });
        // Pages that were writable no longer are, whether or not all went well.
        if !planted::<P>(Fault::ForksUnflushed) {
            self.flush(&ranges);
        }
        forked
    }

    fn fork_page(&self, from: Slot, to: Slot) -> Result<(), WindowError> {
        let source = self.place(from).ok_or(WindowError::NoRange)?;
        let target = self.make_place(to)?;
        loop {
            let found = source.entry();
            match found {
                Entry::Empty => return Err(WindowError::NoRange),
                Entry::ZeroFill => {
                    let mapped = target.replace(Entry::Empty, Entry::ZeroFill);
                    return mapped.then_some(()).ok_or(WindowError::InUse);
                }
                Entry::Migration { frame, .. } => self.wait_while(&source, found, frame),
                Entry::Present { frame, .. } => match self.share_page(&source, &target, to, frame) {
                    Shared::Yes => return Ok(()),
                    Shared::InUse => return Err(WindowError::InUse),
                    Shared::Changed => {}
                    Shared::Pinned => {
                        if let Some(copied) = self.copy_page(&source, from, &target, to, frame)? {
                            return copied.then_some(()).ok_or(WindowError::InUse);
                        }
                    }
                },
            }
        }
    }

    /// Lets the target have the frame that the source is in.
    fn share_page(&self, source: &Place<'_>, target: &Place<'_>, to: Slot, frame: FrameNumber) -> Shared {
        self.locked(frame, |metadata| {
            match source.entry() {
                Entry::Present { frame: now, .. } if now == frame => {}
                _ => return Shared::Changed,
            }
            if metadata.state().references() > metadata.maps() && !planted::<P>(Fault::SharesPinned) {
                return Shared::Pinned;
            }
            let writable = false;
            let entry = Entry::Present { frame, writable };
            // Before the entry: as the source is in the frame, it has a reference.
            let got = metadata.get::<P>();
            debug_assert!(got, "a mapped frame has a reference");
            if !target.replace(Entry::Empty, entry) {
                metadata.put::<P>();
                return Shared::InUse;
            }
            // Who looks at the entry needs the lock to see that the list does not have it yet.
            self.link_in(metadata, to);
            if !planted::<P>(Fault::LeavesWritable) {
                source.set(entry);
            }
            Shared::Yes
        })
    }

    /// Copies a page. Whether the target was empty; `None` if the source is not as it was found.
    fn copy_page(
        &self,
        source: &Place<'_>,
        from: Slot,
        target: &Place<'_>,
        to: Slot,
        frame: FrameNumber,
    ) -> Result<Option<bool>, WindowError> {
        let new = self.new_frame()?;
        let Some(writable) = self.freeze(source, frame) else {
            self.free_frame(new);
            return Ok(None);
        };
        self.flush(&[PageRange::new(self.page(from), 1)]);
        // Nobody writes to it: the page is in flight, if others are in the frame, none is writable, and who has
        // pinned it sees to that, too.
        self.copy(frame, new);
        self.locked(frame, |_| source.set(Entry::Present { frame, writable }));
        self.wake([frame].into_iter());
        Ok(Some(self.install(target, to, Entry::Empty, new)))
    }
}
