//! The forebay server and its command line.
//!
//! ```text
//! serve -> connections -> service -> request: checked -> session -> body -> HTTP/2
//!                                                           |
//!                                                        source: datasets, recipes, the pipeline
//! ```

mod body;
mod call;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod device;
mod limits;
pub mod preview;
mod request;
mod serve;
mod service;
mod session;
mod socket;
mod source;
mod status;
mod unary;

pub use limits::Limits;
pub use serve::{Report, run};
pub use source::{Done, Job, Microbatch, Name, Output, Source, Wanted};
pub use status::Refusal;
