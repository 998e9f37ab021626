//! The canonical form of a recipe, its digest, and the difference between two recipes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use forebay_types::Digest;
use toml::Value;

use super::fields::Recipe;

impl Recipe {
    /// BLAKE3 digest of the canonical form.
    pub fn digest(&self) -> Digest {
        Digest(*blake3::hash(self.canonical().as_bytes()).as_bytes())
    }

    /// The canonical form: TOML, one line `dotted.key = value` for each field, sorted by key.
    pub fn canonical(&self) -> String {
        let mut text = String::new();
        for (key, value) in self.fields() {
            writeln!(text, "{key} = {value}").expect("writing to a String does not fail");
        }
        text
    }

    /// The fields by dotted name, each value as canonical TOML.
    fn fields(&self) -> BTreeMap<String, String> {
        let table = toml::Table::try_from(self).expect("TOML can represent every field");
        let mut fields = BTreeMap::new();
        flatten("", &table, &mut fields);
        fields
    }
}

/// The fields in which two recipes differ: dotted name, value of the first, value of the second. The
/// value is empty if a recipe does not have the field.
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
        let key = quoted(key);
        let name = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        if let Value::Table(inner) = value {
            flatten(&name, inner, fields);
        } else {
            fields.insert(name, render(value));
        }
    }
}

/// A key as TOML has it: the names of fields are bare, and those of classes may have any character.
fn quoted(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if !key.is_empty() && key.chars().all(bare) {
        return key.to_owned();
    }
    let mut text = String::from("\"");
    for c in key.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            c if c.is_control() => {
                write!(text, "\\u{:04X}", u32::from(c)).expect("writing to a String does not fail");
            }
            c => text.push(c),
        }
    }
    text + "\""
}

/// Writes a value. The TOML crate is not used for this, because a new version of it could write values
/// differently and thereby change digests.
fn render(value: &Value) -> String {
    match value {
        Value::Integer(value) => value.to_string(),
        // The shortest decimal that is parsed as the same number.
        Value::Float(value) => format!("{value:?}"),
        Value::String(value) => format!("{value:?}"),
        Value::Boolean(value) => value.to_string(),
        Value::Array(values) => {
            format!("[{}]", values.iter().map(render).collect::<Vec<_>>().join(", "))
        }
        // Of an array: the tables outside of arrays are flattened.
        Value::Table(table) => {
            let mut fields = BTreeMap::new();
            flatten("", table, &mut fields);
            let fields: Vec<String> =
                fields.into_iter().map(|(key, value)| format!("{key} = {value}")).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        Value::Datetime(_) => unreachable!("no field has such a value"),
    }
}
