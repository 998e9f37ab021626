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
    let store = match address.service {
        Service::S3 => {
            let mut builder = AmazonS3Builder::from_env();
            for (key, value) in settings {
                let key = key.parse().map_err(|_unknown| malformed(key))?;
                builder = builder.with_config(key, *value);
            }
            let builder =
                profile::complete(builder).map_err(|what| OpenError { url: url.clone(), what })?;
            let builder = builder.with_url(url).with_retry(retry).with_http_connector(connector);
            builder.build().map(Store::of)
        }
        Service::Google => {
            let mut builder = GoogleCloudStorageBuilder::from_env().with_url(url);
            for (key, value) in settings {
                let key = key.parse().map_err(|_unknown| malformed(key))?;
                builder = builder.with_config(key, *value);
            }
            let builder = builder.with_retry(retry).with_http_connector(connector);
            builder.build().map(Store::of)
        }
        Service::Azure => {
            let mut builder = MicrosoftAzureBuilder::from_env().with_url(url);
            for (key, value) in settings {
                let key = key.parse().map_err(|_unknown| malformed(key))?;
                builder = builder.with_config(key, *value);
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
