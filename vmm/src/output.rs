//! Console output on its way to the user: a bounded queue, and a thread that empties it.
//!
//! The thread starts once there is something to write: most guests say nothing. vCPUs may not start threads
//! ([`sandbox`](crate::sandbox)), so they call for the control side.
//!
//! The user may read slowly, or never. Then the vCPUs that print wait, and nothing else does: not the console
//! device, not the control side, and not a vCPU that is to stop.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

use crate::sandbox::{Class, Sandbox};

/// Most bytes that may be queued before a vCPU that prints has to wait.
const ROOM: usize = 64 << 10;

/// How much of the last output is remembered, in bytes.
const REMEMBERED: usize = 4096;

/// How long the end of a run waits for the user to take what is queued.
const GRACE: Duration = Duration::from_secs(1);

/// The queue, and who empties it.
pub(crate) struct Output {
    shared: Arc<Shared>,
    writer: Mutex<Writer>,
    /// Written to when the thread is called for: somebody is to [answer](Self::answer).
    call: Arc<EventFd>,
}

/// The thread that writes.
enum Writer {
    /// There is none, and will be none.
    Nobody,
    /// What it will write to, and what it may do.
    Attached(Box<dyn Write + Send>, Sandbox),
    Running(JoinHandle<()>),
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<u8>,
    recent: VecDeque<u8>,
    /// The thread was called for.
    called: bool,
    /// Nobody waits for room any more.
    closing: bool,
    /// All that was queued before the closing has been written.
    written: bool,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // A writer that panicked leaves a queue that still works.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: takes all there is, and writes it with the queue unlocked.
    fn write_to(&self, mut out: Box<dyn Write + Send>) {
        loop {
            let idle = |queue: &mut Queue| queue.waiting.is_empty() && !queue.closing;
            let queue = self.changed.wait_while(self.queue(), idle);
            let bytes = mem::take(&mut queue.unwrap_or_else(PoisonError::into_inner).waiting);
            if bytes.is_empty() {
                break;
            }
            self.changed.notify_all();
            // What cannot be written (a closed pipe) is the user's wish; the guest goes on.
            let _ = out.write_all(&bytes).and_then(|()| out.flush());
        }
        self.queue().written = true;
        self.changed.notify_all();
    }
}

impl Output {
    /// A queue that nobody empties yet. `call` is written to when somebody is to.
    pub(crate) fn new(call: Arc<EventFd>) -> Self {
        Self {
            shared: Arc::default(),
            writer: Mutex::new(Writer::Nobody),
            call,
        }
    }

    /// From now on, what is queued, or was before, is to be written to `out`.
    pub(crate) fn attach(&self, out: Box<dyn Write + Send>, sandbox: &Sandbox) {
        *self.writer() = Writer::Attached(out, sandbox.clone());
    }

    /// Starts the thread, if it was called for.
    pub(crate) fn answer(&self) -> io::Result<()> {
        let called = self.shared.queue().called;
        if called { self.start() } else { Ok(()) }
    }

    /// Starts the thread, unless it runs, or has nothing to write to.
    pub(crate) fn start(&self) -> io::Result<()> {
        let mut writer = self.writer();
        *writer = match mem::replace(&mut *writer, Writer::Nobody) {
            Writer::Attached(out, sandbox) => {
                let shared = self.shared.clone();
                let body = move || {
                    sandbox.enter(Class::Console);
                    shared.write_to(out);
                };
                Writer::Running(thread::Builder::new().name("console".into()).spawn(body)?)
            }
            other => other,
        };
        Ok(())
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room for more, or until [`close`](Self::close).
    pub(crate) fn wait_for_room(&self) {
        let full = |queue: &mut Queue| queue.waiting.len() >= ROOM && !queue.closing;
        drop(self.shared.changed.wait_while(self.shared.queue(), full));
    }

    /// Queues `bytes`. Does not wait: that there is room, give or take a byte for each vCPU, is for
    /// [`wait_for_room`](Self::wait_for_room) to see to.
    pub(crate) fn push(&self, bytes: &[u8]) {
        let mut queue = self.shared.queue();
        queue.waiting.extend(bytes);
        queue.recent.extend(bytes);
        let surplus = queue.recent.len().saturating_sub(REMEMBERED);
        queue.recent.drain(..surplus);
        if !mem::replace(&mut queue.called, true) {
            // Fails only if the counter is full, and then it is readable as well.
            let _ = self.call.write(1);
        }
        self.shared.changed.notify_all();
    }

    /// Lets go whoever waits for room.
    pub(crate) fn close(&self) {
        self.shared.queue().closing = true;
        self.shared.changed.notify_all();
    }

    /// Waits until all output is written, but not for a user who does not read: then the thread is left
    /// behind, until that user closes the other end.
    pub(crate) fn finish(&self) {
        self.close();
        // The call may not have been heard yet. Without a thread to spare, there is nothing left to write with.
        let _ = self.answer();
        let Writer::Running(writer) = mem::replace(&mut *self.writer(), Writer::Nobody) else {
            return;
        };
        let pending = |queue: &mut Queue| !queue.written;
        let (queue, _) = self
            .shared
            .changed
            .wait_timeout_while(self.shared.queue(), GRACE, pending)
            .unwrap_or_else(PoisonError::into_inner);
        let written = queue.written;
        drop(queue);
        if written {
            // A panic of the thread's was printed when it happened; there is nothing to add.
            let _ = writer.join();
        }
    }

    /// The end of the output, as text.
    pub(crate) fn recent(&self) -> String {
        String::from_utf8_lossy(self.shared.queue().recent.make_contiguous()).into_owned()
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    impl Output {
        fn for_tests() -> Self {
            Self::new(Arc::new(EventFd::new(EFD_NONBLOCK).unwrap()))
        }

        /// Whether the thread was called for since the last time.
        fn calls(&self) -> bool {
            self.call.read().is_ok()
        }
    }

    #[test]
    fn all_output_arrives_in_order() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let output = Output::for_tests();
        output.attach(Box::new(theirs), &Sandbox::default());
        output.start().unwrap();
        let reader = thread::spawn(move || {
            let mut text = String::new();
            ours.read_to_string(&mut text).unwrap();
            text
        });
        let numbers: Vec<_> = (0..50_000).map(|number| format!("{number}\n")).collect();
        for number in &numbers {
            output.wait_for_room();
            output.push(number.as_bytes());
        }
        output.finish();
        drop(output);
        assert_eq!(reader.join().unwrap(), numbers.concat());
    }

    #[test]
    fn what_was_printed_before_the_thread_started_waits_for_it() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let output = Output::for_tests();
        assert!(!output.calls());
        output.push(b"early, ");
        assert!(output.calls());
        output.attach(Box::new(theirs), &Sandbox::default());
        output.answer().unwrap();
        output.push(b"late");
        assert!(!output.calls(), "one thread is enough");
        output.finish();
        drop(output);
        let mut text = String::new();
        ours.read_to_string(&mut text).unwrap();
        assert_eq!(text, "early, late");
        // Without a thread there is nothing to wait for.
        let unheard = Output::for_tests();
        unheard.push(b"lost");
        unheard.finish();
        assert_eq!(unheard.recent(), "lost");
    }

    #[test]
    fn the_thread_starts_once_it_is_called_for_and_at_the_end_at_the_latest() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let output = Output::for_tests();
        output.attach(Box::new(theirs), &Sandbox::default());
        output.answer().unwrap();
        assert!(matches!(*output.writer(), Writer::Attached(..)));
        output.push(b"unanswered");
        output.finish();
        let mut text = String::new();
        ours.read_to_string(&mut text).unwrap();
        assert_eq!(text, "unanswered");
        // Who is silent to the end needs no thread.
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let silent = Output::for_tests();
        silent.attach(Box::new(theirs), &Sandbox::default());
        silent.finish();
        assert_eq!(ours.read_to_string(&mut text).unwrap(), 0);
    }

    /// The reader's end stays open, and nobody reads: who prints waits, and is let go.
    #[test]
    fn a_user_who_does_not_read_holds_up_only_who_prints() {
        let (_ours, theirs) = UnixStream::pair().unwrap();
        let output = Arc::new(Output::for_tests());
        output.attach(Box::new(theirs), &Sandbox::default());
        output.start().unwrap();
        let printer = {
            let output = output.clone();
            thread::spawn(move || {
                while !output.shared.queue().closing {
                    output.wait_for_room();
                    output.push(&[b'x'; 1000]);
                }
            })
        };
        // Once the queue has filled, the printer waits.
        while output.shared.queue().waiting.len() < ROOM {
            thread::yield_now();
        }
        assert_eq!(output.recent().len(), REMEMBERED);
        output.finish();
        printer.join().unwrap();
        assert!(output.shared.queue().waiting.len() <= ROOM + 2000);
    }
}
