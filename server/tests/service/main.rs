//! The service on a loopback socket, over makers of made-up microbatches, read by stock clients.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod access;
mod admin;
mod certificates;
mod idle;
mod lifecycle;
mod pressure;
mod refusals;
mod streams;
mod support;
