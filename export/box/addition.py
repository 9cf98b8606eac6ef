"""The part box/: the two graphs of a bundle's network, verified against it before they are kept."""

import json

import onnx

from sdedit.errors import BundleError
from sdedit.runtime.bundle import Bundle, read_bundle, write_manifest
from sdedit.runtime.bundle.box import BOX, BOX_PASS, FOLDER, WHOLE_PASS, BoxPart, Kept
from sdedit.runtime.bundle.records import to_json
from sdedit.runtime.checks.parity import TOLERANCES

from ..additions import Addition
from .errors import measure
from .passes import box_pass, whole_pass
from .sites import Sites, attribute, find_sites


def box_addition() -> Addition:
    """The part. Raises BundleError, when it is written, for a network that a box cannot be computed of."""
    return Addition(FOLDER, write_box)


def write_box(bundle: Bundle) -> str:
    """Write the graphs of the bundle that is being written into its folder, and measure them; a line about them."""
    network = read_flat_network(bundle)
    sites = find_sites(network, bundle.image.multiple_of)
    folder = bundle.path / FOLDER
    onnx.save(whole_pass(network, sites), folder / WHOLE_PASS)
    onnx.save(box_pass(network, sites), folder / BOX_PASS)
    kept = kept_values(network, sites)
    unit = max(bundle.image.multiple_of, *(value.scale for value in kept.values()))
    write_record(bundle, BoxPart(unit, kept, {}))
    errors = measure(read_bundle(bundle.path))
    tolerance = TOLERANCES["float32"]
    if not max(errors.values()) <= tolerance:  # NaN too
        raise BundleError(f"box: the graphs differ from the network: {errors}, more than {tolerance:g}")
    write_record(bundle, BoxPart(unit, kept, errors))
    measured = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    return f"boxes of multiples of {unit} pixels, relative errors: {measured}"


def read_flat_network(bundle: Bundle) -> onnx.ModelProto:
    """The network, verified. Raises BundleError if it cannot have boxes."""
    if not bundle.image.free:
        raise BundleError(f"box: {bundle.name} has a network of one size: export it without --fixed")
    if bundle.manifest.latent is not None:
        raise BundleError(f"box: {bundle.name} has a latent network, of which no box is computed")
    if bundle.classes:
        raise BundleError(f"box: {bundle.name} has a network with classes, of which no box is computed")
    network = bundle.read_network()
    if network.places:
        raise BundleError(f"box: {bundle.name} has weights outside the ONNX file, of which no box is computed")
    return onnx.load_from_string(network.data)


def kept_values(network: onnx.ModelProto, sites: Sites) -> dict[str, Kept]:
    """The values that the whole pass leaves, by name."""
    kept = {}
    for index, site in enumerate(sites.halos):
        stride = attribute(network.graph.node[site.node], "strides", (1, 1))[0]
        kept[f"halo.{index}"] = Kept("box", site.channels, site.scale * stride)
    kept |= {f"norm.{index}": Kept("norm", site.channels, site.scale) for index, site in enumerate(sites.norms)}
    kept |= {f"mean.{index}": Kept("mean", site.channels, site.scale) for index, site in enumerate(sites.means)}
    kept |= {f"keys.{index}": Kept("picture", site.channels, site.scale) for index, site in enumerate(sites.keys)}
    return kept


def write_record(bundle: Bundle, part: BoxPart) -> None:
    """Write box.json, and the bundle's manifest anew."""
    text = json.dumps(to_json(part), sort_keys=True, indent=2, allow_nan=False) + "\n"
    (bundle.path / FOLDER / BOX).write_text(text, encoding="utf-8", newline="\n")
    known = {name: entry for name, entry in bundle.manifest.files.items() if name.split("/")[0] != FOLDER}
    write_manifest(bundle.path, bundle.manifest, known)
