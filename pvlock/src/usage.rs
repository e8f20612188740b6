//! Waiting, with the books kept: time spent spinning, sleeps and kicks.

use core::marker::PhantomData;

use crate::events::Event;
use crate::percpu::PerCpu;
use crate::platform::{CpuId, Platform};
use crate::sync::{AtomicU32, Ordering};

/// Measures a slow path from its creation to its drop, and charges the time in which the CPU did not sleep as
/// spinning.
///
/// Time that was charged meanwhile is left out: sleeps, and slow paths of interrupt handlers. So every cycle
/// is charged once.
pub(crate) struct SlowPath<P: Platform> {
    cpu: &'static PerCpu,
    since: u64,
    charged_before: u64,
    platform: PhantomData<P>,
}

impl<P: Platform> SlowPath<P> {
    #[inline]
    pub(crate) fn enter() -> SlowPath<P> {
        let cpu = P::per_cpu(P::this_cpu());
        SlowPath {
            cpu,
            since: P::cycles(),
            charged_before: charged(cpu),
            platform: PhantomData,
        }
    }
}

impl<P: Platform> Drop for SlowPath<P> {
    #[inline]
    fn drop(&mut self) {
        let elapsed = P::cycles().saturating_sub(self.since);
        let elsewhere = charged(self.cpu).saturating_sub(self.charged_before);
        self.cpu.local.spin_cycles.add(elapsed.saturating_sub(elsewhere));
    }
}

/// All cycles charged to a CPU so far.
fn charged(cpu: &PerCpu) -> u64 {
    cpu.local
        .spin_cycles
        .get()
        .wrapping_add(cpu.local.halted_cycles.get())
}

/// Sleeps while `word & mask == asleep`, or less long, on behalf of this CPU.
pub(crate) fn halt<P: Platform>(cpu: &PerCpu, word: &AtomicU32, mask: u32, asleep: u32) {
    // Relaxed: only saves a futile call. The look that counts is in `wait`.
    if word.load(Ordering::Relaxed) & mask != asleep {
        // The caller's loop may have had no other turn.
        P::relax();
        return;
    }
    // Relaxed, as for `kicked_at` everywhere: a time stamp for statistics. A kick that comes just before this
    // store goes unmeasured, not unnoticed.
    cpu.kicked_at.store(0, Ordering::Relaxed);
    let asleep_at = P::cycles();
    P::wait(word, mask, asleep);
    let awake_at = P::cycles();

    cpu.local.halts.add(1);
    cpu.local.halted_cycles.add(awake_at.saturating_sub(asleep_at));
    let kicked_at = cpu.kicked_at.load(Ordering::Relaxed);
    if kicked_at != 0 {
        cpu.event(Event::PvKickWake);
        // The kicker's clock may be a little ahead of ours.
        cpu.event_add(Event::PvLatencyWake, awake_at.saturating_sub(kicked_at));
    }
}

/// Wakes `target`, on behalf of this CPU.
pub(crate) fn kick<P: Platform>(target: CpuId) {
    let cpu = P::per_cpu(P::this_cpu());
    let started = P::cycles();
    P::per_cpu(target).kicked_at.store(started, Ordering::Relaxed);
    P::kick(target);
    cpu.local.kicks.add(1);
    cpu.event(Event::PvKickUnlock);
    cpu.event_add(Event::PvLatencyKick, P::cycles().saturating_sub(started));
}
