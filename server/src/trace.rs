//! The span `call`, whose fields are added to every log event of a call.
//!
//! A call's W3C `traceparent` provides `trace_id` and `parent_id`, so that the logs of trainers and
//! servers can be joined.

use http::HeaderMap;
use tracing::Span;
use tracing::field::Empty;

use crate::address::PeerAddress;

/// The span of a call.
pub(crate) fn span(method: &'static str, peer: PeerAddress, headers: &HeaderMap) -> Span {
    let span = tracing::info_span!(
        "call",
        method,
        %peer,
        identity = Empty,
        trace_id = Empty,
        parent_id = Empty
    );
    let parent = headers.get("traceparent").and_then(|value| parse(value.to_str().ok()?));
    if let Some((trace, parent)) = parent {
        span.record("trace_id", trace).record("parent_id", parent);
    }
    span
}

/// Records the identity of the call once it is known.
pub(crate) fn record_identity(identity: &str) {
    Span::current().record("identity", identity);
}

/// The ids of a `traceparent`: `00-<32 hex digits>-<16 hex digits>-<2 hex digits>`, neither all zero.
/// Later versions may have more fields after that.
fn parse(value: &str) -> Option<(&str, &str)> {
    let mut parts = value.split('-');
    let mut id = |length: usize| {
        let part = parts.next()?;
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (part.len() == length && part.bytes().all(hex)).then_some(part)
    };
    let (version, trace, parent, _flags) = (id(2)?, id(32)?, id(16)?, id(2)?);
    let some = |id: &str| id.bytes().any(|digit| digit != b'0');
    let ends = version != "00" || parts.next().is_none();
    (version != "ff" && some(trace) && some(parent) && ends).then_some((trace, parent))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A log in memory.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn events_of_a_call_are_logged_with_its_peer_and_identity() {
        let (log, mut headers) = (Log::default(), HeaderMap::new());
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        headers.insert("traceparent", parent.parse().unwrap());
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            span("Stream", PeerAddress::Network(([10, 0, 0, 7], 99).into()), &headers).in_scope(
                || {
                    record_identity("team-a");
                    tracing::info!("an event");
                },
            );
        });
        let line: serde_json::Value =
            serde_json::from_slice(&log.0.lock().unwrap()).expect("one line of JSON");
        for (field, value) in [
            ("name", "call"),
            ("method", "Stream"),
            ("peer", "10.0.0.7:99"),
            ("identity", "team-a"),
            ("trace_id", "4bf92f3577b34da6a3ce929d0e0e4736"),
            ("parent_id", "00f067aa0ba902b7"),
        ] {
            assert_eq!(line["span"][field], value, "{line}");
        }
        assert_eq!(line["fields"]["message"], "an event");
    }

    #[test]
    fn only_valid_traceparents_are_accepted() {
        let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let of = |version: &str, rest: &str| format!("{version}-{trace}-{parent}-01{rest}");
        assert_eq!(parse(&of("00", "")), Some((trace, parent)));
        assert_eq!(parse(&of("cc", "-more")), Some((trace, parent)));
        for wrong in [of("00", "-more"), of("ff", ""), of("0", ""), of("00", "x"), String::new()] {
            assert_eq!(parse(&wrong), None, "{wrong}");
        }
        assert_eq!(parse(&format!("00-{}-{parent}-01", "0".repeat(32))), None);
        assert_eq!(parse(&format!("00-{}-{parent}-01", trace.to_uppercase())), None);
        assert_eq!(parse(&format!("00-{trace}-{}-01", "0".repeat(16))), None);
    }
}
