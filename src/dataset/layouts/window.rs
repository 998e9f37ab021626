//! Small reads from a file that share a window, so that headers and labels which lie close together cost
//! one system call.

use std::path::Path;

use crate::store::{RegularFile, StoreError};

/// Bytes that are read at once: a small label, the headers around it and their padding.
const WINDOW: usize = 4096;

/// The bytes that a parser walks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Input<'a> {
    File(&'a RegularFile),
    /// What a compressed file holds, and the path of the file.
    Memory(&'a [u8], &'a Path),
}

/// Reads ranges of an input.
#[derive(Debug)]
pub(super) struct Window<'a> {
    input: Input<'a>,
    /// Offset of `bytes`, which were read last.
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    pub(super) const fn new(input: Input<'a>) -> Self {
        Self { input, start: 0, bytes: Vec::new() }
    }

    pub(super) fn path(&self) -> &'a Path {
        match self.input {
            Input::File(file) => file.path(),
            Input::Memory(_, path) => path,
        }
    }

    /// Bytes of the input.
    pub(super) const fn size(&self) -> u64 {
        match self.input {
            Input::File(file) => file.size(),
            Input::Memory(bytes, _) => bytes.len() as u64,
        }
    }

    /// Reads a range that is within the input, from the window if it is there.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn read(&mut self, offset: u64, length: u64) -> Result<&[u8], StoreError> {
        let length = usize::try_from(length).expect("callers bound it");
        let file = match self.input {
            Input::File(file) => file,
            Input::Memory(bytes, _) => {
                let start = usize::try_from(offset).expect("callers bound it");
                return Ok(&bytes[start..start + length]);
            }
        };
        let within = |start: u64, bytes: &[u8]| {
            let skip = usize::try_from(offset.checked_sub(start)?).ok()?;
            (skip.checked_add(length)? <= bytes.len()).then_some(skip)
        };
        let skip = if let Some(skip) = within(self.start, &self.bytes) {
            skip
        } else {
            let rest = file.size() - offset;
            let window = usize::try_from(rest).unwrap_or(usize::MAX).min(WINDOW).max(length);
            self.bytes.resize(window, 0);
            self.start = offset;
            if let Err(error) = file.read_at(offset, &mut self.bytes) {
                self.bytes.clear();
                return Err(error);
            }
            0
        };
        Ok(&self.bytes[skip..skip + length])
    }
}
