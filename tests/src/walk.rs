//! Every flag of a command line at the ends of its range: it accepts a value, or refuses it with a sentence.
//! The unit tests of the programs include this file.

use clap::error::ErrorKind;
use clap::{Arg, Command};

/// Values at which numbers, durations and sizes go wrong.
const EXTREMES: [&str; 18] = [
    "",
    "0",
    "1",
    "-1",
    "4294967296",
    "18446744073709551615",
    "18446744073709551616",
    "0s",
    "1ns",
    "36600d",
    "18446744073709551615s",
    "0KiB",
    "16777215TiB",
    "16777216TiB",
    "1e-300",
    "1e308",
    "inf",
    "NaN",
];

/// Tries every flag of a command and of its subcommands.
///
/// # Panics
/// When a flag takes an integer without a range, or refuses a value without saying what it expects.
pub(crate) fn every_flag(command: Command) {
    let mut command = command.mut_args(|arg| arg.env(None::<&str>));
    command.build();
    let tried = flags(&command, &[command.get_name().to_owned()], &command);
    assert!(tried > 0);
}

fn flags(all: &Command, path: &[String], command: &Command) -> usize {
    let mut tried = 0;
    for arg in command.get_arguments().filter(|arg| arg.get_action().takes_values()) {
        let Some(flag) = arg.get_long() else { continue };
        assert_has_range(arg, flag);
        for value in EXTREMES {
            try_value(all, path, arg, flag, value);
        }
        tried += 1;
    }
    for subcommand in command.get_subcommands().filter(|command| command.get_name() != "help") {
        let path = [path, &[subcommand.get_name().to_owned()]].concat();
        tried += flags(all, &path, subcommand);
    }
    tried
}

/// Integers have types with a range, such as `Number`: what a program can do with `u64::MAX` of something is
/// decided where the flag is defined.
fn assert_has_range(arg: &Arg, flag: &str) {
    let parser = arg.get_value_parser();
    let is = |plain: clap::builder::ValueParser| parser.type_id() == plain.type_id();
    let plain = [
        is(clap::value_parser!(u16).into()),
        is(clap::value_parser!(u32).into()),
        is(clap::value_parser!(u64).into()),
        is(clap::value_parser!(usize).into()),
    ];
    assert!(!plain.contains(&true), "--{flag} has no range");
}

fn try_value(all: &Command, path: &[String], arg: &Arg, flag: &str, value: &str) {
    let count = arg.get_num_args().map_or(1, |range| range.min_values().max(1));
    let given = std::iter::once(format!("--{flag}={value}"));
    let more = std::iter::repeat_n(value.to_owned(), count - 1);
    let arguments = path.iter().cloned().chain(given).chain(more);
    // Other flags may be missing, which is found out once all values are parsed.
    let Err(error) = all.clone().try_get_matches_from(arguments) else { return };
    let message = error.to_string();
    match error.kind() {
        ErrorKind::MissingRequiredArgument
        | ErrorKind::MissingSubcommand
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        | ErrorKind::ArgumentConflict
        // A further value that begins with a hyphen.
        | ErrorKind::UnknownArgument
        | ErrorKind::WrongNumberOfValues
        | ErrorKind::TooFewValues => {}
        ErrorKind::ValueValidation => {
            let says = message.contains("expected") || message.contains("unknown");
            assert!(says && message.contains(flag), "--{flag}={value}: {message}");
        }
        ErrorKind::InvalidValue => assert!(message.contains(flag), "--{flag}={value}: {message}"),
        kind => panic!("--{flag}={value}: {kind:?}: {message}"),
    }
}
