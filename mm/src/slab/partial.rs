//! The list of those slabs of a cache that have free objects.

use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use crate::fault::{Fault, planted};
use crate::platform::Platform;
use crate::slab::page::{Shape, Slab};

/// The slabs of a cache that have free objects, linked through their headers.
#[derive(Debug)]
pub(super) struct Partial {
    first: Option<NonNull<Slab>>,
}

// SAFETY: slabs are memory of the cache's, which any CPU can reach.
unsafe impl Send for Partial {}

impl Partial {
    pub(super) const fn new() -> Partial {
        Partial { first: None }
    }

    /// Adds a slab that is on no list.
    pub(super) fn link(&mut self, slab: NonNull<Slab>) {
        let next = self.first.replace(slab);
        let header = header(&slab);
        header.set_next(next);
        header.set_prev(None);
        if let Some(next) = next {
            self::header(&next).set_prev(Some(slab));
        }
    }

    fn unlink(&mut self, slab: NonNull<Slab>) {
        let (next, prev) = (header(&slab).next(), header(&slab).prev());
        match prev {
            Some(prev) => header(&prev).set_next(next),
            None => self.first = next,
        }
        if let Some(next) = next {
            header(&next).set_prev(prev);
        }
    }

    /// Takes a free object.
    pub(super) fn take<P: Platform>(&mut self, shape: &Shape) -> Option<NonNull<u8>> {
        let slab = self.first?;
        let words = header(&slab).free.iter().enumerate();
        let (word, bits) = words
            .map(|(i, word)| (i, word.load(Ordering::Relaxed)))
            .find(|(_, bits)| *bits != 0)?;
        let number = 64 * word as u32 + bits.trailing_zeros();
        if !planted::<P>(Fault::HandsObjectsOutTwice) {
            header(&slab).free[word].store(bits & (bits - 1), Ordering::Relaxed);
        }
        if header(&slab).free_objects() == 0 {
            self.unlink(slab);
        }
        let offset = shape.first + number * shape.size;
        // SAFETY: the object is in the slab.
        Some(unsafe { slab.cast::<u8>().add(offset as usize) })
    }

    /// Returns an object to its slab. One that is not in use then, while another has free objects, goes to the
    /// front of the chain `empty`, which is returned.
    pub(super) fn give<P: Platform>(
        &mut self,
        shape: &Shape,
        object: NonNull<u8>,
        empty: Option<NonNull<Slab>>,
    ) -> Option<NonNull<Slab>> {
        let slab = Slab::of(object);
        let number = shape.number(object).expect("objects come from slabs");
        let before = header(&slab).free_objects();
        let (word, bit) = (&header(&slab).free[number as usize / 64], 1 << (number % 64));
        let bits = word.load(Ordering::Relaxed);
        debug_assert!(bits & bit == 0, "an object comes back that is free there already");
        word.store(bits | bit, Ordering::Relaxed);
        if before == 0 && !planted::<P>(Fault::LosesFullSlabs) {
            self.link(slab);
        }
        let only = self.first == Some(slab) && header(&slab).next().is_none();
        if header(&slab).free_objects() < shape.count || only || planted::<P>(Fault::LosesFullSlabs) {
            return empty;
        }
        self.unlink(slab);
        header(&slab).set_next(empty);
        Some(slab)
    }

    /// Takes all slabs that are not in use, in front of the chain `empty`.
    pub(super) fn take_empty(
        &mut self,
        shape: &Shape,
        mut empty: Option<NonNull<Slab>>,
    ) -> Option<NonNull<Slab>> {
        let mut next = self.first;
        while let Some(slab) = next {
            next = header(&slab).next();
            if header(&slab).free_objects() == shape.count {
                self.unlink(slab);
                header(&slab).set_next(empty);
                empty = Some(slab);
            }
        }
        empty
    }
}

/// The header of a slab that is on a list, or that an object is part of which the caller has.
fn header(slab: &NonNull<Slab>) -> &Slab {
    // SAFETY: slabs on the list, and those that objects in use are part of, are not freed; nobody has a mutable
    // reference to a header, whose fields are atomics.
    unsafe { slab.as_ref() }
}
