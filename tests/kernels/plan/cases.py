"""Uses of the backend API, right and wrong: each is a function of a Session. `contract.py` runs them on both libraries."""

from ctypes import c_int64, c_void_p
from functools import partial

from header import NAMES
from session import PASSES, Session

# Why the stand-in refuses what cuDNN accepts. The header says the same as the stand-in, unless the reason says otherwise.
STRICTER = {
    "tensor without UNIQUE_ID": "the header calls the attribute required",
    "tensor without DATA_TYPE": "the header calls the attribute required",
    "tensor of size 0": "the header wants positive sizes",
    "tensor with stride 0": "the header wants positive strides",
    "tensor of 9 dimensions": "the header has at most CUDNN_MAX_DIMS, 8",
    "convolution without COMP_TYPE": "the header calls the attribute required",
    "convolution without CONV_MODE": "the header calls the attribute required",
    "convolution without PRE_PADDINGS": "the header calls the attribute required",
    "convolution without POST_PADDINGS": "the header calls the attribute required",
    **{f"{name} without {scale}": "the header calls the attribute required" for name in PASSES for scale in ["ALPHA", "BETA"]},
    "one identifier for two tensors": "identifiers identify, by the header",
    "knob choice without type": "the header calls the attribute required",
    "knob choice without value": "the header calls the attribute required",
    "heuristics without mode": "the header calls the attribute required",
    "heuristics without device": "there is nothing that they could be for",
    "heuristics of mode 77": "there is none",
    "plan without device": "the header calls the handle required",
    "pack without anything": "the header calls the attributes required",
    "pack without workspace": "the header calls the attribute required",
    "pack with an identifier twice": "one of the pointers would be ignored",
    "virtual output": "nothing could read it",
    "null child": "it is refused when it is set, not when the parent is finalized",
    "layout info is finalized": "the header says that callers cannot",
    **{f"statistics without {name}": "the header calls the attribute required"
       for name in ["MODE", "MATH_PREC", "XDESC", "SUMDESC", "SQSUMDESC"]},
    "statistics of 31 channels": "the header wants the channels of the input",
    "statistics of images": "the header wants the channels of the input",
    "statistics of mode 4": "there is none",
    "ADD without PW_DESCRIPTOR": "the header calls the attribute required",
    "ADD of 15 channels": "the header wants a size that is equal, or 1",
    "RELU_FWD of two": "the header wants one input",
    "pointwise without mode": "the header calls the attribute required",
    "channels are not last": "the stand-in has one layout",
    "flipped filter": "the stand-in has none",
    "groups": "the stand-in has none",
    "dilation": "the stand-in has none",
    "sums in half": "the stand-in has sums in f32",
}


def tensors(case):
    for name in ["UNIQUE_ID", "DATA_TYPE", "BYTE_ALIGNMENT", "DIMENSIONS", "STRIDES"]:
        case[f"tensor without {name}"] = partial(Session.tensor, without=[name])
    case["tensor"] = Session.tensor
    case["tensor of f64"] = partial(Session.tensor, number="DOUBLE")
    case["tensor of INT8x4"] = partial(Session.tensor, number="INT8x4")
    case["tensor of an unknown type"] = partial(Session.tensor, number=77)
    case["tensor of size 0"] = partial(Session.tensor, dims=(0, 16, 8, 8))
    case["tensor of size -1"] = partial(Session.tensor, dims=(-1, 16, 8, 8))
    case["tensor with stride 0"] = partial(Session.tensor, strides=[0, 1, 8, 8])
    case["tensor with stride -5"] = partial(Session.tensor, strides=[-5, 1, 8, 8])
    case["tensor with 3 strides"] = partial(Session.tensor, strides=[1, 1, 1])
    for alignment in [-16, 0, 1, 2, 3, 24]:
        case[f"tensor aligned to {alignment}"] = partial(Session.tensor, alignment=alignment)

    def dimensions(count, session):
        session.set(session.create("TENSOR"), "TENSOR_DIMENSIONS", "INT64", [1] * count)

    for count in [0, 8, 9]:
        case[f"tensor of {count} dimensions"] = partial(dimensions, count)


def values(case):
    def misuse(*arguments, **options):
        return lambda session: session.set(session.create("TENSOR"), *arguments, **options)

    case["wrong type"] = misuse("TENSOR_UNIQUE_ID", "FLOAT", 1.0)
    case["enumeration as INT64"] = misuse("TENSOR_DATA_TYPE", "INT64", 9)
    case["boolean as INT64"] = misuse("TENSOR_IS_VIRTUAL", "INT64", 1)
    case["two of one"] = misuse("TENSOR_UNIQUE_ID", "INT64", [1, 2])
    case["none of one"] = misuse("TENSOR_UNIQUE_ID", "INT64", 1, count=0)
    case["a negative count"] = misuse("TENSOR_DIMENSIONS", "INT64", 1, count=-1)
    case["attribute of another descriptor"] = misuse("CONVOLUTION_SPATIAL_DIMS", "INT64", 2)
    case["unknown descriptor"] = lambda session: session.create(99)
    case["null descriptor"] = lambda session: session.finalize(None, "nothing")

    def null_values(session):
        session.call("set", session.library.cudnnBackendSetAttribute(
            c_void_p(session.create("TENSOR")), NAMES["ATTR_TENSOR_UNIQUE_ID"], NAMES["TYPE_INT64"], c_int64(1), None))

    case["null values"] = null_values

    def after(session):
        made = session.tensor()
        session.set(made, "TENSOR_UNIQUE_ID", "INT64", 2)
        session.finalize(made, "again")

    def reads(session):
        made = session.tensor()
        for room in [0, 2, 4, 8]:
            session.call(f"count {session.get(made, 'TENSOR_DIMENSIONS', 'INT64', room)}", 0)
        session.call(f"all {session.get(made, 'TENSOR_DIMENSIONS', 'INT64', 0, null=True)}", 0)
        session.get(made, "TENSOR_DIMENSIONS", "FLOAT", 4)
        session.get(made, "CONVOLUTION_DILATIONS", "INT64", 4)
        session.get(session.tensor(finalize=False), "TENSOR_DIMENSIONS", "INT64", 4)

    case["finalized twice"] = after
    case["reads"] = reads


def convolutions(case):
    for name in ["COMP_TYPE", "CONV_MODE", "SPATIAL_DIMS", "DILATIONS", "FILTER_STRIDES", "PRE_PADDINGS", "POST_PADDINGS"]:
        case[f"convolution without {name}"] = partial(Session.convolution, without=[name])
    geometries = {
        "one dilation": {"dilation": [1]}, "three dilations": {"dilation": [1, 1, 1]}, "dilation 0": {"dilation": [0, 1]},
        "stride 0": {"stride": [0, 1]}, "stride -1": {"stride": [-1, 1]}, "padding -1": {"before": [-1, 1]},
        "0 dimensions": {"spatial": 0}, "3 dimensions": {"spatial": 3}, "sums in bf16": {"sums": "BFLOAT16"},
    }
    for name, changes in geometries.items():
        case[f"convolution: {name}"] = partial(Session.convolution, **changes)
    for direction, (_, names) in PASSES.items():
        case[direction] = partial(Session.convolve, direction=direction)
        for name in ["CONV_DESC", "ALPHA", "BETA", *names.split()]:
            case[f"{direction} without {name}"] = partial(Session.convolve, direction=direction, without=[name])
    wrong = {
        "y is too narrow": {"y": {"dims": (4, 32, 8, 7)}}, "y has 31 channels": {"y": {"dims": (4, 31, 8, 8)}},
        "y has 3 images": {"y": {"dims": (3, 32, 8, 8)}}, "w has 15 channels": {"w": {"dims": (32, 15, 3, 3)}},
        "w has 32 channels": {"w": {"dims": (32, 32, 3, 3)}}, "too much padding": {"geometry": {"before": (20, 20)}},
        "one spatial dimension": {"geometry": {"spatial": 1, "dilation": [1], "stride": [1], "before": [1], "after": [1]}},
        "scales are f64": {"scale": "DOUBLE"}, "scales are INT64": {"scale": "INT64"},
        "x is not finalized": {"x": {"finalize": False}}, "the geometry is not finalized": {"geometry": {"finalize": False}},
    }
    for name, changes in wrong.items():
        if name == "scales are INT64":
            case[name] = lambda session: session.set(
                session.create("OPERATION_CONVOLUTION_FORWARD"), "OPERATION_CONVOLUTION_FORWARD_ALPHA", "INT64", 1)
            continue
        case[name] = partial(Session.convolve, **changes)

    def too_late(session):
        x = session.tensor(finalize=False)
        made = session.made("OPERATION_CONVOLUTION_FORWARD", "OPERATION_CONVOLUTION_FORWARD", finalize=False,
                            X=("BACKEND_DESCRIPTOR", x))
        session.finalize(x, "x")
        session.finalize(made, "the operation")

    case["x is finalized after it was set"] = too_late
    case["null child"] = lambda session: session.set(
        session.create("OPERATION_CONVOLUTION_FORWARD"), "OPERATION_CONVOLUTION_FORWARD_X", "BACKEND_DESCRIPTOR", 0)


def planning(case):
    for direction in PASSES:
        for number in ["FLOAT", "HALF", "BFLOAT16"]:
            case[f"plan {direction} {number}"] = lambda session, direction=direction, number=number: session.plans(
                session.convolve(direction, number=number))
    planned = {
        "channels are not last": {"x": {"strides": [1024, 64, 8, 1]}},
        "flipped filter": {"geometry": {"mode": "CONVOLUTION"}},
        "groups": {"w": {"dims": (32, 8, 3, 3)}},
        "dilation": {"geometry": {"dilation": (2, 2)}, "y": {"dims": (4, 32, 6, 6)}},
        "padding on one side": {"geometry": {"after": (0, 0)}, "y": {"dims": (4, 32, 7, 7)}},
        "three channels": {"x": {"dims": (4, 3, 8, 8)}, "w": {"dims": (32, 3, 3, 3)}},
        "sums in bf16 of bf16": {"geometry": {"sums": "BFLOAT16"}},
        "sums in half": {"geometry": {"sums": "HALF"}, "number": "HALF"},
        "x is f16, w and y are bf16": {"x": {"number": "HALF"}},
        "y is f32, x and w are bf16": {"y": {"number": "FLOAT"}},
        "tensors aligned to 2": {name: {"alignment": 2} for name in "xwy"},
        "virtual output": {"y": {"virtual": True}},
    }
    for name, changes in planned.items():
        case[name] = lambda session, changes=changes: session.plans(session.convolve(**changes))

    def same_identifier(session):
        tensors = [session.tensor(1), session.tensor(1, (32, 16, 3, 3)), session.tensor(3, (4, 32, 8, 8))]
        session.graph(session.convolve(tensors=tensors))

    def operation_destroyed(session):
        made = session.convolve()
        graph = session.made("OPERATIONGRAPH", "OPERATIONGRAPH", finalize=False, OPS=("BACKEND_DESCRIPTOR", [made]))
        session.library.cudnnBackendDestroyDescriptor(c_void_p(made))
        session.finalize(graph, "the graph")

    case["one identifier for two tensors"] = same_identifier
    case["operation destroyed after it was set"] = operation_destroyed
    case["graph without operations"] = lambda session: session.graph()
    case["operation is not finalized"] = lambda session: session.graph(session.convolve(finalize=False))


def engines(case):
    def engine(index, session):
        session.engine(session.graph(session.convolve()), index)

    for index in [-1, 0, 1000]:
        case[f"engine {index}"] = partial(engine, index)
    case["engine without graph"] = lambda session: session.engine(None, without=["OPERATION_GRAPH"])
    case["engine without index"] = lambda session: session.engine(
        session.graph(session.convolve()), without=["GLOBAL_INDEX"])
    case["engine without device"] = lambda session: session.engine(
        session.graph(session.convolve()), without=["DEVICEPROP"])

    def of_graph(use):
        return lambda session: use(session, session.graph(session.convolve()))

    case["heuristics without graph"] = lambda session: session.heuristics(None, without=["OPERATION_GRAPH"])
    case["heuristics without mode"] = of_graph(lambda session, graph: session.heuristics(graph, without=["MODE"]))
    case["heuristics without device"] = of_graph(
        lambda session, graph: session.heuristics(graph, without=["DEVICEPROP"]))
    case["heuristics of mode 77"] = of_graph(lambda session, graph: session.heuristics(graph, 77))
    for mode in ["A", "B", "INSTANT", "FALLBACK"]:
        case[f"heuristics of mode {mode}"] = of_graph(
            lambda session, graph, mode=mode: session.configs(session.heuristics(graph, mode), 1))
    case["results are set"] = of_graph(lambda session, graph: session.set(
        session.create("ENGINEHEUR"), "ENGINEHEUR_RESULTS", "BACKEND_DESCRIPTOR", graph))

    def results(kind, session):
        heuristics = session.heuristics(session.graph(session.convolve()))
        count = session.get(heuristics, "ENGINEHEUR_RESULTS", "BACKEND_DESCRIPTOR", 1, [session.create(kind)])
        session.call(f"{count} results", 0)

    case["results of the wrong kind"] = partial(results, "ENGINE")

    def config(session):
        return session.configs(session.heuristics(session.graph(session.convolve()), "FALLBACK"), 1)[0]

    def refilled(session):
        made = config(session)
        session.finalize(made, "a filled configuration")
        session.get(made, "ENGINECFG_INTERMEDIATE_INFO", "BACKEND_DESCRIPTOR", 1, [session.create("ENGINE")])
        engine = session.create("ENGINE")
        session.get(made, "ENGINECFG_ENGINE", "BACKEND_DESCRIPTOR", 1, [engine])
        for name, type_ in {"GLOBAL_INDEX": "INT64", "NUMERICAL_NOTE": "NUMERICAL_NOTE", "BEHAVIOR_NOTE": "BEHAVIOR_NOTE"}.items():
            session.get(engine, f"ENGINE_{name}", type_, 16)
        session.get(made, "ENGINECFG_WORKSPACE_SIZE", "INT64")

    def choice(type_, value, session):
        knob = session.made("KNOB_CHOICE", "KNOB_CHOICE", KNOB_TYPE=("KNOB_TYPE", type_), KNOB_VALUE=("INT64", value))
        made = config(session)
        engine = session.create("ENGINE")
        session.get(made, "ENGINECFG_ENGINE", "BACKEND_DESCRIPTOR", 1, [engine])
        session.made("ENGINECFG", "ENGINECFG", ENGINE=("BACKEND_DESCRIPTOR", engine),
                     KNOB_CHOICES=("BACKEND_DESCRIPTOR", knob))

    case["a configuration of the heuristics"] = refilled
    case["configuration without engine"] = lambda session: session.finalize(session.create("ENGINECFG"), "a configuration")
    case["knob 36"] = partial(choice, 36, 0)
    case["knob 2 of 99"] = partial(choice, 2, 99)
    for name, without in {"type": "KNOB_TYPE", "value": "KNOB_VALUE"}.items():
        case[f"knob choice without {name}"] = lambda session, without=without: session.made(
            "KNOB_CHOICE", "KNOB_CHOICE", without=[without], KNOB_TYPE=("KNOB_TYPE", 2), KNOB_VALUE=("INT64", 1))
    case["knob info is finalized"] = lambda session: session.finalize(session.create("KNOB_INFO"), "a knob info")
    case["layout info is finalized"] = lambda session: session.finalize(session.create("LAYOUT_INFO"), "a layout info")


def plans(case):
    def config(session):
        return session.configs(session.heuristics(session.graph(session.convolve()), "FALLBACK"), 1)[0]

    def plan(session):
        made = session.plan(config(session))
        session.get(made, "EXECUTION_PLAN_WORKSPACE_SIZE", "INT64")
        session.get(made, "EXECUTION_PLAN_COMPUTED_INTERMEDIATE_UIDS", "INT64")
        session.set(session.create("EXECUTION_PLAN"), "EXECUTION_PLAN_WORKSPACE_SIZE", "INT64", 5)
        session.call("execute", session.library.cudnnBackendExecute(None, c_void_p(made), c_void_p(session.pack())))

    case["a plan"] = plan
    case["plan without device"] = lambda session: session.plan(config(session), without=["DEVICEPROP"])
    case["plan without configuration"] = lambda session: session.plan(None, without=["ENGINE_CONFIG"])
    case["plan of an unfinalized configuration"] = lambda session: session.plan(session.create("ENGINECFG"))
    case["pack"] = Session.pack
    case["pack without anything"] = partial(Session.pack, without=["UNIQUE_IDS", "DATA_POINTERS", "WORKSPACE"])
    case["pack without pointers"] = partial(Session.pack, without=["DATA_POINTERS"])
    case["pack with a pointer too few"] = partial(Session.pack, pointers=(16, 32))
    case["pack without workspace"] = partial(Session.pack, without=["WORKSPACE"])
    case["pack with an identifier twice"] = partial(Session.pack, uids=(1, 1, 3))
    case["pack with pointers as INT64"] = lambda session: session.set(
        session.create("VARIANT_PACK"), "VARIANT_PACK_DATA_POINTERS", "INT64", [16])


def fusions(case):
    def planned(session, **options):
        session.plans(*session.fused(**options))

    of = {
        "statistics": {}, "statistics first": {"reverse": True}, "statistics of f32": {"number": "FLOAT"},
        "statistics of a virtual tensor": {"virtual": True},
        "ConvBNfprop": {"scaled": "sbr"}, "ConvBNfprop, f32 between": {"scaled": "sbr", "between": "FLOAT"},
        "ConvBNfprop, f32 scale": {"scaled": "sbr", "affine": "FLOAT"},
        "ConvBNfprop of bf16": {"scaled": "sbr", **{name: "BFLOAT16" for name in ["number", "between", "affine"]}},
        "ConvBNfprop without statistics": {"scaled": "sbr", "statistics": False},
        "ConvBNfprop without scale": {"scaled": "br"}, "ConvBNfprop without ReLU": {"scaled": "sb"},
        "ConvBNwgrad": {"direction": "BWD_FILTER", "scaled": "sbr", "statistics": False},
        "ConvBNwgrad, f32 scale": {"direction": "BWD_FILTER", "scaled": "sbr", "statistics": False, "affine": "FLOAT"},
        "ConvBNwgrad without scale": {"direction": "BWD_FILTER", "scaled": "r", "statistics": False},
        "scaled gradient of data": {"direction": "BWD_DATA", "scaled": "sbr", "statistics": False},
    }
    for name, options in of.items():
        case[f"plan {name}"] = partial(planned, **options)
    of = {
        "": {}, ", f16 between": {"between": "HALF"}, ", f16 for each channel": {"given": "HALF"}, " of bf16": {"number": "BFLOAT16"},
        ", with the mean added": {"center": "ADD"},
    }
    for name, options in of.items():
        case[f"plan DgradDreluBNBwdWeight{name}"] = lambda session, options=options: session.plans(*session.masked(**options))
    case["statistics alone"] = lambda session: session.plans(session.statistics())
    for name in ["MODE", "MATH_PREC", "XDESC", "SUMDESC", "SQSUMDESC"]:
        case[f"statistics without {name}"] = partial(Session.statistics, without=[name])
    case["statistics of 31 channels"] = partial(Session.statistics, dims=(1, 31, 1, 1))
    case["statistics of images"] = partial(Session.statistics, dims=(4, 32, 1, 1))
    case["statistics of mode 4"] = partial(Session.statistics, mode=4)

    def add(session, without=(), dims=(4, 16, 8, 8)):
        session.pointwise("ADD", session.tensor(1), session.tensor(2), session.tensor(3, dims), without=without)

    def backward(session, without=()):
        session.pointwise("RELU_BWD", session.tensor(1), session.tensor(2), session.tensor(3), without=without)

    for name in ["PW_DESCRIPTOR", "XDESC", "BDESC", "YDESC"]:
        case[f"ADD without {name}"] = partial(add, without=[name])
    for name in ["XDESC", "DYDESC", "DXDESC"]:
        case[f"RELU_BWD without {name}"] = partial(backward, without=[name])
    case["ADD"], case["RELU_BWD"] = add, backward
    case["ADD of a value for each channel"] = partial(add, dims=(1, 16, 1, 1))
    case["ADD of 15 channels"] = partial(add, dims=(4, 15, 8, 8))
    case["RELU_FWD"] = lambda session: session.pointwise("RELU_FWD", session.tensor(1), session.tensor(2))
    case["RELU_FWD of two"] = lambda session: session.pointwise(
        "RELU_FWD", session.tensor(1), session.tensor(2), session.tensor(3))
    case["pointwise without mode"] = lambda session: session.made("POINTWISE", "POINTWISE")


CASES = {}
for add in [tensors, values, convolutions, planning, engines, plans, fusions]:
    add(CASES)
