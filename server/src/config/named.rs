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

/// Several `NAME=PATH` in one argument or environment variable, separated by commas. Commas inside of braces belong to
/// a path, as in `train-{000000,000001}.tar`.
#[derive(Clone, Debug)]
pub(super) struct NamedList(Vec<Named>);

impl FromStr for NamedList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut depth = 0_u32;
        let separates = |letter: char| {
            match letter {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            letter == ',' && depth == 0
        };
        text.split(separates).map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

/// Reads a table of names and paths.
pub(super) fn table<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<NamedList>, D::Error> {
    let table = BTreeMap::<String, PathBuf>::deserialize(deserializer)?;
    let named = table.into_iter().map(|(name, path)| Named { name, path });
    Ok(vec![NamedList(named.collect())])
}

/// The paths by name.
///
/// # Errors
/// When a name occurs twice.
pub(super) fn by_name(named: Vec<NamedList>) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut map = BTreeMap::new();
    for Named { name, path } in named.into_iter().flat_map(|list| list.0) {
        if let Some(first) = map.insert(name.clone(), path.clone()) {
            bail!("duplicate name {name:?} for {} and {}", first.display(), path.display());
        }
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_separate_names_but_not_inside_of_braces() {
        let list: NamedList = "a=x,b=t-{000000,000001}.tar,c={p,q}/{1,2}.tar".parse().unwrap();
        let paths = by_name(vec![list, "d=y".parse().unwrap()]).unwrap();
        let shown = paths.iter().map(|(name, path)| format!("{name}={}", path.display()));
        assert_eq!(
            shown.collect::<Vec<_>>(),
            ["a=x", "b=t-{000000,000001}.tar", "c={p,q}/{1,2}.tar", "d=y"]
        );
        assert_eq!("a=x,b".parse::<NamedList>().unwrap_err(), "expected NAME=PATH");
    }
}
