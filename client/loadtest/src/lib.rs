//! Virtual trainers that load forebay servers and check what they receive.
