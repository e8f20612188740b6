//! Threads that may hang, and what to say then.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::host;

/// Far more than any test takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Waits until `condition` holds.
///
/// # Panics
///
/// If that takes too long.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(
            since.elapsed() < PATIENCE,
            "waited in vain until {what}\n{}",
            host::describe()
        );
        thread::sleep(Duration::from_micros(100));
    }
}

/// Waits for a message.
///
/// # Panics
///
/// If that takes too long.
pub(crate) fn receive<T>(channel: &mpsc::Receiver<T>) -> T {
    channel
        .recv_timeout(PATIENCE)
        .unwrap_or_else(|error| panic!("{error}\n{}", host::describe()))
}

/// Runs `body` on `count` threads and returns what each returned.
///
/// # Panics
///
/// If one of them does; or, with `state` and the state of all threads, if they do not end. They are left
/// behind then.
pub(crate) fn threads<T: Send + 'static>(
    count: usize,
    state: impl Fn() -> String,
    body: impl Fn(usize) -> T + Send + Sync + 'static,
) -> Vec<T> {
    let body = Arc::new(body);
    let (sender, results) = mpsc::channel();
    for index in 0..count {
        let (body, sender) = (Arc::clone(&body), sender.clone());
        thread::spawn(move || {
            let result = catch_unwind(AssertUnwindSafe(|| body(index)));
            let _ = sender.send((index, result));
        });
    }
    let deadline = Instant::now() + PATIENCE;
    let mut values: Vec<_> = (0..count).map(|_| None).collect();
    for _ in 0..count {
        match results.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok((index, Ok(value))) => values[index] = Some(value),
            Ok((_, Err(panic))) => resume_unwind(panic),
            Err(_) => {
                let hanging: Vec<_> = (0..count).filter(|&index| values[index].is_none()).collect();
                panic!(
                    "threads {hanging:?} of {count} hang; {}\n{}",
                    state(),
                    host::describe()
                );
            }
        }
    }
    values
        .into_iter()
        .map(|value| value.expect("each has sent one"))
        .collect()
}
