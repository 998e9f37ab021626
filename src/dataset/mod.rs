//! Where the bytes of records come from.

/// What is wrong with a dataset or its index.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {}
