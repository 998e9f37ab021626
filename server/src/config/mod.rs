//! Configuration of a server: defaults, overridden by the `--config` file, overridden by the environment,
//! overridden by flags. Everything is parsed once, into a [`Config`] that is valid.

mod memory;
mod mix;
mod named;
mod resolved;
mod settings;
mod storage;

pub use memory::Memory;
pub(crate) use mix::{Mix, is_url};
pub use resolved::Config;
pub use settings::ServeArgs;
pub(crate) use settings::{Threads, recipes_in};
pub(crate) use storage::{PriceSettings, StorageSettings};
