//! The bytes of a file, read from start to end as Python's file objects are: short at the end.

/// A position in the bytes of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The offset of the next byte. It may be past the end.
    pub(super) const fn at(&self) -> usize {
        self.at
    }

    /// Goes to an offset, which may be past the end.
    pub(super) const fn seek(&mut self, at: usize) {
        self.at = at;
    }

    /// The next bytes, fewer at the end.
    pub(super) fn read(&mut self, count: usize) -> &'a [u8] {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let bytes = &rest[..count.min(rest.len())];
        self.at += bytes.len();
        bytes
    }

    /// The next bytes, all of them or none.
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let bytes = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(bytes)
    }

    /// The next bytes as an array.
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// The next byte.
    pub(super) fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }
}
