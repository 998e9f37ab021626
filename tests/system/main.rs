//! The whole service: index, serve, stream, receive, on a dataset made on the fly.

mod command;
mod pipeline;
mod service;
mod world;
