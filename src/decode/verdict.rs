//! Whether Pillow accepts a JPEG file: `JpegImagePlugin.py` reads the header in its own way, then
//! libjpeg-turbo is fed the file from its start, and Pillow asks for all rows.
//!
//! libjpeg only warns of damaged entropy-coded data, and goes on behind the next restart marker or
//! fills up with gray. So the verdict hangs on the markers: those inside the scans, because each
//! restart looks for its own, and those behind, which are still read up to the end of the image.
//! Only where no marker is left is it the entropy decoder that finds out whether the data suffices.

use super::huffman;
use super::jpeg;
use super::markers::{Event, HuffmanSpec, Markers, Scan};
use super::{DecodeError, check_size};
use crate::geometry::Size;

/// Pillow's verdict.
pub(super) fn pillow(bytes: &[u8], limit: u64) -> Result<(), DecodeError> {
    check_size(plugin(bytes)?, limit)?;
    libjpeg(bytes)
}

/// `JpegImageFile._open`: the size, by the last frame header before the first scan.
fn plugin(bytes: &[u8]) -> Result<Size, DecodeError> {
    let truncated = || DecodeError::Truncated { part: "the header", at: bytes.len() };
    let mut size = None;
    let mut at = 2;
    loop {
        // Junk, fill bytes and stuffed zeros are passed over.
        at += bytes
            .get(at..)
            .and_then(|b| b.iter().position(|&b| b == 0xFF))
            .ok_or_else(truncated)?;
        let code = *bytes.get(at + 1).ok_or_else(truncated)?;
        at += if code == 0xFF { 1 } else { 2 };
        match code {
            0x00 | 0xC8 | 0xD0..=0xD9 | 0xF0..=0xFD | 0xFF => continue,
            0x01..=0xBF => return Err(DecodeError::Broken { what: "an unknown marker", at }),
            _ => {}
        }
        let length: [u8; 2] =
            bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).ok_or_else(truncated)?;
        let end = (at + usize::from(u16::from_be_bytes(length))).max(at + 2);
        let data = bytes.get(at + 2..end).ok_or_else(truncated)?;
        let broken = |what| DecodeError::Broken { what, at };
        match code {
            0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF | 0xDE => {
                size = Some(plugin_frame(data).map_err(broken)?);
            }
            0xDB => plugin_quantization(data).map_err(broken)?,
            0xE0 if data.starts_with(b"JFIF") && data.len() < 7 => {
                return Err(broken("a short JFIF segment"));
            }
            0xEE if data.starts_with(b"Adobe") && data.len() < 7 => {
                return Err(broken("a short Adobe segment"));
            }
            0xDA => {
                let size = size.ok_or_else(|| broken("a scan before the frame header"))?;
                let empty = size.height == 0 || size.width == 0;
                return if empty { Err(broken("the image is empty")) } else { Ok(size) };
            }
            _ => {}
        }
        at = end;
    }
}

fn plugin_frame(data: &[u8]) -> Result<Size, &'static str> {
    let [bits, h1, h0, w1, w0, layers, components @ ..] = data else {
        return Err("length of the frame header");
    };
    if *bits != 8 {
        return Err("samples of other than 8 bits");
    }
    if !matches!(layers, 1 | 3 | 4) {
        return Err("the number of components is not 1, 3 or 4");
    }
    if !components.len().is_multiple_of(3) {
        return Err("length of the frame header");
    }
    let side = |high, low| u32::from(u16::from_be_bytes([high, low]));
    Ok(Size { height: side(*h1, *h0), width: side(*w1, *w0) })
}

fn plugin_quantization(mut data: &[u8]) -> Result<(), &'static str> {
    while let [head, rest @ ..] = data {
        let bytes = if head >> 4 == 0 { 64 } else { 128 };
        data = rest.get(bytes..).ok_or("length of the quantization tables")?;
    }
    Ok(())
}

/// libjpeg-turbo, driven as Pillow's JpegDecode.c drives it.
fn libjpeg(bytes: &[u8]) -> Result<(), DecodeError> {
    let mut markers = Markers::new(bytes);
    let mut scan = markers.first_scan()?;
    let frame = markers.frame.as_ref().expect("a scan before the frame header is refused");
    let (progressive, components) = (frame.progressive, frame.components.len());
    if !progressive {
        huffman::fill_in_standard_tables(&mut markers);
    }
    if progressive || scan.components.len() < components {
        // The whole file is read before the first row comes out.
        for _ in 0..jpeg::MAX_SCANS {
            begin(&mut markers, &scan)?;
            restarts(&mut markers, &scan)?;
            scan = loop {
                match markers.next()? {
                    Event::Scan(next) => break next,
                    Event::End => return Ok(()),
                    Event::Other => {}
                }
            };
        }
        // Pillow would go on, for as long as it takes.
        let reason = format!("an image in over {} scans", jpeg::MAX_SCANS);
        return Err(DecodeError::Unsupported { reason });
    }
    begin(&mut markers, &scan)?;
    let mcus = restarts(&mut markers, &scan)?;
    if markers.find(markers.at).is_none() && !huffman::suffices(&markers, &scan, mcus)? {
        return Err(markers.truncated("the scan"));
    }
    // All rows are there. What follows may be missing, but not wrong.
    loop {
        match markers.next() {
            Ok(Event::End) | Err(DecodeError::Truncated { .. }) => return Ok(()),
            Ok(Event::Scan(_)) => return Err(markers.broken("a scan behind the last one")),
            Ok(Event::Other) => {}
            Err(error) => return Err(error),
        }
    }
}

/// What libjpeg checks when a scan begins.
fn begin(markers: &mut Markers<'_>, scan: &Scan) -> Result<(), DecodeError> {
    markers.latch_quantization(scan)?;
    let frame = markers.frame.as_ref().expect("a scan before the frame header is refused");
    let blocks =
        |index: usize| frame.components[index].horizontal * frame.components[index].vertical;
    let total: u32 = scan.components.iter().map(|part| blocks(part.component)).sum();
    if scan.components.len() > 1 && total > 10 {
        return Err(markers.broken("an MCU of more than 10 blocks"));
    }
    let ((first, last), (high, low)) = (scan.spectral, scan.approximation);
    let (dc, ac) = if frame.progressive {
        let band = if first == 0 {
            last == 0
        } else {
            first <= last && last < 64 && scan.components.len() == 1
        };
        if !band || (high != 0 && high != low + 1) || low > 13 {
            return Err(markers.broken("parameters of a progressive scan"));
        }
        (first == 0 && high == 0, first != 0)
    } else {
        (true, true)
    };
    for part in &scan.components {
        if dc {
            check_table(markers, markers.dc.get(part.dc), true)?;
        }
        if ac {
            check_table(markers, markers.ac.get(part.ac), false)?;
        }
    }
    Ok(())
}

fn check_table(
    markers: &Markers<'_>,
    table: Option<&Option<HuffmanSpec>>,
    dc: bool,
) -> Result<(), DecodeError> {
    let table = table.and_then(Option::as_ref);
    let table = table.ok_or_else(|| markers.broken("a scan without its Huffman table"))?;
    if table.is_valid(dc) { Ok(()) } else { Err(markers.broken("an impossible Huffman table")) }
}

/// Follows the restarts of a scan, as `read_restart_marker` and `jpeg_resync_to_restart`. Leaves the
/// reader behind the last restart, and gives the number of MCUs that come after it.
fn restarts(markers: &mut Markers<'_>, scan: &Scan) -> Result<u64, DecodeError> {
    let frame = markers.frame.as_ref().expect("a scan before the frame header is refused");
    let mcus = frame.mcus(scan);
    let interval = markers.restart_interval;
    if interval == 0 || mcus == 0 {
        return Ok(mcus);
    }
    let count = (mcus - 1) / interval;
    let after_the_last = mcus - count * interval;
    let mut expected = 0;
    for _ in 0..count {
        let mut from = markers.at;
        markers.at = loop {
            let found = markers.find(from).ok_or_else(|| markers.truncated("the scan"))?;
            let (code, end) = found;
            match code {
                ..0xC0 => from = end,
                0xD0..=0xD7 => match (code & 7).wrapping_sub(expected) & 7 {
                    // One of the next two: this one is lost, and the MCUs up to it stay gray.
                    1 | 2 => break end - 2,
                    // One of the last two: it comes late.
                    6 | 7 => from = end,
                    _ => break end,
                },
                // It stays, and all restarts to come would find it again: there may be as many of
                // them in each of thousands of scans as the image has blocks.
                _ => {
                    markers.at = end - 2;
                    return Ok(after_the_last);
                }
            }
        };
        expected = (expected + 1) & 7;
    }
    Ok(after_the_last)
}
