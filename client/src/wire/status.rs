//! Maps gRPC statuses and broken connections to causes.

use tonic::Status;
use tonic_types::StatusExt as _;

use crate::error::Cause;

/// The cause that a status stands for. A status that the client's own transport made of a broken
/// connection has a source.
pub(crate) fn cause_of(status: &Status) -> Cause {
    use std::error::Error as _;
    if let Some(mut source) = status.source() {
        while let Some(inner) = source.source() {
            source = inner;
        }
        return connection(source);
    }
    Cause::Status {
        code: status.code(),
        message: status.message().to_owned(),
        retry_after: status.get_details_retry_info().and_then(|info| info.retry_delay),
    }
}

/// The cause of a failed connection, from the innermost error.
fn connection(error: &(dyn std::error::Error + 'static)) -> Cause {
    let message = error.to_string();
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    let of_tls = wrapped.and_then(|inner| inner.downcast_ref::<tokio_rustls::rustls::Error>());
    // The server judges the client's certificate after the handshake, so that its alert arrives when
    // HTTP/2 reads, which passes on only the text.
    if of_tls.is_some() || message.contains("received fatal alert: ") {
        return Cause::Certificate(message);
    }
    Cause::Connection(message)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::Code;
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn the_delay_that_a_server_asks_for_is_decoded() {
        let delay = Duration::from_millis(2500);
        let retry_after = |status: &Status| match cause_of(status) {
            Cause::Status { retry_after, .. } => retry_after,
            cause => panic!("{cause}"),
        };
        let code = Code::ResourceExhausted;
        let details = ErrorDetails::with_retry_info(Some(delay));
        let status = Status::with_error_details(code, "streams", details);
        assert_eq!(retry_after(&status), Some(delay));
        assert_eq!(retry_after(&Status::new(code, "streams")), None);
        let malformed = Status::with_details(code, "streams", vec![255, 255].into());
        assert_eq!(retry_after(&malformed), None);
    }
}
