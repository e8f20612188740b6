//! The log of what vCPU 0 saw, in the report.

use abi::boot::BootInfo;
use abi::report::{LOG, LogEntry, Report, log};

/// The log, of which there is one.
pub(crate) struct Log {
    first: *mut LogEntry,
    len: usize,
    dropped: u64,
}

impl Log {
    /// The empty log.
    ///
    /// # Safety
    ///
    /// To be called once, on one vCPU.
    pub(crate) unsafe fn new(boot: &BootInfo) -> Self {
        Self {
            first: (boot.report.base + log(boot.vcpus)) as *mut LogEntry,
            len: 0,
            dropped: 0,
        }
    }

    /// Adds an entry, if there is room.
    pub(crate) fn push(&mut self, kind: u32, tsc: u64, what: u32) {
        if self.len == LOG {
            self.dropped += 1;
            return;
        }
        let entry = self.first.wrapping_add(self.len);
        // SAFETY: the VMM reserved `LOG` entries there, and `len` is below that; nobody else writes them, and
        // the VMM reads them only when no vCPU runs any more.
        unsafe { entry.write(LogEntry { tsc, kind, what }) };
        self.len += 1;
    }

    /// Says in `report` how long the log is.
    pub(crate) fn finish(self, report: &mut Report) {
        report.log_entries = self.len as u64;
        report.log_dropped = self.dropped;
    }
}
