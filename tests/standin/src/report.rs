//! What the stand-in has to say goes to standard error, a line each, and begins with `standin: `.

/// Says it.
#[expect(
    clippy::print_stderr,
    reason = "the caller sees an error code only; this is where the reason goes"
)]
pub(crate) fn say(text: &str) {
    eprintln!("standin: {text}");
}
