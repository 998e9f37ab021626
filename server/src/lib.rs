//! The forebay server and its command line.
//!
//! A request passes from the top to the bottom, and its frames return the same way:
//!
//! ```text
//! serve        accept, drain, stop                    admin      metrics, probes, status page
//! connection   TLS, HTTP/2, idle timeout
//! service      identity, the four methods             telemetry  streams, waits, metrics
//! request      validation                             admission  every gate, in one documented order
//! session      submit, await, send
//! body         frames, zero-copy
//! source       datasets, recipes and the pipeline behind them (catalog)
//! ```

mod access;
mod admin;
mod admission;
mod body;
mod catalog;
mod cli;
mod config;
mod connection;
mod device;
mod grpc;
mod page;
mod preview;
mod recipes;
mod request;
mod serve;
mod service;
mod session;
mod shutdown;
mod socket;
mod source;
mod state;
mod status;
mod stream_reset;
mod telemetry;
mod trace;

pub use access::{Access, AccessFiles};
pub use admission::{IdentityLimits, Limits};
pub use catalog::Catalog;
pub use cli::main;
pub use config::{Config, ServeArgs};
pub use device::DeviceChoice;
pub use forebay::Requester;
pub use serve::{Report, Setup, run};
pub use source::{DatasetFacts, Done, Job, Load, Microbatch, MicrobatchName, PixelFormat, Source};
pub use status::Refusal;
