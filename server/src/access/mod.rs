//! Access control: TLS, client certificates and tokens, loaded from files and reloaded when they
//! change.
//!
//! Connections are identified by their handshake, calls one by one; a reload applies to the next ones.
//! Open streams continue, so that a rotation interrupts nobody.

mod files;
mod peer;
mod policy;
mod tls;
mod tokens;

pub(crate) use files::AccessArgs;
pub use files::AccessFiles;
pub(crate) use peer::{CallGuard, CloseReason, Peer};
pub use policy::Access;
pub(crate) use tls::identity_of;
