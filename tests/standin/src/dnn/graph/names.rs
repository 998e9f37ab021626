//! The numbers of `cudnn_graph.h`: kinds of descriptors, types and numbers of attributes.

/// `cudnnBackendDescriptorType_t`.
pub(super) mod kind {
    pub(in super::super) const POINTWISE: u32 = 0;
    pub(in super::super) const CONVOLUTION: u32 = 1;
    pub(in super::super) const ENGINE: u32 = 2;
    pub(in super::super) const ENGINE_CONFIG: u32 = 3;
    pub(in super::super) const HEURISTICS: u32 = 4;
    pub(in super::super) const PLAN: u32 = 5;
    pub(in super::super) const KNOB_CHOICE: u32 = 7;
    pub(in super::super) const KNOB_INFO: u32 = 8;
    pub(in super::super) const LAYOUT_INFO: u32 = 9;
    pub(in super::super) const FORWARD: u32 = 10;
    pub(in super::super) const BACKWARD_FILTER: u32 = 11;
    pub(in super::super) const BACKWARD_DATA: u32 = 12;
    pub(in super::super) const OPERATION_POINTWISE: u32 = 13;
    pub(in super::super) const GEN_STATS: u32 = 14;
    pub(in super::super) const GRAPH: u32 = 15;
    pub(in super::super) const VARIANT_PACK: u32 = 16;
    pub(in super::super) const TENSOR: u32 = 17;
    pub(in super::super) const NORM_GRADIENT: u32 = 23;
    pub(in super::super) const DEVICE: u32 = 38;
    /// The last kind in the header, which the stand-in lacks.
    pub(in super::super) const LAST: u32 = 45;
}

/// `cudnnBackendAttributeType_t`, with the size of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Type {
    pub(super) number: u32,
    pub(super) bytes: usize,
}

macro_rules! types {
    ($($name:ident = $number:literal, $bytes:literal;)*) => {
        impl Type {
            $(pub(super) const $name: Self = Self { number: $number, bytes: $bytes };)*
        }
    };
}

types! {
    HANDLE = 0, 8;
    DATA_TYPE = 1, 4;
    BOOLEAN = 2, 1;
    INT64 = 3, 8;
    FLOAT = 4, 4;
    DOUBLE = 5, 8;
    VOID_PTR = 6, 8;
    CONVOLUTION_MODE = 7, 4;
    HEUR_MODE = 8, 4;
    KNOB_TYPE = 9, 4;
    NAN_PROPAGATION = 10, 4;
    NUMERICAL_NOTE = 11, 4;
    LAYOUT_TYPE = 12, 4;
    POINTWISE_MODE = 14, 4;
    DESCRIPTOR = 15, 8;
    GENSTATS_MODE = 16, 4;
    BEHAVIOR_NOTE = 19, 4;
    REORDERING = 20, 4;
    INT32 = 23, 4;
    CHAR = 24, 1;
}

/// Defines the number and the name of attributes, `cudnnBackendAttributeName_t`.
macro_rules! attributes {
    ($($name:ident = $number:literal;)*) => {
        $(pub(super) const $name: u32 = $number;)*

        /// The name of an attribute in messages.
        pub(super) fn attribute(number: u32) -> String {
            match number {
                $($number => stringify!($name).to_owned(),)*
                other => format!("attribute {other}"),
            }
        }
    };
}

attributes! {
    POINTWISE_MODE = 0;
    POINTWISE_MATH_PREC = 1;
    POINTWISE_NAN_PROPAGATION = 2;
    POINTWISE_RELU_LOWER_CLIP = 3;
    POINTWISE_RELU_UPPER_CLIP = 4;
    POINTWISE_RELU_LOWER_CLIP_SLOPE = 5;
    CONVOLUTION_COMP_TYPE = 100;
    CONVOLUTION_CONV_MODE = 101;
    CONVOLUTION_DILATIONS = 102;
    CONVOLUTION_FILTER_STRIDES = 103;
    CONVOLUTION_POST_PADDINGS = 104;
    CONVOLUTION_PRE_PADDINGS = 105;
    CONVOLUTION_SPATIAL_DIMS = 106;
    ENGINEHEUR_MODE = 200;
    ENGINEHEUR_OPERATION_GRAPH = 201;
    ENGINEHEUR_RESULTS = 202;
    ENGINEHEUR_SM_COUNT_TARGET = 203;
    ENGINEHEUR_DEVICEPROP = 204;
    ENGINECFG_ENGINE = 300;
    ENGINECFG_INTERMEDIATE_INFO = 301;
    ENGINECFG_KNOB_CHOICES = 302;
    ENGINECFG_WORKSPACE_SIZE = 303;
    EXECUTION_PLAN_HANDLE = 400;
    EXECUTION_PLAN_ENGINE_CONFIG = 401;
    EXECUTION_PLAN_WORKSPACE_SIZE = 402;
    EXECUTION_PLAN_COMPUTED_INTERMEDIATE_UIDS = 403;
    EXECUTION_PLAN_RUN_ONLY_INTERMEDIATE_UIDS = 404;
    EXECUTION_PLAN_DEVICEPROP = 407;
    KNOB_CHOICE_KNOB_TYPE = 600;
    KNOB_CHOICE_KNOB_VALUE = 601;
    FORWARD_ALPHA = 700;
    FORWARD_BETA = 701;
    FORWARD_CONV_DESC = 702;
    FORWARD_W = 703;
    FORWARD_X = 704;
    FORWARD_Y = 705;
    BWD_DATA_ALPHA = 706;
    BWD_DATA_BETA = 707;
    BWD_DATA_CONV_DESC = 708;
    BWD_DATA_W = 709;
    BWD_DATA_DX = 710;
    BWD_DATA_DY = 711;
    BWD_FILTER_ALPHA = 712;
    BWD_FILTER_BETA = 713;
    BWD_FILTER_CONV_DESC = 714;
    BWD_FILTER_DW = 715;
    BWD_FILTER_X = 716;
    BWD_FILTER_DY = 717;
    OPERATION_POINTWISE_PW_DESCRIPTOR = 750;
    OPERATION_POINTWISE_XDESC = 751;
    OPERATION_POINTWISE_BDESC = 752;
    OPERATION_POINTWISE_YDESC = 753;
    OPERATION_POINTWISE_ALPHA1 = 754;
    OPERATION_POINTWISE_ALPHA2 = 755;
    OPERATION_POINTWISE_DXDESC = 756;
    OPERATION_POINTWISE_DYDESC = 757;
    GENSTATS_MODE = 770;
    GENSTATS_MATH_PREC = 771;
    GENSTATS_XDESC = 772;
    GENSTATS_SUMDESC = 773;
    GENSTATS_SQSUMDESC = 774;
    OPERATIONGRAPH_HANDLE = 800;
    OPERATIONGRAPH_OPS = 801;
    OPERATIONGRAPH_ENGINE_GLOBAL_COUNT = 802;
    TENSOR_BYTE_ALIGNMENT = 900;
    TENSOR_DATA_TYPE = 901;
    TENSOR_DIMENSIONS = 902;
    TENSOR_STRIDES = 903;
    TENSOR_VECTOR_COUNT = 904;
    TENSOR_UNIQUE_ID = 906;
    TENSOR_IS_VIRTUAL = 907;
    TENSOR_IS_BY_VALUE = 908;
    TENSOR_REORDERING_MODE = 909;
    VARIANT_PACK_UNIQUE_IDS = 1000;
    VARIANT_PACK_DATA_POINTERS = 1001;
    VARIANT_PACK_INTERMEDIATES = 1002;
    VARIANT_PACK_WORKSPACE = 1003;
    LAYOUT_INFO_TENSOR_UID = 1100;
    LAYOUT_INFO_TYPES = 1101;
    KNOB_INFO_TYPE = 1200;
    KNOB_INFO_MAXIMUM_VALUE = 1201;
    KNOB_INFO_MINIMUM_VALUE = 1202;
    KNOB_INFO_STRIDE = 1203;
    ENGINE_OPERATION_GRAPH = 1300;
    ENGINE_GLOBAL_INDEX = 1301;
    ENGINE_KNOB_INFO = 1302;
    ENGINE_NUMERICAL_NOTE = 1303;
    ENGINE_LAYOUT_INFO = 1304;
    ENGINE_BEHAVIOR_NOTE = 1305;
    ENGINE_SM_COUNT_TARGET = 1306;
    ENGINE_DEVICEPROP = 1307;
    BN_BWD_WEIGHTS_MATH_PREC = 1620;
    BN_BWD_WEIGHTS_MEAN_DESC = 1621;
    BN_BWD_WEIGHTS_INVSTD_DESC = 1622;
    BN_BWD_WEIGHTS_BN_SCALE_DESC = 1623;
    BN_BWD_WEIGHTS_X_DESC = 1624;
    BN_BWD_WEIGHTS_DY_DESC = 1625;
    BN_BWD_WEIGHTS_DBN_SCALE_DESC = 1626;
    BN_BWD_WEIGHTS_DBN_BIAS_DESC = 1627;
    BN_BWD_WEIGHTS_EQ_DY_SCALE_DESC = 1628;
    BN_BWD_WEIGHTS_EQ_X_SCALE_DESC = 1629;
    BN_BWD_WEIGHTS_EQ_BIAS = 1630;
    DEVICEPROP_DEVICE_ID = 2700;
    DEVICEPROP_HANDLE = 2701;
    DEVICEPROP_JSON_REPRESENTATION = 2702;
}
