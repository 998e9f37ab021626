//! Compiles the C code between libjpeg-turbo's structures and Rust.

fn main() {
    println!("cargo:rerun-if-changed=src/partial.c");
    cc::Build::new().file("src/partial.c").opt_level(2).compile("partial");
    println!("cargo:rustc-link-lib=jpeg");
}
