//! Clients of the services, with credentials of the environment.

use std::fmt::Debug;
use std::sync::Arc;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::list::PaginatedListStore;
use object_store::multipart::MultipartStore;
use object_store::{ObjectStore, RetryConfig};

use crate::address::{Address, OpenError, Service};
use crate::connect::Connector;
use crate::profile;

/// What a web server cannot do: give lists by pages, and take files in parts. Each page and each part is a request of
/// its own, with its own time and its own attempts.
pub(crate) trait Cloud: PaginatedListStore + MultipartStore + Debug {}

impl<T: PaginatedListStore + MultipartStore + Debug> Cloud for T {}

/// A bucket of `object_store`.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pub(crate) objects: Arc<dyn ObjectStore>,
    /// `None` of a web server.
    pub(crate) cloud: Option<Arc<dyn Cloud>>,
}

impl Store {
    fn of(cloud: impl ObjectStore + Cloud) -> Self {
        let cloud = Arc::new(cloud);
        Self { objects: Arc::clone(&cloud) as _, cloud: Some(cloud) }
    }
}

/// Opens a bucket. Credentials are found as `object_store` finds them: in the environment, in the files that it
/// names, from the machine or the workload; for S3 in the files of the AWS command line as well.
///
/// # Errors
/// When a setting of the environment is malformed.
pub(crate) fn open(address: &Address, settings: &[(&str, &str)]) -> Result<Store, OpenError> {
    let url = &address.base;
    let malformed =
        |key: &str| OpenError { url: url.clone(), what: format!("unknown setting {key}") };
    // Requests are repeated by `fetch`.
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let connector = Connector { follows: address.service == Service::Web };
    // A builder with the variables of its service, and then the settings. The builders have no trait in common.
    macro_rules! configured {
        ($builder:expr, $prefix:literal) => {{
            let mut builder = $builder;
            for (key, value) in environment($prefix, url)? {
                if let Ok(key) = key.parse() {
                    builder = builder.with_config(key, value);
                }
            }
            for (key, value) in settings {
                let key = key.parse().map_err(|_unknown| malformed(key))?;
                builder = builder.with_config(key, *value);
            }
            builder
        }};
    }
    let store = match address.service {
        Service::S3 => {
            let builder = configured!(AmazonS3Builder::new(), "AWS_");
            let builder =
                profile::complete(builder).map_err(|what| OpenError { url: url.clone(), what })?;
            let builder = builder.with_url(url).with_retry(retry).with_http_connector(connector);
            builder.build().map(Store::of)
        }
        Service::Google => {
            let builder = configured!(GoogleCloudStorageBuilder::new(), "GOOGLE_").with_url(url);
            let builder = builder.with_retry(retry).with_http_connector(connector);
            builder.build().map(Store::of)
        }
        Service::Azure => {
            let mut builder = configured!(MicrosoftAzureBuilder::new(), "AZURE_").with_url(url);
            // Where a machine of Azure tells its identity.
            for (_, value) in environment("IDENTITY_ENDPOINT", url)? {
                builder = builder.with_msi_endpoint(value);
            }
            let builder = builder.with_retry(retry).with_http_connector(connector);
            builder.build().map(Store::of)
        }
        Service::Web => {
            let builder = HttpBuilder::new().with_url(url);
            let builder = builder.with_retry(retry).with_http_connector(connector);
            builder.build().map(|store| Store { objects: Arc::new(store), cloud: None })
        }
    };
    store.map_err(|error| OpenError {
        url: url.clone(),
        what: format!("{error}; check the environment variables of its credentials"),
    })
}

/// The variables of the environment that begin with a prefix, with their names in lower case. As `from_env` of
/// `object_store` reads them, but for what it panics on later: empty ones count as unset, and the end of a line, which
/// secrets often have, is no part of a value.
///
/// # Errors
/// When a value cannot be part of a request, or the address of an endpoint is none.
fn environment(prefix: &str, url: &str) -> Result<Vec<(String, String)>, OpenError> {
    let mut found = Vec::new();
    for (key, value) in std::env::vars_os() {
        let (Some(key), Some(value)) = (key.to_str(), value.to_str()) else { continue };
        if key.starts_with(prefix) && !value.trim().is_empty() {
            let value = checked(key, value.trim());
            let value = value.map_err(|what| OpenError { url: url.to_owned(), what })?;
            found.push((key.to_ascii_lowercase(), value.to_owned()));
        }
    }
    Ok(found)
}

/// # Errors
/// What is wrong with the value of a variable.
fn checked<'v>(key: &str, value: &'v str) -> Result<&'v str, String> {
    if value.contains(|letter: char| letter.is_control()) {
        return Err(format!(
            "the variable {key} has a line break or another control character; remove it"
        ));
    }
    if !key.contains("ENDPOINT") {
        return Ok(value);
    }
    let is_address = value.parse::<http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
    });
    if is_address {
        return Ok(value);
    }
    Err(format!("the variable {key} is {value:?}; expected http://HOST:PORT or https://HOST"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_requests_cannot_have_are_refused_by_name() {
        for endpoint in
            ["localhost:9000", "minio:9000", "http://127.0.0.1 :5", "http://", "ftp://a"]
        {
            let refused = checked("AWS_ENDPOINT_URL", endpoint).unwrap_err();
            assert!(
                refused.contains("AWS_ENDPOINT_URL is") && refused.contains("http://HOST"),
                "{refused}"
            );
        }
        for endpoint in ["http://127.0.0.1:9000", "https://s3.eu-west-1.amazonaws.com/x"] {
            assert_eq!(checked("AWS_ENDPOINT_URL", endpoint), Ok(endpoint));
        }
        let refused = checked("AWS_REGION", "a\nb").unwrap_err();
        assert!(refused.contains("AWS_REGION has a line break"), "{refused}");
        assert_eq!(checked("AWS_REGION", "eu-west-1"), Ok("eu-west-1"));
    }
}
