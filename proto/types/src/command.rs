//! What all of forebay's commands do alike: how they log, how they stop, and how they end the processes that
//! they started.

mod child;
mod log;
mod stop;

pub use child::OwnedChild;
pub use log::{log_to_stderr, print_error};
pub use stop::{StopSignal, on_stop, on_stop_after};
