//! Names for datasets and recipes: `NAME=PATH` as a flag, `NAME = "PATH"` in a table of the file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::bail;
use serde::{Deserialize as _, Deserializer};

/// `NAME=PATH`.
#[derive(Clone, Debug)]
pub(super) struct Named {
    name: String,
    path: PathBuf,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, path)) if !name.is_empty() && !path.is_empty() => {
                Ok(Self { name: name.into(), path: path.into() })
            }
            _ => Err("expected NAME=PATH".into()),
        }
    }
}

/// Reads a table of names and paths.
pub(super) fn table<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Named>, D::Error> {
    let table = BTreeMap::<String, PathBuf>::deserialize(deserializer)?;
    Ok(table.into_iter().map(|(name, path)| Named { name, path }).collect())
}

/// The paths by name.
///
/// # Errors
/// When a name occurs twice.
pub(super) fn by_name(named: Vec<Named>) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut map = BTreeMap::new();
    for Named { name, path } in named {
        if let Some(first) = map.insert(name.clone(), path.clone()) {
            bail!("duplicate name {name:?} for {} and {}", first.display(), path.display());
        }
    }
    Ok(map)
}
