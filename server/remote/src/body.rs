//! What the body of an answer says.

use http::StatusCode;

/// The text of the first element of a name.
pub(crate) fn element<'t>(xml: &'t str, name: &str) -> Option<&'t str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    Some(rest.split_once("</")?.0)
}

/// The status that the body of an answer says, if it is an error in XML or JSON. Buckets may begin an answer, of
/// status 200, before they know whether they can do what is requested, such as to put parts of an object together.
pub(crate) fn status_in_body(body: &[u8]) -> Option<StatusCode> {
    let text = str::from_utf8(body).ok()?.trim_start();
    if text.starts_with('{') {
        let body: serde_json::Value = serde_json::from_str(text).ok()?;
        let code = body.get("error")?.get("code")?.as_u64()?;
        return StatusCode::from_u16(u16::try_from(code).ok()?).ok();
    }
    let document = match text.strip_prefix("<?xml") {
        Some(declared) => declared.split_once("?>")?.1.trim_start(),
        None => text,
    };
    if !document.starts_with("<Error>") && !document.starts_with("<Error ") {
        return None;
    }
    Some(match element(document, "Code")? {
        "SlowDown"
        | "ServiceUnavailable"
        | "ServerBusy"
        | "RequestLimitExceeded"
        | "Throttling"
        | "TooManyRequests" => StatusCode::SERVICE_UNAVAILABLE,
        "InternalError" | "OperationAborted" | "OperationTimedOut" | "RequestTimeout" => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        "AccessDenied" => StatusCode::FORBIDDEN,
        "NoSuchBucket" | "NoSuchKey" | "NoSuchUpload" => StatusCode::NOT_FOUND,
        "PreconditionFailed" => StatusCode::PRECONDITION_FAILED,
        _ => StatusCode::BAD_REQUEST,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_of_an_answer_may_say_that_it_is_an_error() {
        let said = |body: &str| status_in_body(body.as_bytes()).map(|status| status.as_u16());
        let xml = |code: &str| {
            format!("\n <?xml version=\"1.0\"?>\n<Error xmlns=\"x\"><Code>{code}</Code></Error>")
        };
        for (code, status) in [
            ("SlowDown", 503),
            ("InternalError", 500),
            ("RequestTimeout", 500),
            ("NoSuchUpload", 404),
            ("InvalidPart", 400),
        ] {
            assert_eq!(said(&xml(code)), Some(status), "{code}");
        }
        assert_eq!(said(r#"{"error": {"code": 503, "message": "backendError"}}"#), Some(503));
        for other in [
            "",
            "<ListBucketResult><Error></Error></ListBucketResult>",
            "<Error></Error>",
            "{}",
            r#"{"error": "invalid_grant"}"#,
            r#"{"error": {"code": 7}}"#,
        ] {
            assert_eq!(said(other), None, "{other}");
        }
    }
}
