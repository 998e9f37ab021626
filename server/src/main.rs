//! The `forebay` command.

fn main() -> std::process::ExitCode {
    forebay_server::main(std::env::args_os()).into()
}
