//! Where misuse of objects is found out.

use core::panic::Location;
use core::ptr::NonNull;

use crate::address::{FrameNumber, PhysAddr};
use crate::fault::{Fault, planted};
use crate::owner::{POISON, first_change};
use crate::platform::Platform;
use crate::report::Misuse;
use crate::slab::Cache;
use crate::slab::page::Slab;

impl<P: Platform> Cache<'_, P> {
    /// With checks, marks an object that is about to be allocated as held, if it is as it was freed. If not,
    /// reports that, and nobody will have it.
    pub(super) fn admit(&self, object: NonNull<u8>, by: &'static Location<'static>) -> bool {
        if !P::CHECKS {
            return true;
        }
        // SAFETY: the object is from one of our slabs, and nobody else has it.
        let slab = unsafe { Slab::of(object).as_ref() };
        let change = first_change(object.as_ptr(), self.shape.size());
        match change.filter(|_| !planted::<P>(Fault::TrustsFreeMemory)) {
            Some((at, found)) => {
                let offset = at + self.shape.offset(object);
                let misuse = Misuse::UsedWhileFree { offset, found };
                self.pages.report(slab.frame(), misuse, by);
                false
            }
            None => {
                slab.hold(self.shape.number(object).expect("it came from there"));
                true
            }
        }
    }

    /// With checks, makes an object that is about to be freed one that is free. If it cannot be, reports why.
    pub(super) fn check_free(&self, object: NonNull<u8>, by: &'static Location<'static>) -> bool {
        if !P::CHECKS {
            return true;
        }
        let at = object.addr().get();
        // SAFETY: an object's slab has its header there. What is no object is still memory of the kernel's, of
        // which all bit patterns make a header.
        let slab = unsafe { Slab::of(object).as_ref() };
        let number = self.shape.number(object).filter(|_| slab.is_of(self.id()));
        let Some(number) = number else {
            let frame = FrameNumber::containing(PhysAddr(at as u64));
            self.pages.report(frame, Misuse::NotObject { at }, by);
            return false;
        };
        if !slab.release(number) && !planted::<P>(Fault::FreesTwice) {
            self.pages
                .report(slab.frame(), Misuse::ObjectFreedTwice { at }, by);
            return false;
        }
        // SAFETY: it was held, by the caller, and is nobody's now.
        unsafe { object.write_bytes(POISON, self.shape.size()) };
        true
    }
}
