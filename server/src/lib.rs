//! The forebay server and its command line.
//!
//! A request passes from the top to the bottom, and its frames return the same way:
//!
//! ```text
//! serve        accept (listen, address), drain, stop  admin      metrics, probes, status page
//! connection   TLS, HTTP/2, idle timeout              stream_reset  a stream whose reader stalled
//! service      identity, the four methods             telemetry  streams, waits, metrics
//! request      validation                             admission  the table of all gates, and most of them
//! session      submit, await, send                    status     errors as gRPC statuses
//! grpc, body   messages; frames, zero-copy            sent       what a response holds until it is taken
//! leases       microbatches in shared memory          answer     Describe and Explain
//! source       datasets, recipes and the pipeline
//!              behind them (catalog)
//! ```

mod access;
mod address;
mod admin;
mod admission;
mod answer;
mod body;
mod catalog;
mod cli;
mod config;
mod connection;
mod datasets;
mod descriptors;
mod device;
mod grpc;
mod leases;
mod listen;
mod low_priority;
mod page;
mod recipes;
mod request;
mod sent;
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
pub use address::{ListenAddress, SocketMode};
pub use admission::{IdentityLimits, Limits};
pub use catalog::Catalog;
pub use cli::main;
pub use config::{Config, Memory, ServeArgs};
pub use datasets::Datasets;
pub use device::DeviceChoice;
pub use forebay::SubmitOptions;
pub use listen::Listeners;
pub use serve::{Report, Setup, run};
pub use source::{
    DatasetFacts, Done, Load, MicrobatchName, OpenJob, PixelFormat, Source, StorageLoad, Timings,
    WireMicrobatch,
};
pub use status::Refusal;
