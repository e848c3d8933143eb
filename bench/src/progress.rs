//! What is shown while a run goes on: one line that moves on a terminal, a line per round elsewhere. On standard error, so
//! that the results alone are on standard output.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shows how far a run has come.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    began: Instant,
}

impl Progress {
    /// Of nothing yet.
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { bar, began: Instant::now() }
    }

    /// So many things are to be done from here on.
    pub(crate) fn begin(&mut self, total: usize) {
        self.began = Instant::now();
        if let Some(bar) = &self.bar {
            bar.reset();
            bar.set_length(total as u64);
            let style = ProgressStyle::with_template("{bar:24} {percent:>3} %  {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─"));
        }
    }

    /// This is what is being done now.
    pub(crate) fn now(&self, what: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar {
            bar.set_message(what());
        }
    }

    /// One of them is done.
    pub(crate) fn step(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    /// A line that stays.
    pub(crate) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| print(line)),
            None => print(line),
        }
    }

    /// A line that stays where none moves.
    pub(crate) fn mark(&self, line: impl FnOnce() -> String) {
        if self.bar.is_none() {
            print(&line());
        }
    }

    /// How long the rest takes if it goes on as it did so far.
    pub(crate) fn left(&self, done: usize, total: usize) -> Duration {
        self.began.elapsed().mul_f64((total - done) as f64 / done.max(1) as f64)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Whether somebody reads it or not.
fn print(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A length of time for people.
pub(crate) fn words(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    if seconds < 90 { format!("{seconds} s") } else { format!("{} min {} s", seconds / 60, seconds % 60) }
}
