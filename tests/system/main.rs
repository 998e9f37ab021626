//! The whole service: index, serve, stream, receive, on a dataset made on the fly.

#![expect(clippy::unwrap_used, reason = "a test")]

#[path = "../../server/tests/service/certificates.rs"]
mod certificates;
mod chaos;
mod command;
mod operation;
mod pipeline;
mod service;
mod sharing;
