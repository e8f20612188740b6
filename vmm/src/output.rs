//! Console output on its way to the user: a bounded queue, and a thread that empties it.
//!
//! The user may read slowly, or never. Then the vCPUs that print wait, and nothing else does: not the console
//! device, not the control side, and not a vCPU that is to stop.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::sandbox::{Class, Sandbox};

/// Most bytes that may be queued before a vCPU that prints has to wait.
const ROOM: usize = 64 << 10;

/// How much of the last output is remembered, in bytes.
const REMEMBERED: usize = 4096;

/// How long the end of a run waits for the user to take what is queued.
const GRACE: Duration = Duration::from_secs(1);

/// The queue, and the thread that empties it, once it is started.
#[derive(Default)]
pub(crate) struct Output {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
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
            let bytes = std::mem::take(&mut queue.unwrap_or_else(PoisonError::into_inner).waiting);
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
    /// Starts the thread, which writes to `out`. What came before waits in the queue.
    pub(crate) fn start(&self, out: Box<dyn Write + Send>, sandbox: &Sandbox) -> io::Result<()> {
        let (shared, sandbox) = (self.shared.clone(), sandbox.clone());
        let body = move || {
            sandbox.enter(Class::Console);
            shared.write_to(out);
        };
        let writer = thread::Builder::new().name("console".into()).spawn(body)?;
        *self.writer() = Some(writer);
        Ok(())
    }

    fn writer(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
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
        let Some(writer) = self.writer().take() else {
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

    use super::*;

    #[test]
    fn all_output_arrives_in_order() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let output = Output::default();
        output.start(Box::new(theirs), &Sandbox::default()).unwrap();
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
        let output = Output::default();
        output.push(b"early, ");
        output.start(Box::new(theirs), &Sandbox::default()).unwrap();
        output.push(b"late");
        output.finish();
        drop(output);
        let mut text = String::new();
        ours.read_to_string(&mut text).unwrap();
        assert_eq!(text, "early, late");
        // Without a thread there is nothing to wait for.
        let unheard = Output::default();
        unheard.push(b"lost");
        unheard.finish();
        assert_eq!(unheard.recent(), "lost");
    }

    /// The reader's end stays open, and nobody reads: who prints waits, and is let go.
    #[test]
    fn a_user_who_does_not_read_holds_up_only_who_prints() {
        let (_ours, theirs) = UnixStream::pair().unwrap();
        let output = Arc::new(Output::default());
        output.start(Box::new(theirs), &Sandbox::default()).unwrap();
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
