//! The forebay server and its command line.

pub mod preview;
