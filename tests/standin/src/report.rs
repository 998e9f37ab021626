//! Messages of the stand-in: lines on standard error that begin with `standin: `.

/// Prints a message.
#[expect(
    clippy::print_stderr,
    reason = "callers receive an error code only, so the reason is printed"
)]
pub(crate) fn log(text: &str) {
    eprintln!("standin: {text}");
}
