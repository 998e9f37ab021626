//! Resolves a name or a text, with changes, to a [`Recipe`].

use std::io::ErrorKind;
use std::path::Path;

use forebay_types::file;
use toml::{Table, Value};
use toml_parser::Source;
use toml_parser::lexer::TokenKind;

use super::auto_augment::AutoAugment;
use super::error::RecipeError;
use super::fields::{RandAugment, Recipe};

/// The recipes that forebay ships: name and TOML.
pub const PRESETS: [(&str, &str); 4] = [
    ("a1", include_str!("presets/a1.toml")),
    ("a2", include_str!("presets/a2.toml")),
    ("a3", include_str!("presets/a3.toml")),
    ("eval", include_str!("presets/eval.toml")),
];

/// Largest file of a recipe.
const MAX_FILE: u64 = 1 << 20;

/// Maximum number of keys, values and changes of a recipe; the presets have about 60. Clients send recipes,
/// and tables are parsed, merged and dropped recursively, so that a few thousand levels would overflow the
/// stack. It also bounds the time that changes take, each of which is applied to all of the recipe.
const MAX_PARTS: usize = 512;

/// A recipe that is not resolved yet: its base, and the changes to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipeSpec {
    /// The recipe that the changes apply to.
    pub source: RecipeSource,
    /// TOML assignments, such as `crop.scale = [0.35, 1.0]`, applied in order.
    pub set: Vec<String>,
}

/// The base of a recipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecipeSource {
    /// A preset, by name.
    Preset(String),
    /// A TOML text.
    Text {
        /// Name of the text in errors, such as the path of its file.
        origin: String,
        /// The text.
        toml: String,
    },
}

impl RecipeSpec {
    /// A preset without changes.
    pub fn preset(name: impl Into<String>) -> Self {
        Self { source: RecipeSource::Preset(name.into()), set: Vec::new() }
    }

    /// A TOML text without changes. Errors call it `origin`.
    pub fn from_toml(origin: impl Into<String>, toml: impl Into<String>) -> Self {
        let source = RecipeSource::Text { origin: origin.into(), toml: toml.into() };
        Self { source, set: Vec::new() }
    }

    /// Parses the argument of `--recipe`: the path of a file if it ends in `.toml`, otherwise the name of
    /// a preset.
    ///
    /// # Errors
    /// [`RecipeError::Read`] if the file cannot be read, and [`RecipeError::TooLarge`] if it is larger than
    /// a recipe can be.
    pub fn from_name_or_path(argument: &str) -> Result<Self, RecipeError> {
        if !Path::new(argument).extension().is_some_and(|end| end.eq_ignore_ascii_case("toml")) {
            return Ok(Self::preset(argument));
        }
        Ok(Self::from_toml(argument, Self::read(Path::new(argument))?))
    }

    /// Reads the text of a recipe's file.
    ///
    /// # Errors
    /// [`RecipeError::Read`] if the file cannot be read or is not a regular file, and
    /// [`RecipeError::TooLarge`] if it is larger than a recipe can be.
    pub fn read(path: &Path) -> Result<String, RecipeError> {
        file::read_to_string(path, MAX_FILE).map_err(|error| {
            let path = path.display().to_string();
            if error.kind() == ErrorKind::FileTooLarge {
                RecipeError::TooLarge { path, limit: MAX_FILE }
            } else {
                RecipeError::Read { path, error: error.into() }
            }
        })
    }

    /// Adds changes.
    #[must_use]
    pub fn with_changes(mut self, set: impl IntoIterator<Item = String>) -> Self {
        self.set.extend(set);
        self
    }

    /// Resolves and validates the recipe.
    ///
    /// # Errors
    /// [`RecipeError::Unknown`] if the preset is unknown, [`RecipeError::Syntax`] if the text or a change
    /// is not TOML of a recipe, [`RecipeError::TooManyParts`] if they are longer than any recipe, and
    /// [`RecipeError::Value`] if a value is invalid.
    pub fn resolve(&self) -> Result<Recipe, RecipeError> {
        self.check_parts()?;
        let (origin, mut table) = match &self.source {
            RecipeSource::Preset(name) => (name.clone(), preset(name)?),
            RecipeSource::Text { origin, toml } => {
                let mut table = parse(origin, toml)?;
                let start = match table.remove("base") {
                    None => Table::new(),
                    Some(Value::String(name)) => preset(&name)?,
                    Some(_) => return Err(syntax(origin, "expected the name of a preset as base")),
                };
                (origin.clone(), apply(start, table)?)
            }
        };
        // The last change without which all is well, and after which nothing helps.
        let mut culprit = None;
        let mut parsed = recipe_of(&table);
        for assignment in &self.set {
            table = apply(table, parse(assignment, assignment)?)?;
            let was_valid = parsed.is_ok();
            parsed = recipe_of(&table);
            if was_valid && parsed.is_err() {
                culprit = Some(assignment);
            }
        }
        let mut recipe = parsed.map_err(|error| match culprit {
            Some(assignment) => syntax(&format!("{origin} with {assignment}"), error.message()),
            None => syntax(&origin, error.message()),
        })?;
        // A factor of 1 changes nothing, so it must not change the digest.
        recipe.sampling.weights.retain(|_, weight| weight.to_bits() != 1.0_f64.to_bits());
        recipe.validate()?;
        if recipe.auto_augment.is_some() {
            // What remains of the table has no effect, so it must not change the digest.
            recipe.randaugment = RandAugment::OFF;
        }
        Ok(recipe)
    }

    /// Bounds what parsing the texts takes, before any of them is parsed.
    fn check_parts(&self) -> Result<(), RecipeError> {
        let text = match &self.source {
            RecipeSource::Preset(_) => None,
            RecipeSource::Text { toml, .. } => Some(toml),
        };
        let parts: usize = text.into_iter().chain(&self.set).map(|text| parts(text)).sum();
        if parts > MAX_PARTS {
            return Err(RecipeError::TooManyParts { parts, limit: MAX_PARTS });
        }
        Ok(())
    }
}

/// The number of keys and values of a text, itself included: what nests tables, or adds an entry to one.
fn parts(text: &str) -> usize {
    let counts = |kind| {
        use TokenKind::{Comma, Dot, Equals, LeftCurlyBracket, LeftSquareBracket};
        matches!(kind, Comma | Dot | Equals | LeftCurlyBracket | LeftSquareBracket)
    };
    1 + Source::new(text).lex().filter(|token| counts(token.kind())).count()
}

fn recipe_of(table: &Table) -> Result<Recipe, toml::de::Error> {
    Value::Table(table.clone()).try_into()
}

fn preset(name: &str) -> Result<Table, RecipeError> {
    let Some((_, text)) = PRESETS.iter().find(|(known, _)| *known == name) else {
        let known = PRESETS.map(|(name, _)| name).join(", ");
        return Err(RecipeError::Unknown { name: name.into(), known });
    };
    parse(name, text)
}

fn parse(origin: &str, text: &str) -> Result<Table, RecipeError> {
    text.parse().map_err(|error: toml::de::Error| syntax(origin, &error.to_string()))
}

fn syntax(origin: &str, message: &str) -> RecipeError {
    RecipeError::Syntax { origin: origin.into(), message: message.trim_end().into() }
}

/// Applies a text or an assignment to a recipe. One that has `auto_augment` replaces the policy of before,
/// which may be the table `randaugment`. A policy that the table can express is written there, so that it
/// has one canonical form.
fn apply(mut base: Table, mut change: Table) -> Result<Table, RecipeError> {
    let Some(Value::String(text)) = change.get("auto_augment") else {
        return Ok(merge(base, change));
    };
    let invalid = |expected| {
        let (field, value) = ("auto_augment", format!("{text:?}"));
        RecipeError::Value { field, value, expected }
    };
    let policy: Option<AutoAugment> = match text.as_str() {
        "none" => None,
        text => Some(text.parse().map_err(invalid)?),
    };
    let table = policy.as_ref().and_then(RandAugment::of_policy);
    if table.is_some() && change.contains_key("randaugment") {
        return Err(invalid(
            "expected no randaugment beside it, of which it sets all fields".into(),
        ));
    }
    base.remove("auto_augment");
    let off = Table::try_from(RandAugment::OFF).expect("TOML can represent every field");
    let value = if let Some(table) = table {
        change.remove("auto_augment");
        Value::Table(Table::try_from(table).expect("TOML can represent every field"))
    } else {
        if policy.is_none() {
            change.remove("auto_augment");
        }
        let mut rest = match base.remove("randaugment") {
            Some(Value::Table(table)) => table,
            _ => off,
        };
        rest.insert("ops".into(), Value::Integer(0));
        Value::Table(rest)
    };
    base.insert("randaugment".into(), value);
    Ok(merge(base, change))
}

/// Applies a change to a table, recursively. A crop with a `kind` replaces the whole crop, because the
/// fields of one kind of crop do not apply to another kind.
fn merge(mut base: Table, change: Table) -> Table {
    for (key, value) in change {
        let merged = match (base.remove(&key), value) {
            (Some(Value::Table(old)), Value::Table(new))
                if key != "crop" || !new.contains_key("kind") =>
            {
                Value::Table(merge(old, new))
            }
            (Some(Value::Float(_)), Value::Integer(new)) => Value::Float(new as f64),
            (_, new) => new,
        };
        base.insert(key, merged);
    }
    base
}

#[cfg(test)]
mod tests {
    use super::super::canonical::difference;
    use super::super::fields::{Crop, MixMode, RecordOrder};
    use super::super::validate::limits;
    use super::*;

    fn resolve(spec: &RecipeSpec) -> Recipe {
        spec.resolve().unwrap()
    }

    #[test]
    fn presets_are_those_of_the_paper() {
        let [a1, a2, a3, eval] = PRESETS.map(|(name, _)| resolve(&RecipeSpec::preset(name)));
        assert_eq!(
            (a1.image_size, a2.image_size, a3.image_size, eval.image_size),
            (224, 224, 160, 224)
        );
        assert_eq!((a1.smoothing, a2.smoothing, a3.smoothing), (0.1, 0.0, 0.0));
        assert_eq!((a1.repeats, a2.repeats, a3.repeats), (3, 3, 1));
        assert_eq!((a1.mix.mixup, a2.mix.mixup, a3.mix.mixup), (0.2, 0.1, 0.1));
        let magnitudes = [a1, a2, a3].map(|r| r.randaugment.magnitude.to_string());
        assert_eq!(magnitudes, ["7", "7", "6"]);
        assert_eq!(eval.crop, Crop::Center { resize: 235, trim: 0 });
        assert_eq!(eval.order, RecordOrder::Sequential);
        assert_eq!(eval.fill(), [124, 116, 104]);
    }

    #[test]
    fn the_digest_depends_on_values_and_not_on_notation() {
        let a2 = resolve(&RecipeSpec::preset("a2"));
        let written =
            RecipeSpec::from_toml("mine", "base = \"a2\"\n[mix]\nmode = \"batch\"\ncutmix = 1\n");
        assert_eq!(resolve(&written), a2);
        assert_eq!(resolve(&written).digest(), a2.digest());
        let again = RecipeSpec::from_toml("canonical", a2.canonical());
        assert_eq!(resolve(&again).digest(), a2.digest());
        let changed = resolve(&RecipeSpec::preset("a2").with_changes(["batch = 32".into()]));
        assert_ne!(changed.digest(), a2.digest());
    }

    #[test]
    fn changes_apply_in_order_and_appear_in_the_difference() {
        let a2 = RecipeSpec::preset("a2");
        let set = ["batch = 64", "mix.mode = \"elem\"", "batch = 32", "microbatches = 2"];
        let changed = resolve(&a2.clone().with_changes(set.map(String::from)));
        assert_eq!((changed.batch, changed.microbatch_size()), (32, 16));
        assert_eq!(changed.mix.mode, MixMode::Elem);
        let fields: Vec<String> =
            difference(&resolve(&a2), &changed).into_iter().map(|(field, ..)| field).collect();
        assert_eq!(fields, ["batch", "microbatches", "mix.mode"]);
    }

    #[test]
    fn the_digests_of_presets_never_change() {
        // Trainers have them in their checkpoints and configurations: a field that is added is left out at its default.
        let digests =
            PRESETS.map(|(name, _)| resolve(&RecipeSpec::preset(name)).digest().to_string());
        let known = [
            "7a90820cdbbb32dcb53df995b0ac7c6a57d058d5c855f64bfa839e0aae201766",
            "3a61f846195493794dfd561bc605571c2f060093db5f89933a70b4da5eef1363",
            "d403b63264180f8a5ff94626f57d88850cb6bae582025e4acace08dc6fda1259",
            "7dcbfbb17a4b905206d16848e9d667b326464a9362b476812f17f5d4c8ab9041",
        ];
        assert_eq!(digests, known);
    }

    #[test]
    fn sampling_is_in_the_canonical_form_only_if_it_is_set() {
        let a2 = resolve(&RecipeSpec::preset("a2"));
        assert!(!a2.canonical().contains("sampling"));
        let change = |set: &[&str]| {
            let set = set.iter().map(|change| (*change).to_owned());
            resolve(&RecipeSpec::preset("a2").with_changes(set))
        };
        let same = change(&["sampling.balance = 0", "sampling.weights = { cat = 1, dog = 1.0 }"]);
        assert_eq!((same.digest(), &same), (a2.digest(), &a2));

        let weights =
            r#"sampling.weights = { "tench, Tinca tinca" = 2, kind = 0, "a\"\\\u007f.β" = 0.5 }"#;
        let drawn = change(&["sampling.balance = 0.5", weights, "sampling.weights.kind = 3"]);
        let lines: Vec<String> = difference(&a2, &drawn)
            .into_iter()
            .map(|(key, _, to)| format!("{key} = {to}"))
            .collect();
        assert_eq!(
            lines,
            [
                "sampling.balance = 0.5",
                r#"sampling.weights."a\"\\\u007F.β" = 0.5"#,
                r#"sampling.weights."tench, Tinca tinca" = 2.0"#,
                "sampling.weights.kind = 3.0",
            ]
        );
        let again = resolve(&RecipeSpec::from_toml("canonical", drawn.canonical()));
        assert_eq!((again.digest(), &again), (drawn.digest(), &drawn));
        assert_ne!(drawn.digest(), a2.digest());
    }

    #[test]
    fn the_canonical_form_with_the_most_weights_is_a_recipe() {
        let weights = |count: usize| {
            let weights: Vec<String> =
                (0..count).map(|class| format!("\"c {class}\" = 2")).collect();
            RecipeSpec::preset("a1")
                .with_changes([format!("sampling.weights = {{ {} }}", weights.join(", "))])
        };
        let most = resolve(&weights(limits::WEIGHTS));
        assert_eq!(resolve(&RecipeSpec::from_toml("canonical", most.canonical())), most);
        let error = weights(limits::WEIGHTS + 1).resolve().unwrap_err().to_string();
        assert!(error.contains("invalid value of 97 classes: expected at most 96"), "{error}");
    }

    #[test]
    fn sampling_is_refused_in_sequential_order() {
        for change in ["sampling.balance = 0.5", "sampling.weights.cat = 2"] {
            let error =
                RecipeSpec::preset("eval").with_changes([change.into()]).resolve().unwrap_err();
            assert!(error.to_string().contains("with order = \"sequential\""), "{error}");
        }
    }

    #[test]
    fn auto_augment_replaces_randaugment_and_the_other_way_around() {
        let a2 = resolve(&RecipeSpec::preset("a2"));
        let set = |set: &[&str]| {
            let set = set.iter().map(|change| (*change).to_owned());
            RecipeSpec::preset("a2").with_changes(set).resolve()
        };
        let original = set(&["auto_augment = \"original\""]).unwrap();
        assert_eq!(original.randaugment, RandAugment::OFF);
        let changes: Vec<_> = difference(&a2, &original).into_iter().map(|(key, ..)| key).collect();
        let keys = ["auto_augment", "randaugment.magnitude", "randaugment.ops"];
        assert_eq!(changes[..3], keys, "{changes:?}");
        let again = RecipeSpec::from_toml("canonical", original.canonical());
        assert_eq!((resolve(&again).digest(), resolve(&again)), (original.digest(), original));

        // A policy that the table can express is the table, with its digest.
        let same = set(&["auto_augment = \"3a\"", "auto_augment = \"rand-m7-mstd0.5-inc1\""]);
        assert_eq!(same.unwrap().digest(), a2.digest());
        for other in ["rand-m7-mstd0.5", "rand-m7-inc1-mmax9", "rand-m11-inc1", "rand-mstd101-inc1"]
        {
            let recipe = set(&[&format!("auto_augment = {other:?}")]).unwrap();
            assert!(recipe.auto_augment.is_some(), "{other}");
        }
        let none = set(&["auto_augment = \"none\""]).unwrap();
        assert_eq!(none, set(&["randaugment.ops = 0"]).unwrap());
        // What has no effect is not in the digest.
        let ignored = set(&["auto_augment = \"v0\"", "randaugment.magnitude = 3"]).unwrap();
        assert_eq!(ignored.digest(), set(&["auto_augment = \"v0-mstd0\""]).unwrap().digest());

        let both = set(&["auto_augment = \"v0\"", "randaugment.ops = 1"]).unwrap_err().to_string();
        assert!(both.contains("remove randaugment.ops = 1"), "{both}");
        let mine = "base = \"a2\"\nauto_augment = \"rand-inc1\"\nrandaugment.ops = 1";
        let both = RecipeSpec::from_toml("mine", mine).resolve().unwrap_err().to_string();
        assert!(both.contains("expected no randaugment beside it"), "{both}");
        let part = set(&["auto_augment = \"rand-m9-foo3\""]).unwrap_err().to_string();
        let start = "recipe field auto_augment: invalid value \"rand-m9-foo3\": part \"foo3\": ";
        assert!(part.starts_with(start), "{part}");
    }

    #[test]
    fn another_kind_of_crop_replaces_the_whole_crop() {
        let set = ["crop = { kind = \"center\", resize = 256 }".to_owned()];
        let recipe = resolve(&RecipeSpec::preset("a3").with_changes(set));
        assert_eq!(recipe.crop, Crop::Center { resize: 256, trim: 0 });
    }

    #[test]
    fn crops_have_timms_names_too_and_one_canonical_form() {
        let crop = |crop: &str| resolve(&RecipeSpec::preset("a2").with_changes([crop.to_owned()]));
        for (timm, name, fields) in [
            ("rrc", "random-resized", "scale = [0.5, 1.0], ratio = [0.9, 1.1]"),
            ("rkrc", "keep-ratio-center", "scale = [0.5, 1.0], ratio = [0.9, 1.1]"),
            ("rkrr", "keep-ratio-random", "scale = [0.5, 1.0], ratio = [0.9, 1.1]"),
        ] {
            let [short, long] =
                [timm, name].map(|kind| crop(&format!("crop = {{ kind = \"{kind}\", {fields} }}")));
            assert_eq!((short.digest(), &short), (long.digest(), &long));
            assert!(short.canonical().contains(&format!("crop.kind = \"{name}\"")));
        }
        for fields in [
            "kind = \"squash\", resize = 224",
            "kind = \"border\", resize = 200, trim = 3",
            "kind = \"simple-random\", resize = 224, padding = 4",
        ] {
            let recipe = crop(&format!("crop = {{ {fields} }}"));
            let again = resolve(&RecipeSpec::from_toml("canonical", recipe.canonical()));
            assert_eq!(again, recipe);
        }
        // As before there was a `trim`.
        let center = crop("crop = { kind = \"center\", resize = 224, trim = 0 }");
        assert!(!center.canonical().contains("trim"));
    }

    #[test]
    fn a_filter_that_geometric_operations_lack_is_refused_with_what_to_do() {
        for filter in ["box", "hamming", "lanczos"] {
            let change = format!("interpolation = {filter:?}");
            let a2 = RecipeSpec::preset("a2").with_changes([change.clone()]);
            let error = a2.resolve().unwrap_err().to_string();
            assert_eq!(
                error,
                format!(
                    "recipe field interpolation: invalid value {filter:?}: expected nearest, bilinear, \
                     bicubic or random, which Pillow's geometric operations can use, or randaugment.ops = 0"
                )
            );
            for off in ["randaugment.ops = 0", "randaugment.probability = 0"] {
                resolve(&RecipeSpec::preset("a2").with_changes([change.clone(), off.into()]));
            }
            resolve(&RecipeSpec::preset("eval").with_changes([change.clone()]));
            let policy = |policy: &str| {
                let set = [change.clone(), format!("auto_augment = {policy:?}")];
                RecipeSpec::preset("a2").with_changes(set).resolve()
            };
            let error = policy("original").unwrap_err().to_string();
            assert!(error.ends_with("can use, or auto_augment = \"none\""), "{error}");
            // torchvision's operations have a filter of their own.
            policy("torchvision-ta-wide").unwrap();
        }
        resolve(&RecipeSpec::preset("a2").with_changes(["interpolation = \"nearest\"".into()]));
    }

    #[test]
    fn invalid_values_are_refused_with_their_field() {
        for (change, field) in [
            ("batch = 0", "batch"),
            ("batch = 2049", "microbatches"),
            ("batch = 2056", "batch"),
            ("image_size = 100000", "image_size"),
            ("flip = 1.5", "flip"),
            ("flip = nan", "flip"),
            ("crop.scale = [0.5, 0.2]", "crop.scale"),
            ("crop = { kind = \"center\", resize = 100 }", "crop.resize"),
            ("vflip = -0.1", "vflip"),
            ("crop = { kind = \"squash\", resize = 100 }", "crop.resize"),
            ("crop = { kind = \"border\", resize = 0 }", "crop.resize"),
            ("crop = { kind = \"center\", resize = 224, trim = 5000 }", "crop.trim"),
            ("crop = { kind = \"simple-random\", resize = 224, padding = 112 }", "crop.padding"),
            ("crop = { kind = \"rkrc\", scale = [0.0, 1.0], ratio = [1.0, 1.0] }", "crop.scale"),
            ("crop = { kind = \"rkrr\", scale = [0.5, 1.0], ratio = [2.0, 1.0] }", "crop.ratio"),
            ("randaugment.magnitude = 11.0", "randaugment.magnitude"),
            ("std = [0.0, 1.0, 1.0]", "std"),
            ("semantics = 2", "semantics"),
            ("order = \"sequential\"", "repeats"),
            ("sampling.balance = 1.5", "sampling.balance"),
            ("sampling.balance = nan", "sampling.balance"),
            ("sampling.weights.cat = -1", "sampling.weights"),
            ("sampling.weights.cat = inf", "sampling.weights"),
            ("sampling.weights.cat = 1e-9", "sampling.weights"),
        ] {
            let error =
                RecipeSpec::preset("a2").with_changes([change.into()]).resolve().unwrap_err();
            assert!(
                error.to_string().starts_with(&format!("recipe field {field}: ")),
                "{change}: {error}"
            );
        }
    }

    #[test]
    fn a_recipe_that_nests_or_changes_more_than_any_recipe_is_refused_before_it_is_parsed() {
        let key = ["a"; 80].join(".");
        let nested = |text: &str, tables: usize| {
            text.to_owned() + &format!("{{{key}=").repeat(tables) + "1" + &"}".repeat(tables)
        };
        let changes = |change: &str, count| vec![change.to_owned(); count];
        for (toml, set) in [
            (nested(&format!("[{key}]\n{key}="), 79), vec![]),
            (String::new(), vec![nested(&format!("{key}="), 79)]),
            (format!("a = {}", "[".repeat(30_000)), vec![]),
            (format!("a = [{}]", "0,".repeat(30_000)), vec![]),
            ("a = 1\n".repeat(10_000), vec![]),
            (String::new(), changes("flip = 1", 9000)),
            (String::new(), changes("", 30_000)),
        ] {
            let error =
                RecipeSpec::from_toml("mine", toml).with_changes(set).resolve().unwrap_err();
            assert!(matches!(error, RecipeError::TooManyParts { limit: MAX_PARTS, .. }), "{error}");
        }
        // As deep as the limit allows, on the stack of a test's thread.
        let deep = nested(&format!("{key} = "), 4);
        let error = RecipeSpec::from_toml("mine", deep).resolve().unwrap_err();
        assert!(matches!(error, RecipeError::Syntax { .. }), "{error}");
        for (_, text) in PRESETS {
            assert!(parts(text) * 4 < MAX_PARTS, "{text}");
        }
        let a2 = resolve(&RecipeSpec::preset("a2"));
        assert!(parts(&a2.canonical()) * 4 < MAX_PARTS);
        let canonical = format!("# {}\n{}", "[.,={".repeat(999), a2.canonical());
        assert_eq!(resolve(&RecipeSpec::from_toml("commented", canonical)), a2);
    }

    #[test]
    fn errors_say_where_and_why_it_is_not_a_recipe() {
        let unknown = RecipeSpec::preset("a4").resolve().unwrap_err().to_string();
        assert!(unknown.contains("\"a4\"") && unknown.contains("a1, a2, a3, eval"), "{unknown}");
        let extra =
            RecipeSpec::preset("a2").with_changes(["blur = 1".into()]).resolve().unwrap_err();
        assert!(extra.to_string().contains("blur"), "{extra}");
        let blame = |changes: &[&str]| {
            let changes = changes.iter().map(|change| (*change).to_owned());
            RecipeSpec::preset("a2").with_changes(changes).resolve().unwrap_err().to_string()
        };
        let center = "crop.kind = \"center\"";
        for (changes, culprit) in [
            (&["flip = 0.1", "mix.mixp = 0.4", "batch = 64"][..], "a2 with mix.mixp = 0.4 is"),
            (&["blur = 1", "flip = 0.1"], "a2 with blur = 1 is"),
            (&[center, "flip = 0.1"], "a2 with crop.kind = \"center\" is"),
        ] {
            let error = blame(changes);
            assert!(error.starts_with(culprit), "{changes:?}: {error}");
        }
        let broken =
            RecipeSpec::from_toml("mine.toml", "batch = ").resolve().unwrap_err().to_string();
        assert!(broken.contains("mine.toml"), "{broken}");
        let missing =
            RecipeSpec::from_toml("mine.toml", "batch = 8").resolve().unwrap_err().to_string();
        assert!(missing.contains("missing field"), "{missing}");
        let absent = RecipeSpec::from_name_or_path("no/such.toml").unwrap_err().to_string();
        assert!(absent.contains("no/such.toml"), "{absent}");
    }
}
