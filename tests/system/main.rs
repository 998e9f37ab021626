//! The whole service: index, serve, stream, receive, on a dataset made on the fly.

#![expect(clippy::unwrap_used, reason = "a test")]

mod command;
mod pipeline;
mod service;
mod sharing;
