//! Thrift's compact protocol, as far as the headers of Parquet use it.
//!
//! The `parquet` crate is not used: it does not tell where in a file the values of a page are, its
//! readers decompress and copy every page, and it brings sixteen crates that forebay does not use otherwise.

/// Deepest nesting of what is skipped.
const MAX_DEPTH: u32 = 16;

/// The type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool(bool),
    Byte,
    /// An integer of 16, 32 or 64 bits.
    Int,
    Double,
    Binary,
    /// A list or a set.
    List,
    Map,
    Struct,
    Uuid,
}

impl Kind {
    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Bool(true),
            2 => Self::Bool(false),
            3 => Self::Byte,
            4..=6 => Self::Int,
            7 => Self::Double,
            8 => Self::Binary,
            9 | 10 => Self::List,
            11 => Self::Map,
            12 => Self::Struct,
            13 => Self::Uuid,
            _ => return None,
        })
    }
}

/// Parses bytes from the front. Each function returns `None` if they are truncated or malformed.
#[derive(Clone, Debug)]
pub(super) struct Compact<'a> {
    bytes: &'a [u8],
}

/// The fields of a struct, of which each is told by its difference to the one before.
#[derive(Debug, Default)]
pub(super) struct Fields(i16);

impl<'a> Compact<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Number of bytes that were not parsed.
    pub(super) const fn rest(&self) -> usize {
        self.bytes.len()
    }

    /// The next field of a struct, or `Some(None)` at its end.
    #[expect(
        clippy::option_option,
        reason = "every function of the parser is `None` for malformed bytes"
    )]
    pub(super) fn field(&mut self, fields: &mut Fields) -> Option<Option<(i16, Kind)>> {
        let byte = self.byte()?;
        if byte == 0 {
            return Some(None);
        }
        fields.0 = match byte >> 4 {
            0 => i16::try_from(self.zigzag()?).ok()?,
            difference => fields.0.checked_add(i16::from(difference))?,
        };
        Some(Some((fields.0, Kind::from_code(byte & 15)?)))
    }

    /// An integer.
    pub(super) fn int(&mut self, kind: Kind) -> Option<i64> {
        if kind == Kind::Int { self.zigzag() } else { None }
    }

    /// A string of bytes.
    pub(super) fn binary(&mut self, kind: Kind) -> Option<&'a [u8]> {
        if kind != Kind::Binary {
            return None;
        }
        let length = usize::try_from(self.varint()?).ok()?;
        self.take(length)
    }

    /// A string of bytes that is text.
    pub(super) fn text(&mut self, kind: Kind) -> Option<&'a str> {
        str::from_utf8(self.binary(kind)?).ok()
    }

    /// The number of items of a list, and their type. An item takes a byte at least.
    pub(super) fn list(&mut self, kind: Kind) -> Option<(usize, Kind)> {
        if kind != Kind::List {
            return None;
        }
        let byte = self.byte()?;
        let count = match byte >> 4 {
            15 => usize::try_from(self.varint()?).ok()?,
            count => usize::from(count),
        };
        let kind = Kind::from_code(byte & 15)?;
        (count <= self.bytes.len()).then_some((count, kind))
    }

    /// Skips a value.
    pub(super) fn skip(&mut self, kind: Kind) -> Option<()> {
        self.skip_within(kind, MAX_DEPTH)
    }

    fn skip_within(&mut self, kind: Kind, depth: u32) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind {
            Kind::Bool(_) => {}
            Kind::Byte => drop(self.byte()?),
            Kind::Int => drop(self.varint()?),
            Kind::Double => drop(self.take(8)?),
            Kind::Uuid => drop(self.take(16)?),
            Kind::Binary => drop(self.binary(kind)?),
            Kind::List => {
                let (count, kind) = self.list(kind)?;
                for _ in 0..count {
                    self.skip_item(kind, depth)?;
                }
            }
            Kind::Map => {
                let count = usize::try_from(self.varint()?).ok()?;
                if count > 0 {
                    let kinds = self.byte()?;
                    let (key, value) = (Kind::from_code(kinds >> 4)?, Kind::from_code(kinds & 15)?);
                    for _ in 0..count {
                        self.skip_item(key, depth)?;
                        self.skip_item(value, depth)?;
                    }
                }
            }
            Kind::Struct => {
                let mut fields = Fields::default();
                while let Some((_, kind)) = self.field(&mut fields)? {
                    self.skip_within(kind, depth)?;
                }
            }
        }
        Some(())
    }

    /// Skips an item of a list or map, where a boolean takes a byte.
    fn skip_item(&mut self, kind: Kind, depth: u32) -> Option<()> {
        match kind {
            Kind::Bool(_) => self.byte().map(drop),
            kind => self.skip_within(kind, depth),
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(byte)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn zigzag(&mut self) -> Option<i64> {
        let number = self.varint()?;
        Some((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_are_parsed_and_others_are_skipped() {
        // 1: -3, 2: true, 3: "ab", 20: list of 2 structs {1: 7}, 21: map {1: "x"}, end.
        let bytes = [
            0x15, 5, 0x11, 0x18, 2, b'a', b'b', 0x09, 40, 0x2C, 0x15, 14, 0, 0x15, 14, 0, 0x1B, 1,
            0x58, 2, 1, b'x', 0,
        ];
        let (mut compact, mut fields) = (Compact::new(&bytes), Fields::default());
        let (id, kind) = compact.field(&mut fields).unwrap().unwrap();
        assert_eq!((id, compact.int(kind)), (1, Some(-3)));
        assert_eq!(compact.field(&mut fields).unwrap(), Some((2, Kind::Bool(true))));
        let (id, kind) = compact.field(&mut fields).unwrap().unwrap();
        assert_eq!((id, compact.text(kind)), (3, Some("ab")));
        for expected in [20, 21] {
            let (id, kind) = compact.field(&mut fields).unwrap().unwrap();
            assert_eq!(id, expected);
            compact.skip(kind).unwrap();
        }
        assert_eq!(compact.field(&mut fields), Some(None));
        assert_eq!(compact.rest(), 0);
    }

    #[test]
    fn nesting_without_end_is_refused() {
        let mut compact = Compact::new(&[0x1C; 10_000]);
        assert_eq!(compact.skip(Kind::Struct), None);
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut compact = Compact::new(&bytes);
            compact.skip(Kind::Struct);
            prop_assert!(compact.rest() <= bytes.len());
        }
    }
}
