//! Output of the command.

use std::time::Duration;

#[expect(clippy::print_stderr, reason = "the only place where the command reports its failure")]
pub(super) fn print_error(error: &anyhow::Error) {
    eprintln!("forebay-trainer: {error:#}");
}

/// Ends the process after another rank was lost. A main thread that waits for other ranks fails by itself
/// within the pause. One that computes or waits for data would notice only much later.
pub(super) fn exit_after_failure(error: &crate::Error) {
    std::thread::sleep(Duration::from_millis(500));
    print_error(&anyhow::anyhow!("{error}"));
    std::process::exit(1)
}

/// Prints a line of output.
#[expect(clippy::print_stdout, reason = "the output of the command")]
pub(super) fn print(text: &str) {
    println!("{text}");
}
