//! Which engine a module's text belongs to.

use std::path::Path;

use crate::code::{Answer, Code};
use crate::engine::Module;
use crate::report::say;
use crate::{gxx, ptx};

/// Loads what `cuModuleLoadData` was given: the stand-in's own "PTX", which is a source, or real PTX.
pub(crate) fn load(text: &str, cache: &Path) -> Answer<Box<dyn Module>> {
    let module = if gxx::is_source(text) { gxx::load(text, cache) } else { ptx::load(text) };
    module.map_err(|what| {
        say(&format!("module: {what}"));
        Code::INVALID_PTX
    })
}
