//! Neighbours: busy host threads on the run's CPUs, to take them from the vCPUs as other tenants would.

use std::hint;
use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crate::affinity;
use crate::config::Config;
use crate::sandbox::{Class, Sandbox};

/// The running threads.
pub(crate) struct Neighbours {
    threads: Vec<JoinHandle<()>>,
    over: Arc<AtomicBool>,
}

impl Neighbours {
    /// Starts as many threads as `config` asks for. If one cannot be started, the others are ended again.
    pub(crate) fn start(config: &Config, sandbox: &Sandbox) -> io::Result<Self> {
        let mut neighbours = Self {
            threads: Vec::new(),
            over: Arc::default(),
        };
        for index in 0..config.neighbours {
            let cpus = config.cpus_of(index);
            let (over, sandbox) = (neighbours.over.clone(), sandbox.clone());
            let body = move || {
                affinity::bind_this_thread(&cpus);
                sandbox.enter(Class::Helper);
                // Relaxed: the flag hands over no data.
                while !over.load(Ordering::Relaxed) {
                    hint::spin_loop();
                }
            };
            let thread = thread::Builder::new()
                .name(format!("neighbour-{index}"))
                .spawn(body)?;
            neighbours.threads.push(thread);
        }
        Ok(neighbours)
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in mem::take(&mut self.threads) {
            let _ = thread.join();
        }
    }
}
