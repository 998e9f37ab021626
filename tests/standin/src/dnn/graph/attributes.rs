//! The attributes of each kind of descriptor: their types, their counts, and whether they must be set.

use super::names::{self as n, Type, kind};

/// `CUDNN_MAX_DIMS`.
const DIMS: usize = 8;
const MANY: usize = 1 << 20;

#[derive(Clone, Copy, Debug)]
pub(super) struct Attribute {
    pub(super) number: u32,
    /// The types that a caller may use: one, or FLOAT and DOUBLE.
    pub(super) types: &'static [Type],
    /// The fewest and the most elements that can be set.
    pub(super) least: usize,
    pub(super) most: usize,
    pub(super) need: Need,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// It must be set before the descriptor is finalized.
    Required,
    Optional,
    /// It can only be read.
    ReadOnly,
    /// cuDNN has the attribute and refuses its use.
    Unsupported,
}

const fn one(number: u32, types: &'static [Type]) -> Attribute {
    Attribute { number, types, least: 1, most: 1, need: Need::Required }
}

const fn many(number: u32, types: &'static [Type], least: usize, most: usize) -> Attribute {
    Attribute { number, types, least, most, need: Need::Required }
}

impl Attribute {
    const fn optional(self) -> Self {
        Self { need: Need::Optional, ..self }
    }

    const fn read_only(self) -> Self {
        Self { need: Need::ReadOnly, most: MANY, ..self }
    }

    const fn unsupported(self) -> Self {
        Self { need: Need::Unsupported, most: MANY, ..self }
    }
}

const INT64: &[Type] = &[Type::INT64];
const CHILD: &[Type] = &[Type::DESCRIPTOR];
const NUMBER: &[Type] = &[Type::DATA_TYPE];
const HANDLE: &[Type] = &[Type::HANDLE];
const SCALE: &[Type] = &[Type::FLOAT, Type::DOUBLE];

const TENSOR: &[Attribute] = &[
    one(n::TENSOR_UNIQUE_ID, INT64),
    one(n::TENSOR_DATA_TYPE, NUMBER),
    one(n::TENSOR_BYTE_ALIGNMENT, INT64),
    many(n::TENSOR_DIMENSIONS, INT64, 1, DIMS),
    many(n::TENSOR_STRIDES, INT64, 1, DIMS),
    one(n::TENSOR_VECTOR_COUNT, INT64).optional(),
    one(n::TENSOR_IS_VIRTUAL, &[Type::BOOLEAN]).optional(),
    one(n::TENSOR_IS_BY_VALUE, &[Type::BOOLEAN]).optional(),
    one(n::TENSOR_REORDERING_MODE, &[Type::REORDERING]).optional(),
];

const CONVOLUTION: &[Attribute] = &[
    one(n::CONVOLUTION_COMP_TYPE, NUMBER),
    one(n::CONVOLUTION_CONV_MODE, &[Type::CONVOLUTION_MODE]),
    one(n::CONVOLUTION_SPATIAL_DIMS, INT64),
    many(n::CONVOLUTION_DILATIONS, INT64, 1, DIMS),
    many(n::CONVOLUTION_FILTER_STRIDES, INT64, 1, DIMS),
    many(n::CONVOLUTION_PRE_PADDINGS, INT64, 1, DIMS),
    many(n::CONVOLUTION_POST_PADDINGS, INT64, 1, DIMS),
];

const FORWARD: &[Attribute] = &[
    one(n::FORWARD_ALPHA, SCALE),
    one(n::FORWARD_BETA, SCALE),
    one(n::FORWARD_CONV_DESC, CHILD),
    one(n::FORWARD_X, CHILD),
    one(n::FORWARD_W, CHILD),
    one(n::FORWARD_Y, CHILD),
];

const BACKWARD_DATA: &[Attribute] = &[
    one(n::BWD_DATA_ALPHA, SCALE),
    one(n::BWD_DATA_BETA, SCALE),
    one(n::BWD_DATA_CONV_DESC, CHILD),
    one(n::BWD_DATA_W, CHILD),
    one(n::BWD_DATA_DX, CHILD),
    one(n::BWD_DATA_DY, CHILD),
];

const BACKWARD_FILTER: &[Attribute] = &[
    one(n::BWD_FILTER_ALPHA, SCALE),
    one(n::BWD_FILTER_BETA, SCALE),
    one(n::BWD_FILTER_CONV_DESC, CHILD),
    one(n::BWD_FILTER_X, CHILD),
    one(n::BWD_FILTER_DW, CHILD),
    one(n::BWD_FILTER_DY, CHILD),
];

const POINTWISE: &[Attribute] = &[
    one(n::POINTWISE_MODE, &[Type::POINTWISE_MODE]),
    one(n::POINTWISE_MATH_PREC, NUMBER),
    one(n::POINTWISE_NAN_PROPAGATION, &[Type::NAN_PROPAGATION]).optional(),
    one(n::POINTWISE_RELU_LOWER_CLIP, SCALE).optional(),
    one(n::POINTWISE_RELU_UPPER_CLIP, SCALE).optional(),
    one(n::POINTWISE_RELU_LOWER_CLIP_SLOPE, SCALE).optional(),
];

const OPERATION_POINTWISE: &[Attribute] = &[
    one(n::OPERATION_POINTWISE_PW_DESCRIPTOR, CHILD),
    one(n::OPERATION_POINTWISE_XDESC, CHILD),
    one(n::OPERATION_POINTWISE_BDESC, CHILD).optional(),
    one(n::OPERATION_POINTWISE_YDESC, CHILD).optional(),
    one(n::OPERATION_POINTWISE_ALPHA1, SCALE).optional(),
    one(n::OPERATION_POINTWISE_ALPHA2, SCALE).optional(),
    one(n::OPERATION_POINTWISE_DXDESC, CHILD).optional(),
    one(n::OPERATION_POINTWISE_DYDESC, CHILD).optional(),
];

const GEN_STATS: &[Attribute] = &[
    one(n::GENSTATS_MODE, &[Type::GENSTATS_MODE]),
    one(n::GENSTATS_MATH_PREC, NUMBER),
    one(n::GENSTATS_XDESC, CHILD),
    one(n::GENSTATS_SUMDESC, CHILD),
    one(n::GENSTATS_SQSUMDESC, CHILD),
];

const NORM_GRADIENT: &[Attribute] = &[
    one(n::BN_BWD_WEIGHTS_MATH_PREC, NUMBER),
    one(n::BN_BWD_WEIGHTS_MEAN_DESC, CHILD),
    one(n::BN_BWD_WEIGHTS_INVSTD_DESC, CHILD),
    one(n::BN_BWD_WEIGHTS_BN_SCALE_DESC, CHILD),
    one(n::BN_BWD_WEIGHTS_X_DESC, CHILD),
    one(n::BN_BWD_WEIGHTS_DY_DESC, CHILD),
    one(n::BN_BWD_WEIGHTS_DBN_SCALE_DESC, CHILD),
    one(n::BN_BWD_WEIGHTS_DBN_BIAS_DESC, CHILD),
    one(n::BN_BWD_WEIGHTS_EQ_DY_SCALE_DESC, CHILD),
    one(n::BN_BWD_WEIGHTS_EQ_X_SCALE_DESC, CHILD),
    one(n::BN_BWD_WEIGHTS_EQ_BIAS, CHILD),
];

const GRAPH: &[Attribute] = &[
    one(n::OPERATIONGRAPH_HANDLE, HANDLE).optional(),
    many(n::OPERATIONGRAPH_OPS, CHILD, 0, MANY),
    one(n::OPERATIONGRAPH_ENGINE_GLOBAL_COUNT, INT64).read_only(),
];

const ENGINE: &[Attribute] = &[
    one(n::ENGINE_OPERATION_GRAPH, CHILD),
    // Without it, cuDNN looks for no engine, and there is none.
    one(n::ENGINE_GLOBAL_INDEX, INT64).optional(),
    one(n::ENGINE_KNOB_INFO, CHILD).read_only(),
    one(n::ENGINE_NUMERICAL_NOTE, &[Type::NUMERICAL_NOTE]).read_only(),
    one(n::ENGINE_LAYOUT_INFO, CHILD).read_only(),
    one(n::ENGINE_BEHAVIOR_NOTE, &[Type::BEHAVIOR_NOTE]).read_only(),
    one(n::ENGINE_SM_COUNT_TARGET, &[Type::INT32]).optional(),
    one(n::ENGINE_DEVICEPROP, CHILD).optional(),
];

const HEURISTICS: &[Attribute] = &[
    one(n::ENGINEHEUR_OPERATION_GRAPH, CHILD),
    one(n::ENGINEHEUR_MODE, &[Type::HEUR_MODE]),
    one(n::ENGINEHEUR_RESULTS, CHILD).read_only(),
    one(n::ENGINEHEUR_SM_COUNT_TARGET, &[Type::INT32]).optional(),
    one(n::ENGINEHEUR_DEVICEPROP, CHILD).optional(),
];

const ENGINE_CONFIG: &[Attribute] = &[
    one(n::ENGINECFG_ENGINE, CHILD),
    many(n::ENGINECFG_KNOB_CHOICES, CHILD, 0, MANY).optional(),
    one(n::ENGINECFG_INTERMEDIATE_INFO, CHILD).unsupported(),
    one(n::ENGINECFG_WORKSPACE_SIZE, INT64).read_only(),
];

const PLAN: &[Attribute] = &[
    one(n::EXECUTION_PLAN_HANDLE, HANDLE).optional(),
    one(n::EXECUTION_PLAN_ENGINE_CONFIG, CHILD),
    one(n::EXECUTION_PLAN_WORKSPACE_SIZE, INT64).read_only(),
    one(n::EXECUTION_PLAN_COMPUTED_INTERMEDIATE_UIDS, INT64).unsupported(),
    one(n::EXECUTION_PLAN_RUN_ONLY_INTERMEDIATE_UIDS, INT64).unsupported(),
    one(n::EXECUTION_PLAN_DEVICEPROP, CHILD).optional(),
];

const KNOB_CHOICE: &[Attribute] =
    &[one(n::KNOB_CHOICE_KNOB_TYPE, &[Type::KNOB_TYPE]), one(n::KNOB_CHOICE_KNOB_VALUE, INT64)];

const KNOB_INFO: &[Attribute] = &[
    one(n::KNOB_INFO_TYPE, &[Type::KNOB_TYPE]).read_only(),
    one(n::KNOB_INFO_MAXIMUM_VALUE, INT64).read_only(),
    one(n::KNOB_INFO_MINIMUM_VALUE, INT64).read_only(),
    one(n::KNOB_INFO_STRIDE, INT64).read_only(),
];

const LAYOUT_INFO: &[Attribute] = &[
    one(n::LAYOUT_INFO_TENSOR_UID, INT64).read_only(),
    one(n::LAYOUT_INFO_TYPES, &[Type::LAYOUT_TYPE]).read_only(),
];

const VARIANT_PACK: &[Attribute] = &[
    many(n::VARIANT_PACK_UNIQUE_IDS, INT64, 0, MANY),
    many(n::VARIANT_PACK_DATA_POINTERS, &[Type::VOID_PTR], 0, MANY),
    many(n::VARIANT_PACK_INTERMEDIATES, &[Type::VOID_PTR], 0, MANY).unsupported(),
    one(n::VARIANT_PACK_WORKSPACE, &[Type::VOID_PTR]),
];

const DEVICE: &[Attribute] = &[
    one(n::DEVICEPROP_DEVICE_ID, &[Type::INT32]).optional(),
    one(n::DEVICEPROP_HANDLE, HANDLE).optional(),
    many(n::DEVICEPROP_JSON_REPRESENTATION, &[Type::CHAR], 0, MANY).optional(),
];

/// The attributes of a kind of descriptor. `None` if the stand-in has no such descriptors.
pub(super) fn of(kind: u32) -> Option<&'static [Attribute]> {
    Some(match kind {
        kind::POINTWISE => POINTWISE,
        kind::CONVOLUTION => CONVOLUTION,
        kind::ENGINE => ENGINE,
        kind::ENGINE_CONFIG => ENGINE_CONFIG,
        kind::HEURISTICS => HEURISTICS,
        kind::PLAN => PLAN,
        kind::KNOB_CHOICE => KNOB_CHOICE,
        kind::KNOB_INFO => KNOB_INFO,
        kind::LAYOUT_INFO => LAYOUT_INFO,
        kind::FORWARD => FORWARD,
        kind::BACKWARD_FILTER => BACKWARD_FILTER,
        kind::BACKWARD_DATA => BACKWARD_DATA,
        kind::OPERATION_POINTWISE => OPERATION_POINTWISE,
        kind::GEN_STATS => GEN_STATS,
        kind::NORM_GRADIENT => NORM_GRADIENT,
        kind::GRAPH => GRAPH,
        kind::VARIANT_PACK => VARIANT_PACK,
        kind::TENSOR => TENSOR,
        kind::DEVICE => DEVICE,
        _ => return None,
    })
}
