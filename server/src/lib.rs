//! The forebay server and its command line.
//!
//! ```text
//! serve -> connections -> service -> request: checked -> session -> body -> HTTP/2
//!              |             |                              |   |
//!           access: TLS    access: tokens                   |  board: what goes on -> admin: metrics, page
//!                                                        source: datasets, recipes, the pipeline
//! ```

mod access;
mod admin;
mod board;
mod body;
mod call;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod device;
mod limits;
mod metrics;
mod pace;
mod page;
mod picture;
pub mod preview;
mod process;
mod request;
mod serve;
mod service;
mod session;
mod socket;
mod source;
mod status;
mod trace;
mod unary;

pub use access::{Access, AccessFiles};
pub use forebay::Requester;
pub use limits::{IdentityLimits, Limits};
pub use serve::{Report, Setup, run};
pub use source::{DatasetFacts, Done, Job, Load, Microbatch, Name, Output, Source};
pub use status::Refusal;
