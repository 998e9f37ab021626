//! The canonical form of a recipe, and the difference of two.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use toml::Value;

use super::Recipe;

impl Recipe {
    /// The canonical form: TOML, one `dotted.key = value` line a field, sorted by key.
    pub fn canonical(&self) -> String {
        let mut text = String::new();
        for (key, value) in self.fields() {
            writeln!(text, "{key} = {value}").expect("a String takes all that is written");
        }
        text
    }

    /// The fields by dotted name, each value as canonical TOML.
    fn fields(&self) -> BTreeMap<String, String> {
        let table = toml::Table::try_from(self).expect("a recipe holds what TOML can hold");
        let mut fields = BTreeMap::new();
        flatten("", &table, &mut fields);
        fields
    }
}

/// The fields in which two recipes differ: dotted name, value of the first, value of the second; an
/// empty value where a recipe has no such field.
pub fn difference(a: &Recipe, b: &Recipe) -> Vec<(String, String, String)> {
    let (a, b) = (a.fields(), b.fields());
    let value = |fields: &BTreeMap<String, String>, key: &String| {
        fields.get(key).cloned().unwrap_or_default()
    };
    let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
    keys.sort();
    keys.dedup();
    keys.into_iter()
        .map(|key| (key.clone(), value(&a, key), value(&b, key)))
        .filter(|(_, left, right)| left != right)
        .collect()
}

fn flatten(prefix: &str, table: &toml::Table, fields: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        if let Value::Table(inner) = value {
            flatten(&name, inner, fields);
        } else {
            fields.insert(name, render(value));
        }
    }
}

/// Written here and not by the TOML crate, so that a new version of it cannot change a digest.
fn render(value: &Value) -> String {
    match value {
        Value::Integer(value) => value.to_string(),
        // The shortest digits that read back as the same number.
        Value::Float(value) => format!("{value:?}"),
        Value::String(value) => format!("{value:?}"),
        Value::Boolean(value) => value.to_string(),
        Value::Array(values) => {
            format!("[{}]", values.iter().map(render).collect::<Vec<_>>().join(", "))
        }
        Value::Table(_) | Value::Datetime(_) => unreachable!("a recipe has neither inside a value"),
    }
}
