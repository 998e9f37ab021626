//! Where the settings of `train` come from. A flag goes before the environment, which goes before the file of
//! `--config`, which goes before a preset of hyperparameters, which goes before the default.
//!
//! ```text
//! arguments --+-- which are given?        the flags and variables of a parse that ignores what is missing
//!   file    --+-- those that are not      become flags in front of the others
//!   preset  --+
//!             `-> the parse of clap       checks all values in the same way
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::Path;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, CommandFactory as _, FromArgMatches as _};
use forebay_client::RecipeRef;
use forebay_types::file;
use toml::Value;

use super::cli::{Cli, Command, TrainArgs};
use super::setup::hyperparameters_preset;
use crate::preset::PRESETS;

/// Flags that are not settings: they say where settings are, and what to do with them.
const NO_SETTINGS: [&str; 3] = ["config", "dry_run", "help"];

/// Largest file of settings.
const MAX_FILE: u64 = 1 << 20;

/// A command line with the settings of its files.
pub(crate) struct Parsed {
    pub(crate) cli: Cli,
    /// All settings of `train` as TOML, each with where it comes from; for other subcommands empty.
    pub(crate) settings: String,
}

/// Settings of one file or preset.
struct Layer {
    name: String,
    /// Command-line arguments of each flag, by its id.
    arguments: BTreeMap<String, Vec<OsString>>,
}

/// Parses the command line, the file of `--config` and the preset that they choose.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Parsed, clap::Error> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut command = Cli::command();
    command.build();
    let lenient = command.clone().ignore_errors(true).try_get_matches_from(&arguments)?;
    let position = arguments.iter().position(|argument| argument == "train");
    let (Some(given), Some(position)) = (lenient.subcommand_matches("train"), position) else {
        let cli = Cli::from_arg_matches(&command.try_get_matches_from(arguments)?)?;
        return Ok(Parsed { cli, settings: String::new() });
    };
    let refuse = |problem: String| command.clone().error(ErrorKind::ValueValidation, problem);
    let parser = Parser { command: &command, arguments: &arguments, position, given };
    let mut layers = Vec::new();
    if let Some(path) = given.get_one::<std::path::PathBuf>("config") {
        layers.push(read_file(parser.train(), path).map_err(refuse)?);
    }
    let mut parsed = parser.parse(&layers)?;
    let preset = if let Command::Train(args) = &parsed.0.command { preset_of(args) } else { None };
    if let Some((name, text)) = preset {
        let layer = Layer::read(parser.train(), &format!("preset {name}"), text);
        layers.push(layer.map_err(refuse)?);
        parsed = parser.parse(&layers)?;
    }
    let (cli, matches) = parsed;
    let matches = matches.subcommand_matches("train").unwrap_or(given);
    let settings = parser.describe(matches, &layers);
    Ok(Parsed { cli, settings })
}

/// The preset that is chosen. One that does not exist, or cannot be found, is an error when training begins.
fn preset_of(args: &TrainArgs) -> Option<(&'static str, &'static str)> {
    let recipe = RecipeRef::from_name_or_path(&args.recipe).ok()?;
    let name = hyperparameters_preset(args, &recipe).ok()?;
    PRESETS.into_iter().find(|(preset, _)| *preset == name)
}

fn read_file(train: &clap::Command, path: &Path) -> Result<Layer, String> {
    let name = path.display().to_string();
    let text = file::read_to_string(path, MAX_FILE)
        .map_err(|error| format!("cannot read --config {name}: {error}"))?;
    Layer::read(train, &name, &text)
}

/// The settings of `train`: all flags that its help lists.
fn settings(train: &clap::Command) -> impl Iterator<Item = &Arg> {
    train.get_arguments().filter(|arg| {
        let is_setting = arg.get_long().is_some() && !arg.is_hide_set();
        is_setting && !NO_SETTINGS.contains(&arg.get_id().as_str())
    })
}

/// The key of a flag in a file.
fn key(flag: &str) -> String {
    flag.replace('-', "_")
}

/// All keys of a setting: its own first, then those of its other names.
fn keys(arg: &Arg) -> impl Iterator<Item = String> {
    let aliases = arg.get_visible_aliases().unwrap_or_default();
    arg.get_long().into_iter().chain(aliases).map(key)
}

impl Layer {
    fn read(train: &clap::Command, name: &str, text: &str) -> Result<Self, String> {
        let table: toml::Table =
            text.parse().map_err(|error| format!("{name} is not a TOML file: {error}"))?;
        let mut arguments = BTreeMap::new();
        for (given, value) in &table {
            let Some(arg) = settings(train).find(|arg| keys(arg).any(|key| key == *given)) else {
                return Err(format!(
                    "{name}: unknown setting {given:?}: {}",
                    nearest(train, given)
                ));
            };
            let flags = to_arguments(arg, value)
                .map_err(|expected| format!("{name}: invalid {given} = {value}: {expected}"))?;
            if arguments.insert(arg.get_id().to_string(), flags).is_some() {
                return Err(format!("{name}: {given} is set twice, by two of its names"));
            }
        }
        Ok(Self { name: name.to_owned(), arguments })
    }
}

/// The setting whose name is most like another one.
fn nearest(train: &clap::Command, given: &str) -> String {
    let all = settings(train).flat_map(keys);
    let distance = |key: &String| strsim::damerau_levenshtein(given, key);
    let nearest = all.min_by_key(distance).unwrap_or_default();
    format!("the nearest is {nearest:?}; `forebay-trainer train --help` lists all, as flags")
}

/// The command-line arguments that give a setting its value.
fn to_arguments(arg: &Arg, value: &Value) -> Result<Vec<OsString>, &'static str> {
    let flag = format!("--{}", arg.get_long().unwrap_or_default());
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        let on = value.as_bool().ok_or("expected true or false")?;
        return Ok(if on { vec![flag.into()] } else { Vec::new() });
    }
    let is_list = matches!(arg.get_action(), ArgAction::Append);
    let texts = match value {
        Value::Array(values) if is_list => values.iter().map(text).collect::<Option<Vec<_>>>(),
        value => text(value).map(|text| vec![text]),
    };
    let texts = texts.ok_or(if is_list {
        "expected a value or a list of values"
    } else {
        "expected a text, a number, or true or false"
    })?;
    let together = arg.get_num_args().is_some_and(|range| range.max_values() > 1) && is_list;
    Ok(if together && !texts.is_empty() {
        std::iter::once(flag).chain(texts).map(OsString::from).collect()
    } else {
        texts.into_iter().map(|text| format!("{flag}={text}").into()).collect()
    })
}

/// A single value as on a command line.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(on) => Some(on.to_string()),
        Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    }
}

/// A command line of `train`.
struct Parser<'a> {
    command: &'a clap::Command,
    arguments: &'a [OsString],
    /// Index of the argument `train`.
    position: usize,
    /// What the command line and the environment give.
    given: &'a ArgMatches,
}

impl Parser<'_> {
    fn train(&self) -> &clap::Command {
        self.command.find_subcommand("train").unwrap_or(self.command)
    }

    fn is_given(&self, arg: &Arg) -> bool {
        let source = self.given.value_source(arg.get_id().as_str());
        matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
    }

    /// The layer that a setting comes from, if neither a flag nor the environment overrides it, or another setting that
    /// excludes it.
    fn layer_of<'l>(&self, arg: &Arg, layers: &'l [Layer]) -> Option<&'l Layer> {
        let excludes = |one: &Arg, other: &Arg| {
            self.train()
                .get_arg_conflicts_with(one)
                .iter()
                .any(|arg| arg.get_id() == other.get_id())
        };
        let overrides = |other: &Arg| {
            let is_same = other.get_id() == arg.get_id();
            self.is_given(other) && (is_same || excludes(arg, other) || excludes(other, arg))
        };
        if settings(self.train()).any(overrides) {
            return None;
        }
        layers.iter().find(|layer| layer.arguments.contains_key(arg.get_id().as_str()))
    }

    /// Parses the command line with the settings of the layers, of which the first goes before the others.
    fn parse(&self, layers: &[Layer]) -> Result<(Cli, ArgMatches), clap::Error> {
        let mut arguments = self.arguments[..=self.position].to_vec();
        let mut flags: BTreeMap<String, &str> = BTreeMap::new();
        for arg in settings(self.train()) {
            let Some(layer) = self.layer_of(arg, layers) else { continue };
            arguments.extend_from_slice(&layer.arguments[arg.get_id().as_str()]);
            flags.insert(arg.to_string(), &layer.name);
        }
        arguments.extend_from_slice(&self.arguments[self.position + 1..]);
        let name_layer = |error: clap::Error| {
            let invalid = error.get(ContextKind::InvalidArg).map(ToString::to_string);
            let Some(layer) = invalid.and_then(|flag| flags.get(&flag)) else { return error };
            let text = error.to_string();
            let text = text.trim_start_matches("error: ").split("\n\n").next().unwrap_or(&text);
            self.command.clone().error(error.kind(), format!("in {layer}: {text}"))
        };
        let matches = self.command.clone().try_get_matches_from(arguments).map_err(name_layer)?;
        Ok((Cli::from_arg_matches(&matches)?, matches))
    }

    /// All settings as TOML, under the headings of the help, each with where it comes from.
    fn describe(&self, matches: &ArgMatches, layers: &[Layer]) -> String {
        let mut text = String::from("# Settings of forebay-trainer train, for --config.\n");
        let mut heading = None;
        let mut seen = BTreeSet::new();
        for arg in settings(self.train()) {
            let id = arg.get_id().as_str();
            if !seen.insert(id) {
                continue;
            }
            if arg.get_help_heading() != heading {
                heading = arg.get_help_heading();
                write!(text, "\n# {}\n", heading.unwrap_or("Options")).expect("a string");
            }
            let key = key(arg.get_long().unwrap_or(id));
            let values: Vec<String> = matches
                .get_raw(id)
                .into_iter()
                .flatten()
                .map(|value| value.to_string_lossy().into_owned())
                .collect();
            let origin = match matches.value_source(id) {
                _ if values.is_empty() => {
                    writeln!(text, "# {key} is not set").expect("a string");
                    continue;
                }
                Some(ValueSource::EnvVariable) => {
                    arg.get_env().map_or_else(String::new, |name| name.to_string_lossy().into())
                }
                Some(ValueSource::CommandLine) => {
                    let layer = self.layer_of(arg, layers);
                    layer.map_or_else(|| "flag".to_owned(), |layer| layer.name.clone())
                }
                _ => "default".to_owned(),
            };
            writeln!(text, "{key} = {}  # {origin}", to_toml(arg, &values)).expect("a string");
        }
        text
    }
}

/// The values of a flag in a file.
fn to_toml(arg: &Arg, values: &[String]) -> Value {
    let is = |parser: ValueParser| arg.get_value_parser().type_id() == parser.type_id();
    let is_bool = is(clap::value_parser!(bool));
    let is_float = is(clap::value_parser!(f64).into());
    let one = |text: &String| {
        let boolean = forebay_types::settings::boolean(text).ok().filter(|_| is_bool);
        let float = text.parse().ok().filter(|number: &f64| is_float && number.is_finite());
        let integer = text.parse().ok().filter(|number: &i64| number.to_string() == *text);
        match (boolean, float, integer) {
            (Some(on), ..) => Value::Boolean(on),
            (None, Some(number), _) => Value::Float(number),
            (None, None, Some(number)) => Value::Integer(number),
            (None, None, None) => Value::String(text.clone()),
        }
    };
    match values {
        [value] if !matches!(arg.get_action(), ArgAction::Append) => one(value),
        values => Value::Array(values.iter().map(one).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::setup::train_config;
    use crate::training_loop::TrainConfig;

    fn try_parse(arguments: &[&str]) -> Result<Parsed, String> {
        let all = ["forebay-trainer", "--threads", "2", "train"].iter().chain(arguments);
        parse(all.map(OsString::from)).map_err(|error| error.to_string())
    }

    fn train_args(parsed: &Parsed) -> &TrainArgs {
        let Command::Train(args) = &parsed.cli.command else { unreachable!() };
        args
    }

    /// A file in a folder, and its path.
    fn write(folder: &tempfile::TempDir, text: &str) -> String {
        let path = folder.path().join("run.toml");
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The line of a setting.
    fn line<'a>(parsed: &'a Parsed, key: &str) -> &'a str {
        let is_key = |line: &&str| line.trim_start_matches("# ").starts_with(&format!("{key} "));
        parsed.settings.lines().find(is_key).unwrap()
    }

    #[test]
    fn flags_override_the_file_and_the_file_overrides_the_preset() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(
            &folder,
            "dataset = 'd'\nrecipe = 'a1'\nlr = 0.25\nepochs = 7\nscale = [0.5, 1]\n",
        );
        let parsed = try_parse(&["--config", &path, "--epochs", "9", "--seed=3"]).unwrap();
        let args = train_args(&parsed);
        let config = train_config(args, "a1", (0.0, 1, 1)).unwrap();
        assert_eq!((config.schedule.epochs, config.seed), (9, 3));
        assert_eq!(config.schedule.lr.to_bits(), 0.25_f64.to_bits());
        assert_eq!(args.recipe_changes.scale, [0.5, 1.0]);
        assert_eq!(line(&parsed, "lr"), format!("lr = 0.25  # {path}"));
        assert_eq!(line(&parsed, "epochs"), "epochs = 9  # flag");
        assert_eq!(line(&parsed, "weight_decay"), "weight_decay = 0.01  # preset a1");
        assert_eq!(line(&parsed, "output"), "output = \"run\"  # default");
        assert_eq!(line(&parsed, "scale"), format!("scale = [0.5, 1.0]  # {path}"));
        assert_eq!(line(&parsed, "eval_dataset"), "# eval_dataset is not set");
        assert_eq!(line(&parsed, "threads"), "threads = 2  # flag");
    }

    #[test]
    fn what_a_dry_run_prints_gives_the_same_settings_again() {
        let folder = tempfile::tempdir().unwrap();
        let given = [
            "--dataset=d",
            "--endpoint=a:1,b:2",
            "--hyperparameters=a3",
            "--opt",
            "sgd",
            "--opt-betas",
            "0.8",
            "0.9",
            "--set",
            "mix.mixup = 0.2",
            "--set",
            "x = \"#\"",
            "--model-ema",
            "--bce-target-thresh=-1",
            "--decay-milestones",
            "3,5",
            "--seed",
            "18446744073709551615",
            "--min-lr=1e-300",
        ];
        let first = try_parse(&given).unwrap();
        let path = write(&folder, &first.settings);
        let second = try_parse(&["--config", &path]).unwrap();
        let values = |parsed: &Parsed| -> Vec<String> {
            let lines = parsed.settings.lines().filter(|line| !line.starts_with('#'));
            lines
                .map(|line| line.rsplit_once("  # ").map_or(line, |(value, _)| value).to_owned())
                .collect()
        };
        assert!(values(&first).len() > 40, "{}", first.settings);
        assert_eq!(values(&first), values(&second));
        let config = |parsed| train_config(train_args(parsed), "a3", (0.0, 1, 1)).unwrap();
        assert_eq!(config(&first), config(&second));
    }

    #[test]
    fn presets_are_files_of_settings_that_give_the_hyperparameters_of_their_names() {
        for (name, _) in PRESETS {
            let parsed = try_parse(&["--dataset=d", "--recipe", name]).unwrap();
            let config = train_config(train_args(&parsed), name, (0.1, 5, 4)).unwrap();
            assert_eq!(config, TrainConfig::preset(name, 0.1, 5, 4).unwrap(), "{name}");
            assert_eq!(line(&parsed, "opt"), format!("opt = \"lamb\"  # preset {name}"));
        }
    }

    #[test]
    fn a_wrong_file_is_refused_with_its_name_and_the_nearest_setting() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |text: &str, words: &[&str]| {
            let path = write(&folder, text);
            let error =
                try_parse(&["--dataset=d", "--config", &path]).map(|_parsed| ()).unwrap_err();
            let named = words.iter().all(|word| error.contains(word));
            assert!(named && error.contains("run.toml"), "{text}: {error}");
        };
        refused("weight_decya = 0.1", &["weight_decya", "the nearest is \"weight_decay\""]);
        refused("weight-decay = 0.1", &["the nearest is \"weight_decay\""]);
        refused("dry_run = true", &["unknown setting"]);
        refused("epochs = 0", &["'--epochs <N>'", "expected a number from 1 to"]);
        refused("opt = 'adagrad'", &["'--opt <lamb|sgd|momentum|adamw>'"]);
        refused("lr = [1.0, 2.0]", &["invalid lr", "expected a text, a number"]);
        refused("model_ema = 3", &["'--model-ema"]);
        refused("image_size = 8\nimg_size = 9", &["set twice"]);
        refused("epochs =", &["not a TOML file"]);
        let error =
            try_parse(&["--dataset=d", "--config=none.toml"]).map(|_parsed| ()).unwrap_err();
        assert!(error.contains("cannot read --config none.toml"), "{error}");
    }

    #[test]
    fn a_flag_also_overrides_settings_of_the_file_that_it_excludes() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(&folder, "dataset = 'd'\nendpoint = ['a:1', 'b:2']\nmodel_ema = true\n");
        let parsed =
            try_parse(&["--config", &path, "--replay", "dump", "--model-ema=false"]).unwrap();
        let args = train_args(&parsed);
        assert_eq!(args.source.dataset, None);
        assert!(args.source.client.endpoint.is_empty() && !args.hyperparameter_changes.model_ema);
        let parsed = try_parse(&["--config", &path]).unwrap();
        assert_eq!(train_args(&parsed).source.client.endpoint, ["a:1", "b:2"]);
        assert!(train_args(&parsed).hyperparameter_changes.model_ema);
    }
}
