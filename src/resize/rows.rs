//! Rows of the source in groups of four, for kernels that read past the end of a row.

use crate::geometry::View;

/// The number of rows that the horizontal pass computes at once.
pub(super) const ROWS: usize = 4;

/// Copies of the rows at the end of the source, with bytes after them: a vector that starts in such
/// a row would otherwise end past the source.
#[derive(Debug, Default)]
pub(super) struct PaddedRows([Vec<u8>; ROWS]);

impl PaddedRows {
    /// The four rows from `top` on, each of at least `reach` bytes. The last row is repeated in
    /// place of rows past the end.
    pub(super) fn rows<'a>(
        &'a mut self,
        source: View<'a>,
        top: u32,
        reach: usize,
    ) -> [&'a [u8]; ROWS] {
        let row = |index: u32| (top + index).min(source.size().height - 1);
        for (padded, index) in self.0.iter_mut().zip(0..) {
            let start = row(index) as usize * source.stride();
            if source.data().len() < start + reach {
                padded.clear();
                padded.extend_from_slice(source.row(row(index)));
                padded.resize(reach.max(padded.len()), 0);
            }
        }
        let padded = &self.0;
        [0, 1, 2, 3].map(|index| {
            let start = row(index) as usize * source.stride();
            source.data().get(start..start + reach).unwrap_or(&padded[index as usize])
        })
    }
}
