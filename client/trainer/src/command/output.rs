//! Output of the command.

use std::time::Duration;

#[expect(clippy::print_stderr, reason = "the only place where the command reports its failure")]
pub(super) fn print_error(error: &anyhow::Error) {
    eprintln!("forebay-trainer: {error:#}");
}

/// Ends the process after another rank was lost. If the main thread waits for other ranks, it fails by
/// itself with the same error; if it computes or waits for data, that could take long.
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
