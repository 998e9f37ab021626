//! Datasets in buckets: the network behind forebay's store.
//!
//! ```text
//!   open(url) --> address: which bucket --> client: object_store, with credentials of the environment
//!                                             |
//!   Bucket (forebay's interface) <-- bucket: threads of its own
//!                                      fetch    one range: repeated, hedged, checked
//!                                      limit    requests at the same time, fewer when a bucket says so
//!                                      connect  connections: hyper and rustls
//!                                      body     errors that are in the body of an answer
//!                                      fault    what went wrong, and what to do
//! ```
//!
//! `object_store` signs requests and knows the services. Its own HTTP client and its own retries are not used: the
//! former would be a second one in the process, and the latter know neither hedging nor a common limit.

mod address;
mod body;
mod bucket;
mod client;
mod connect;
mod fault;
mod fetch;
mod limit;
mod profile;

use std::sync::Arc;

use forebay::dataset::Bucket;

pub use address::OpenError;
pub use bucket::Network;

/// Opens the bucket of a URL. Returns it with the path in it.
///
/// # Errors
/// When the URL is malformed, or the environment has malformed settings.
pub fn open(network: &Arc<Network>, url: &str) -> Result<(Arc<dyn Bucket>, String), OpenError> {
    open_with(network, url, &[])
}

/// As [`open`], with settings that override those of the environment, such as `aws_endpoint_url`.
///
/// # Errors
/// When the URL or a setting is malformed.
pub fn open_with(
    network: &Arc<Network>,
    url: &str,
    settings: &[(&str, &str)],
) -> Result<(Arc<dyn Bucket>, String), OpenError> {
    let address = address::Address::parse(url)?;
    let path = address.path.clone();
    let store = client::open(&address, settings)?;
    Ok((Arc::new(bucket::ObjectBucket::new(Arc::clone(network), address, store)), path))
}
