//! The `forebay-trainer` command.

fn main() -> std::process::ExitCode {
    forebay_trainer::main(std::env::args_os()).into()
}
