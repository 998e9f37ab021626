//! The three passes in f32, with channels last: x is n, h, w, c; the filter is k, r, s, c; y is n, oh, ow, k.
//!
//! Each pass is a matrix product with the matrix of taps (im2col), which has a row for each pixel of y: the values of x under the
//! filter. It is built for some rows at a time. All sums have a fixed order; `depth` is the block in which they are split.

use super::problem::Shape;
use crate::gemm::{Matrix, add_product};

/// The number of values of the matrix of taps that are built at once.
const AT_ONCE: usize = 1 << 20;

pub(super) fn forward(shape: &Shape, x: &[f32], filter: &[f32], depth: usize) -> Vec<f32> {
    let (k, taps) = (shape.k, shape.taps());
    let mut y = vec![0.0; shape.pixels() * k];
    let filter = Matrix { data: filter, step: [1, taps] };
    for_rows(shape, |first, rows, scratch| {
        let matrix = Matrix { data: gather(shape, first, rows, x, scratch), step: [taps, 1] };
        add_product([rows, k, taps], matrix, filter, &mut y[first * k..][..rows * k], depth);
    });
    y
}

pub(super) fn backward_data(shape: &Shape, filter: &[f32], dy: &[f32], depth: usize) -> Vec<f32> {
    let (k, taps) = (shape.k, shape.taps());
    let mut dx = vec![0.0; shape.n * shape.input[0] * shape.input[1] * shape.c];
    let filter = Matrix { data: filter, step: [taps, 1] };
    for_rows(shape, |first, rows, scratch| {
        scratch.clear();
        scratch.resize(rows * taps, 0.0);
        let dy = Matrix { data: &dy[first * k..], step: [k, 1] };
        add_product([rows, taps, k], dy, filter, scratch, depth);
        for_taps(shape, first, rows, |at, from| {
            if let Some(from) = from {
                let to = &mut dx[from..from + shape.c];
                to.iter_mut().zip(&scratch[at..]).for_each(|(to, value)| *to += value);
            }
        });
    });
    dx
}

pub(super) fn backward_filter(shape: &Shape, x: &[f32], dy: &[f32], depth: usize) -> Vec<f32> {
    let (k, taps) = (shape.k, shape.taps());
    let mut dw = vec![0.0; k * taps];
    for_rows(shape, |first, rows, scratch| {
        let matrix = Matrix { data: gather(shape, first, rows, x, scratch), step: [taps, 1] };
        let dy = Matrix { data: &dy[first * k..], step: [1, k] };
        add_product([k, taps, rows], dy, matrix, &mut dw, depth);
    });
    dw
}

/// Calls a function for consecutive blocks of rows, with the first row and the number of rows.
fn for_rows(shape: &Shape, mut body: impl FnMut(usize, usize, &mut Vec<f32>)) {
    let at_once = (AT_ONCE / shape.taps()).max(1);
    let mut scratch = Vec::new();
    for first in (0..shape.pixels()).step_by(at_once) {
        body(first, at_once.min(shape.pixels() - first), &mut scratch);
    }
}

/// Rows of the matrix of taps: built in `scratch`, or borrowed from x if they are contiguous there.
fn gather<'a>(
    shape: &Shape,
    first: usize,
    rows: usize,
    x: &'a [f32],
    scratch: &'a mut Vec<f32>,
) -> &'a [f32] {
    let c = shape.c;
    if shape.filter == [1, 1] && shape.stride == [1, 1] && shape.pad == [0, 0] {
        return &x[first * c..];
    }
    scratch.resize(rows * shape.taps(), 0.0);
    for_taps(shape, first, rows, |at, from| match from {
        Some(from) => scratch[at..at + c].copy_from_slice(&x[from..from + c]),
        None => scratch[at..at + c].fill(0.0),
    });
    scratch
}

/// Calls a function for each pixel under the filter, with its offset in the rows and its offset in x, or `None` in the padding.
fn for_taps(shape: &Shape, first: usize, rows: usize, mut body: impl FnMut(usize, Option<usize>)) {
    let ([height, width], [oh, ow]) = (shape.input, shape.output);
    // A position before the first pixel wraps to a very large one.
    let place = |output: usize, tap: usize, axis: usize| {
        (output * shape.stride[axis] + tap).wrapping_sub(shape.pad[axis])
    };
    let mut at = 0;
    for row in first..first + rows {
        let (image, oy, ox) = (row / (oh * ow), row / ow % oh, row % ow);
        for r in 0..shape.filter[0] {
            let y = place(oy, r, 0);
            for s in 0..shape.filter[1] {
                let x = place(ox, s, 1);
                let inside = y < height && x < width;
                body(at, inside.then(|| ((image * height + y) * width + x) * shape.c));
                at += shape.c;
            }
        }
    }
}
