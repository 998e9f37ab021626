"""ResNet-50 in the form of client/trainer/src/model/graph.rs: its operations in order, with their shapes."""

from dataclasses import dataclass

CLASSES = 1000


@dataclass(frozen=True)
class Shape:
    """An image's tensor, NHWC."""

    height: int
    width: int
    channels: int

    @property
    def numbers(self):
        return self.height * self.width * self.channels


@dataclass(frozen=True)
class Conv:
    """x as it is stored: images are stored with their padding, so that the stem does not pad, and with channels of zeros."""

    x: Shape
    y: Shape
    kernel: int
    stride: int
    pad: int
    # Whether x is the images, which need no gradient; whether the gradient of x is added to an existing one.
    first: bool = False
    adds: bool = False
    # How many input channels are zeros. They are no parameters.
    zeros: int = 0

    @property
    def weights(self):
        return self.kernel**2 * self.x.channels * self.y.channels

    @property
    def products(self):
        """Multiply-adds per image in each direction."""
        return self.y.height * self.y.width * self.weights


@dataclass(frozen=True)
class Norm:
    """Batch norm. With a residual it ends a block: it adds the residual and applies ReLU."""

    x: Shape
    relu: bool
    residual: bool = False
    # Whether the max pool reads it: the stem's.
    pooled: bool = False


@dataclass(frozen=True)
class MaxPool:
    x: Shape
    y: Shape


@dataclass(frozen=True)
class MeanPool:
    x: Shape


@dataclass(frozen=True)
class Classifier:
    features: int
    classes: int = CLASSES


def operations(size):
    """The operations of the network for square images."""
    images = Shape(size + 6, size + 6, 8)
    half = Shape(size // 2, size // 2, 64)
    x = Shape(size // 4, size // 4, 64)
    found = [Conv(images, half, 7, 2, 0, first=True, zeros=5), Norm(half, relu=True, pooled=True), MaxPool(half, x)]

    def convolution(x, channels, kernel, stride, **facts):
        y = Shape(-(-x.height // stride), -(-x.width // stride), channels)
        found.append(Conv(x, y, kernel, stride, kernel // 2, **facts))
        return y

    for stage, blocks in enumerate([3, 4, 6, 3]):
        channels = 64 << stage
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            # In the backward pass the shortcut writes the gradient of x before the first convolution.
            y = convolution(x, channels, 1, 1, adds=True)
            found.append(Norm(y, relu=True))
            y = convolution(y, channels, 3, stride)
            found.append(Norm(y, relu=True))
            y = convolution(y, 4 * channels, 1, 1)
            if block == 0:
                found.append(Norm(convolution(x, 4 * channels, 1, stride), relu=False))
            found.append(Norm(y, relu=True, residual=True))
            x = y
    return [*found, MeanPool(x), Classifier(x.channels)]


def parameters(ops):
    """The sizes of all parameters, and whether they decay: kernels, scales and shifts, the classifier's matrix and bias."""
    for op in ops:
        match op:
            case Conv():
                yield op.kernel**2 * (op.x.channels - op.zeros) * op.y.channels, True
            case Norm():
                yield op.x.channels, False
                yield op.x.channels, False
            case Classifier():
                yield op.features * op.classes, True
                yield op.classes, False


# The count of the paper. client/trainer/src/model.rs checks the trainer's.
assert sum(numbers for numbers, _ in parameters(operations(224))) == 25_557_032
