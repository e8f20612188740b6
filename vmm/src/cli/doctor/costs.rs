//! What exits, kicks and wake-ups cost here, by each transport, beside the floor.

use std::time::Duration;

use abi::config::Workload;

use super::{completed, floor};
use crate::cli::failure::Failure;
use crate::cli::signals::Signals;
use crate::config::{Config, Kick};
use crate::error::Error;
use crate::results::Percentiles;
use crate::table::{self, Align};
use crate::units::time;

/// Hand-overs of a game.
const HAND_OVERS: u32 = 240;

/// A side that has its turn waits for up to this long before it hands over: on most turns long enough for
/// the other to have gone to sleep.
const PAUSE: Duration = Duration::from_micros(600);

/// Stands where there is no number.
const NONE: &str = "–";

/// Measures, and makes a table of it.
///
/// # Errors
///
/// That guests cannot run. That one transport cannot be used is a line below the table.
pub(super) fn measure(base: &Config, signals: &Signals) -> Result<String, Failure> {
    let cpus = &base.pcpus;
    let one = [cpus[0]; 2];
    // Two of them, if there are two.
    let two = cpus.get(1).map(|second| [cpus[0], *second]);
    let mut rows = vec![
        [
            "",
            "costs its vCPU",
            "to run on another CPU",
            "to run on the same CPU",
        ]
        .map(String::from),
    ];
    let mut notes = String::new();
    let host = |cpus| floor::measure(cpus, HAND_OVERS, PAUSE).map_or(NONE.into(), |times| spread(&times));
    rows.push([
        "eventfd between host threads".into(),
        NONE.into(),
        two.map_or(NONE.into(), host),
        host(one),
    ]);
    for kick in [Kick::Pio, Kick::IoEventFd, Kick::Kvm] {
        match transport(base, kick, one, two, signals) {
            Ok([exit, row @ ..]) => {
                if kick == Kick::Pio {
                    rows.insert(1, ["exit to the VMM".into(), exit, NONE.into(), NONE.into()]);
                }
                let [kicks, apart, together] = row;
                rows.push([format!("kick by {}", kick.name()), kicks, apart, together]);
            }
            Err(Failure::Refused(Error::Host(why))) if kick != Kick::Pio => {
                rows.push([
                    format!("kick by {}", kick.name()),
                    NONE.into(),
                    NONE.into(),
                    NONE.into(),
                ]);
                notes += &format!("No kick by {}: {why}.\n", kick.name());
            }
            Err(failure) => return Err(failure),
        }
    }
    let rows: Vec<_> = rows.into_iter().map(Vec::from).collect();
    let table = table::render(&[Align::Left, Align::Right, Align::Right, Align::Right], &rows);
    Ok(format!(
        "\n{table}{notes}Medians, and in brackets what the middle 80 % lie between.\n"
    ))
}

/// An exit, a kick that wakes nobody, and the time from a kick until its target runs, on another CPU and on
/// the same.
fn transport(
    base: &Config,
    kick: Kick,
    one: [usize; 2],
    two: Option<[usize; 2]>,
    signals: &Signals,
) -> Result<[String; 4], Failure> {
    let config = Config { kick, ..base.clone() };
    let alone = Config {
        pcpus: vec![one[0]],
        workload: Workload::Costs,
        ..config.clone()
    };
    let alone = completed(&alone, signals)?.measured;
    let game = |cpus: [usize; 2]| {
        let game = Config {
            vcpus: 2,
            pcpus: cpus.to_vec(),
            pin: true,
            workload: Workload::PingPong,
            rounds: HAND_OVERS.into(),
            hold: PAUSE,
            ..config.clone()
        };
        Ok::<_, Failure>(percentiles(&completed(&game, signals)?.measured.held_ns))
    };
    let apart = two.map_or(Ok(NONE.into()), game)?;
    Ok([
        percentiles(&alone.wait_ns),
        percentiles(&alone.held_ns),
        apart,
        game(one)?,
    ])
}

fn percentiles(times: &Percentiles) -> String {
    median(times.p10, times.p50, times.p90)
}

/// The same of `times`, ascending.
fn spread(times: &[u64]) -> String {
    let at = |percent| {
        times
            .get(times.len() * percent / 100)
            .copied()
            .unwrap_or_default()
    };
    median(at(10), at(50), at(90))
}

fn median(p10: u64, p50: u64, p90: u64) -> String {
    // No wake-up takes no time: there was none.
    match p50 {
        0 => NONE.into(),
        _ => format!("{} ({} – {})", time(p50), time(p10), time(p90)),
    }
}
