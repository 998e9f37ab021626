//! What went wrong with a request, and what to do about it.

use std::fmt::Write as _;
use std::time::Duration;

use forebay::dataset::StoreError;
use http::StatusCode;
use object_store::Error;

use crate::address::Service;
use crate::body::element;
use crate::connect::Answer;

/// Why a request failed.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    what: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It may succeed when it is sent again.
    Temporary,
    /// The bucket says to slow down, perhaps for a time that it gives.
    Throttled(Option<Duration>),
    /// The object is another one.
    Changed,
    Missing,
    /// The credentials may not read it. Some servers say so of what there is not.
    Denied,
    Final,
}

/// Longest part of a message that comes from a library or a server.
const MAX_TEXT: usize = 300;

impl Fault {
    pub(crate) fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into() }
    }

    /// The fault behind an error of `object_store`, whose last answer is known.
    pub(crate) fn of(error: &Error, answer: &Answer, service: Service) -> Self {
        if let Some(region) = answer.region.as_ref().filter(|_| is_redirect(answer)) {
            let what = format!("the bucket is in the region {region}; set AWS_REGION={region}");
            return Self::new(Kind::Final, what);
        }
        match (error, answer.status.map(|status| status.as_u16())) {
            (Error::NotFound { .. }, _) | (_, Some(404)) => {
                Self::new(Kind::Missing, "there is no such object or bucket; check the address")
            }
            (Error::Precondition { .. }, _) | (_, Some(412)) => {
                Self::new(Kind::Changed, "it has another ETag than when it was indexed")
            }
            (Error::Unauthenticated { .. }, _) | (_, Some(401)) => Self::new(
                Kind::Final,
                format!("the credentials are not valid; {}", advice(service)),
            ),
            (Error::PermissionDenied { .. }, _) | (_, Some(403)) => Self::new(
                Kind::Denied,
                format!(
                    "access is denied; grant these credentials access to it, or {}",
                    advice(service)
                ),
            ),
            (_, Some(429 | 503)) => {
                Self::new(Kind::Throttled(answer.retry_after), "the bucket says to slow down")
            }
            (_, Some(status @ (408 | 500 | 502 | 504))) => {
                Self::new(Kind::Temporary, format!("the bucket failed with status {status}"))
            }
            (_, Some(301 | 307)) => Self::new(
                Kind::Final,
                "the bucket is in another region or at another endpoint; set AWS_REGION or AWS_ENDPOINT_URL",
            ),
            (_, Some(416)) => Self::new(Kind::Changed, "it is shorter than when it was indexed"),
            // `object_store` refuses an answer of another range.
            (_, Some(206)) => Self::new(
                Kind::Temporary,
                format!("the answer is not of the range: {}", text(error)),
            ),
            (_, Some(200..=299)) if mentions(error, &["range", "Range", "partial"]) => {
                Self::new(Kind::Final, format!("the server does not serve ranges: {}", text(error)))
            }
            (_, None) if mentions(error, &["169.254.", "metadata", "credential", "Credential"]) => {
                Self::new(Kind::Temporary, format!("there are no credentials; {}", advice(service)))
            }
            (_, None) if mentions(error, &["certificate"]) => Self::new(
                Kind::Final,
                format!(
                    "the server's certificate is not trusted: {}; install the system's root certificates, or set \
                     SSL_CERT_FILE",
                    text(error)
                ),
            ),
            (_, None) => Self::new(
                Kind::Temporary,
                format!("no answer: {}; check the network and the endpoint", text(error)),
            ),
            (_, Some(status)) => {
                Self::new(Kind::Final, format!("status {status}: {}", text(error)))
            }
        }
    }

    /// The error for the pipeline.
    pub(crate) fn into_error(self, action: &'static str, url: String) -> StoreError {
        match self.kind {
            Kind::Changed => StoreError::ObjectChanged { url, what: self.what },
            Kind::Denied => StoreError::Denied { action, url, what: self.what },
            _ => StoreError::Remote { action, url, what: self.what },
        }
    }

    /// Adds what else can be done.
    pub(crate) fn advise(mut self, advice: &str) -> Self {
        write!(self.what, ", {advice}").expect("a string takes everything");
        self
    }

    /// Says how often the request was sent.
    pub(crate) fn after(mut self, attempts: u32) -> Self {
        if attempts > 1 {
            write!(self.what, " (after {attempts} attempts)").expect("a string takes everything");
        }
        self
    }
}

fn is_redirect(answer: &Answer) -> bool {
    matches!(answer.status.map(|status: StatusCode| status.as_u16()), Some(301 | 307 | 400))
}

/// How to give credentials.
const fn advice(service: Service) -> &'static str {
    match service {
        Service::S3 => {
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or a role, or \
             AWS_SKIP_SIGNATURE=true for a public bucket"
        }
        Service::Google => {
            "set GOOGLE_APPLICATION_CREDENTIALS or use a service account of the machine, or \
             GOOGLE_SKIP_SIGNATURE=true for a public bucket"
        }
        Service::Azure => {
            "set AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or an identity, or \
             AZURE_SKIP_SIGNATURE=true for a public container"
        }
        Service::Web => "use a server that serves the files without a login",
    }
}

/// The text of an error with all its causes.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            write!(text, ": {more}").expect("a string takes everything");
        }
        source = error.source();
    }
    text
}

fn mentions(error: &Error, words: &[&str]) -> bool {
    let text = chain(error);
    words.iter().any(|word| text.contains(word))
}

/// The beginning of the text of an error, in one line and without what may be a signature. Of an answer in XML, the
/// code and the message.
fn text(error: &Error) -> String {
    let text = chain(error).replace(['\n', '\r'], " ");
    let text = match (element(&text, "Code"), element(&text, "Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        _ => text,
    };
    let text = without_queries(&text);
    match text.char_indices().nth(MAX_TEXT) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

/// A text without the queries of its URLs.
fn without_queries(text: &str) -> String {
    let is_end = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>' | ')');
    let (mut kept, mut left) = (String::with_capacity(text.len()), text);
    while let Some((before, query)) = left.split_once('?') {
        kept.push_str(before);
        // Behind other marks it begins no query, such as in `<?xml`.
        let follows_path = before.ends_with(|c: char| c.is_alphanumeric() || "/-_.~%*".contains(c));
        left = if follows_path {
            &query[query.find(is_end).unwrap_or(query.len())..]
        } else {
            kept.push('?');
            query
        };
    }
    kept + left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(status: u16, region: Option<&str>) -> Fault {
        let error = Error::Generic { store: "S3", source: "a\nb?X-Amz-Signature=secret".into() };
        let answer = Answer {
            status: StatusCode::from_u16(status).ok(),
            region: region.map(str::to_owned),
            retry_after: None,
        };
        Fault::of(&error, &answer, Service::S3)
    }

    #[test]
    fn each_status_says_what_to_do() {
        for (status, kind, says) in [
            (401, Kind::Final, "AWS_ACCESS_KEY_ID"),
            (403, Kind::Denied, "AWS_SKIP_SIGNATURE=true"),
            (404, Kind::Missing, "check the address"),
            (412, Kind::Changed, "another ETag"),
            (429, Kind::Throttled(None), "slow down"),
            (500, Kind::Temporary, "status 500"),
            (503, Kind::Throttled(None), "slow down"),
            (0, Kind::Temporary, "check the network"),
            (418, Kind::Final, "status 418: Generic S3 error: a b"),
        ] {
            let fault = fault(status, None);
            assert_eq!(fault.kind, kind, "{status}");
            assert!(fault.what.contains(says), "{}", fault.what);
            assert!(!fault.what.contains("secret"), "{}", fault.what);
        }
        for status in [301, 400] {
            let fault = fault(status, Some("eu-west-1"));
            assert_eq!(fault.kind, Kind::Final);
            assert!(fault.what.contains("set AWS_REGION=eu-west-1"), "{}", fault.what);
        }
    }

    #[test]
    fn a_text_has_the_message_of_the_server_and_no_query() {
        let text = |source: &str| text(&Error::Generic { store: "S3", source: source.into() });
        let xml = "status 400: <?xml version=\"1.0\"?>\n<Error><Code>AuthorizationHeaderMalformed</Code>\
                   <Message>the region 'a' is wrong</Message><Token>secret</Token></Error>";
        assert_eq!(text(xml), "AuthorizationHeaderMalformed: the region 'a' is wrong");
        let url = "Error performing GET https://h/a.tar?sig=secret&x=secret in 3 s: <?xml version=\"1\"?> refused";
        let text = text(url);
        assert!(text.contains("GET https://h/a.tar in 3 s") && text.contains("refused"), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
}
