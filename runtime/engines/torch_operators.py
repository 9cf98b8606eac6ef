"""ONNX operators as torch calls, by the operators' definitions (https://onnx.ai/onnx/operators). torch is passed in.

Each function takes (torch, attributes, *inputs) and returns the output, or a tuple of them. An input that is left out
is None. Shapes are host tensors, so nothing waits for the GPU. An input of NUMBERS may be a list instead.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

Operator = Callable[..., Any]
Attributes = Mapping[str, Any]

TYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}
"""torch's types by ONNX's numbers."""


NUMBERS: Mapping[str, tuple[int, ...]] = {
    "Expand": (1,),
    "Pad": (1, 2),
    "ReduceMean": (1,),
    "Reshape": (1,),
    "Resize": (2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
}
"""Inputs that are read as numbers on the host."""


def listed(value: Any) -> Any:
    """The numbers of an input of NUMBERS: a list, or one number."""
    return value.tolist() if hasattr(value, "tolist") else value


def elementwise(name: str) -> Operator:
    return lambda torch, attributes, *inputs: getattr(torch, name)(*inputs)


def folded(function: Callable[[Any, Any], Any]) -> Operator:
    """An operator of any number of inputs."""

    def fold(torch: Any, attributes: Attributes, first: Any, *others: Any) -> Any:
        for other in others:
            first = function(first, other)
        return first

    return fold


def divide(torch: Any, attributes: Attributes, a: Any, b: Any) -> Any:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def cast(torch: Any, attributes: Attributes, x: Any) -> Any:
    return x.to(getattr(torch, TYPES[attributes["to"]]))


def convolution(torch: Any, attributes: Attributes, x: Any, weight: Any, bias: Any = None) -> Any:
    if x.dim() != 4:
        raise ValueError(f"a Conv of {x.dim() - 2} dimensions")
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    if (top, left) != (bottom, right):
        x, top, left = torch.nn.functional.pad(x, (left, right, top, bottom)), 0, 0
    bias = None if bias is None else bias.to(x.dtype)
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    group = attributes.get("group", 1)
    return torch.nn.functional.conv2d(x, weight, bias, strides, (top, left), dilations, group)


def gemm(torch: Any, attributes: Attributes, a: Any, b: Any, c: Any = None) -> Any:
    a = a.T if attributes.get("transA", 0) else a
    b = b.T if attributes.get("transB", 0) else b
    product = a @ b
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    product = product if alpha == 1 else alpha * product
    return product if c is None else product + (c if beta == 1 else beta * c).to(product.dtype)


def instance_normalization(torch: Any, attributes: Attributes, x: Any, scale: Any, bias: Any) -> Any:
    epsilon = attributes.get("epsilon", 1e-5)
    result = torch.nn.functional.instance_norm(x.float(), weight=scale, bias=bias, eps=epsilon)
    return result.to(x.dtype)


def softmax(torch: Any, attributes: Attributes, x: Any) -> Any:
    return torch.softmax(x.float(), attributes.get("axis", -1)).to(x.dtype)


def shape(torch: Any, attributes: Attributes, x: Any) -> Any:
    return torch.tensor(list(x.shape)[attributes.get("start", 0) : attributes.get("end")])


def reshape(torch: Any, attributes: Attributes, x: Any, sizes: Any) -> Any:
    wanted = listed(sizes)
    if not attributes.get("allowzero", 0):
        wanted = [x.shape[at] if size == 0 else size for at, size in enumerate(wanted)]
    return x.reshape(wanted)


def transpose(torch: Any, attributes: Attributes, x: Any) -> Any:
    return x.permute(attributes.get("perm", list(range(x.dim()))[::-1]))


def concat(torch: Any, attributes: Attributes, *inputs: Any) -> Any:
    return torch.cat(inputs, attributes["axis"])


def unsqueeze(torch: Any, attributes: Attributes, x: Any, axes: Any) -> Any:
    places = listed(axes)
    rank = x.dim() + len(places)
    for axis in sorted(axis % rank for axis in places):
        x = x.unsqueeze(axis)
    return x


def squeeze(torch: Any, attributes: Attributes, x: Any, axes: Any = None) -> Any:
    return x.squeeze() if axes is None else x.squeeze(tuple(listed(axes)))


def gather(torch: Any, attributes: Attributes, table: Any, index: Any) -> Any:
    axis = attributes.get("axis", 0) % table.dim()
    found = table.index_select(axis, index.reshape(-1).to(table.device) % table.shape[axis])
    return found.reshape(*table.shape[:axis], *index.shape, *table.shape[axis + 1 :])


def cut(torch: Any, attributes: Attributes, x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    places = range(len(starts)) if axes is None else listed(axes)
    strides = [1] * len(starts) if steps is None else listed(steps)
    for axis, start, end, step in zip(places, listed(starts), listed(ends), strides, strict=True):
        if step < 1:
            raise ValueError("a Slice that goes backwards")
        x = x[(slice(None),) * (axis % x.dim()) + (slice(start, end, step),)]
    return x


def split(torch: Any, attributes: Attributes, x: Any, sizes: Any = None) -> Any:
    axis = attributes.get("axis", 0)
    if sizes is not None:
        return tuple(x.split(listed(sizes), axis))
    return tuple(x.split(-(-x.shape[axis] // attributes["num_outputs"]), axis))


def resize(
    torch: Any, attributes: Attributes, x: Any, region: Any = None, scales: Any = None, sizes: Any = None
) -> Any:
    """Enlarging by whole numbers, each pixel repeated; other ways are not evaluated here."""
    factors = listed(scales) if sizes is None else [a / b for a, b in zip(listed(sizes), x.shape, strict=True)]
    whole = all(factor == int(factor) >= 1 for factor in factors)
    if attributes.get("mode", "nearest") != "nearest" or factors[:2] != [1, 1] or not whole:
        raise ValueError(f"a Resize of mode {attributes.get('mode')} by {factors}")
    return x.repeat_interleave(int(factors[2]), 2).repeat_interleave(int(factors[3]), 3)


def depth_to_space(torch: Any, attributes: Attributes, x: Any) -> Any:
    side = attributes["blocksize"]
    batch, channels, height, width = x.shape
    if attributes.get("mode", "DCR") == "CRD":
        parts = x.reshape(batch, channels // side**2, side, side, height, width).permute(0, 1, 4, 2, 5, 3)
    else:
        parts = x.reshape(batch, side, side, channels // side**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(batch, channels // side**2, height * side, width * side)


def space_to_depth(torch: Any, attributes: Attributes, x: Any) -> Any:
    side = attributes["blocksize"]
    batch, channels, height, width = x.shape
    parts = x.reshape(batch, channels, height // side, side, width // side, side).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(batch, channels * side**2, height // side, width // side)


def average_pool(torch: Any, attributes: Attributes, x: Any) -> Any:
    if any(attributes.get("pads", [])) or attributes.get("ceil_mode", 0):
        raise ValueError("an AveragePool with pads")
    kernel = attributes["kernel_shape"]
    return torch.nn.functional.avg_pool2d(x, kernel, attributes.get("strides", [1] * len(kernel)))


def reduce_mean(torch: Any, attributes: Attributes, x: Any, axes: Any = None) -> Any:
    dims = list(range(x.dim())) if axes is None else listed(axes)
    return x.mean(dims, keepdim=bool(attributes.get("keepdims", 1)))


def expand(torch: Any, attributes: Attributes, x: Any, sizes: Any) -> Any:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(listed(sizes))))


def pad(torch: Any, attributes: Attributes, x: Any, pads: Any, value: Any = None) -> Any:
    amounts = listed(pads)
    if attributes.get("mode", "constant") != "constant" or len(amounts) != 2 * x.dim():
        raise ValueError(f"a Pad of mode {attributes.get('mode')}")
    pairs = [(amounts[axis], amounts[axis + x.dim()]) for axis in reversed(range(x.dim()))]
    flat = [amount for pair in pairs for amount in pair]
    number = 0.0 if value is None else listed(value)
    return torch.nn.functional.pad(x, flat, value=number[0] if isinstance(number, list) else number)


OPERATORS: Mapping[str, Operator] = {
    "Add": folded(operator.add),
    "AveragePool": average_pool,
    "Cast": cast,
    "Concat": concat,
    "Conv": convolution,
    "Cos": elementwise("cos"),
    "DepthToSpace": depth_to_space,
    "Div": divide,
    "Erf": elementwise("erf"),
    "Exp": elementwise("exp"),
    "Expand": expand,
    "Gather": gather,
    "Gemm": gemm,
    "Identity": lambda torch, attributes, x: x,
    "InstanceNormalization": instance_normalization,
    "Log": elementwise("log"),
    "MatMul": elementwise("matmul"),
    "Mul": folded(operator.mul),
    "Neg": elementwise("neg"),
    "Pad": pad,
    "Pow": elementwise("pow"),
    "Reciprocal": elementwise("reciprocal"),
    "ReduceMean": reduce_mean,
    "Relu": elementwise("relu"),
    "Reshape": reshape,
    "Resize": resize,
    "Shape": shape,
    "Sigmoid": elementwise("sigmoid"),
    "Sin": elementwise("sin"),
    "Slice": cut,
    "Softmax": softmax,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Sqrt": elementwise("sqrt"),
    "Squeeze": squeeze,
    "Sub": folded(operator.sub),
    "Tanh": elementwise("tanh"),
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
"""Operators of the networks that export writes. Those that are not here are refused when the network is loaded."""
