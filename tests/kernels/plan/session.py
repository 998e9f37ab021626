"""Calls of the backend API whose statuses are recorded, for either library. Refused calls do not end a case."""

import ctypes
import json
from pathlib import Path

from header import NAMES, element

H100 = json.loads((Path(__file__).resolve().parent / "h100.json").read_text())
# The operation, and its attributes for x, w and y, of each direction.
PASSES = {
    "FORWARD": ("FORWARD", "X W Y"),
    "BWD_DATA": ("BACKWARD_DATA", "DX W DY"),
    "BWD_FILTER": ("BACKWARD_FILTER", "X DW DY"),
}


class Session:
    """A library, and the statuses of the calls of a case."""

    def __init__(self, path):
        self.library = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        self.log = []

    def call(self, what, status):
        self.log.append((what, status))
        return status == 0

    def create(self, kind):
        made = ctypes.c_void_p()
        number = NAMES[f"BACKEND_{kind}_DESCRIPTOR"] if isinstance(kind, str) else kind
        status = self.library.cudnnBackendCreateDescriptor(number, ctypes.byref(made))
        if status:
            self.call(f"create {kind}", status)
        return made.value

    def set(self, descriptor, name, type_, values, count=None):
        values = list(values) if isinstance(values, (list, tuple, bytes)) else [values]
        array = (element(type_) * max(len(values), 1))(*values)
        count = len(values) if count is None else count
        status = self.library.cudnnBackendSetAttribute(
            ctypes.c_void_p(descriptor), NAMES[f"ATTR_{name}"], NAMES[f"TYPE_{type_}"], ctypes.c_int64(count), array)
        self.call(f"set {name}", status)

    def finalize(self, descriptor, what):
        return self.call(f"finalize {what}", self.library.cudnnBackendFinalize(ctypes.c_void_p(descriptor)))

    def get(self, descriptor, name, type_, room=1, given=(), null=False):
        """Returns the count that the library reports, and records it if it does not depend on the library."""
        array = None if null else (element(type_) * max(room, 1))(*given)
        count = ctypes.c_int64(-1)
        status = self.library.cudnnBackendGetAttribute(
            ctypes.c_void_p(descriptor), NAMES[f"ATTR_{name}"], NAMES[f"TYPE_{type_}"], ctypes.c_int64(room),
            ctypes.byref(count), array)
        self.call(f"get {name}", status)
        return count.value

    def made(self, kind, prefix, finalize=True, without=(), **attributes):
        """A descriptor with these attributes, whose names are without the prefix."""
        descriptor = self.create(kind)
        for name, (type_, values) in attributes.items():
            if name not in without:
                self.set(descriptor, f"{prefix}_{name}", type_, values)
        if finalize:
            self.finalize(descriptor, kind)
        return descriptor

    def tensor(self, uid=1, dims=(4, 16, 8, 8), strides=None, number="BFLOAT16", alignment=16, virtual=False, **options):
        n, c, h, w = dims
        number = NAMES[f"DATA_{number}"] if isinstance(number, str) else number
        return self.made(
            "TENSOR", "TENSOR", UNIQUE_ID=("INT64", uid), DATA_TYPE=("DATA_TYPE", number),
            BYTE_ALIGNMENT=("INT64", alignment), DIMENSIONS=("INT64", dims),
            STRIDES=("INT64", strides or [c * h * w, 1, c * w, c]), IS_VIRTUAL=("BOOLEAN", virtual), **options)

    def convolution(self, sums="FLOAT", mode="CROSS_CORRELATION", spatial=2, dilation=(1, 1), stride=(1, 1), before=(1, 1),
                    after=(1, 1), **options):
        return self.made(
            "CONVOLUTION", "CONVOLUTION", COMP_TYPE=("DATA_TYPE", NAMES[f"DATA_{sums}"]),
            CONV_MODE=("CONVOLUTION_MODE", NAMES[mode]), SPATIAL_DIMS=("INT64", spatial), DILATIONS=("INT64", dilation),
            FILTER_STRIDES=("INT64", stride), PRE_PADDINGS=("INT64", before), POST_PADDINGS=("INT64", after), **options)

    def convolve(self, direction="FORWARD", x=None, w=None, y=None, geometry=None, scale="FLOAT", tensors=None, **options):
        """An operation. x, w, y and the geometry are changes of their usual arguments."""
        kind, names = PASSES[direction]
        number = options.pop("number", "BFLOAT16")
        tensors = tensors or [
            self.tensor(1, **{"number": number, **(x or {})}),
            self.tensor(2, **{"number": number, "dims": (32, 16, 3, 3), **(w or {})}),
            self.tensor(3, **{"number": number, "dims": (4, 32, 8, 8), **(y or {})}),
        ]
        geometry = geometry if isinstance(geometry, int) else self.convolution(**(geometry or {}))
        operands = {name: ("BACKEND_DESCRIPTOR", made) for name, made in zip(names.split(), tensors)}
        return self.made(
            f"OPERATION_CONVOLUTION_{kind}", f"OPERATION_CONVOLUTION_{direction}",
            CONV_DESC=("BACKEND_DESCRIPTOR", geometry), ALPHA=(scale, 1.0), BETA=(scale, 0.0), **operands, **options)

    def pointwise(self, function, x, y, other=None, without=(), **options):
        made = self.made("POINTWISE", "POINTWISE", MODE=("POINTWISE_MODE", NAMES[f"POINTWISE_{function}"]),
                         MATH_PREC=("DATA_TYPE", NAMES["DATA_FLOAT"]))
        backward = function.endswith("BWD")
        names = ["XDESC", "DXDESC" if backward else "YDESC", "DYDESC" if backward else "BDESC"]
        operands = {name: ("BACKEND_DESCRIPTOR", tensor) for name, tensor in zip(names, [x, y, other]) if tensor}
        return self.made("OPERATION_POINTWISE", "OPERATION_POINTWISE", without=without,
                         PW_DESCRIPTOR=("BACKEND_DESCRIPTOR", made), **operands, **options)

    def statistics(self, y=None, sums="FLOAT", dims=(1, 32, 1, 1), mode=0, **options):
        y = y or self.tensor(3, (4, 32, 8, 8), number="HALF")
        return self.made(
            "OPERATION_GEN_STATS", "OPERATION_GENSTATS", MODE=("GENSTATS_MODE", mode),
            MATH_PREC=("DATA_TYPE", NAMES["DATA_FLOAT"]), XDESC=("BACKEND_DESCRIPTOR", y),
            SUMDESC=("BACKEND_DESCRIPTOR", self.tensor(4, dims, number=sums)),
            SQSUMDESC=("BACKEND_DESCRIPTOR", self.tensor(5, dims, number=sums)), **options)

    def fused(self, direction="FORWARD", number="HALF", scaled="", statistics=True, between="HALF", affine="HALF", virtual=False,
              reverse=False):
        """The operations of a convolution with statistics, and with a scale, a bias and a ReLU of its input: s, b and r."""
        x, w = self.tensor(1, number=number), self.tensor(2, (32, 16, 3, 3), number=number)
        y = self.tensor(3, (4, 32, 8, 8), number=number, virtual=virtual)
        scale, bias = (self.tensor(uid, (1, 16, 1, 1), number=affine) for uid in [6, 7])
        steps = {"s": ("MUL", scale), "b": ("ADD", bias), "r": ("RELU_FWD", None)}
        operations = []
        for uid, step in enumerate(scaled, 10):
            function, other = steps[step]
            after = self.tensor(uid, number=between, virtual=True)
            operations.append(self.pointwise(function, x, after, other))
            x = after
        operations.append(self.convolve(direction, tensors=[x, w, y]))
        if statistics:
            operations.append(self.statistics(y))
        return operations[::-1] if reverse else operations

    def masked(self, center="SUB", number="HALF", between="FLOAT", given="FLOAT", without=()):
        """The operations of a gradient of data, masked by a norm's ReLU, and of the gradient of that norm."""
        size, per_channel = (4, 16, 8, 8), (1, 16, 1, 1)
        gradient = self.tensor(1, size, number=between, virtual=True)
        w, dy = self.tensor(2, (32, 16, 3, 3), number=number), self.tensor(3, (4, 32, 8, 8), number=number)
        x, masked = self.tensor(4, size, number=number), self.tensor(9, size, number=number)
        mean, deviation, scale, bias = (self.tensor(uid, per_channel, number=given) for uid in [5, 6, 7, 8])
        steps = [self.tensor(uid, size, number=between, virtual=True) for uid in [20, 21, 22, 23]]
        names = ["DBN_SCALE_DESC", "DBN_BIAS_DESC", "EQ_DY_SCALE_DESC", "EQ_X_SCALE_DESC", "EQ_BIAS"]
        results = {name: self.tensor(uid, per_channel, number=given) for uid, name in enumerate(names, 30)}
        operands = {"MEAN_DESC": mean, "INVSTD_DESC": deviation, "BN_SCALE_DESC": scale, "X_DESC": x, "DY_DESC": masked, **results}
        norm = self.made("OPERATION_BN_BWD_WEIGHTS", "OPERATION_BN_BWD_WEIGHTS", without=without, MATH_PREC=("DATA_TYPE", 0),
                         **{name: ("BACKEND_DESCRIPTOR", tensor) for name, tensor in operands.items()})
        return [
            self.convolve("BWD_DATA", tensors=[gradient, w, dy]), self.pointwise(center, x, steps[0], mean),
            self.pointwise("MUL", steps[0], steps[1], deviation), self.pointwise("MUL", steps[1], steps[2], scale),
            self.pointwise("ADD", steps[2], steps[3], bias), self.pointwise("RELU_BWD", steps[3], masked, gradient), norm,
        ]

    def graph(self, *operations, **options):
        return self.made("OPERATIONGRAPH", "OPERATIONGRAPH", OPS=("BACKEND_DESCRIPTOR", operations), **options)

    def device(self, **changes):
        text = json.dumps({**H100, **changes}).encode()
        return self.made("DEVICEPROP", "DEVICEPROP", JSON_REPRESENTATION=("CHAR", [bytes([byte]) for byte in text]))

    def engine(self, graph, index=0, **options):
        return self.made("ENGINE", "ENGINE", OPERATION_GRAPH=("BACKEND_DESCRIPTOR", graph), GLOBAL_INDEX=("INT64", index),
                         DEVICEPROP=("BACKEND_DESCRIPTOR", self.device()), **options)

    def heuristics(self, graph, mode="A", **options):
        number = NAMES[f"HEUR_MODE_{mode}"] if isinstance(mode, str) else mode
        return self.made("ENGINEHEUR", "ENGINEHEUR", OPERATION_GRAPH=("BACKEND_DESCRIPTOR", graph),
                         MODE=("HEUR_MODE", number), DEVICEPROP=("BACKEND_DESCRIPTOR", self.device()), **options)

    def configs(self, heuristics, room=16):
        found = [self.create("ENGINECFG") for _ in range(room)]
        return found[:self.get(heuristics, "ENGINEHEUR_RESULTS", "BACKEND_DESCRIPTOR", room, found)]

    def plan(self, config, **options):
        return self.made("EXECUTION_PLAN", "EXECUTION_PLAN", ENGINE_CONFIG=("BACKEND_DESCRIPTOR", config),
                         DEVICEPROP=("BACKEND_DESCRIPTOR", self.device()), **options)

    def pack(self, uids=(1, 2, 3), pointers=(16, 32, 48), **options):
        return self.made("VARIANT_PACK", "VARIANT_PACK", UNIQUE_IDS=("INT64", uids), DATA_POINTERS=("VOID_PTR", pointers),
                         WORKSPACE=("VOID_PTR", 0), **options)

    def plans(self, *operations):
        """Whether any proposal of mode A has a plan."""
        graph = self.graph(*operations)
        if self.log[-1][1]:
            return
        before = list(self.log)
        configs = self.configs(self.heuristics(graph), 64)
        found = False
        for config in configs:
            self.plan(config)
            found |= self.log[-1][1] == 0
        self.log = before
        self.call("plan", 0 if found else NAMES["STATUS_NOT_SUPPORTED"])
