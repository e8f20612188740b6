//! What a table says of preemption on purpose, if there was any.

use crate::results::Run;
use crate::units::counted;

/// A line on what was asked for.
pub(super) fn header(run: &Run) -> String {
    let preempt = run.preempt.clone();
    let neighbours = (run.neighbours > 0).then(|| counted(run.neighbours, "busy neighbour"));
    let asked: Vec<_> = preempt.into_iter().chain(neighbours).collect();
    if asked.is_empty() {
        return String::new();
    }
    format!("Stops  {}\n", asked.join(", "))
}

/// A line for each run on what was hit.
pub(super) fn hits(runs: &[Run]) -> String {
    let line = |run: &Run| {
        let hits = run.preemptions;
        format!(
            "{}: stopped {}, {}, {}\n",
            run.name(),
            counted(hits.holder, "holder"),
            counted(hits.waiter, "waiter"),
            counted(hits.other, "other")
        )
    };
    let asked = runs.iter().filter(|run| run.preempt.is_some());
    asked.map(line).collect()
}

#[cfg(test)]
mod tests {
    use abi::config::LockKind;

    use super::*;
    use crate::cli::summary::tests::run;
    use crate::results::Preemptions;

    #[test]
    fn nothing_is_said_where_nothing_was_asked_for() {
        let run = run(LockKind::Tas, 8, 2, 1000);
        assert_eq!((header(&run).as_str(), hits(&[run]).as_str()), ("", ""));
    }

    #[test]
    fn what_was_asked_for_and_what_was_hit() {
        let run = Run {
            preempt: Some("any:1ms:5ms".into()),
            neighbours: 1,
            preemptions: Preemptions {
                holder: 1,
                waiter: 2,
                other: 0,
            },
            ..run(LockKind::Tas, 8, 2, 1000)
        };
        assert_eq!(header(&run), "Stops  any:1ms:5ms, 1 busy neighbour\n");
        assert_eq!(
            hits(&[run]),
            "lock 'tas': stopped 1 holder, 2 waiters, 0 others\n"
        );
    }
}
