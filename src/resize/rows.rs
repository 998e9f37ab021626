//! Rows of a source in groups, for kernels that read past a row's end.

use crate::sample::View;

/// Rows that the horizontal pass does at once.
pub(super) const ROWS: usize = 4;

/// Copies of rows that end too early to be read in whole vectors.
#[derive(Debug, Default)]
pub(super) struct Padded([Vec<u8>; ROWS]);

impl Padded {
    /// The rows from `top` on, each at least `reach` bytes. Past the last row it is repeated.
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
