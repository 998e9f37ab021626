//! gRPC statuses and broken connections, as causes.

use std::time::Duration;

use prost::Message as _;
use tonic::Status;

use crate::error::Cause;

/// What a status says. One that the client's own transport made, of a broken connection, has a
/// source.
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
        retry_after: retry_info(status.details()),
    }
}

/// Why a connection failed, by the innermost error.
fn connection(error: &(dyn std::error::Error + 'static)) -> Cause {
    let what = error.to_string();
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    let of_tls = wrapped.and_then(|inner| inner.downcast_ref::<tokio_rustls::rustls::Error>());
    // The server's judgement of our certificate comes after the handshake, when HTTP/2 reads, which
    // passes on the text alone.
    if of_tls.is_some() || what.contains("received fatal alert: ") {
        return Cause::Certificate(what);
    }
    Cause::Connection(what)
}

/// The delay of a `google.rpc.RetryInfo` among the details of a status.
fn retry_info(details: &[u8]) -> Option<Duration> {
    let details = Details::decode(details).ok()?.details;
    let info = details.iter().find(|any| any.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(info.value.as_slice()).ok()?.retry_delay?;
    let seconds = u64::try_from(delay.seconds).ok()?;
    Some(Duration::new(seconds, u32::try_from(delay.nanos).ok().filter(|n| *n < 1_000_000_000)?))
}

/// `google.rpc.Status`, as far as it is read.
#[derive(Clone, PartialEq, prost::Message)]
struct Details {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn a_server_says_when_to_ask_again() {
        let delay = Delay { seconds: 2, nanos: 500_000_000 };
        let value = RetryInfo { retry_delay: Some(delay) }.encode_to_vec();
        let type_url = "type.googleapis.com/google.rpc.RetryInfo".to_owned();
        let details = Details { details: vec![Any { type_url, value }] }.encode_to_vec();
        let status = Status::with_details(Code::ResourceExhausted, "streams", details.into());
        let Cause::Status { retry_after, .. } = cause_of(&status) else { panic!("{status}") };
        assert_eq!(retry_after, Some(Duration::from_millis(2500)));
        assert_eq!(retry_info(&[255, 255]), None);
        assert_eq!(retry_info(&[]), None);
    }
}
