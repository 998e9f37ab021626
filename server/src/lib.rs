//! The forebay server and its command line.
