//! Clients of the services, with credentials of the environment.

use std::sync::Arc;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::{ObjectStore, RetryConfig};

use crate::address::{Address, OpenError, Service};
use crate::connect::Connector;
use crate::profile;

/// Opens a bucket. Credentials are found as `object_store` finds them: in the environment, in the files that it
/// names, from the machine or the workload; for S3 in the files of the AWS command line as well.
///
/// # Errors
/// When a setting of the environment is malformed.
pub(crate) fn open(
    address: &Address,
    settings: &[(&str, &str)],
) -> Result<Arc<dyn ObjectStore>, OpenError> {
    let url = &address.base;
    let malformed =
        |key: &str| OpenError { url: url.clone(), what: format!("unknown setting {key}") };
    // Requests are repeated by `fetch`.
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let connector = Connector { follows: address.service == Service::Web };
    let store: object_store::Result<Arc<dyn ObjectStore>> = match address.service {
        Service::S3 => {
            let mut builder = AmazonS3Builder::from_env();
            for (key, value) in settings {
                let key = key.parse().map_err(|_unknown| malformed(key))?;
                builder = builder.with_config(key, *value);
            }
            let builder =
                profile::complete(builder).map_err(|what| OpenError { url: url.clone(), what })?;
            let builder = builder.with_url(url).with_retry(retry).with_http_connector(connector);
            builder.build().map(|store| Arc::new(store) as _)
        }
        Service::Google => {
            let mut builder = GoogleCloudStorageBuilder::from_env().with_url(url);
            for (key, value) in settings {
                let key = key.parse().map_err(|_unknown| malformed(key))?;
                builder = builder.with_config(key, *value);
            }
            let builder = builder.with_retry(retry).with_http_connector(connector);
            builder.build().map(|store| Arc::new(store) as _)
        }
        Service::Azure => {
            let mut builder = MicrosoftAzureBuilder::from_env().with_url(url);
            for (key, value) in settings {
                let key = key.parse().map_err(|_unknown| malformed(key))?;
                builder = builder.with_config(key, *value);
            }
            let builder = builder.with_retry(retry).with_http_connector(connector);
            builder.build().map(|store| Arc::new(store) as _)
        }
        Service::Web => {
            let builder = HttpBuilder::new().with_url(url);
            let builder = builder.with_retry(retry).with_http_connector(connector);
            builder.build().map(|store| Arc::new(store) as _)
        }
    };
    store.map_err(|error| OpenError {
        url: url.clone(),
        what: format!("{error}; check the environment variables of its credentials"),
    })
}
