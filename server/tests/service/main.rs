//! The service on a loopback socket, with a fake pipeline, read by stock clients.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod access;
mod admin;
mod ahead;
mod answers;
mod certificates;
mod floods;
mod hostile;
mod idle;
mod lifecycle;
mod lockout;
mod memory;
mod pressure;
#[expect(dead_code, reason = "tests/system uses the rest")]
mod raw;
mod refusals;
mod streams;
mod support;
mod unix;
