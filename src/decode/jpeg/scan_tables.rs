//! The Huffman tables of a scan, reused from image to image.

use super::error::JpegError;
use super::header::{HuffmanSpec, Scan, Tables};
use super::huffman::{AcTable, DcTable};

const MISSING: &str = "a scan without its Huffman table";

/// The tables of one scan. A worker keeps them, because many files have the same tables.
#[derive(Debug)]
pub(super) struct ScanTables {
    /// Each with the specification that it was built from.
    dc: [(Vec<u8>, DcTable); 4],
    ac: [(Vec<u8>, Box<AcTable>); 4],
}

impl Default for ScanTables {
    fn default() -> Self {
        Self {
            dc: std::array::from_fn(|_| (Vec::new(), DcTable::EMPTY)),
            ac: std::array::from_fn(|_| (Vec::new(), Box::new(AcTable::EMPTY))),
        }
    }
}

impl ScanTables {
    /// Prepares the tables that a scan names: those of DC, of AC or both.
    pub(super) fn load(
        &mut self,
        tables: &Tables<'_>,
        scan: &Scan,
        (dc, ac): (bool, bool),
    ) -> Result<(), JpegError> {
        let malformed = |what| JpegError::Malformed { what, offset: scan.data };
        for part in scan.components() {
            if (dc && part.dc > 3) || (ac && part.ac > 3) {
                return Err(malformed("Huffman table number"));
            }
            if dc {
                let spec = tables.dc[part.dc].ok_or(malformed(MISSING))?;
                let (key, table) = &mut self.dc[part.dc];
                reload(key, spec, || table.set(spec)).map_err(malformed)?;
            }
            if ac {
                let spec = tables.ac[part.ac].ok_or(malformed(MISSING))?;
                let (key, table) = &mut self.ac[part.ac];
                reload(key, spec, || table.set(spec)).map_err(malformed)?;
            }
        }
        Ok(())
    }

    /// DC table number `slot`.
    #[inline(always)]
    pub(super) fn dc(&self, slot: usize) -> &DcTable {
        &self.dc[slot].1
    }

    /// AC table number `slot`.
    #[inline(always)]
    pub(super) fn ac(&self, slot: usize) -> &AcTable {
        &self.ac[slot].1
    }
}

impl ScanTables {
    /// The specifications of DC table `dc` and AC table `ac`, which are loaded.
    pub(super) fn specs(&self, dc: usize, ac: usize) -> (HuffmanSpec<'_>, HuffmanSpec<'_>) {
        (spec_of(&self.dc[dc].0), spec_of(&self.ac[ac].0))
    }
}

/// The specification that was stored as a key.
fn spec_of(key: &[u8]) -> HuffmanSpec<'_> {
    let (counts, symbols) = key.split_first_chunk().expect("the table is loaded");
    HuffmanSpec { counts, symbols }
}

/// Runs `set` unless `key`, the specification that is loaded, is the requested one.
fn reload(
    key: &mut Vec<u8>,
    spec: HuffmanSpec<'_>,
    set: impl FnOnce() -> Result<(), &'static str>,
) -> Result<(), &'static str> {
    let same = key.len() == 16 + spec.symbols.len()
        && key[..16] == *spec.counts
        && key[16..] == *spec.symbols;
    if !same {
        key.clear();
        set()?;
        key.extend_from_slice(spec.counts);
        key.extend_from_slice(spec.symbols);
    }
    Ok(())
}
