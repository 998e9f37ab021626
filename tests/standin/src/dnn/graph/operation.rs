//! Operations: the convolutions of a graph, and what they compute from.

use std::sync::Arc;

use super::descriptor::Values;
use super::fused::{Pointwise, Statistics};
use super::names::{self as n, kind};
use super::norm::{GIVEN, NormGradient, RESULTS};
use super::tensor::Tensor;
use super::values::{enumerator, float, int, ints, required};
use crate::dnn::algorithm::Pass;
use crate::dnn::problem::Shape;
use crate::dnn::{Answer, Status, wrong};

/// The geometry of a convolution.
#[derive(Clone, Debug)]
pub(super) struct Convolution {
    /// `cudnnDataType_t` of the sums.
    pub(super) sums: u32,
    /// Whether the filter is not flipped: `CUDNN_CROSS_CORRELATION`.
    pub(super) is_correlation: bool,
    pub(super) dilation: Vec<usize>,
    pub(super) stride: Vec<usize>,
    pub(super) before: Vec<usize>,
    pub(super) after: Vec<usize>,
}

#[derive(Clone, Debug)]
pub(super) enum Operation {
    Convolution(Convolve),
    Pointwise(Pointwise),
    Statistics(Statistics),
    NormGradient(NormGradient),
}

/// `output = alpha * convolution(inputs) + beta * output`, in one of three directions.
#[derive(Clone, Debug)]
pub(super) struct Convolve {
    pub(super) pass: Pass,
    pub(super) alpha: f32,
    pub(super) beta: f32,
    pub(super) geometry: Arc<Convolution>,
    /// The images, the filter and the response, or their gradients.
    pub(super) x: Arc<Tensor>,
    pub(super) w: Arc<Tensor>,
    pub(super) y: Arc<Tensor>,
}

impl Convolution {
    pub(super) fn new(values: &Values) -> Answer<Self> {
        let spatial = int(values, n::CONVOLUTION_SPATIAL_DIMS).unwrap_or(0);
        let list = |number: u32, least: i64| -> Answer<Vec<usize>> {
            let given = ints(values, number);
            let found: Option<Vec<usize>> = given
                .iter()
                .map(|value| usize::try_from(*value).ok().filter(|_| *value >= least))
                .collect();
            match found {
                Some(found) if i64::try_from(found.len()) == Ok(spatial) => Ok(found),
                _ => {
                    let what =
                        format!("{} is {given:?}, of {spatial} dimensions", n::attribute(number));
                    wrong(Status::BAD_PARAM, what)
                }
            }
        };
        Ok(Self {
            sums: enumerator(values, n::CONVOLUTION_COMP_TYPE),
            is_correlation: enumerator(values, n::CONVOLUTION_CONV_MODE) == 1,
            dilation: list(n::CONVOLUTION_DILATIONS, 1)?,
            stride: list(n::CONVOLUTION_FILTER_STRIDES, 1)?,
            before: list(n::CONVOLUTION_PRE_PADDINGS, 0)?,
            after: list(n::CONVOLUTION_POST_PADDINGS, 0)?,
        })
    }
}

impl Convolve {
    pub(super) fn new(of: u32, values: &Values) -> Answer<Self> {
        let (pass, [alpha, beta, geometry, x, w, y]) = match of {
            kind::BACKWARD_DATA => (
                Pass::BackwardData,
                [
                    n::BWD_DATA_ALPHA,
                    n::BWD_DATA_BETA,
                    n::BWD_DATA_CONV_DESC,
                    n::BWD_DATA_DX,
                    n::BWD_DATA_W,
                    n::BWD_DATA_DY,
                ],
            ),
            kind::BACKWARD_FILTER => (
                Pass::BackwardFilter,
                [
                    n::BWD_FILTER_ALPHA,
                    n::BWD_FILTER_BETA,
                    n::BWD_FILTER_CONV_DESC,
                    n::BWD_FILTER_X,
                    n::BWD_FILTER_DW,
                    n::BWD_FILTER_DY,
                ],
            ),
            _ => (
                Pass::Forward,
                [
                    n::FORWARD_ALPHA,
                    n::FORWARD_BETA,
                    n::FORWARD_CONV_DESC,
                    n::FORWARD_X,
                    n::FORWARD_W,
                    n::FORWARD_Y,
                ],
            ),
        };
        let found = Self {
            pass,
            alpha: float(values, alpha).unwrap_or(1.0),
            beta: float(values, beta).unwrap_or(0.0),
            geometry: required(values, geometry)?,
            x: required(values, x)?,
            w: required(values, w)?,
            y: required(values, y)?,
        };
        found.check()?;
        Ok(found)
    }

    /// Checks that the sizes are those of a convolution.
    fn check(&self) -> Answer {
        let Self { geometry, x, w, y, .. } = self;
        let spatial = geometry.stride.len();
        let sizes = format!("x {:?}, w {:?}, y {:?}", x.dims, w.dims, y.dims);
        if [x, w, y].into_iter().any(|tensor| tensor.dims.len() != spatial + 2) {
            return wrong(Status::BAD_PARAM, format!("{sizes}: {spatial} spatial dimensions"));
        }
        if x.dims[0] != y.dims[0] || w.dims[0] != y.dims[1] || x.dims[1] % w.dims[1] != 0 {
            return wrong(Status::BAD_PARAM, format!("{sizes}: images or channels do not match"));
        }
        for axis in 0..spatial {
            let size = x.dims[axis + 2] + geometry.before[axis] + geometry.after[axis];
            let filter = (w.dims[axis + 2] - 1) * geometry.dilation[axis] + 1;
            let expected = size.checked_sub(filter).map(|room| room / geometry.stride[axis] + 1);
            if expected != Some(y.dims[axis + 2]) {
                let what = format!("{sizes}: axis {axis} of y should be {expected:?}");
                return wrong(Status::BAD_PARAM, what);
            }
        }
        Ok(())
    }

    /// The shape, or why no engine here supports it.
    pub(super) fn shape(&self) -> Result<Shape, String> {
        let Self { geometry, x, w, y, .. } = self;
        let (Some([n, c, height, width]), Some([k, filter_c, r, s]), Some([.., oh, ow])) =
            (x.sizes(), w.sizes(), y.sizes())
        else {
            return Err("a number of spatial dimensions other than 2".to_owned());
        };
        if c != filter_c {
            return Err("groups".to_owned());
        }
        if geometry.dilation != [1, 1] {
            return Err("dilation".to_owned());
        }
        if !geometry.is_correlation {
            return Err("a mode other than CUDNN_CROSS_CORRELATION".to_owned());
        }
        let pair = |list: &[usize]| [list[0], list[1]];
        Ok(Shape {
            n,
            c,
            k,
            input: [height, width],
            filter: [r, s],
            output: [oh, ow],
            pad: pair(&geometry.before),
            stride: pair(&geometry.stride),
        })
    }

    /// The two inputs, in the order of the pass, and the output.
    pub(super) fn operands(&self) -> ([&Arc<Tensor>; 2], &Arc<Tensor>) {
        match self.pass {
            Pass::Forward => ([&self.x, &self.w], &self.y),
            Pass::BackwardData => ([&self.w, &self.y], &self.x),
            Pass::BackwardFilter => ([&self.x, &self.y], &self.w),
        }
    }

    /// The names of the operands in the order of [`Convolve::operands`].
    pub(super) fn names(&self) -> [&'static str; 3] {
        match self.pass {
            Pass::Forward => ["x", "w", "y"],
            Pass::BackwardData => ["w", "dy", "dx"],
            Pass::BackwardFilter => ["x", "dy", "dw"],
        }
    }
}

impl Operation {
    /// The tensors that the operation reads, with their names. An output that it adds to is none of them.
    pub(super) fn inputs(&self) -> Vec<(&'static str, &Arc<Tensor>)> {
        match self {
            Self::Convolution(convolve) => {
                let ([one, other], _) = convolve.operands();
                let [first, second, _] = convolve.names();
                vec![(first, one), (second, other)]
            }
            Self::Pointwise(pointwise) => {
                let [x, other, _] = pointwise.names();
                let other = pointwise.other.iter().map(|tensor| (other, tensor));
                [(x, &pointwise.x)].into_iter().chain(other).collect()
            }
            Self::Statistics(statistics) => vec![("x", &statistics.x)],
            Self::NormGradient(norm) => {
                let given = GIVEN.into_iter().zip(&norm.given);
                [("x", &norm.x), ("dy", &norm.dy)].into_iter().chain(given).collect()
            }
        }
    }

    pub(super) fn outputs(&self) -> Vec<(&'static str, &Arc<Tensor>)> {
        match self {
            Self::Convolution(convolve) => vec![(convolve.names()[2], convolve.operands().1)],
            Self::Pointwise(pointwise) => vec![(pointwise.names()[2], &pointwise.output)],
            Self::Statistics(statistics) => {
                vec![("sum", &statistics.sum), ("squares", &statistics.squares)]
            }
            Self::NormGradient(norm) => RESULTS.into_iter().zip(&norm.results).collect(),
        }
    }
}
