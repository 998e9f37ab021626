//! Names for datasets and recipes: `NAME=PATH` as a flag, `NAME = "PATH"` in a table of the file.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use anyhow::bail;
use serde::{Deserialize, Deserializer};

use super::mix::split;

const EXPECTED: &str = "expected NAME=PATH";

/// Several `NAME=PATH` of one argument or environment variable, separated by commas.
#[derive(Clone, Debug)]
pub(super) struct NamedList<T>(Vec<(String, T)>);

impl<T: FromStr<Err: Display>> FromStr for NamedList<T> {
    type Err = String;

    /// What has no name is mixed with what is before it, as `b` of `train=a,b:0.5`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut named: Vec<(String, String)> = Vec::new();
        for piece in split(text) {
            match (name_of(piece), named.last_mut()) {
                (Some((name, path)), _) => named.push((name.to_owned(), path.to_owned())),
                (None, Some((_, paths))) => *paths = format!("{paths},{piece}"),
                (None, None) => return Err(EXPECTED.to_owned()),
            }
        }
        let parse = |(name, paths): (String, String)| match paths.parse() {
            Ok(paths) => Ok((name, paths)),
            Err(error) => Err(format!("{name}: {error}")),
        };
        named.into_iter().map(parse).collect::<Result<_, String>>().map(Self)
    }
}

/// Name and path of `NAME=PATH`. A `=` behind a `/` belongs to a path.
fn name_of(piece: &str) -> Option<(&str, &str)> {
    let (name, path) = piece.split_once('=')?;
    (!name.is_empty() && !path.is_empty() && !name.contains('/')).then_some((name, path))
}

/// Reads a table of names and paths.
pub(super) fn table<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<NamedList<T>>, D::Error> {
    let table = BTreeMap::<String, T>::deserialize(deserializer)?;
    Ok(vec![NamedList(table.into_iter().collect())])
}

/// The paths by name.
///
/// # Errors
/// When a name occurs twice.
pub(super) fn by_name<T: Display>(named: Vec<NamedList<T>>) -> anyhow::Result<BTreeMap<String, T>> {
    let mut map = BTreeMap::new();
    for (name, path) in named.into_iter().flat_map(|list| list.0) {
        let shown = path.to_string();
        if let Some(first) = map.insert(name.clone(), path) {
            bail!("duplicate name {name:?} for {first} and {shown}");
        }
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::super::mix::Mix;
    use super::*;

    #[test]
    fn commas_separate_names_but_not_inside_of_braces() {
        let list: NamedList<Mix> = "a=x,b=t-{000000,000001}.tar,c={p,q}/{1,2}.tar".parse().unwrap();
        let paths = by_name(vec![list, "d=y".parse().unwrap()]).unwrap();
        let shown = paths.iter().map(|(name, path)| format!("{name}={path}"));
        assert_eq!(
            shown.collect::<Vec<_>>(),
            ["a=x", "b=t-{000000,000001}.tar", "c={p,q}/{1,2}.tar", "d=y"]
        );
    }

    #[test]
    fn what_has_no_name_is_mixed_with_what_is_before_it() {
        let list: NamedList<Mix> = "train=a,b:0.5,/d/k=v/c,val=e".parse().unwrap();
        let paths = by_name(vec![list]).unwrap();
        assert_eq!(paths["train"], "a,b:0.5,/d/k=v/c".parse().unwrap());
        assert_eq!(paths["val"].to_string(), "e");
        for text in ["a", "=x", "a,b=x", "/a=x"] {
            assert_eq!(text.parse::<NamedList<Mix>>().unwrap_err(), "expected NAME=PATH", "{text}");
        }
        assert_eq!("a=".parse::<NamedList<Mix>>().unwrap_err(), "expected NAME=PATH");
    }
}
