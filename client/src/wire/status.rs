//! Maps gRPC statuses and broken connections to causes.

use std::io::{self, ErrorKind};
use std::path::Path;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::error::Cause;
use crate::options::Timeouts;

/// hyper's innermost error when a ping was not answered in time.
const PING_TIMED_OUT: &str = "operation timed out";

/// How tonic begins the message of the status that it makes of a response without one, such as of a
/// connection that was cut after the message of the response.
const NO_STATUS: &str = "protocol error: missing grpc-status";

/// The cause that a status stands for. A status that the client's own transport made of a broken
/// connection has a source. `timeouts` are those of the connection, and `socket` is the path of the server's Unix
/// socket if the call may have connected to it.
pub(crate) fn cause_of(status: &Status, timeouts: &Timeouts, socket: Option<&Path>) -> Cause {
    use std::error::Error as _;
    if let Some(mut source) = status.source() {
        while let Some(inner) = source.source() {
            source = inner;
        }
        return connection(source, timeouts, socket);
    }
    if status.code() == Code::Unknown && status.message().starts_with(NO_STATUS) {
        return Cause::Truncated;
    }
    Cause::Status {
        code: status.code(),
        message: status.message().to_owned(),
        retry_after: status.get_details_retry_info().and_then(|info| info.retry_delay),
    }
}

/// The cause of a failed connection, from the innermost error.
fn connection(
    error: &(dyn std::error::Error + 'static),
    timeouts: &Timeouts,
    socket: Option<&Path>,
) -> Cause {
    let message = error.to_string();
    let of_io = error.downcast_ref::<io::Error>();
    if let (Some(path), Some(error)) = (socket, of_io) {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::ConnectionRefused => {
                return Cause::NoListener(path.to_owned());
            }
            ErrorKind::PermissionDenied => return Cause::SocketPermission(path.to_owned()),
            _ => {}
        }
    }
    // The transport does not say which limit has passed. Its own timeouts have no code of the
    // operating system.
    if of_io.is_some_and(|e| e.kind() == ErrorKind::TimedOut && e.raw_os_error().is_none()) {
        return Cause::Connection(format!("not established within {:?}", timeouts.connect));
    }
    if message == PING_TIMED_OUT {
        return Cause::Connection(format!("no answer to a ping within {:?}", timeouts.keepalive));
    }
    let wrapped = of_io.and_then(io::Error::get_ref);
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

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_timeout_of_the_transport_says_its_limit() {
        let of = |source: Box<dyn std::error::Error + Send + Sync>| {
            cause_of(&Status::from_error(source), &Timeouts::default(), None).to_string()
        };
        let own = io::Error::new(ErrorKind::TimedOut, "deadline has elapsed");
        assert_eq!(of(own.into()), "connection failed: not established within 5s");
        let of_system = io::Error::from_raw_os_error(110);
        assert_eq!(of_system.kind(), ErrorKind::TimedOut);
        assert!(of(of_system.into()).contains("os error 110"));
    }

    #[test]
    fn a_socket_without_a_server_and_one_without_permission_are_told_apart() {
        let of = |kind: ErrorKind| {
            let status = Status::from_error(io::Error::from(kind).into());
            let cause = cause_of(&status, &Timeouts::default(), Some(Path::new("/run/a.sock")));
            format!("{cause}: {}", cause.advice("unix:/run/a.sock"))
        };
        let absent = "no server listens on the socket /run/a.sock: start the server with this path as its --listen, or \
                      fix the path";
        assert_eq!(of(ErrorKind::NotFound), absent);
        assert_eq!(of(ErrorKind::NotADirectory), absent);
        // One that a killed server left.
        assert_eq!(of(ErrorKind::ConnectionRefused), absent);
        assert_eq!(
            of(ErrorKind::PermissionDenied),
            "permission denied: the socket /run/a.sock: check --socket-mode of the server, and that this user can \
             enter the folders of the path"
        );
        let broken = of(ErrorKind::BrokenPipe);
        assert!(broken.ends_with(": check that the server runs"), "{broken}");
    }

    #[test]
    fn a_response_without_a_status_is_a_broken_one_and_not_an_answer() {
        let missing = format!("{NO_STATUS} trailer, stream was terminated without a final status");
        assert!(matches!(
            cause_of(&Status::unknown(missing), &Timeouts::default(), None),
            Cause::Truncated
        ));
        let answer = cause_of(&Status::unknown("answered by a server"), &Timeouts::default(), None);
        assert!(matches!(answer, Cause::Status { code: Code::Unknown, .. }), "{answer}");
    }

    #[test]
    fn the_delay_that_a_server_asks_for_is_decoded() {
        let delay = Duration::from_millis(2500);
        let retry_after = |status: &Status| match cause_of(status, &Timeouts::default(), None) {
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
