//! The id by which ranks find each other.

use std::io;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use super::hub;
use super::{Answer, Status, wrong};
use crate::config::Config;

/// `ncclUniqueId`: a marker and the name of the hub's socket.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Id([u8; 128]);

const MARK: &[u8] = b"forebay-standin-nccl-";

impl Id {
    pub(super) fn open() -> Answer<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let config = Config::from_env();
        let timeout =
            config.map_or_else(|what| wrong(Status::SYSTEM, what), |it| Ok(it.nccl_timeout))?;
        loop {
            let name = format!("{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let text = [MARK, name.as_bytes()].concat();
            let mut id = Self([0; 128]);
            id.0[..text.len()].copy_from_slice(&text);
            match hub::open(id.name()?, timeout) {
                Ok(()) => return Ok(id),
                // A process of another container may have the same process id.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => {
                    return wrong(
                        Status::SYSTEM,
                        format!("cannot create a socket for an id: {error}"),
                    );
                }
            }
        }
    }

    pub(super) fn name(&self) -> Answer<&str> {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        match str::from_utf8(&self.0[..end]) {
            Ok(name) if self.0.starts_with(MARK) => Ok(name),
            _ => wrong(Status::INVALID_ARGUMENT, "the id was not created by ncclGetUniqueId"),
        }
    }
}
