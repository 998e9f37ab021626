//! Settings of datasets in buckets.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use forebay_types::settings::NonZeroByteSize;
use serde::Deserialize;

/// The table `[storage]`.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct StorageSettings {
    /// Folder on a local disk that caches datasets in buckets for all processes of the host. It is created, or must be
    /// empty. Default: none.
    #[arg(long, value_name = "DIR", env = "FOREBAY_DISK_CACHE")]
    pub(crate) disk_cache: Option<PathBuf>,
    /// Most bytes in the folder of --disk-cache; when it is full it stays as it is. Default: nine tenths of what is
    /// free or already in the cache.
    #[arg(long, value_name = "SIZE", env = "FOREBAY_DISK_CACHE_BYTES")]
    pub(crate) disk_cache_bytes: Option<NonZeroByteSize>,
    /// Memory for bytes of buckets that are on their way or not used yet: so far ahead are they fetched. Default: an
    /// eighth of the memory, at most 256MiB.
    #[arg(long, value_name = "SIZE", env = "FOREBAY_READ_AHEAD")]
    pub(crate) read_ahead: Option<NonZeroByteSize>,
}

impl StorageSettings {
    pub(super) fn or(self, file: Self) -> Self {
        Self {
            disk_cache: self.disk_cache.or(file.disk_cache),
            disk_cache_bytes: self.disk_cache_bytes.or(file.disk_cache_bytes),
            read_ahead: self.read_ahead.or(file.read_ahead),
        }
    }
}

/// The table `[prices]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PriceSettings {
    /// Price of a million requests to a bucket, for the cost on the status page and in the metrics. Default: none.
    #[arg(long, value_name = "PRICE", env = "FOREBAY_REQUEST_PRICE")]
    pub(crate) request_price: Option<Price>,
    /// Price of a GiB that is read from a bucket. Default: none.
    #[arg(long, value_name = "PRICE", env = "FOREBAY_TRANSFER_PRICE")]
    pub(crate) transfer_price: Option<Price>,
}

impl PriceSettings {
    pub(super) fn or(self, file: Self) -> Self {
        Self {
            request_price: self.request_price.or(file.request_price),
            transfer_price: self.transfer_price.or(file.transfer_price),
        }
    }
}

/// An amount of money in any currency, from 0 to a million.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "f64")]
pub(crate) struct Price(f64);

impl Price {
    pub(crate) const fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Price {
    type Error = String;

    fn try_from(price: f64) -> Result<Self, String> {
        let valid = (0.0..=1e6).contains(&price);
        valid.then_some(Self(price)).ok_or_else(|| "expected a price from 0 to 1000000".to_owned())
    }
}

impl FromStr for Price {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<f64>().unwrap_or(f64::NAN).try_into()
    }
}
