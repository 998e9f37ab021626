//! Sizes of messages on the wire.

/// Payload bytes of every frame except a microbatch's last one, which may have fewer.
pub const FRAME_BYTES: usize = 1 << 20;

/// Largest encoded header: about 30,000 samples with all of their fields.
pub const HEADER_BYTES: usize = 2 << 20;

/// Prefix of a gRPC message: one byte for the compression flag and four for the length.
pub const PREFIX_BYTES: usize = 5;

/// Largest encoded frame: header, payload, and 1 KiB for tags, lengths and the offset.
pub const MESSAGE_BYTES: usize = HEADER_BYTES + FRAME_BYTES + 1024;

/// The message size that gRPC clients accept by default.
const GRPC_DEFAULT_LIMIT: usize = 4 << 20;

const _: () = assert!(MESSAGE_BYTES < GRPC_DEFAULT_LIMIT);
