//! The `forebay-loadtest` command.

fn main() -> std::process::ExitCode {
    forebay_loadtest::main(std::env::args_os()).into()
}
