//! Segments before the image on which Pillow's own reader fails, although libjpeg takes no notice of them. Real files
//! have none of them, but a file that forebay takes must be one that Pillow opens.

/// What Pillow collects of the segments before the first scan (`JpegImagePlugin.py`).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Metadata<'a> {
    /// The part of a color profile that comes first when Pillow sorts them.
    profile: Option<&'a [u8]>,
    /// The first segment of EXIF, after its name.
    exif: Option<&'a [u8]>,
    /// The index of a multi-picture file.
    index: Option<&'a [u8]>,
    /// Whether JFIF states a resolution. Then Pillow does not read that of EXIF.
    has_resolution: bool,
}

impl<'a> Metadata<'a> {
    /// Adds a segment.
    ///
    /// # Errors
    /// When Pillow fails on it at once.
    pub(super) fn add(&mut self, code: u8, body: &'a [u8]) -> Result<(), &'static str> {
        let after = |name: &[u8]| body.strip_prefix(name);
        match code {
            0xE0 if body.starts_with(b"JFIF") => {
                self.has_resolution |= body.len() >= 12 && matches!(body[7], 1 | 2);
            }
            0xE1 => self.exif = self.exif.or(after(b"Exif\0\0")),
            0xE2 if body.starts_with(b"ICC_PROFILE\0") => {
                self.profile = Some(self.profile.map_or(body, |first| first.min(body)));
            }
            0xE2 => self.index = after(b"MPF\0").or(self.index),
            0xED if after(b"Photoshop 3.0\0").is_some_and(ends_after_code) => {
                return Err("a Photoshop resource that ends after its code");
            }
            _ => {}
        }
        Ok(())
    }

    /// Checks what Pillow uses at the frame header.
    ///
    /// # Errors
    /// When Pillow fails.
    pub(super) fn check_at_frame(&self) -> Result<(), &'static str> {
        match self.profile {
            Some(part) if part.len() < 14 => Err("a color profile without its numbers"),
            _ => Ok(()),
        }
    }

    /// Checks what Pillow uses after the header of the first scan.
    ///
    /// # Errors
    /// When Pillow fails.
    pub(super) fn check_at_scan(&self) -> Result<(), &'static str> {
        if self.index.is_some_and(lacks_entries) {
            return Err("an index of pictures with fewer entries than it states");
        }
        if !self.has_resolution && self.exif.is_some_and(has_short_resolution) {
            return Err("a resolution of one byte in EXIF");
        }
        Ok(())
    }
}

/// Whether one of the image resources of Photoshop ends where the length of its name should be. Of what is cut elsewhere
/// Pillow takes no notice.
fn ends_after_code(mut resources: &[u8]) -> bool {
    while let Some(resource) = resources.strip_prefix(b"8BIM") {
        let Some((_code, rest)) = resource.split_at_checked(2) else { return false };
        let Some(&name) = rest.first() else { return true };
        // Name and data are padded to even lengths.
        let name = (1 + usize::from(name)).next_multiple_of(2);
        let Some((length, rest)) = rest.get(name..).and_then(<[u8]>::split_first_chunk) else {
            return false;
        };
        let length = u64::from(u32::from_be_bytes(*length)).next_multiple_of(2);
        let Some(next) = usize::try_from(length).ok().and_then(|length| rest.get(length..)) else {
            return false;
        };
        resources = next;
    }
    false
}

/// Types of the values in a directory.
const BYTE: u16 = 1;
const ASCII: u16 = 2;
const UNDEFINED: u16 = 7;

/// A directory of EXIF, as Pillow reads it: until it is truncated.
struct Directory<'a> {
    file: &'a [u8],
    is_big_endian: bool,
    start: usize,
}

impl<'a> Directory<'a> {
    fn open(file: &'a [u8]) -> Option<Self> {
        let is_big_endian = match file.first_chunk()? {
            b"MM\0*" | b"MM*\0" | b"MM\0+" => true,
            b"II*\0" | b"II\0*" => false,
            _ => return None,
        };
        let mut directory = Self { file, is_big_endian, start: 0 };
        directory.start = directory.u32(4)?;
        Some(directory)
    }

    fn bytes(&self, at: usize, count: usize) -> Option<&'a [u8]> {
        self.file.get(at..at.checked_add(count)?)
    }

    fn u16(&self, at: usize) -> Option<u16> {
        let bytes = self.bytes(at, 2)?.try_into().ok()?;
        Some(if self.is_big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn u32(&self, at: usize) -> Option<usize> {
        let bytes = self.bytes(at, 4)?.try_into().ok()?;
        let value = if self.is_big_endian { u32::from_be_bytes } else { u32::from_le_bytes }(bytes);
        usize::try_from(value).ok()
    }

    /// Type and bytes of the last entry with this tag.
    fn find(&self, tag: u16) -> Option<(u16, &'a [u8])> {
        let count = self.u16(self.start)?;
        let mut found = None;
        for entry in (0..usize::from(count)).map(|entry| self.start + 2 + entry * 12) {
            if self.bytes(entry, 12).is_none() {
                break;
            }
            let (Some(kind), Some(count)) = (self.u16(entry + 2), self.u32(entry + 4)) else {
                break;
            };
            let unit = match kind {
                BYTE | ASCII | 6 | UNDEFINED => 1,
                3 | 8 => 2,
                4 | 9 | 11 | 13 => 4,
                5 | 10 | 12 | 16 => 8,
                _ => continue,
            };
            let Some(length) = count.checked_mul(unit) else { break };
            let start = if length > 4 { self.u32(entry + 8) } else { Some(entry + 8) };
            let Some(data) = start.and_then(|start| self.bytes(start, length)) else { break };
            if self.u16(entry) == Some(tag) && !data.is_empty() {
                found = Some((kind, data));
            }
        }
        found
    }

    /// The first value of an entry of whole numbers.
    fn number(&self, tag: u16) -> Option<u32> {
        let (kind, data) = self.find(tag)?;
        let wide = |bytes: [u8; 4]| {
            if self.is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
        };
        let short = |bytes: [u8; 2]| {
            if self.is_big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
        };
        match kind {
            3 => data.first_chunk().map(|bytes| short(*bytes).into()),
            // The smallest of negative numbers count nothing.
            8 => data.first_chunk().map(|bytes| u32::from(short(*bytes))).filter(|&n| n < 1 << 15),
            4 | 13 => data.first_chunk().map(|bytes| wide(*bytes)),
            9 => data.first_chunk().map(|bytes| wide(*bytes)).filter(|&n| n < 1 << 31),
            6 => data.first().map(|&byte| byte.into()).filter(|&n| n < 128),
            _ => None,
        }
    }
}

/// Whether the index of a multi-picture file states more pictures than it has entries.
fn lacks_entries(index: &[u8]) -> bool {
    let Some(directory) = Directory::open(index) else { return false };
    let Some(count) = directory.number(0xB001) else { return false };
    let Some((BYTE | UNDEFINED, entries)) = directory.find(0xB002) else { return false };
    for entry in 0..count as usize {
        let Some(entry) = entries.get(entry * 16..entry * 16 + 16) else { return true };
        // The bits of the format, in the byte order that Pillow assumes. It gives up on formats other than JPEG.
        let format = if index.starts_with(b"MM\0*") { entry[0] } else { entry[3] };
        if format & 7 != 0 {
            return false;
        }
    }
    false
}

/// Whether the resolution in EXIF is a single byte, of which Pillow wants the second.
fn has_short_resolution(exif: &[u8]) -> bool {
    let Some(directory) = Directory::open(exif) else { return false };
    let resolution = directory.find(0x011A);
    directory.find(0x0128).is_some()
        && match resolution {
            Some((BYTE | UNDEFINED, data)) => data.len() == 1,
            Some((ASCII, data)) => {
                let text = data.strip_suffix(b"\0").unwrap_or(data);
                text.is_empty() || (text.len() == 1 && text[0].is_ascii_digit())
            }
            _ => false,
        }
}
