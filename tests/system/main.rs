//! The whole service on a generated dataset: index, serve, stream, receive.

#![expect(clippy::unwrap_used, reason = "a test")]

#[path = "../../server/tests/service/certificates.rs"]
mod certificates;
mod chaos;
mod command;
mod damage;
mod descriptors;
mod evaluation;
mod extremes;
mod memory;
mod operation;
mod pipeline;
#[path = "../../server/tests/service/raw.rs"]
mod raw;
mod same_host;
mod schedule;
mod service;
mod sharing;
mod signals;
mod slow;
