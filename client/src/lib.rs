//! Client of forebay servers: ordered, verified microbatches.
