//! URLs of buckets.

/// A URL that cannot be opened.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot open {url}: {what}")]
pub struct OpenError {
    /// The URL.
    pub url: String,
    /// The fault, and what to do.
    pub what: String,
}

/// The kinds of buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    S3,
    Google,
    Azure,
    /// A web server: it has no lists.
    Web,
}

/// A URL, split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) service: Service,
    /// Up to the path, such as `s3://bucket`.
    pub(crate) base: String,
    /// Without `/` at its ends.
    pub(crate) path: String,
}

const SCHEMES: [(&str, Service); 5] = [
    ("s3", Service::S3),
    ("gs", Service::Google),
    ("az", Service::Azure),
    ("https", Service::Web),
    ("http", Service::Web),
];

impl Address {
    pub(crate) fn parse(url: &str) -> Result<Self, OpenError> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let service = SCHEMES.iter().find(|(name, _)| *name == scheme).map(|(_, service)| *service);
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        // What may have a secret is not shown. In names of a bucket, `@` and `?` are usual.
        let has_path = service.is_some_and(|service| service != Service::Web);
        let hides = authority.contains('@') || !has_path && rest.contains(['@', '?', '&']);
        let shown = if hides { format!("{scheme}://...") } else { url.to_owned() };
        let error = |what: &str| OpenError { url: shown.clone(), what: what.to_owned() };
        if authority.contains('@') {
            return Err(error("it has credentials in it; set them in the environment"));
        }
        let expected =
            "expected s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH or https://HOST/PATH";
        let service = service.ok_or_else(|| error(expected))?;
        if authority.is_empty() {
            return Err(error(expected));
        }
        let is_web = service == Service::Web;
        if is_web && rest.contains(['?', '&']) {
            return Err(error("a signed URL is no place of a dataset; name the files"));
        }
        if is_web && authority.rsplit_once(':').is_some_and(|(_, port)| !is_port(port)) {
            // Such as of `user:secret/...@host`.
            let url = format!("{scheme}://...");
            return Err(OpenError { url, what: "its port is no number".to_owned() });
        }
        // Keys may have a `#`, of which the last one may be before a split.
        let fragment = path.split_once('#').map(|(_, fragment)| fragment);
        if is_web && fragment.is_some_and(|text| text.is_empty() || text.contains(['#', '/'])) {
            return Err(error("only a split may be behind its #"));
        }
        let path = path.strip_suffix('/').unwrap_or(path);
        let mut parts = path.split('/');
        if !path.is_empty() && parts.any(|part| part == ".." || part == "." || part.is_empty()) {
            return Err(error("its path has an empty part, `.` or `..`"));
        }
        let base = format!("{scheme}://{authority}");
        Ok(Self { service, base, path: path.to_owned() })
    }
}

/// Whether this is a port, or the end of an address of IPv6.
fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok() || text.ends_with(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_service_a_bucket_and_a_path() {
        let parsed = |url: &str| {
            let Address { service, base, path } = Address::parse(url).unwrap();
            (service, base, path)
        };
        let of = |service, base: &str, path: &str| (service, base.to_owned(), path.to_owned());
        assert_eq!(parsed("s3://b/a/train/"), of(Service::S3, "s3://b", "a/train"));
        assert_eq!(parsed("gs://b"), of(Service::Google, "gs://b", ""));
        assert_eq!(parsed("s3://b/c#1/x#val"), of(Service::S3, "s3://b", "c#1/x#val"));
        assert_eq!(parsed("https://h/x#val"), of(Service::Web, "https://h", "x#val"));
        assert_eq!(
            parsed("https://h:8/t-{0..9}.tar"),
            of(Service::Web, "https://h:8", "t-{0..9}.tar")
        );
        for wrong in [
            "s3:/b",
            "ftp://b/c",
            "s3:///x",
            "https://u:p@h/x",
            "s3://b/../x",
            "s3://b//x",
            "s3://b/x//",
            "https://h/x#a/b",
            "https://h/t-?.tar",
            "https://h:x/y",
        ] {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parsed("https://[::1]/x").0, Service::Web);
        // Nor does an error tell secrets.
        for wrong in [
            "https://user:secret@h/x",
            "https://user:secret/x@h/y",
            "https://user:secret@h/x?a=b&c",
            "https://h/x.tar?sig=secret",
            "https://h?sig=secret",
            "https://h/../x?sig=secret",
            "ftp://user:secret@h/x",
            "user:secret@h/x",
            "s3://id:secret@b/../x",
        ] {
            let error = Address::parse(wrong).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
