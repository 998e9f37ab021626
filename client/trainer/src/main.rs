//! The `forebay-trainer` command.

fn main() -> std::process::ExitCode {
    forebay_trainer::command::main(std::env::args_os())
}
