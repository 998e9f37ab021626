//! Which engine a module's text belongs to.

use std::path::Path;

use crate::code::{Answer, Code};
use crate::engine::Module;
use crate::gxx;
use crate::report::say;

/// Loads what `cuModuleLoadData` was given: the stand-in's own "PTX", which is a source, or real PTX.
pub(crate) fn load(text: &str, cache: &Path) -> Answer<Box<dyn Module>> {
    let module = if gxx::is_source(text) {
        gxx::load(text, cache)
    } else {
        Err("this is neither the stand-in's NVRTC's output nor PTX".to_owned())
    };
    module.map_err(|what| {
        say(&format!("module: {what}"));
        Code::INVALID_PTX
    })
}
