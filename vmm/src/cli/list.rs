//! `vmm list`: what there is to choose from.

use std::process::ExitCode;

use abi::config::{LockKind, Workload};

use crate::cli::failure::Failure;
use crate::cli::output;
use crate::table::{self, Align};

/// What a self-test's description starts with; the heading says so already.
const SELF_TEST: &str = "self-test: ";

/// Prints the locks and workloads.
pub(super) fn list() -> Result<ExitCode, Failure> {
    output::print(&text())?;
    Ok(ExitCode::SUCCESS)
}

fn text() -> String {
    let heading = |text: &str| vec![text.to_owned()];
    let entry = |name: &str, about: &str| vec![format!("  {name}"), about.to_owned()];
    let workloads = || {
        Workload::ALL
            .iter()
            .map(|workload| (workload.name(), workload.about()))
    };

    let mut rows = vec![heading("Locks:")];
    rows.extend(LockKind::ALL.iter().map(|lock| entry(lock.name(), lock.about())));
    rows.extend([heading(""), heading("Workloads:")]);
    rows.extend(
        workloads()
            .filter(|(_, about)| !about.starts_with(SELF_TEST))
            .map(|(name, about)| entry(name, about)),
    );
    rows.extend([heading(""), heading("Workloads that test vmm itself:")]);
    rows.extend(workloads().filter_map(|(name, about)| Some(entry(name, about.strip_prefix(SELF_TEST)?))));
    table::render(&[Align::Left, Align::Left], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_listed_once() {
        let text = text();
        let names = LockKind::ALL
            .iter()
            .map(|lock| lock.name())
            .chain(Workload::ALL.iter().map(|it| it.name()));
        for name in names {
            let lines = text
                .lines()
                .filter(|line| line.split_whitespace().next() == Some(name));
            assert_eq!(lines.count(), 1, "{name}:\n{text}");
        }
    }
}
