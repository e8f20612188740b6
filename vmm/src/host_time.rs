//! What the host did with the vCPU threads, from its own books in `/proc`.
//!
//! The measurement begins and ends at the guest's word, on a vCPU's thread, which may open no files
//! ([`sandbox`](crate::sandbox)). So every thread opens its books when it starts; they are read again and
//! again.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::outcome::HostTime;

/// More than a thread's `status` has; what is looked for in it comes last.
const LONGEST: usize = 16 << 10;

/// The threads to account for, and what their books said when the measurement began.
#[derive(Default)]
pub(crate) struct Accounts {
    threads: Mutex<Vec<Books>>,
    edges: Mutex<Edges>,
}

/// A thread's books; `None` where the host does not show them.
struct Books {
    schedstat: Option<File>,
    status: Option<File>,
}

#[derive(Default)]
struct Edges {
    begin: Option<HostTime>,
    measured: Option<HostTime>,
}

impl Accounts {
    /// Adds the calling thread.
    pub(crate) fn add_this_thread(&self) {
        let books = Books::of_this_thread();
        self.threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(books);
    }

    /// The measurement begins. Returns false, and does nothing, if it has begun before: reading the books of
    /// many threads takes time that a guest must not be able to waste at will.
    pub(crate) fn begin(&self) -> bool {
        let mut edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        if edges.begin.is_some() {
            return false;
        }
        edges.begin = Some(self.read());
        true
    }

    /// The measurement ends. Returns false, and does nothing, if it has not begun, or has ended before.
    pub(crate) fn end(&self) -> bool {
        let mut edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(begin), None) = (edges.begin, edges.measured) else {
            return false;
        };
        edges.measured = Some(difference(begin, self.read()));
        true
    }

    /// What was used between begin and end.
    pub(crate) fn measured(&self) -> Option<HostTime> {
        self.edges.lock().unwrap_or_else(PoisonError::into_inner).measured
    }

    /// The sum of the threads' books at this moment.
    fn read(&self) -> HostTime {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.iter().map(Books::read).fold(
            HostTime {
                steal: Some(Duration::ZERO),
                preemptions: Some(0),
                ..HostTime::default()
            },
            |sum, one| HostTime {
                cpu: sum.cpu + one.cpu,
                steal: sum.steal.zip(one.steal).map(|(a, b)| a + b),
                preemptions: sum.preemptions.zip(one.preemptions).map(|(a, b)| a + b),
            },
        )
    }
}

fn difference(begin: HostTime, end: HostTime) -> HostTime {
    HostTime {
        cpu: end.cpu.saturating_sub(begin.cpu),
        steal: end
            .steal
            .zip(begin.steal)
            .map(|(end, begin)| end.saturating_sub(begin)),
        preemptions: end
            .preemptions
            .zip(begin.preemptions)
            .map(|(end, begin)| end.saturating_sub(begin)),
    }
}

impl Books {
    fn of_this_thread() -> Self {
        let open = |name: &str| File::open(format!("/proc/thread-self/{name}")).ok();
        Self {
            schedstat: open("schedstat"),
            status: open("status"),
        }
    }

    /// The thread's CPU time and run-queue delay (`schedstat`) and involuntary context switches (`status`).
    fn read(&self) -> HostTime {
        let schedstat = text(self.schedstat.as_ref());
        let mut fields = schedstat
            .split_ascii_whitespace()
            .map(|field| field.parse().map(Duration::from_nanos));
        let cpu = fields.next().and_then(Result::ok);
        let steal = fields.next().and_then(Result::ok);
        let preemptions = text(self.status.as_ref())
            .lines()
            .find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"))
            .and_then(|count| count.trim().parse().ok());
        HostTime {
            cpu: cpu.unwrap_or_default(),
            steal,
            preemptions,
        }
    }
}

/// All of a file of `/proc`: one read gives a consistent whole.
fn text(file: Option<&File>) -> String {
    let mut buffer = vec![0; LONGEST];
    let read = file.and_then(|file| file.read_at(&mut buffer, 0).ok());
    buffer.truncate(read.unwrap_or_default());
    String::from_utf8_lossy(&buffer).into_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn counts_the_cpu_time_of_its_threads_between_begin_and_end() {
        let accounts = Accounts::default();
        accounts.end();
        assert_eq!(
            accounts.measured(),
            None,
            "an end without a beginning tells nothing"
        );
        accounts.add_this_thread();
        accounts.begin();
        let start = Instant::now();
        while read_thread_cpu() < Duration::from_millis(20) && start.elapsed() < Duration::from_secs(60) {}
        assert!(accounts.end());
        assert!(!accounts.end(), "only once");
        let measured = accounts.measured().unwrap();
        assert!(measured.cpu >= Duration::from_millis(5), "{measured:?}");
        assert!(
            measured.cpu <= start.elapsed() + Duration::from_millis(100),
            "{measured:?}"
        );
    }

    /// CPU time of this thread, by another clock than the one under test.
    fn read_thread_cpu() -> Duration {
        Duration::from_nanos(crate::clock_ns(libc::CLOCK_THREAD_CPUTIME_ID))
    }
}
