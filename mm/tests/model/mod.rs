//! What machines under the model checker have in common.

use lock_api::{GuardSend, RawMutex};
use loom::sync::{Condvar, Mutex};

/// loom's mutex as a lock that is made in a constant. There is one zone, so one is enough.
pub(crate) struct Lock;

loom::lazy_static! {
    static ref LOCKED: Mutex<bool> = Mutex::new(false);
    static ref UNLOCKED: Condvar = Condvar::new();
}

// SAFETY: whoever sets the flag has the lock, until it clears it.
unsafe impl RawMutex for Lock {
    const INIT: Lock = Lock;
    type Guard = GuardSend;

    fn lock(&self) -> GuardSend {
        let mut locked = LOCKED.lock().unwrap();
        while *locked {
            locked = UNLOCKED.wait(locked).unwrap();
        }
        *locked = true;
        GuardSend::new()
    }

    fn try_lock(&self) -> Option<GuardSend> {
        unimplemented!("the allocator does not try")
    }

    unsafe fn unlock(&self, _: GuardSend) {
        *LOCKED.lock().unwrap() = false;
        UNLOCKED.notify_one();
    }

    fn is_locked(&self) -> bool {
        *LOCKED.lock().unwrap()
    }
}
