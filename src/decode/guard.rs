//! The boundary that no panic of a decoder crosses: it makes one record bad and does not end the
//! process.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::error::DecodeError;
use super::format::Format;

/// Runs a decoder. A panic becomes an error. What the decoder wrote to is not to be used afterward.
///
/// # Errors
/// Those of the decoder, and [`DecodeError::Malformed`] where it panics.
pub(super) fn guarded<T>(
    format: Format,
    decode: impl FnOnce() -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|panic| {
        let reason = format!("its decoder panicked: {}", message(&*panic));
        Err(DecodeError::Malformed { format, reason })
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref().copied()).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_a_decoder_makes_the_record_bad() {
        for panicking in [|| panic!("index out of bounds"), || panic!("index {}", "out of bounds")]
        {
            let error = guarded::<()>(Format::Png, panicking).unwrap_err().to_string();
            assert_eq!(error, "PNG data: its decoder panicked: index out of bounds");
        }
    }
}
