//! The classes and the digest of datasets that are mixed.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_types::{Digest, limits};

use super::error::DatasetError;
use super::part::Part;

/// What parts have in common.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) digest: Digest,
    /// All classes, each once.
    pub(super) classes: Vec<String>,
    /// For each part the label of each of its own labels; `None` if they are the same.
    pub(super) labels: Vec<Option<Vec<u32>>>,
}

/// Joins parts, each with its weight.
///
/// # Errors
/// [`DatasetError::Mix`] if they do not go together.
pub(super) fn join(parts: &[(Part, f64)]) -> Result<Joined, DatasetError> {
    if parts.is_empty() {
        let why = "none is given; expected one or more".to_owned();
        return Err(DatasetError::Mix { path: "datasets".into(), why });
    }
    for (part, weight) in parts {
        check_weight(part, *weight)?;
    }
    let mut storages = parts.iter().filter_map(|(part, _)| Some((part, part.storage()?)));
    if let Some((_, first)) = storages.next()
        && let Some((part, _)) = storages.find(|(_, other)| !Arc::ptr_eq(first, other))
    {
        let why = "datasets in buckets that are mixed need the same `Storage`".to_owned();
        return Err(DatasetError::Mix { path: part.path().into(), why });
    }
    let all: u64 =
        parts.iter().map(|(part, weight)| draws(part.len(), *weight)).fold(0, u64::saturating_add);
    if all > limits::RECORDS {
        let (part, _) = &parts[0];
        let why = format!("an epoch has {all} samples with these weights; expected at most 2^40");
        return Err(DatasetError::Mix { path: part.path().into(), why });
    }
    let is_numbered = |(part, _): &&(Part, f64)| is_numbered(part.classes());
    let is_nameless = |part: &&(Part, f64)| is_numbered(part) && !part.0.has_class_folders();
    let numbered = parts.iter().find(is_nameless);
    let named = parts.iter().find(|part| !is_numbered(part));
    if let (Some((numbered, _)), Some((named, _))) = (numbered, named) {
        return Err(DatasetError::Mix {
            path: numbered.path().into(),
            why: format!(
                "its classes have numbers, and those of {} have names; put a classes.txt with the names beside its \
                 shards and index it again",
                named.path().display()
            ),
        });
    }
    let classes: Vec<&[String]> = parts.iter().map(|(part, _)| part.classes()).collect();
    let (classes, labels) = join_classes(&classes);
    Ok(Joined { digest: digest(parts), classes, labels })
}

/// Samples of an epoch of a dataset with a weight: as many as a decimal weight says, although it is a binary fraction.
pub(super) fn draws(records: u64, weight: f64) -> u64 {
    let draws = records as f64 * weight * (1.0 + 4.0 * f64::EPSILON);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    let draws = draws as u64;
    draws
}

fn check_weight(part: &Part, weight: f64) -> Result<(), DatasetError> {
    let why = if !(weight > 0.0 && weight.is_finite()) {
        format!("its weight is {weight}; expected a number above 0")
    } else if draws(part.len(), weight) == 0 {
        let records = part.len();
        format!(
            "an epoch has none of its {records} records with the weight {weight}; expected more"
        )
    } else {
        return Ok(());
    };
    Err(DatasetError::Mix { path: part.path().into(), why })
}

/// Whether classes are called 0, 1, 2 and so on, because their names are not known.
fn is_numbered(classes: &[String]) -> bool {
    classes.iter().enumerate().all(|(label, name)| *name == label.to_string())
}

/// The classes of all parts by name, in the order in which they occur first, and the label of each of a part's own.
/// Where a part has two classes of one name, as ImageNet has two kinds of crane, the second is the second of others too.
fn join_classes(parts: &[&[String]]) -> (Vec<String>, Vec<Option<Vec<u32>>>) {
    let (mut classes, mut known) = (Vec::new(), BTreeMap::<(String, u32), u32>::new());
    let mut labels = Vec::with_capacity(parts.len());
    for part in parts {
        let mut seen: BTreeMap<&String, u32> = BTreeMap::new();
        let label_of = |name| {
            let earlier = seen.entry(name).or_default();
            let label = *known.entry((name.clone(), *earlier)).or_insert_with(|| {
                classes.push(name.clone());
                u32::try_from(classes.len() - 1).expect("labels have 32 bits")
            });
            *earlier += 1;
            label
        };
        let own: Vec<u32> = part.iter().map(label_of).collect();
        let is_same = own.iter().copied().eq(0..u32::try_from(own.len()).unwrap_or(u32::MAX));
        labels.push((!is_same).then_some(own));
    }
    (classes, labels)
}

fn digest(parts: &[(Part, f64)]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"forebay mix 1");
    for (part, weight) in parts {
        hasher.update(&part.digest().0);
        hasher.update(&weight.to_le_bytes());
    }
    Digest(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn classes_of_the_same_name_are_one() {
        let parts = [names(&["cat", "dog"]), names(&["ant", "dog", "cat"]), names(&["cat"])];
        let parts: Vec<&[String]> = parts.iter().map(Vec::as_slice).collect();
        let (classes, labels) = join_classes(&parts);
        assert_eq!(classes, ["cat", "dog", "ant"]);
        assert_eq!(labels, [None, Some(vec![2, 1, 0]), None]);
    }

    #[test]
    fn classes_of_one_name_in_the_same_part_stay_apart() {
        let parts = [names(&["crane", "dog", "crane"]), names(&["dog", "crane", "crane"])];
        let parts: Vec<&[String]> = parts.iter().map(Vec::as_slice).collect();
        let (classes, labels) = join_classes(&parts);
        assert_eq!(classes, ["crane", "dog", "crane"]);
        assert_eq!(labels, [None, Some(vec![1, 0, 2])]);
    }

    #[test]
    fn an_epoch_has_the_decimal_share_of_records() {
        for (records, weight, expected) in [
            (100, 0.29, 29),
            (100, 0.57, 57),
            (100, 1.15, 115),
            (100, 2.3, 230),
            (49, 1.0 / 49.0, 1),
            (3, 0.5, 1),
        ] {
            assert_eq!(draws(records, weight), expected, "{records} * {weight}");
        }
        assert_eq!(draws(u64::MAX, 1e6), u64::MAX);
    }

    #[test]
    fn numbers_are_told_from_names() {
        assert!(is_numbered(&names(&["0", "1", "2"])));
        assert!(!is_numbered(&names(&["1", "0"])) && !is_numbered(&names(&["0", "n1"])));
    }
}
