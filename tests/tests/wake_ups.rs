//! No kick is lost: pairs of vCPUs hand a token to and fro, and one lost wake-up would end the game.

use std::time::Duration;

use abi::config::{LockKind, Workload};
use integration_tests::{acquisitions, alone, complete, config, kicks, kvm, run};
use vmm::{Config, Ended, Kick, PlantedFault};

/// Hand-offs of a game.
const ROUNDS: u64 = 100_000;

fn game(kick: Kick, vcpus: u32, pcpus: usize) -> Config {
    Config {
        rounds: ROUNDS,
        kick,
        ..config(Workload::PingPong, LockKind::PvQSpinlock, vcpus, pcpus)
    }
}

fn play(config: &Config) {
    let report = complete(config);
    assert!(
        acquisitions(&report) >= config.rounds,
        "{config:?}: only {} hand-offs",
        acquisitions(&report)
    );
    // Who yields, as KVM's own kicks do, may have the token back before it gets to halt.
    let halted = report.vcpus.iter().filter(|vcpu| vcpu.halts > 0).count();
    let least = if config.yield_on_kick || config.kick == Kick::Kvm {
        1
    } else {
        report.vcpus.len()
    };
    assert!(
        halted >= least,
        "{config:?}: only {halted} players ever halted: what was tested?"
    );
}

/// However kicks travel; and, for a tenth as long, with each of what is done beside them.
#[test]
fn a_hundred_thousand_hand_offs_lose_no_kick_when_overcommitted() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    for kick in kicks() {
        play(&game(kick, 8, 2));
        play(&game(kick, 2, 1));
        let mut polling = game(kick, 8, 2);
        (polling.halt_poll, polling.rounds) = (Duration::from_micros(50), ROUNDS / 10);
        play(&polling);
    }
    let mut yielding = game(Kick::Pio, 8, 2);
    (yielding.yield_on_kick, yielding.rounds) = (true, ROUNDS / 10);
    play(&yielding);
}

/// Random delays, about as long as the way to a HLT and through a kick, so that each falls before, into and
/// after the other; and into, before and after the end of a poll.
#[test]
fn a_hundred_thousand_hand_offs_lose_no_kick_when_kicks_race_halts() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    for kick in kicks() {
        for (halt_poll, rounds) in [(0, ROUNDS), (60, ROUNDS / 10)] {
            let mut config = game(kick, 2, 2);
            config.rounds = rounds;
            config.hold = Duration::from_micros(20);
            config.think = Duration::from_micros(150);
            config.halt_poll = Duration::from_micros(halt_poll);
            play(&config);
        }
    }
}

/// The negative control: a VMM that forgets a kick which came before the HLT must be found out by the same
/// game.
#[test]
fn a_vmm_that_forgets_latched_kicks_is_caught() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    for kick in kicks() {
        let mut config = game(kick, 2, 2);
        config.planted_fault = Some(PlantedFault::ForgetLatchedKicks);
        config.think = Duration::from_micros(150);
        // The game stops for good at the first kick that is forgotten; how soon that is, is chance.
        let caught = [5, 20, 80, 320].into_iter().any(|seconds| {
            config.timeout = Duration::from_secs(seconds);
            let outcome = run(&config);
            outcome.ended == Ended::Timeout && outcome.detail.contains("vCPUs 0-1: halted")
        });
        assert!(caught, "{kick:?}: kicks were forgotten and nobody noticed");
    }
}
