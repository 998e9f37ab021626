//! The wire format of forebay: messages, service stubs, frames.
//!
//! `forebay/v1/forebay.proto` is the contract; the code under `src/gen` is generated from it and
//! committed, so that a build needs no protoc; `proto/codegen` writes it.

mod format;
pub mod frame;
pub mod header;
mod timings;

/// The plain values that the wire carries: names, cursors, ranks, pixel formats, digests, timings.
pub use forebay_types as types;

/// Messages and stubs of package `forebay.v1`.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::pedantic,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::clone_on_ref_ptr,
    reason = "generated from the .proto, documented there"
)]
#[rustfmt::skip]
#[path = "gen/forebay.v1.rs"]
pub mod v1;

/// The encoded `FileDescriptorSet` of the contract, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/forebay.v1.bin");
