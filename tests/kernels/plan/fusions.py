"""Graphs of convolutions that a batch norm is fused into, as client/trainer/src/backend/cuda/conv/fused.rs builds them.

The patterns are cuDNN's `ConvBNfprop`, `ConvBNwgrad` and `DgradDreluBNBwdWeight`. Tensors are f16. The scale and the bias of an
input are f16 too, and what belongs to the gradient of a norm is f32 for each channel.
"""

from cudnn import NAMES, Descriptor

FLOAT = ("DATA_TYPE", NAMES["DATA_FLOAT"])


def tensor(number, sizes, kind="HALF", virtual=False):
    """NHWC. The sizes are in the order of cuDNN: N, C, H, W."""
    _, channels, height, width = sizes
    return Descriptor(
        "TENSOR", "TENSOR",
        UNIQUE_ID=("INT64", number),
        DATA_TYPE=("DATA_TYPE", NAMES[f"DATA_{kind}"]),
        BYTE_ALIGNMENT=("INT64", 16),
        DIMENSIONS=("INT64", list(sizes)),
        STRIDES=("INT64", [channels * height * width, 1, channels * width, channels]),
        IS_VIRTUAL=("BOOLEAN", virtual),
    ).finalize()


def operation(kind, prefix, **tensors):
    """An operation whose attributes are descriptors, but for those that are given as pairs."""
    pairs = {name: value if isinstance(value, tuple) else ("BACKEND_DESCRIPTOR", value) for name, value in tensors.items()}
    return Descriptor(f"OPERATION_{kind}", f"OPERATION_{prefix}", **pairs).finalize()


def pointwise(mode, **tensors):
    mode = ("POINTWISE_MODE", NAMES[f"POINTWISE_{mode}"])
    function = Descriptor("POINTWISE", "POINTWISE", MODE=mode, MATH_PREC=FLOAT).finalize()
    return operation("POINTWISE", "POINTWISE", PW_DESCRIPTOR=function, **tensors)


class Fusion:
    """The graphs of one convolution for a number of images."""

    def __init__(self, conv, batch):
        self.conv = conv
        self.x = (batch, conv.x.channels, conv.x.height, conv.x.width)
        self.w = (conv.y.channels, conv.x.channels, conv.kernel, conv.kernel)
        self.y = (batch, conv.y.channels, conv.y.height, conv.y.width)

    def forward(self):
        """`ConvBNfprop`: the norm's output is computed from its input, and statistics of y are computed."""
        before, x = self.norm()
        y, channels = tensor(3, self.y), (1, self.conv.y.channels, 1, 1)
        statistics = operation(
            "GEN_STATS", "GENSTATS", MODE=("GENSTATS_MODE", NAMES["GENSTATS_SUM_SQSUM"]), MATH_PREC=FLOAT, XDESC=y,
            SUMDESC=tensor(4, channels, "FLOAT"), SQSUMDESC=tensor(5, channels, "FLOAT"))
        return graph([*before, self.convolution("FORWARD", "FORWARD", X=x, W=tensor(2, self.w), Y=y), statistics])

    def backward_filter(self):
        """`ConvBNwgrad`: the norm's output is computed from its input again."""
        before, x = self.norm()
        last = self.convolution("BACKWARD_FILTER", "BWD_FILTER", X=x, DW=tensor(2, self.w), DY=tensor(3, self.y))
        return graph([*before, last])

    def backward_data(self):
        """`DgradDreluBNBwdWeight`: the gradient before the norm's ReLU, and the gradients of the norm's weights."""
        mean, deviation, scale, bias = (self.per_channel(number, "FLOAT") for number in [20, 21, 22, 23])
        gradient, *steps = (tensor(number, self.x, "FLOAT", virtual=True) for number in [10, 11, 12, 13, 14])
        x, masked = tensor(8, self.x), tensor(1, self.x)
        scale_gradient, bias_gradient, of_dy, of_x, rest = (self.per_channel(number, "FLOAT") for number in range(30, 35))
        return graph([
            self.convolution("BACKWARD_DATA", "BWD_DATA", DX=gradient, W=tensor(2, self.w), DY=tensor(3, self.y)),
            pointwise("SUB", XDESC=x, BDESC=mean, YDESC=steps[0]),
            pointwise("MUL", XDESC=steps[0], BDESC=deviation, YDESC=steps[1]),
            pointwise("MUL", XDESC=steps[1], BDESC=scale, YDESC=steps[2]),
            pointwise("ADD", XDESC=steps[2], BDESC=bias, YDESC=steps[3]),
            pointwise("RELU_BWD", XDESC=steps[3], DYDESC=gradient, DXDESC=masked),
            operation(
                "BN_BWD_WEIGHTS", "BN_BWD_WEIGHTS", MATH_PREC=FLOAT, MEAN_DESC=mean, INVSTD_DESC=deviation,
                BN_SCALE_DESC=scale, X_DESC=x, DY_DESC=masked, DBN_SCALE_DESC=scale_gradient,
                DBN_BIAS_DESC=bias_gradient, EQ_DY_SCALE_DESC=of_dy, EQ_X_SCALE_DESC=of_x, EQ_BIAS=rest),
        ])

    def norm(self):
        """Scale, bias and ReLU of the convolution's input, and their result."""
        steps = [tensor(number, self.x, virtual=True) for number in [10, 11, 12]]
        return [
            pointwise("MUL", XDESC=tensor(1, self.x), BDESC=self.per_channel(6), YDESC=steps[0]),
            pointwise("ADD", XDESC=steps[0], BDESC=self.per_channel(7), YDESC=steps[1]),
            pointwise("RELU_FWD", XDESC=steps[1], YDESC=steps[2]),
        ], steps[2]

    def per_channel(self, number, kind="HALF"):
        return tensor(number, (1, self.conv.x.channels, 1, 1), kind)

    def convolution(self, kind, prefix, **tensors):
        conv = self.conv
        geometry = Descriptor(
            "CONVOLUTION", "CONVOLUTION",
            COMP_TYPE=FLOAT,
            CONV_MODE=("CONVOLUTION_MODE", NAMES["CROSS_CORRELATION"]),
            SPATIAL_DIMS=("INT64", 2),
            DILATIONS=("INT64", [1, 1]),
            FILTER_STRIDES=("INT64", [conv.stride] * 2),
            PRE_PADDINGS=("INT64", [conv.pad] * 2),
            POST_PADDINGS=("INT64", [conv.pad] * 2),
        ).finalize()
        return operation(f"CONVOLUTION_{kind}", f"CONVOLUTION_{prefix}", CONV_DESC=geometry, ALPHA=("FLOAT", 1.0),
                         BETA=("FLOAT", 0.0), **tensors)


def graph(operations):
    return Descriptor("OPERATIONGRAPH", "OPERATIONGRAPH", OPS=("BACKEND_DESCRIPTOR", operations)).finalize()


def fusible(operations):
    """The convolutions whose input is the output of a norm with ReLU and without residual that nothing else reads."""
    pairs = zip(operations, operations[1:])
    kinds = [(type(first).__name__, type(second).__name__) for first, second in zip(operations, operations[1:])]
    return [conv for (norm, conv), kind in zip(pairs, kinds) if kind == ("Norm", "Conv") and norm.relu and not norm.residual]
