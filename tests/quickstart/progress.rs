//! The text of the tour: an overview, then for each step its name and the results to look at.

use std::fmt::Arguments;
use std::path::Path;
use std::time::Instant;

/// The steps of the tour and the time since it began.
pub(crate) struct Progress {
    steps: &'static [&'static str],
    done: usize,
    begin: Instant,
}

impl Progress {
    /// Prints the overview.
    pub(crate) fn begin(steps: &'static [&'static str], folder: &Path) -> Self {
        say(format_args!(
            "forebay quickstart: {} steps, about a minute on two cores. Files go to {}.\n",
            steps.len(),
            folder.display()
        ));
        for (number, step) in (1..).zip(steps) {
            say(format_args!("  {number}. {step}"));
        }
        Self { steps, done: 0, begin: Instant::now() }
    }

    /// Prints the name of the next step, and what to look at in its output.
    pub(crate) fn step(&mut self, look_at: &str) {
        let name = self.steps[self.done];
        self.done += 1;
        let (number, count) = (self.done, self.steps.len());
        say(format_args!("\n[{number}/{count}] {:.0} s: {name}\n{look_at}\n", self.seconds()));
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.begin.elapsed().as_secs_f64()
    }
}

#[expect(clippy::print_stdout, reason = "the quickstart speaks to a person")]
pub(crate) fn say(line: Arguments<'_>) {
    println!("{line}");
}
