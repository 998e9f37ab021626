//! Virtual trainers that load forebay servers and check what they receive.
//!
//! A run is `jobs` copies of one job, each read by a world of trainers, as a training run would: rank r
//! takes the microbatches g with `g % trainers == r`, and no rank begins a step before all ranks have
//! received the previous one. The client checks names, order and digests of each rank; `check` adds
//! what only all ranks together show: every microbatch of every step exactly once, every record as
//! often as the epoch has it, and the same bytes in all copies and in an undisturbed run.
//!
//! ```text
//! plan, gate -> trainer: client -> check, received, telemetry --+--> report -> table, JSON, CSV, HTML
//! servers (start, kill)            watch (/metrics) ------------+
//! ```
//!
//! ```no_run
//! # async fn run() -> Result<(), forebay_loadtest::Error> {
//! use forebay_client::Job;
//! use forebay_loadtest::Options;
//!
//! let client = forebay_client::Options::new(["http://localhost:50051"]);
//! let options = Options { trainers: 4, ..Options::new(client, Job::new("imagenet", "a2"), 100) };
//! let report = forebay_loadtest::run(options).await?;
//! println!("{report}");
//! assert_eq!(report.violation_count, 0);
//! # Ok(())
//! # }
//! ```

mod arguments;
mod check;
mod command;
mod digests;
mod error;
mod figures;
mod gate;
mod options;
mod page;
mod plan;
mod random;
mod received;
mod report;
mod run;
mod servers;
mod settings;
mod slo;
mod state;
mod sync;
mod table;
mod telemetry;
mod trainer;
mod watch;

pub use command::main;
pub use error::Error;
pub use figures::{ServerCost, StageMs, WaitMs};
pub use options::Options;
pub use plan::{Length, Pace, Phase, StepTime, Steps, Trainers};
pub use report::{PhaseReport, Report};
pub use run::run;
pub use servers::Spawn;
pub use slo::Slo;
pub use sync::Interrupt;
pub use telemetry::{Interval, Kill, ServerInterval};
