//! Where misuse is found out.

use core::panic::Location;

use crate::address::FrameNumber;
use crate::allocator::PageAllocator;
use crate::fault::{Fault, planted};
use crate::index::FrameIndex;
use crate::order::Order;
use crate::platform::{Cpu, Platform};
use crate::report::{BadPage, Misuse};
use crate::state::{Kind, State};
use crate::zone::Zone;

impl<P: Platform> PageAllocator<P> {
    /// Checks a block that is about to be allocated. One that was written to while it was free is nobody's
    /// from now on.
    pub(crate) fn admit(
        &self,
        zone: &Zone<P>,
        index: FrameIndex,
        order: Order,
        by: &'static Location<'static>,
        cpu: Cpu,
    ) -> Result<(), BadPage> {
        if !P::CHECKS {
            return Ok(());
        }
        zone.unpoison(&self.platform, index, order, by, cpu)
            .or_else(|(bad, misuse)| {
                if planted::<P>(Fault::TrustsFreeMemory) {
                    return Ok(());
                }
                for frame in &zone.frames()[index.get()..][..order.frames() as usize] {
                    frame.set(State::RESERVED);
                }
                Err(BadPage {
                    misuse,
                    frame: zone.number(bad),
                    by,
                    last_owner: zone.last_owner(bad),
                })
            })
    }

    /// Reports misuse of `frame`.
    #[cold]
    pub(crate) fn report(&self, frame: FrameNumber, misuse: Misuse, by: &'static Location<'static>) {
        let last_owner = self
            .find(frame)
            .and_then(|(zone, index, _)| zone.last_owner(index));
        self.platform.bad_page(BadPage {
            misuse,
            frame,
            by,
            last_owner,
        });
    }
}

impl<P: Platform> Zone<P> {
    /// Why a block cannot be freed as one of `order`.
    pub(crate) fn misuse(&self, index: FrameIndex, order: Order) -> Misuse {
        let state = self.frame(index).state();
        match state.kind() {
            Kind::Reserved => Misuse::NotMemory,
            Kind::Free | Kind::Listed => Misuse::DoubleFree,
            // It was the head of what has since been merged, or never was one.
            Kind::Tail => match self.block_of(index).map(|(_, head)| head.kind()) {
                // Of no block yet: nobody has had it.
                None | Some(Kind::Free | Kind::Listed) => Misuse::DoubleFree,
                Some(Kind::Reserved) => Misuse::NotMemory,
                Some(Kind::Allocated | Kind::Tail) => Misuse::NotHead,
            },
            Kind::Allocated if state.order() != order => Misuse::WrongOrder {
                freed: order,
                allocated: state.order(),
            },
            Kind::Allocated => Misuse::InUse {
                references: state.references(),
            },
        }
    }
}
