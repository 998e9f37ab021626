//! The first difference of two sets of settings, to be named in an error.

use serde_json::{Map, Value};

/// A setting that differs: its name, such as `config.schedule.lr`, and both values.
#[derive(Debug)]
pub(crate) struct Difference {
    pub(crate) name: String,
    pub(crate) left: Value,
    pub(crate) right: Value,
}

/// Compares two values, of which objects are compared key by key. `name` is the name of both.
pub(crate) fn first_difference(name: &str, left: &Value, right: &Value) -> Option<Difference> {
    if let (Value::Object(left), Value::Object(right)) = (left, right) {
        let get = |map: &Map<String, Value>, key| map.get(key).cloned().unwrap_or_default();
        return right.keys().chain(left.keys()).find_map(|key| {
            let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            first_difference(&name, &get(left, key), &get(right, key))
        });
    }
    let differs = left != right;
    differs.then(|| Difference { name: name.to_owned(), left: left.clone(), right: right.clone() })
}
