//! Threads that do what they are told, one step at a time.

use std::any::Any;
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::mpsc;
use std::thread;

use pvlock::{CpuId, Event};

use super::{host, watchdog};

type Step = Box<dyn FnOnce(&mut VecDeque<Box<dyn Any>>) + Send>;

/// A thread that waits for orders. It keeps what an order returns, a guard for instance, until it is told to
/// drop it.
pub(crate) struct Actor {
    name: &'static str,
    cpu: CpuId,
    orders: mpsc::Sender<Step>,
    done: mpsc::Receiver<()>,
    outstanding: Cell<usize>,
}

impl Actor {
    /// A new thread.
    pub(crate) fn new(name: &'static str) -> Actor {
        let (orders, inbox) = mpsc::channel::<Step>();
        let (report, done) = mpsc::channel();
        let (say_number, number) = mpsc::channel();
        thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                say_number.send(host::this_cpu()).unwrap();
                let mut kept = VecDeque::new();
                while let Ok(step) = inbox.recv() {
                    step(&mut kept);
                    if report.send(()).is_err() {
                        break;
                    }
                }
                // If the test has failed, its guards must not be dropped in the wrong state.
                std::mem::forget(kept);
            })
            .unwrap();
        let cpu = number.recv().unwrap();
        Actor {
            name,
            cpu,
            orders,
            done,
            outstanding: 0.into(),
        }
    }

    /// Its number.
    pub(crate) fn cpu(&self) -> CpuId {
        self.cpu
    }

    /// Begins `step`, and does not wait for its end.
    pub(crate) fn begin<T: 'static>(&self, step: impl FnOnce() -> T + Send + 'static) {
        self.order(Box::new(move |kept| kept.push_back(Box::new(step()))));
    }

    /// Begins to drop what the last step returned.
    pub(crate) fn begin_drop_last(&self) {
        self.order(Box::new(|kept| drop(kept.pop_back().expect("something to drop"))));
    }

    fn order(&self, step: Step) {
        self.outstanding.set(self.outstanding.get() + 1);
        self.orders.send(step).unwrap();
    }

    /// Whether all that was begun has ended.
    pub(crate) fn is_idle(&self) -> bool {
        while self.done.try_recv().is_ok() {
            self.outstanding.set(self.outstanding.get() - 1);
        }
        self.outstanding.get() == 0
    }

    /// Waits until all that was begun has ended.
    pub(crate) fn finish(&self) {
        watchdog::until(self.name, || self.is_idle());
    }

    /// Does `step` and waits for its end.
    pub(crate) fn run<T: 'static>(&self, step: impl FnOnce() -> T + Send + 'static) {
        self.begin(step);
        self.finish();
    }

    /// Drops what the last step returned.
    pub(crate) fn drop_last(&self) {
        self.begin_drop_last();
        self.finish();
    }

    /// Drops what the first step returned.
    pub(crate) fn drop_first(&self) {
        self.order(Box::new(|kept| {
            drop(kept.pop_front().expect("something to drop"))
        }));
        self.finish();
    }

    /// Forgets all that it keeps.
    pub(crate) fn forget_all(&self) {
        self.order(Box::new(|kept| std::mem::forget(std::mem::take(kept))));
        self.finish();
    }

    /// Starts to watch an event of this thread.
    pub(crate) fn watch(&self, event: Event) -> Watch {
        Watch {
            cpu: self.cpu,
            event,
            before: host::cpu(self.cpu).count(event),
        }
    }
}

/// How often something has happened since the watch began.
pub(crate) struct Watch {
    cpu: CpuId,
    event: Event,
    before: u64,
}

impl Watch {
    pub(crate) fn count(&self) -> u64 {
        host::cpu(self.cpu).count(self.event) - self.before
    }

    /// Waits for the first one.
    pub(crate) fn until_seen(&self) {
        watchdog::until(self.event.name(), || self.count() > 0);
    }
}
