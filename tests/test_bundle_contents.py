"""Bundles: arrays that are none, and that damage of any kind never crashes."""

import hashlib
import io
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from damage import damaged
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import assert_refused
from tiny import LEVELS, SHAPE, rewrite, write_bundle

from sdedit.errors import BundleError
from sdedit.runtime.bundle import MANIFEST, NETWORK, REFERENCE, SCHEDULE, Bundle, read_bundle
from sdedit_ref.sde import cosine

FILES = (MANIFEST, NETWORK, REFERENCE, SCHEDULE)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = write_bundle(tmp_path_factory.mktemp("pristine") / "bundle")
    return {name: (folder / name).read_bytes() for name in FILES}


# Arrays


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def scaled(column: int, factor: float) -> np.ndarray:
    table = cosine(LEVELS)
    table[:, column] *= factor
    return table


def with_nan() -> np.ndarray:
    table = cosine(LEVELS)
    table[3, 2] = np.nan
    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (cosine(LEVELS).astype(np.float32), r"is float32 \[20, 3\], expected float64 \[20, 3\]"),
        (cosine(LEVELS).astype(">f8"), r"is >f8 \[20, 3\], expected"),
        (cosine(LEVELS)[:, :2], r"is float64 \[20, 2\], expected"),
        (cosine(LEVELS)[0], r"is float64 \[3\], expected"),
        (np.zeros((0, 3)), r"is float64 \[0, 3\], expected"),
        (with_nan(), "holds a value that is not finite"),
        (scaled(0, -1), r"alpha must lie in \[0, 1\]"),
        (scaled(0, 1.1), r"alpha must lie in \[0, 1\]"),
        (scaled(1, 0), "sigma above 0"),
        (cosine(LEVELS)[::-1], "from clean to noisy"),
        (np.repeat(cosine(LEVELS)[::2], 2, axis=0), "from clean to noisy"),
        (cosine(LEVELS + 1), r"is float64 \[21, 3\], expected float64 \[20, 3\]"),
    ],
    ids=lambda value: "" if isinstance(value, np.ndarray) else None,
)
def test_a_damaged_schedule(bundle: Path, table: np.ndarray, message: str) -> None:
    rewrite(bundle, SCHEDULE, npy(table))
    assert_refused(bundle, rf"schedule\.npy:? .*{message}")


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x09\x00",
        b"PK\x03\x04",
        b"\x80\x04N.",
        header(""),
        header("{"),
        header("'''"),
        header("[" * 9000),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (%d, 3)}" % 10**30),  # noqa: UP031 - braces
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (%d, 3)}" % 10**12),  # noqa: UP031 - braces
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 3)}"),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (20, 3)}"),
        header("{'descr': 'no type', 'fortran_order': False, 'shape': (20, 3)}"),
    ],
    ids=lambda data: repr(data[-60:]),
)
def test_a_schedule_that_is_no_array(bundle: Path, data: bytes) -> None:
    rewrite(bundle, SCHEDULE, data)
    assert_refused(bundle, r"schedule\.npy is (not a readable array|float64 \[.*\], expected float64 \[20, 3\])")


def test_an_archive_of_arrays_is_no_array(bundle: Path) -> None:
    file = io.BytesIO()
    np.savez(file, table=cosine(LEVELS))
    rewrite(bundle, SCHEDULE, file.getvalue())
    assert_refused(bundle, r"schedule\.npy is not a readable array")


@pytest.mark.parametrize("name", [SCHEDULE, REFERENCE])
def test_an_array_file_larger_than_its_array_is_not_read(bundle: Path, name: str) -> None:
    """Three sparse gigabytes, with the size that the manifest states."""
    with (bundle / name).open("r+b") as file:
        file.truncate(3_000_000_000)
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["files"][name]["bytes"] = 3_000_000_000
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    assert_refused(bundle, rf"{name} has 3000000000 bytes, more than the \d+ of its array")


def test_a_header_is_believed_only_after_it_is_compared(bundle: Path) -> None:
    """The values of a shape that is not the manifest's are not allocated."""
    rewrite(bundle, SCHEDULE, header("{'descr': '<f8', 'fortran_order': False, 'shape': (100000000, 3)}"))
    assert_refused(bundle, r"schedule\.npy is float64 \[100000000, 3\], expected float64 \[20, 3\]")


class Intruder:
    """Its pickle makes a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_pickled_array_is_not_unpickled(bundle: Path, tmp_path: Path) -> None:
    rewrite(bundle, SCHEDULE, npy(np.array([Intruder(tmp_path / "executed")], object)))
    assert_refused(bundle, r"schedule\.npy is object \[1\], expected float64 \[20, 3\]")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("outputs", "found"),
    [
        (np.zeros((2, *SHAPE), np.float32), r"float32 \[2, 3, 8, 8\]"),
        (np.zeros((3, 3, 8, 9), np.float32), r"float32 \[3, 3, 8, 9\]"),
        (np.zeros((3, *SHAPE)), r"float64 \[3, 3, 8, 8\]"),
    ],
)
def test_a_reference_of_a_wrong_shape(bundle: Path, outputs: np.ndarray, found: str) -> None:
    rewrite(bundle, REFERENCE, npy(outputs))
    with pytest.raises(BundleError, match=rf"reference\.npy is {found}, expected float32 \[3, 3, 8, 8\]"):
        read_bundle(bundle).reference()


# Damage of any kind


def read_or_refuse(path: Path) -> Bundle | None:
    """Read the bundle; None if it is refused, on one line."""
    try:
        return read_bundle(path)
    except BundleError as error:
        message = str(error)
    assert len(message.splitlines()) == 1
    return None


def in_folder(files: dict[str, bytes], folder: str) -> Path:
    for name, data in files.items():
        (Path(folder) / name).write_bytes(data)
    return Path(folder)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), name=st.sampled_from([NETWORK, SCHEDULE, REFERENCE]))
def test_any_damage_to_a_file_is_noticed(pristine: dict[str, bytes], data: st.DataObject, name: str) -> None:
    files = {**pristine, name: data.draw(damaged(pristine[name]))}
    with tempfile.TemporaryDirectory() as folder, pytest.raises(BundleError, match="it was altered"):
        read_bundle(in_folder(files, folder))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_damaged_manifest_is_refused_or_read_as_it_stands(pristine: dict[str, bytes], data: st.DataObject) -> None:
    text = data.draw(damaged(pristine[MANIFEST]))
    with tempfile.TemporaryDirectory() as folder:
        read = read_or_refuse(in_folder({**pristine, MANIFEST: text}, folder))
    if read is not None:
        assert read.manifest.to_json() == json.loads(text)
        assert read.sha256 == hashlib.sha256(text).hexdigest()
        assert np.array_equal(read.schedule.table, cosine(LEVELS))


@settings(max_examples=200, deadline=None)
@given(data=st.data(), name=st.sampled_from([NETWORK, SCHEDULE]))
def test_damage_with_the_right_hash_never_crashes(pristine: dict[str, bytes], data: st.DataObject, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = in_folder(pristine, folder)
        rewrite(path, name, data.draw(damaged(pristine[name])))
        read_or_refuse(path)
