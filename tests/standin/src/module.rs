//! Selects the engine for the text of a module.

use std::path::Path;

use crate::code::{Answer, Code};
use crate::engine::Module;
use crate::report::log;
use crate::{gxx, ptx};

/// Loads the text of `cuModuleLoadData`: either real PTX, or the "PTX" of the stand-in's own NVRTC, which is a source.
pub(crate) fn load(text: &str, cache: &Path) -> Answer<Box<dyn Module>> {
    let module = if gxx::is_source(text) { gxx::load(text, cache) } else { ptx::load(text) };
    module.map_err(|what| {
        log(&format!("module: {what}"));
        Code::INVALID_PTX
    })
}
