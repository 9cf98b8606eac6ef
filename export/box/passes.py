"""The two graphs: `whole_pass` evaluates a picture and gives what a box needs, `box_pass` evaluates a box from that.

After SIGE (Li et al., Efficient Spatially Sparse Inference for Conditional GANs and Diffusion Models, 2022), for one
rectangle. What the box pass takes from the whole pass, at each of a network's sites:

    halo.i   [1, C, h, w]  what the cells around the box add to a convolution's output in the box
    norm.i   [3, G, 1]     a group's mean c, and of the cells outside the box the sums of x - c and (x - c)^2 over N,
                           the group's elements in the whole picture
    mean.i   [1, C]        a mean over the picture, less the box's part of it
    keys.i   [1, C, H, W]  attention's keys or values, zero in the box

With the same picture in both passes the box pass gives the whole pass's output in the box, but for rounding.
"""

import numpy as np
import onnx
from onnx import TensorProto

from .sites import Reading, Site, Sites, attribute
from .writer import Writer, copied

EPSILON = 1e-5
"""InstanceNormalization's where it says none."""


def whole_pass(model: onnx.ModelProto, sites: Sites) -> onnx.ModelProto:
    """x, time and the box -> out and all caches.

    The box is pos and size, int64 [2] in pixels, and share, float32 [1]: its part of the picture's area.
    """
    w = Writer(copied(model))
    w.input("pos", TensorProto.INT64, [2])
    w.input("size", TensorProto.INT64, [2])
    w.input("share", TensorProto.FLOAT, [1])
    for node in model.graph.node:
        w.keep(node)
    for index, site in enumerate(sites.halos):
        _give_halo(w, model.graph.node[site.node], site, f"halo.{index}")
    for index, site in enumerate(sites.norms):
        _give_norm(w, model.graph.node[site.node], site, f"norm.{index}")
    for index, site in enumerate(sites.means):
        _give_mean(w, model.graph.node[site.node], site, f"mean.{index}")
    for index, site in enumerate(sites.keys):
        box = w.box_of(site.value, site.scale)
        w.add("Sub", site.value, w.placed(box, site.value, site.scale), out=f"keys.{index}")
        w.output(f"keys.{index}", 4)
    return w.finish()


def box_pass(model: onnx.ModelProto, sites: Sites) -> onnx.ModelProto:
    """x (the box alone), time, pos, share and all caches -> out in the box."""
    reading = Reading(model)
    w = Writer(copied(model))
    w.input("pos", TensorProto.INT64, [2])
    w.input("share", TensorProto.FLOAT, [1])
    halos = {site.node: (f"halo.{index}", site) for index, site in enumerate(sites.halos)}
    norms = {site.node: (f"norm.{index}", site) for index, site in enumerate(sites.norms)}
    means = {site.node: (f"mean.{index}", site) for index, site in enumerate(sites.means)}
    keys = {site.node: (f"keys.{index}", site) for index, site in enumerate(sites.keys)}
    widened = {site.value: site for site in sites.keys}
    for index, node in enumerate(reading.nodes):
        if index in norms:
            _take_norm(w, node, *norms[index])
        elif index in means:
            name, site = means[index]
            w.input(name, TensorProto.FLOAT, [1, site.channels, *[1, 1] * keeps_axes(node)])
            w.add("Add", w.add("Mul", _renamed(w, node), "share"), name, out=node.output[0])
        elif index in halos:
            name, site = halos[index]
            w.input(name, TensorProto.FLOAT, [1, site.channels, f"{name}.h", f"{name}.w"])
            w.add("Add", _renamed(w, node), name, out=node.output[0])
        elif index in keys:
            name, site = keys[index]
            w.input(name, TensorProto.FLOAT, [1, site.channels, f"{name}.h", f"{name}.w"])
            w.add("Add", w.placed(_renamed(w, node), name, site.scale), name, out=node.output[0])
        elif node.op_type == "Reshape" and node.input[0] in widened:  # its own shape counts the box's cells
            shape = w.constant([0, widened[node.input[0]].channels, -1])
            w.add("Reshape", node.input[0], shape, out=node.output[0])
        else:
            w.keep(node)
    return w.finish()


def _give_halo(w: Writer, conv: onnx.NodeProto, site: Site, name: str) -> None:
    """The convolution of the cells around the box alone, with zeros in it."""
    top, left, bottom, right = attribute(conv, "pads", (0, 0, 0, 0))
    pads = w.constant([0, 0, top, left, 0, 0, bottom, right])
    more = w.constant([top + bottom, left + right])
    length = w.add("Add", w.cells("size", site.scale), more)
    frame = w.cut(w.padded(site.value, pads), w.cells("pos", site.scale), length)
    ring = w.add("Sub", frame, w.add("Pad", w.box_of(site.value, site.scale), pads))
    node = copied_node(conv)
    kept = [a for a in node.attribute if a.name not in ("pads", "auto_pad")]
    del node.attribute[:], node.input[:], node.output[:]
    node.attribute.extend(kept)
    node.input.extend([ring, conv.input[1]])
    node.output.append(name)
    node.name = f"box.{name}"
    w.keep(node)
    w.output(name, 4)


def _give_norm(w: Writer, norm: onnx.NodeProto, site: Site, name: str) -> None:
    """Means about c of the whole picture less the box's share of them; those of x - c are 0 by the choice of c."""
    axes = w.constant([2])
    groups = norm.input[0]
    center = w.add("ReduceMean", groups, axes)
    variance = _mean_square(w, w.add("Sub", groups, center))
    box = w.add("Reshape", w.box_of(site.value, site.scale), w.constant([0, site.channels, -1]))
    distance = w.add("Sub", box, center)
    first = w.add("Neg", w.add("Mul", w.add("ReduceMean", distance, axes), "share"))
    second = w.add("Sub", variance, w.add("Mul", _mean_square(w, distance), "share"))
    w.add("Concat", center, first, second, axis=0, out=name)
    w.output(name, 3)


def _give_mean(w: Writer, mean: onnx.NodeProto, site: Site, name: str) -> None:
    """The picture's mean less the box's mean times its share of the picture."""
    box = copied_node(mean)
    box.input[0] = w.box_of(site.value, site.scale)
    box.output[0] = f"{name}.box"
    box.name = f"box.{name}.box"
    w.keep(box)
    w.add("Sub", mean.output[0], w.add("Mul", box.output[0], "share"), out=name)
    w.output(name, 4 if keeps_axes(mean) else 2)


def keeps_axes(mean: onnx.NodeProto) -> bool:
    """Whether a ReduceMean leaves its axes, with length 1."""
    return bool(next((a.i for a in mean.attribute if a.name == "keepdims"), 1))


def _take_norm(w: Writer, norm: onnx.NodeProto, name: str, site: Site) -> None:
    """The norm by mean and variance of the box and of what lies outside it together."""
    w.input(name, TensorProto.FLOAT, [3, site.channels, 1])
    zero, one, two, three = (w.constant([i]) for i in range(4))
    center, first, second = (w.add("Slice", name, a, b, zero) for a, b in ((zero, one), (one, two), (two, three)))
    distance = w.add("Sub", norm.input[0], center)
    mean = w.add("Add", first, w.add("Mul", w.add("ReduceMean", distance, two), "share"))
    square = w.add("Add", second, w.add("Mul", _mean_square(w, distance), "share"))
    epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), EPSILON)
    variance = w.add("Add", w.add("Sub", square, w.add("Mul", mean, mean)), w.constant(np.array([epsilon], np.float32)))
    w.add("Div", w.add("Sub", distance, mean), w.add("Sqrt", variance), out=norm.output[0])


def _mean_square(w: Writer, values: str) -> str:
    return w.add("ReduceMean", w.add("Mul", values, values), w.constant([2]))


def _renamed(w: Writer, node: onnx.NodeProto) -> str:
    """Take the node over with another output, which it returns: the old name is given to something else."""
    copy = copied_node(node)
    copy.output[0] = f"{node.output[0]}.inner"
    w.keep(copy)
    return copy.output[0]


def copied_node(node: onnx.NodeProto) -> onnx.NodeProto:
    return onnx.NodeProto.FromString(node.SerializeToString())
