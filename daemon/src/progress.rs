//! What `up` and `down` show while they work: a spinner per step on a terminal, one plain line per step otherwise.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Where steps are shown.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    bars: Option<MultiProgress>,
}

/// A step that has begun.
#[derive(Debug)]
pub(crate) struct Step {
    progress: Progress,
    title: String,
    began: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// On standard output.
    pub(crate) fn new() -> Self {
        Self { bars: std::io::stdout().is_terminal().then(MultiProgress::new) }
    }

    /// Begins a step.
    pub(crate) fn step(&self, title: impl Into<String>) -> Step {
        let title = title.into();
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new_spinner());
            let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.set_message(title.clone());
            bar.enable_steady_tick(Duration::from_millis(80));
            bar
        });
        Step { progress: self.clone(), title, began: Instant::now(), bar }
    }

    /// Says something between steps.
    pub(crate) fn say(&self, line: impl AsRef<str>) {
        match &self.bars {
            Some(bars) => bars.suspend(|| println!("{}", line.as_ref())),
            None => println!("{}", line.as_ref()),
        }
    }
}

impl Step {
    /// It is done; `detail` says with what result.
    pub(crate) fn done(self, detail: impl std::fmt::Display) {
        let line = format!("{:<16} {detail} ({:.2} s)", self.title, self.began.elapsed().as_secs_f64());
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.progress.say(line);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.as_ref().filter(|bar| !bar.is_finished()) {
            bar.finish_and_clear();
        }
    }
}
