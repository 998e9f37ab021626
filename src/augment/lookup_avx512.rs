//! Lookup tables with AVX-512, 64 lookups at once: the twin of the loop in `LookupTables::flush`.
//!
//! Three vectors hold 64 pixels. The positions of one channel in the three are distinct, so its 64
//! bytes fit into one vector, each at its own position. Selecting a channel and putting it back are
//! therefore blends, without any shuffle:
//!
//! ```text
//!   v0  r g b r g b ..      red    v0 v2 v1 v0 v2 v1 ..
//!   v1  g b r g b r ..      green  v1 v0 v2 v1 v0 v2 ..
//!   v2  b r g b r g ..      blue   v2 v1 v0 v2 v1 v0 ..
//! ```

#![expect(unsafe_code, reason = "loads and stores of vectors")]

use std::arch::x86_64::{
    __m512i, _mm512_loadu_si512, _mm512_mask_blend_epi8, _mm512_movepi8_mask,
    _mm512_permutex2var_epi8, _mm512_storeu_si512,
};

use crate::simd::Avx512;

/// The number of bytes in three vectors.
const BLOCK: usize = 192;

/// Masks of every third byte of a vector, from the first, the second and the third byte on.
const THIRDS: [u64; 3] = [0x9249_2492_4924_9249, 0x2492_4924_9249_2492, 0x4924_9249_2492_4924];

/// Maps the values of each channel through its table, in whole blocks. Returns the pixels after the
/// last whole block, which are not mapped.
pub(super) fn map<'p>(_: Avx512, tables: &[[u8; 256]; 3], pixels: &'p mut [u8]) -> &'p mut [u8] {
    let (blocks, rest) = pixels.as_chunks_mut();
    // SAFETY: the token proves AVX-512.
    unsafe { map_blocks(tables, blocks) };
    rest
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn map_blocks(tables: &[[u8; 256]; 3], blocks: &mut [[u8; BLOCK]]) {
    let [red, green, blue] = tables.each_ref().map(|table| VectorTable::new(table));
    for block in blocks {
        // SAFETY: the block has three times 64 bytes.
        let v = [0, 1, 2].map(|i| unsafe { _mm512_loadu_si512(block.as_ptr().add(i * 64).cast()) });
        let r = red.get(pick([v[0], v[2], v[1]]));
        let g = green.get(pick([v[1], v[0], v[2]]));
        let b = blue.get(pick([v[2], v[1], v[0]]));
        for (i, mapped) in
            [pick([r, g, b]), pick([g, b, r]), pick([b, r, g])].into_iter().enumerate()
        {
            // SAFETY: the block has three times 64 bytes.
            unsafe { _mm512_storeu_si512(block.as_mut_ptr().add(i * 64).cast(), mapped) };
        }
    }
}

/// Takes every third byte of each vector: the first, fourth, .. of `first`, and so on.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn pick([first, second, third]: [__m512i; 3]) -> __m512i {
    let two = _mm512_mask_blend_epi8(THIRDS[1], first, second);
    _mm512_mask_blend_epi8(THIRDS[2], two, third)
}

/// A lookup table of 256 bytes.
#[derive(Clone, Copy)]
struct VectorTable([__m512i; 4]);

impl VectorTable {
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn new(table: &[u8; 256]) -> Self {
        // SAFETY: the table has four times 64 bytes.
        Self([0, 1, 2, 3].map(|i| unsafe { _mm512_loadu_si512(table.as_ptr().add(i * 64).cast()) }))
    }

    /// The entries at the given indices.
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    #[inline]
    fn get(self, indices: __m512i) -> __m512i {
        let [a, b, c, d] = self.0;
        let low = _mm512_permutex2var_epi8(a, indices, b);
        let high = _mm512_permutex2var_epi8(c, indices, d);
        _mm512_mask_blend_epi8(_mm512_movepi8_mask(indices), low, high)
    }
}
