//! A bar on stderr while a guest runs, if somebody watches.

use std::fmt::Write;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

/// Shows `what` and a bar that fills up in `duration`, until it is dropped. Only a terminal gets to see it.
#[derive(Debug)]
pub(super) struct Progress(Option<ProgressBar>);

impl Progress {
    pub(super) fn new(what: &str, duration: Duration) -> Self {
        const WIDTH: usize = 30;
        // The bar would know, too, but draws it on a thread nevertheless.
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        // Time is all there is to know about a running guest, so the bar is drawn from it alone.
        let bar = move |state: &ProgressState, out: &mut dyn Write| {
            let share = state.elapsed().as_secs_f64() / duration.as_secs_f64();
            let full = (share.min(1.0) * WIDTH as f64) as usize;
            // The bar is for looking at: it does not matter if one is missed.
            let _ = write!(out, "{:#<full$}{:.<rest$}", "", "", rest = WIDTH - full);
        };
        let progress = ProgressBar::new_spinner().with_message(what.to_owned());
        if let Ok(style) = ProgressStyle::with_template("[{time_bar}] {msg}, {elapsed}") {
            progress.set_style(style.with_key("time_bar", bar));
        }
        progress.enable_steady_tick(Duration::from_millis(100));
        Self(Some(progress))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(progress) = &self.0 {
            progress.finish_and_clear();
        }
    }
}
