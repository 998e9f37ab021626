//! Datasets that are mixed: `PATH[:WEIGHT]`, several separated by commas, or a list in the file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use forebay::dataset::with_split;
use serde::{Deserialize, Deserializer, de::Error as _};

/// Largest weight of a dataset.
const MAX_WEIGHT: f64 = 1e6;

/// Paths of datasets, each with its weight in their mix. Most have one, with the weight 1.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mix(Vec<(PathBuf, f64)>);

impl Mix {
    /// The paths with their weights.
    pub(crate) fn parts(&self) -> impl ExactSizeIterator<Item = (&Path, f64)> {
        self.0.iter().map(|(path, weight)| (path.as_path(), *weight))
    }

    /// The mix of a split of each.
    pub(crate) fn with_split(&self, split: Option<&str>) -> Self {
        Self(self.parts().map(|(path, weight)| (with_split(path, split), weight)).collect())
    }

    /// Whether any of the paths is in a bucket.
    pub(crate) fn fetches(&self) -> bool {
        self.parts().any(|(path, _)| is_url(path))
    }

    /// The mix of `PATH` or `PATH:WEIGHT` each. `exists` says what is a path as a whole.
    ///
    /// # Errors
    /// When a weight is out of range.
    fn of<'t>(
        parts: impl IntoIterator<Item = &'t str>,
        exists: impl Fn(&str) -> bool,
    ) -> Result<Self, String> {
        let part = |text| if exists(text) { Ok((text.into(), 1.0)) } else { part(text) };
        parts.into_iter().map(part).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let exists = |text: &str| Path::new(text).exists();
        if exists(text) { Self::of([text], exists) } else { Self::of(split(text), exists) }
    }
}

/// As it is written on a command line.
impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (path, weight)) in self.parts().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            let shown = path.to_string_lossy();
            write!(f, "{comma}{shown}")?;
            // A path may end like a weight.
            if part(&shown) != Ok((path.into(), weight)) {
                write!(f, ":{weight}")?;
            }
        }
        Ok(())
    }
}

/// A text as on the command line, or a list, in which commas have no meaning and a number at the end is always a weight.
impl<'de> Deserialize<'de> for Mix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a path, or a list of PATH or PATH:WEIGHT")]
        enum Written {
            Text(String),
            List(Vec<String>),
        }
        let mix = match Written::deserialize(deserializer)? {
            Written::Text(text) => text.parse(),
            Written::List(parts) if parts.is_empty() => Err("expected a path".to_owned()),
            Written::List(parts) => Self::of(parts.iter().map(String::as_str), |_| false),
        };
        mix.map_err(D::Error::custom)
    }
}

/// Splits at commas, but not inside of braces: there they belong to a path, as in `train-{000000,000001}.tar`.
pub(super) fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_u32;
    text.split(move |letter: char| {
        match letter {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        letter == ',' && depth == 0
    })
}

/// Whether a dataset is in a bucket.
pub(crate) fn is_url(path: &Path) -> bool {
    path.to_str().is_some_and(|text| {
        text.split_once("://").is_some_and(|(scheme, _)| {
            !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
        })
    })
}

/// `PATH` or `PATH:WEIGHT`. The port of a URL is no weight.
fn part(text: &str) -> Result<(PathBuf, f64), String> {
    let weighted = text.rsplit_once(':').and_then(|(path, weight)| {
        let is_number = weight.starts_with(|letter: char| matches!(letter, '0'..='9' | '.' | '-'));
        let is_port = path.split_once("://").is_some_and(|(_, rest)| !rest.contains('/'));
        let weight = weight.parse::<f64>().ok().filter(|_| is_number && !is_port)?;
        Some((path, weight))
    });
    let (path, weight) = weighted.unwrap_or((text, 1.0));
    if path.is_empty() {
        return Err("expected a path".to_owned());
    }
    if !(weight > 0.0 && weight <= MAX_WEIGHT) {
        return Err(format!(
            "the weight of {path} is {weight}; expected more than 0 and at most {MAX_WEIGHT}"
        ));
    }
    Ok((path.into(), weight))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> Vec<(String, f64)> {
        let mix: Mix = text.parse().unwrap();
        assert_eq!(mix.to_string().parse::<Mix>().unwrap(), mix);
        mix.parts().map(|(path, weight)| (path.display().to_string(), weight)).collect()
    }

    #[test]
    fn a_mix_has_paths_with_weights() {
        let of = |path: &str, weight| (path.to_owned(), weight);
        assert_eq!(parts("/data/train"), [of("/data/train", 1.0)]);
        assert_eq!(parts("a,b:0.5,c:2"), [of("a", 1.0), of("b", 0.5), of("c", 2.0)]);
        assert_eq!(parts("t-{0,1}.tar:.25,u"), [of("t-{0,1}.tar", 0.25), of("u", 1.0)]);
        assert_eq!(parts("/d/12:30/a"), [of("/d/12:30/a", 1.0)]);
        assert_eq!(parts("/d/a:b"), [of("/d/a:b", 1.0)]);
        assert_eq!(parts("/d/a:2:1"), [of("/d/a:2", 1.0)]);
    }

    #[test]
    fn what_exists_as_a_whole_has_no_weight() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zstd:7").display().to_string();
        assert_eq!(parts(&path), [(path.trim_end_matches(":7").to_owned(), 7.0)]);
        std::fs::create_dir(&path).unwrap();
        assert_eq!(parts(&path), [(path.clone(), 1.0)]);
        assert_eq!(parts(&format!("{path}:0.5")), [(path.clone(), 0.5)]);
        let comma = folder.path().join("a,b").display().to_string();
        assert_eq!(parts(&comma).len(), 2);
        std::fs::create_dir(&comma).unwrap();
        assert_eq!(parts(&comma), [(comma.clone(), 1.0)]);
        // In a file's list it is never meant, so that a program can write any path.
        let read = |text: &str| toml::from_str::<std::collections::BTreeMap<String, Mix>>(text);
        let weight =
            |text: String| read(&text).unwrap()["x"].parts().next().map(|(_, weight)| weight);
        assert_eq!(weight(format!("x = [{path:?}]")), Some(7.0));
        assert_eq!(weight(format!("x = {path:?}")), Some(1.0));
    }

    #[test]
    fn the_port_of_a_url_is_no_weight() {
        let of = |path: &str, weight| (path.to_owned(), weight);
        assert_eq!(parts("https://host:8080"), [of("https://host:8080", 1.0)]);
        assert_eq!(parts("https://host:8080/t:0.5"), [of("https://host:8080/t", 0.5)]);
        assert_eq!(
            parts("s3://bucket/t:0.5,s3://b/u"),
            [of("s3://bucket/t", 0.5), of("s3://b/u", 1.0)]
        );
    }

    #[test]
    fn a_url_is_told_from_a_path() {
        assert!(is_url(Path::new("s3://b/train")) && is_url(Path::new("x9://b")));
        for path in ["/data/train", "a/b://c", "://b", "train-{0..9}.tar", "c:/x"] {
            assert!(!is_url(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn a_weight_out_of_range_is_refused() {
        for text in ["a:0", "a:-1", "a,b:0.0", "a:2000000"] {
            let error = text.parse::<Mix>().unwrap_err();
            assert!(error.contains("expected more than 0 and at most 1000000"), "{error}");
        }
        for text in ["", "a,", ":0.5"] {
            assert_eq!(text.parse::<Mix>().unwrap_err(), "expected a path", "{text:?}");
        }
    }
}
