//! Single gRPC messages: requests, and the responses that are not frames.

use bytes::{BufMut as _, Bytes};
use forebay_proto::frame::PREFIX_BYTES;
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::{BodyExt as _, Full};
use prost::Message;
use tonic::Status;
use tonic::body::Body;

use crate::status::Refusal;

/// Reads the one message of a request. Admission bounds its size, and the time that it may take.
///
/// # Errors
/// When the message does not arrive, or is compressed or malformed.
pub(crate) async fn read<M: Message + Default>(body: Body) -> Result<M, Refusal> {
    let invalid = |what: String| Refusal::invalid("request", what);
    let bytes = body.collect().await.map_err(Refusal::Body)?.to_bytes();
    let Some((prefix, message)) = bytes.split_first_chunk::<PREFIX_BYTES>() else {
        return Err(invalid(
            "contains no message (expected one, after a prefix of 5 bytes)".into(),
        ));
    };
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 {
        return Err(Refusal::Compressed);
    }
    let length = u32::from_be_bytes(length);
    if length as usize != message.len() {
        return Err(invalid(format!(
            "its prefix announces {length} bytes, and {} follow; a request is one message",
            message.len()
        )));
    }
    M::decode(message).map_err(|error| invalid(error.to_string()))
}

/// A message with its prefix.
pub(crate) fn encode<M: Message>(message: &M) -> Vec<u8> {
    let length =
        u32::try_from(message.encoded_len()).expect("responses are far smaller than 4 GiB");
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + message.encoded_len());
    bytes.put_u8(0);
    bytes.put_u32(length);
    message.encode_raw(&mut bytes);
    bytes
}

/// A response of one encoded message.
pub(crate) fn write(message: impl AsRef<[u8]> + Send + 'static) -> Response<Body> {
    let body = Full::new(Bytes::from_owner(message))
        .with_trailers(async { Some(Ok(trailers(&Status::ok("")))) });
    response(Body::new(body))
}

/// The response to a call that is not refused.
pub(crate) fn response(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
    response
}

/// The trailers that end a call with a status.
pub(crate) fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers).expect("tonic encodes every message to a header value");
    trailers
}

#[cfg(test)]
mod tests {
    use forebay_proto::v1::ExplainRequest;

    use super::*;

    async fn read_bytes(bytes: &'static [u8]) -> Result<ExplainRequest, String> {
        let body = Body::new(Full::new(Bytes::from_static(bytes)));
        read(body).await.map_err(|refusal| refusal.to_string())
    }

    #[tokio::test]
    async fn a_request_is_one_complete_uncompressed_message() {
        let epoch = ExplainRequest { epoch: 5, ..ExplainRequest::default() };
        assert_eq!(read_bytes(&[0, 0, 0, 0, 2, 0x10, 5]).await, Ok(epoch));
        assert_eq!(read_bytes(&[0, 0, 0, 0, 0]).await, Ok(ExplainRequest::default()));
        for (bytes, says) in [
            (&[][..], "contains no message"),
            (&[0, 0, 0, 0], "contains no message"),
            (&[1, 0, 0, 0, 0], "compressed requests"),
            (&[0, 0, 0, 0, 3, 0x10, 5], "announces 3 bytes, and 2 follow"),
            (&[0, 0xff, 0xff, 0xff, 0xff, 0x10, 5], "announces 4294967295 bytes"),
            (&[0, 0, 0, 0, 2, 0x10, 5, 0, 0, 0, 0, 0], "announces 2 bytes, and 7 follow"),
            (&[0, 0, 0, 0, 2, 0x10, 0xff], "request: failed to decode"),
        ] {
            let error = read_bytes(bytes).await.unwrap_err();
            assert!(error.contains(says), "{error:?} of {bytes:?}");
        }
    }
}
