//! The `forebay` command.

fn main() -> std::process::ExitCode {
    forebay_server::cli::main(std::env::args_os())
}
