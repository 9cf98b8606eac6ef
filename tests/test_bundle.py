"""Bundles: what is read, and which folders, manifests, paths and files are refused and how it is said."""

import hashlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from refusals import assert_refused
from tiny import FIELDS, LEVELS, PARITY_LEVELS, SHAPE, halving_network, write_bundle

from sdedit.errors import BundleError
from sdedit.runtime.bundle import MANIFEST, NETWORK, REFERENCE, SCHEDULE, SHIPPED, read_bundle
from sdedit.runtime.engines import open_engine
from sdedit_ref.sde import cosine


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


def edit_manifest(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((bundle / MANIFEST).read_bytes())
    change(manifest)
    (bundle / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def set_field(bundle: Path, dotted: str, value: object) -> None:
    *parents, last = dotted.split(".")

    def change(manifest: dict[str, Any]) -> None:
        part = manifest
        for parent in parents:
            part = part[parent]
        part[last] = value

    edit_manifest(bundle, change)


def list_file(bundle: Path, name: str, data: bytes) -> None:
    """Let the manifest list `name` with the size and hash of `data`."""
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    edit_manifest(bundle, lambda manifest: manifest["files"].update({name: entry}))


# What is read


def test_a_bundle_is_read_as_it_was_written(bundle: Path) -> None:
    read = read_bundle(bundle)
    assert (read.name, read.prediction, read.state_shape, read.network) == ("tiny", "eps", SHAPE, bundle / NETWORK)
    assert read.sha256 == hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()
    assert np.array_equal(read.schedule.table, cosine(LEVELS))
    levels, outputs = read.reference()
    assert levels == PARITY_LEVELS
    assert outputs.shape == (len(PARITY_LEVELS), *SHAPE)


def test_a_bundle_runs(bundle: Path) -> None:
    x = np.linspace(-1, 1, 192, dtype=np.float32).reshape(1, *SHAPE)
    out = np.full_like(x, np.nan)
    open_engine(read_bundle(bundle)).bind({"x": x, "time": np.zeros(1, np.float32)}, out)()
    assert np.array_equal(out, x / 2)


def test_the_shipped_bundle_is_sound() -> None:
    shipped = read_bundle(SHIPPED)
    levels, outputs = shipped.reference()
    assert shipped.name == "earth64"
    assert outputs.shape == (len(levels), *shipped.state_shape)


def test_a_path_may_be_a_string_and_a_link(bundle: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(bundle)
    assert read_bundle(str(link)).sha256 == read_bundle(bundle).sha256


def test_the_halving_network_is_valid() -> None:
    onnx.checker.check_model(halving_network(), full_check=True)


# The folder and its manifest


def test_a_missing_folder(tmp_path: Path) -> None:
    assert_refused(tmp_path / "nothing", "no such folder")


def test_a_file_where_a_folder_is_expected(bundle: Path) -> None:
    assert_refused(bundle / NETWORK, "not a folder")


def test_a_name_that_no_folder_can_have(tmp_path: Path) -> None:
    assert_refused(tmp_path / ("a" * 300), "cannot be read: File name too long|no such folder")


def test_a_missing_manifest(bundle: Path) -> None:
    (bundle / MANIFEST).unlink()
    assert_refused(bundle, r"bundle\.json cannot be read: No such file")


def test_a_manifest_of_many_megabytes(bundle: Path) -> None:
    with (bundle / MANIFEST).open("ab") as file:
        file.truncate(10_000_000)
    assert_refused(bundle, r"bundle\.json is larger than 1048576 bytes")


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"{'revision': 1}", b"\xff\xfe\xfd", b"\x80", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000],
    ids=["empty", "open", "quotes", "utf-16", "utf-8", "nested lists", "nested objects", "long number"],
)
def test_a_manifest_that_is_no_json(bundle: Path, text: bytes) -> None:
    (bundle / MANIFEST).write_bytes(text)
    assert_refused(bundle, r"bundle\.json is not valid JSON")


def test_revision_1_is_read_as_what_it_meant(bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    for key in ("classes", "null_label"):
        del manifest[key]
    del manifest["parity"]["engines"]
    (bundle / MANIFEST).write_text(json.dumps({**manifest, "revision": 1}))
    read = read_bundle(bundle)
    assert (read.classes, read.null_label, read.manifest.parity.engines) == (0, None, {})


def test_revision_1_has_no_labels(bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).write_text(json.dumps({**manifest, "revision": 1, "conditioning": "label"}))
    assert_refused(bundle, "classes 0 is not in 1..1000000")


@pytest.mark.parametrize("text", ["[]", "null", "1", '"revision"', "{}", '{"revision": "1"}', '{"revision": true}'])
def test_a_manifest_without_a_revision(bundle: Path, text: str) -> None:
    (bundle / MANIFEST).write_text(text)
    assert_refused(bundle, r"bundle\.json states no revision")


@pytest.mark.parametrize(
    ("revision", "message"),
    [
        (5, r"revision 5 is not in \(1, 2, 3, 4\).*: a newer sdedit is needed"),
        (0, r"revision 0 is not in .*: export it again"),
    ],
)
def test_another_revision_says_what_to_do(bundle: Path, revision: int, message: str) -> None:
    (bundle / MANIFEST).write_text(json.dumps({"revision": revision, "what": "we cannot know"}))
    assert_refused(bundle, message)


@pytest.mark.parametrize("key", [*FIELDS, "files"])
def test_a_missing_key(bundle: Path, key: str) -> None:
    edit_manifest(bundle, lambda manifest: manifest.pop(key))
    assert_refused(bundle, rf"bundle\.json: it lacks \['{key}'\]")


def test_a_missing_key_further_down(bundle: Path) -> None:
    edit_manifest(bundle, lambda manifest: manifest["image"].pop("width"))
    assert_refused(bundle, r"image lacks \['width'\] and has unknown \[\]")


def test_all_missing_and_unknown_keys_are_named_at_once(bundle: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        del manifest["name"], manifest["licence"]
        manifest["colour\n"] = manifest["author"] = "?"

    edit_manifest(bundle, change)
    assert_refused(bundle, r"it lacks \['licence', 'name'\] and has unknown \['author', 'colour\\n'\]")


def test_wrong_types_and_wrong_values_are_named_at_once(bundle: Path) -> None:
    set_field(bundle, "licence", 3)
    set_field(bundle, "prediction", "score")
    set_field(bundle, "image.multiple_of", 3)
    set_field(bundle, "parity.levels", [21])
    assert_refused(
        bundle,
        r"licence is not of type str; image .* is not a multiple of multiple_of; prediction 'score' is not one "
        r"of eps, v, x0, flow; parity.levels \[21\] are not levels of the schedule; parity.engines.* has 3 errors "
        r"for 1 levels$",
    )


def test_a_manifest_of_many_mistakes_is_refused_in_a_short_line(bundle: Path) -> None:
    set_field(bundle, "files", {f"../{number}": {"sha256": "", "bytes": 0} for number in range(5000)})
    with pytest.raises(BundleError, match=r"; and 4983 more$") as caught:
        read_bundle(bundle)
    assert len(str(caught.value)) < 4000


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", 1, "name is not of type str"),
        ("name", "a\nb", r"name 'a\\nb' is not printable"),
        ("name", "\ud800", "is not printable"),
        ("licence", None, "licence is not of type str"),
        ("source", "church.ckpt", "source is not an object"),
        ("source.sha256", 0, "source.sha256 is not of type str"),
        ("image", [3, 8, 8], "image is not an object"),
        ("image.height", "8", "image.height is not of type int"),
        ("image.height", 8.0, "image.height is not of type int"),
        ("image.height", True, "image.height is not of type int"),
        ("image.height", 0, "is not a size"),
        ("image.width", -8, "is not a size"),
        ("image.channels", 2**31, "is not a size"),
        ("image.channels", 10**1000, "is not a size"),
        ("image.multiple_of", 3, "is not a multiple of multiple_of"),
        ("prediction", "score", "prediction 'score' is not one of eps, v, x0, flow"),
        ("conditioning", "text", "conditioning 'text' is not one of none, label"),
        ("conditioning", "label", "classes 0 is not in 1..1000000, with conditioning label"),
        ("classes", 3, "classes 3 is not in 0..0, with conditioning none"),
        ("classes", True, "classes is not of type int"),
        ("null_label", 0, "null_label 0 is not in 0..classes"),
        ("null_label", "0", "null_label is not of type int or NoneType"),
        ("parity.engines", [], "parity.engines is not an object"),
        ("schedule.levels", 20.5, "schedule.levels is not of type int"),
        ("exported_with", [], "exported_with is not an object"),
        ("parity.levels", 3, "parity.levels is not of type list"),
        ("parity.levels", [], r"parity.levels \[\] are not levels of the schedule"),
        ("parity.engines", {"e": [1e-6]}, r"parity.engines\['e'\] has 1 errors for 3 levels"),
        ("parity.weights_rounding", float("inf"), "parity.weights_rounding is not of type finite float"),
        ("schedule.levels", 10**9, "schedule.levels 1000000000 is not in 1..1000000"),
        ("files.extra", {"sha256": "", "bytes": -1}, r"files\['extra'\].bytes -1 is below 0"),
        ("parity.levels", [0], r"parity.levels \[0\] are not levels of the schedule"),
        ("parity.levels", [21], r"parity.levels \[21\] are not"),
        ("parity.levels", ["1"], r"parity.levels\[0\] is not of type int"),
        ("parity.max_relative_error", math.nan, "parity.max_relative_error is not of type finite float"),
        ("parity.engines", {"x": [math.inf]}, r"parity.engines\['x'\]\[0\] is not of type finite float"),
        ("parity.max_relative_error", 0, "parity.max_relative_error is not of type float"),
        ("files", [], "files is not an object"),
        ("files", {}, "files lack network.onnx"),
        ("files.extra", "hash", r"files\['extra'\] is not an object"),
        ("files.extra", {"sha256": ""}, r"files\['extra'\] lacks \['bytes'\]"),
        ("files.extra", {"sha256": "", "bytes": "1"}, r"files\['extra'\].bytes is not of type int"),
    ],
)
def test_a_value_that_is_not_accepted(bundle: Path, field: str, value: object, message: str) -> None:
    set_field(bundle, field, value)
    assert_refused(bundle, rf"bundle\.json: .*{message}")


@pytest.mark.parametrize("name", [NETWORK, SCHEDULE, REFERENCE])
def test_a_file_that_every_bundle_has_must_be_listed(bundle: Path, name: str) -> None:
    edit_manifest(bundle, lambda manifest: manifest["files"].pop(name))
    assert_refused(bundle, f"files lack {name}")


# Paths and files


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "//server/share",
        "..",
        "../other/network.onnx",
        "variants/../../other",
        "variants/../network.onnx",
        "..\\other",
        "variants\\int8.onnx",
        "C:other",
        "C:/other",
        "",
        ".",
        "./network.onnx",
        "variants//int8.onnx",
        "variants/",
        "*/_ORT_MEM_ADDR_/*",
        "new\nline",
        "nul\0",
        "surrogate\ud800",
    ],
)
def test_a_path_that_leaves_the_folder_or_is_no_plain_path(bundle: Path, name: str) -> None:
    list_file(bundle, name, b"")
    assert_refused(bundle, r"bundle\.json: files: path '.*' does not stay in the bundle")


def test_a_link_out_of_the_bundle(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (bundle / "link").symlink_to(tmp_path / "secret")
    list_file(bundle, "link", b"secret")
    assert_refused(bundle, "link leads outside the bundle")


def test_a_folder_that_is_a_link_out_of_the_bundle(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"secret")
    (bundle / "variants").symlink_to(tmp_path / "outside")
    list_file(bundle, "variants/secret", b"secret")
    assert_refused(bundle, "variants/secret leads outside the bundle")


def test_a_link_to_itself(bundle: Path) -> None:
    (bundle / "loop").symlink_to("loop")
    list_file(bundle, "loop", b"")
    assert_refused(bundle, "loop (cannot be read|is missing)")


def test_a_link_within_the_bundle_is_accepted(bundle: Path) -> None:
    (bundle / "link").symlink_to(NETWORK)
    list_file(bundle, "link", (bundle / NETWORK).read_bytes())
    read_bundle(bundle)


@pytest.mark.parametrize("name", [NETWORK, SCHEDULE, REFERENCE])
def test_a_missing_file(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    assert_refused(bundle, f"{name} is missing")


def test_a_folder_in_the_place_of_a_file(bundle: Path) -> None:
    (bundle / "engines").mkdir()
    list_file(bundle, "engines", b"")
    assert_refused(bundle, "engines is missing")


@pytest.mark.parametrize("name", [NETWORK, SCHEDULE, REFERENCE])
def test_a_truncated_file(bundle: Path, name: str) -> None:
    data = (bundle / name).read_bytes()
    (bundle / name).write_bytes(data[:-1])
    assert_refused(bundle, f"{name} has {len(data) - 1} bytes, expected {len(data)}: it was altered")


@pytest.mark.parametrize("name", [NETWORK, SCHEDULE, REFERENCE])
def test_an_altered_byte(bundle: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    assert_refused(bundle, rf"{name} does not have the hash that bundle\.json states: it was altered")


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 454\n"


@pytest.mark.parametrize("name", [MANIFEST, NETWORK, REFERENCE])
def test_a_pointer_of_git_lfs_is_named_with_its_cure(bundle: Path, name: str) -> None:
    (bundle / name).write_bytes(LFS_POINTER)
    assert_refused(
        bundle, f"{name} .*: it is a pointer of Git LFS, whose file was not downloaded; run `git lfs pull` in its"
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize("name", [MANIFEST, NETWORK, SCHEDULE])
def test_a_pipe_is_refused_without_waiting(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    os.mkfifo(bundle / name)
    assert_refused(bundle, rf"{name} is (not a regular file|missing as a regular file)")
