//! The `forebay-loadtest` command.

fn main() {}
