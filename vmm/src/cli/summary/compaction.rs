//! What became of fragmented memory.

use crate::results::{CompactionRound, Percentiles, Run};
use crate::table::{self, Align};
use crate::units::{count, counted, rate, ratio, size, time};

use super::NONE;

/// Two rows for each run: what allocations compacted, and what the daemon did before them.
pub(super) fn rounds(runs: &[Run]) -> String {
    let names = [
        "who compacts",
        "fragmented",
        "became huge",
        "score",
        "alloc p50",
        "p99",
        "moved",
        "pages moved",
        "copied",
        "of the copy",
        "memory",
    ];
    let mut columns = [Align::Right; 11];
    (columns[0], columns[10]) = (Align::Left, Align::Left);
    let mut rows = vec![names.map(str::to_owned).to_vec()];
    for run in runs {
        let (direct, proactive) = (&run.measured.wait_ns, &run.measured.held_ns);
        match run.mm.as_ref().and_then(|memory| memory.compaction.as_ref()) {
            Some(compaction) if run.counted() => {
                rows.push(row("allocations", &compaction.direct, direct));
                rows.push(row("a daemon, in advance", &compaction.proactive, proactive));
            }
            _ => {
                let mut failed = vec![NONE.to_owned(); 11];
                failed[10] = format!("run failed: {}", run.exit.name());
                rows.push(failed);
            }
        }
    }
    table::render(&columns, &rows)
}

fn row(who: &str, round: &CompactionRound, alloc: &Percentiles) -> Vec<String> {
    let wrong = [round.wrong, round.displaced, round.unannounced]
        .into_iter()
        .fold(0, u64::saturating_add);
    let of_copy = round.moved_per_sec / round.copied_per_sec;
    vec![
        who.to_owned(),
        size(round.fragmented.saturating_mul(abi::PAGE_SIZE)),
        format!("{:.1} %", 100.0 * round.huge_share),
        format!("{} → {}", count(round.score_before), count(round.score_after)),
        time(alloc.p50),
        time(alloc.p99),
        count(round.moved),
        rate(round.moved_per_sec),
        rate(round.copied_per_sec),
        if of_copy.is_finite() {
            ratio(of_copy)
        } else {
            NONE.to_owned()
        },
        match wrong {
            0 => "ok".to_owned(),
            wrong => format!("BROKEN: {}", counted(wrong, "violation")),
        },
    ]
}
