"""Reading a bundle: every file is verified against the manifest before anything uses it.

Small files are verified when the bundle is opened. A large one is read once, just before its engine needs it; the bytes
that were hashed are the bytes that the engine gets.
"""

import dataclasses
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sdedit.errors import BundleError, reason

from ..hub import download_bundle, is_hub_name
from ..option import to_path
from ..schedule import Schedule
from .files import (
    GRAPH_FOLDER,
    MANIFEST,
    SMALL_BYTES,
    FileEntry,
    check_file,
    read_manifest_bytes,
    read_pieces,
    read_verified,
    verify,
)
from .graph import External, check_graph
from .latent import PREVIEW, TEXT
from .manifest import (
    NETWORK,
    REFERENCE,
    SCHEDULE,
    ImageSpec,
    Manifest,
    TensorSpec,
    network_inputs,
    parse_manifest,
    resized,
)
from .weights import Weight, large_weights, without_weights

NPY_HEADER_BYTES = 1 << 16
"""Largest accepted header of an .npy file."""


@dataclass
class Network:
    """A verified network, all in memory. path: for messages. data: the ONNX file.

    places, files: where weights lie outside the ONNX file, and the content of those files by name; networks above
    2 GB have them.
    """

    path: Path
    data: bytes
    places: tuple[External, ...] = ()
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)

    def take_data(self) -> bytes:
        """The ONNX file, of which this object lets go: so a caller can drop it while an engine loads the weights."""
        data, self.data = self.data, b""
        return data

    def addresses(self) -> dict[str, int]:
        """Where each of the files lies in memory, for as long as this object lives."""
        return {name: np.frombuffer(content, np.uint8).ctypes.data for name, content in self.files.items()}


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. sha256: hash of its manifest, which holds the hashes of all other files."""

    path: Path
    sha256: str
    manifest: Manifest
    schedule: Schedule

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def prediction(self) -> str:
        return self.manifest.prediction

    @property
    def classes(self) -> int:
        """Number of labels of the network, 0 .. classes - 1; 0: it takes none."""
        return self.manifest.classes

    @property
    def null_label(self) -> int | None:
        """The label of no class, which guidance needs; it may be `classes`. None if there is none."""
        return self.manifest.null_label

    @property
    def image(self) -> ImageSpec:
        """The sizes that the network takes."""
        return self.manifest.image

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """C, H, W of the network's state at its native size; for pixels that of the picture too."""
        return self.state_shape_at(self.image.height, self.image.width)

    def state_shape_at(self, height: int, width: int) -> tuple[int, int, int]:
        """C, H, W of the state of a picture of that size, whose sides are multiples of image.multiple_of."""
        latent = self.manifest.latent
        if latent is None:
            return self.image.channels, height, width
        return latent.channels, height // latent.factor, width // latent.factor

    @property
    def factor(self) -> int:
        """Height and width of the pixels of one element of the state: 1 for networks of pixels."""
        return 1 if self.manifest.latent is None else self.manifest.latent.factor

    @property
    def guided(self) -> bool:
        """Whether guidance takes an unconditional pass: with a null label, or with text."""
        text = self.manifest.text
        return self.null_label is not None or (text is not None and text.guidance == "free")

    @property
    def inputs(self) -> dict[str, TensorSpec]:
        """The network's inputs by name, at its native size."""
        return self.inputs_at(self.state_shape)

    def inputs_at(self, shape: tuple[int, int, int]) -> dict[str, TensorSpec]:
        """The network's inputs by name, for states of that shape."""
        declared = {name: TensorSpec(np.dtype(i.dtype), i.shape) for name, i in self.manifest.inputs.items()}
        return resized({**network_inputs(shape, self.classes), **declared}, shape)

    @property
    def defaults(self) -> dict[str, Any]:
        """Options of an edit that the model suggests, by name; the rest has the defaults of Settings."""
        clip = self.manifest.clip
        found = self.manifest.suggested.given()
        return found if clip == 1 else {"clip": inf if clip is None else clip, **found}

    @property
    def network(self) -> Path:
        return self.path / NETWORK

    @property
    def reference_levels(self) -> list[int]:
        """The levels k of the reference's outputs."""
        return list(self.manifest.parity.levels)

    def read(self, name: str) -> bytes:
        """The bytes of one of the bundle's files, verified; raises BundleError."""
        return read_verified(self.path, name, self.manifest.files[name])

    def read_network(self, name: str = NETWORK) -> Network:
        """A network of the bundle, verified, with all files that it asks for; raises BundleError."""
        data = self.read(name)
        places = check_network(self.path, name, data, self.manifest)
        files = {file: self.read(file) for file in sorted({place.location for place in places})}
        return Network(self.path / name, data, tuple(places), files)

    def read_network_apart(self, name: str = NETWORK) -> tuple[Network, dict[str, np.ndarray]]:
        """A network whose large weights in other files are inputs, and these in float32 by name, verified.

        No other copy of these weights is ever in memory. Raises BundleError.
        """
        data = self.read(name)
        places = check_network(self.path, name, data, self.manifest)
        try:
            weights = {weight.stored: weight for weight in large_weights(data)}
        except ValueError as error:
            raise BundleError(f"bundle {self.path}: {name}: {reason(error)}") from None
        values: dict[str, np.ndarray] = {}
        small: dict[str, bytes] = {}
        for location in sorted({place.location for place in places}):
            there = [place for place in places if place.location == location]
            values_there, small_there = read_outside(self.path, self.manifest.files[location], there, weights)
            values |= values_there
            small |= small_there
        network = Network(self.path / name, without_weights(data, list(weights.values()), small))
        return network, {weights[name].name: value for name, value in values.items()}

    def reference(self) -> tuple[list[int], np.ndarray]:
        """Levels k [L] and the reference's outputs there, float32 [L, C, H, W].

        The input for output l is sigma_k z with z = normal(seed 0, image l, repeat 0, step 0, begin), and the label
        l mod classes if there are classes; further inputs are as checks/parity.py has them.
        """
        levels = self.reference_levels
        expected = (len(levels), *self.state_shape)
        return levels, read_array(self.path, REFERENCE, self.read(REFERENCE), np.dtype(np.float32), expected)

    def preview(self) -> np.ndarray:
        """The linear map from a latent to RGB in [-1, 1], float32 [C + 1, 3]; the last row is added."""
        expected = (self.state_shape[0] + 1, 3)
        return read_array(self.path, PREVIEW, self.read(PREVIEW), np.dtype(np.float32), expected)


def read_bundle(path: str | os.PathLike[str], *, verify_all: bool = False) -> Bundle:
    """Open a bundle: check revision, schema and sizes, and that no path leaves the folder; verify small files.

    path: a folder, or a name on the Hugging Face Hub, hf:OWNER/NAME, whose files are downloaded if needed.
    verify_all: hash every file now; otherwise a file of more than SMALL_BYTES is hashed when it is read. Raises
    BundleError, on one line, for anything that is wrong, and HubError.
    """
    path = download_bundle(path, MANIFEST) if is_hub_name(path) else to_path("bundle", path, BundleError)
    check_folder(path)
    text = read_manifest_bytes(path)
    manifest = parse_manifest(path, text)
    small: dict[str, bytes] = {}
    for name, entry in manifest.files.items():
        check_file(path, name, entry)
    check_array_sizes(path, manifest)
    for name, entry in manifest.files.items():
        if entry.bytes <= SMALL_BYTES:
            small[name] = read_verified(path, name, entry)
        elif verify_all and not is_network(name):  # read below
            verify(path, name, entry)
    for name in manifest.files:
        if is_network(name) and (name in small or verify_all):
            data = small[name] if name in small else read_verified(path, name, manifest.files[name])
            check_network(path, name, data, manifest)
    schedule = read_schedule(path, small.get(SCHEDULE), manifest)
    return Bundle(path, hashlib.sha256(text).hexdigest(), manifest, schedule)


def check_folder(path: Path) -> None:
    try:
        if not path.exists():
            raise BundleError(f"bundle {path}: no such folder")
        if not path.is_dir():
            raise BundleError(f"bundle {path}: not a folder")
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise BundleError(f"bundle {path} cannot be read: {reason(error)}") from None


def check_network(path: Path, name: str, data: bytes, manifest: Manifest) -> list[External]:
    """Where the weights of an ONNX network lie outside it.

    Raises BundleError for a graph that is not accepted, and for weights in files that are not listed or end too soon.
    """
    null, text = manifest.null_label, manifest.text
    tables = {"label": max(manifest.classes, 0 if null is None else null + 1)}
    if name == TEXT and text is not None:
        tables = text.token_inputs
    try:
        places = check_graph(data, tables)
    except ValueError as error:
        raise BundleError(f"bundle {path}: {name}: {reason(error)}") from None
    for place in places:
        entry = manifest.files.get(place.location)
        if entry is None:
            raise BundleError(f"bundle {path}: {name} asks for {place.location!r}, which {MANIFEST} does not list")
        if place.offset + place.length > entry.bytes:
            raise BundleError(
                f"bundle {path}: {name} asks for the bytes {place.offset}..{place.offset + place.length} of "
                f"{place.location}, which has {entry.bytes}"
            )
    return places


def read_outside(
    path: Path, entry: FileEntry, places: Sequence[External], weights: Mapping[str, Weight]
) -> tuple[dict[str, np.ndarray], dict[str, bytes]]:
    """The values of `weights`, and the bytes of others, at places in one file; it is verified. Raises BundleError."""
    there = sorted(places, key=lambda place: place.offset)
    large: dict[str, np.ndarray] = {}
    small: dict[str, bytes] = {}

    def take(number: int, piece: bytes) -> None:
        name = there[number].name
        if name in weights:
            large[name] = weights[name].values(piece)
        else:
            small[name] = piece

    pieces = [slice(place.offset, place.offset + place.length) for place in there]
    read_pieces(path, there[0].location, entry, pieces, take)
    return large, small


def read_schedule(path: Path, data: bytes | None, manifest: Manifest) -> Schedule:
    """The schedule; data: its file's bytes if they were read. Raises BundleError."""
    levels = manifest.schedule.levels
    data = read_verified(path, SCHEDULE, manifest.files[SCHEDULE]) if data is None else data
    table = read_array(path, SCHEDULE, data, np.dtype(np.float64), (levels, 3))
    try:
        return Schedule(table)
    except ValueError as error:
        raise BundleError(f"bundle {path}: {SCHEDULE}: {error}") from None


def read_array(path: Path, name: str, data: bytes, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """The array of an .npy file's bytes; raises BundleError unless it has this dtype and shape."""
    file = io.BytesIO(data)
    try:
        found, order, kind = read_array_header(file)
    except Exception as error:  # numpy raises half a dozen types for damaged headers
        raise BundleError(f"bundle {path}: {name} is not a readable array: {reason(error)}") from None
    if kind != dtype or found != shape:
        raise BundleError(f"bundle {path}: {name} is {kind} {list(found)}, expected {dtype} {list(shape)}")
    values = data[file.tell() :]
    if len(values) != dtype.itemsize * prod(shape):
        raise BundleError(
            f"bundle {path}: {name} is not a readable array: it has {len(values)} bytes for {dtype} {list(shape)}"
        )
    return np.frombuffer(values, dtype).reshape(shape, order=order)


def is_network(name: str) -> bool:
    """Whether a file of a bundle is an ONNX network that engines of the runtime may be given."""
    return name.endswith(".onnx") and not name.startswith(f"{GRAPH_FOLDER}/")


def read_array_header(file: io.BytesIO) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype]:
    """Shape, order and dtype of an .npy file; it is left where the values begin. Raises various errors."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the format is not one of (1, 0), (2, 0)")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    return shape, "F" if is_fortran else "C", dtype


def check_array_sizes(path: Path, manifest: Manifest) -> None:
    """Raise BundleError if an array's file is larger than the array can be, before any of it is read."""
    image, levels, latent = manifest.image, manifest.schedule.levels, manifest.latent
    values = len(manifest.parity.levels) * max(image.channels, latent.channels if latent else 0)
    sizes = {SCHEDULE: 8 * 3 * levels, REFERENCE: 4 * values * image.height * image.width}
    if latent is not None:
        sizes[PREVIEW] = 4 * 3 * (latent.channels + 1)
    for name, largest in sizes.items():
        size = manifest.files[name].bytes
        if size > largest + NPY_HEADER_BYTES:
            raise BundleError(f"bundle {path}: {name} has {size} bytes, more than the {largest} of its array")
