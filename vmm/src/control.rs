//! The control side of a run: one event loop that waits for the guest's end, the time-out, the user, the
//! vCPUs' timers, and the console.

use std::fs::File;
use std::io::{self, Read};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::timerfd::TimerFd;

use crate::machine::Machine;
use crate::timers::CENTURY;

/// Why the control side stopped waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A vCPU ended the run.
    Ended,
    Timeout,
    /// The user's stop descriptor is readable.
    Interrupted,
}

/// Waits for the first of the events, feeding console input to the guest meanwhile.
pub(crate) fn wait(
    machine: Arc<Machine>,
    timeout: Duration,
    stop: Option<BorrowedFd<'_>>,
    input: Option<BorrowedFd<'_>>,
) -> io::Result<Event> {
    let mut timer = TimerFd::new()?;
    // A timer of zero would never fire, and the kernel refuses one of more years than it counts.
    timer.reset(timeout.clamp(Duration::from_nanos(1), CENTURY), None)?;
    let control = Control {
        machine,
        timer,
        stop: stop.map(|fd| fd.as_raw_fd()),
        input: input.map(|fd| fd.as_raw_fd()),
        pending: Vec::new(),
        happened: None,
        failed: None,
    };
    let mut manager = EventManager::<Control>::new().map_err(other)?;
    let id = manager.add_subscriber(control);
    loop {
        // First: something may have happened while the subscriber was added.
        let control = manager.subscriber_mut(id).map_err(other)?;
        if let Some(event) = control.happened {
            return Ok(event);
        }
        if let Some(error) = control.failed.take() {
            return Err(error);
        }
        manager.run().map_err(other)?;
    }
}

fn other(error: event_manager::Error) -> io::Error {
    io::Error::other(format!("{error:?}"))
}

/// The one subscriber: what it waits for, and what has happened.
struct Control {
    machine: Arc<Machine>,
    timer: TimerFd,
    stop: Option<RawFd>,
    input: Option<RawFd>,
    /// Input that the console has had no room for yet.
    pending: Vec<u8>,
    happened: Option<Event>,
    /// Why waiting makes no sense any more.
    failed: Option<io::Error>,
}

/// Which descriptor an event is of.
mod source {
    pub(super) const ENDED: u32 = 0;
    pub(super) const TIMER: u32 = 1;
    pub(super) const STOP: u32 = 2;
    pub(super) const INPUT: u32 = 3;
    pub(super) const CONSOLE: u32 = 4;
    pub(super) const VCPU_TIMERS: u32 = 5;
}

impl MutEventSubscriber for Control {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let mut add = |fd, data| ops.add(Events::with_data_raw(fd, data, EventSet::IN));
        let added = add(self.machine.ended.as_raw_fd(), source::ENDED)
            .and_then(|()| add(self.timer.as_raw_fd(), source::TIMER))
            .and_then(|()| add(self.machine.console.attention.as_raw_fd(), source::CONSOLE))
            .and_then(|()| add(self.machine.timers.as_raw_fd(), source::VCPU_TIMERS))
            .and_then(|()| self.stop.map_or(Ok(()), |fd| add(fd, source::STOP)));
        if added.is_err() {
            // Not being able to wait is as good a reason to stop as any, and does not hang.
            self.happened = Some(Event::Interrupted);
        }
        // A regular file cannot be waited for; then there is no input.
        self.input = self.input.filter(|fd| add(*fd, source::INPUT).is_ok());
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        let event = match events.data() {
            source::ENDED => Event::Ended,
            source::TIMER => Event::Timeout,
            source::STOP => Event::Interrupted,
            source::INPUT => return self.read_input(ops),
            source::VCPU_TIMERS => return self.machine.expire_timers(),
            _ => return self.attend(ops),
        };
        // The guest's own end, which may come with another event, tells the most.
        if self.happened != Some(Event::Ended) {
            self.happened = Some(event);
        }
    }
}

impl Control {
    /// Reads what the user typed. Until the guest has taken it, no more is read.
    fn read_input(&mut self, ops: &mut EventOps<'_>) {
        let Some(fd) = self.input else { return };
        let mut buffer = [0; 64];
        // SAFETY: the descriptor is the caller's and stays open while `wait` borrows it; `ManuallyDrop` keeps
        // it so.
        let mut file = ManuallyDrop::new(unsafe { File::from_raw_fd(fd) });
        match file.read(&mut buffer) {
            Ok(0) | Err(_) => {
                let _ = ops.remove(Events::empty_raw(fd));
                self.input = None;
            }
            Ok(read) => {
                self.pending.extend(&buffer[..read]);
                let _ = ops.modify(Events::with_data_raw(fd, source::INPUT, EventSet::empty()));
                self.feed(ops);
            }
        }
    }

    /// Does what the console wants.
    fn attend(&mut self, ops: &mut EventOps<'_>) {
        // Only makes it unreadable; whatever it counted, the console is asked.
        let _ = self.machine.console.attention.read();
        self.failed = self.machine.console.output.answer().err();
        self.feed(ops);
    }

    /// Passes to the console what it has room for; once all is passed on, more may be read.
    fn feed(&mut self, ops: &mut EventOps<'_>) {
        let taken = self.machine.console.input(&self.pending);
        self.pending.drain(..taken);
        if let (true, Some(fd)) = (self.pending.is_empty(), self.input) {
            let _ = ops.modify(Events::with_data_raw(fd, source::INPUT, EventSet::IN));
        }
    }
}
