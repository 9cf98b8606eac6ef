"""Bundles: what the manifest says of what was written, and that writing is all or nothing."""

import hashlib
import json
from pathlib import Path

import pytest
from tiny import FIELDS, write_bundle

from sdedit.errors import BundleError
from sdedit.runtime.bundle import MANIFEST, NETWORK, REFERENCE, SCHEDULE, read_bundle, staged, write_manifest, writing
from sdedit.runtime.bundle.manifest import FileEntry


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


def test_the_manifest_is_sorted_and_ends_with_a_newline(bundle: Path) -> None:
    text = (bundle / MANIFEST).read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), sort_keys=True, indent=2) + "\n"
    assert list(json.loads(text)["files"]) == sorted([NETWORK, REFERENCE, SCHEDULE])


def test_the_manifest_does_not_depend_on_the_order_of_its_fields(bundle: Path) -> None:
    before = (bundle / MANIFEST).read_bytes()
    turned = {key: FIELDS[key] for key in reversed(FIELDS)}
    turned["image"] = {key: FIELDS["image"][key] for key in reversed(FIELDS["image"])}
    write_manifest(bundle, turned)
    assert (bundle / MANIFEST).read_bytes() == before


def test_the_manifest_lists_files_in_folders_too(bundle: Path) -> None:
    (bundle / "variants").mkdir()
    (bundle / "variants" / "int8.onnx").write_bytes(b"int8")
    write_manifest(bundle, FIELDS)
    entry = read_bundle(bundle).manifest.files["variants/int8.onnx"]
    assert entry == FileEntry(hashlib.sha256(b"int8").hexdigest(), 4)


def test_a_manifest_holds_no_nan(bundle: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_manifest(bundle, {**FIELDS, "parity": {**FIELDS["parity"], "max_relative_error": float("nan")}})


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_staged_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "model"
    with staged(out) as folder:
        (folder / "file").write_bytes(b"new")
        assert not out.exists()
    assert contents(tmp_path) == {"deep/model/file": b"new"}


def test_a_staged_folder_replaces_a_bundle(bundle: Path) -> None:
    with staged(bundle) as folder:
        (folder / "file").write_bytes(b"new")
    assert contents(bundle.parent) == {"bundle/file": b"new"}


def test_a_staged_folder_replaces_a_link_not_what_it_leads_to(bundle: Path, tmp_path: Path) -> None:
    before = contents(bundle)
    link = tmp_path / "link"
    link.symlink_to(bundle)
    with staged(link) as folder:
        (folder / "file").write_bytes(b"new")
    assert contents(link) == {"file": b"new"}
    assert contents(bundle) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_a_failure_the_old_bundle_is_there_and_nothing_else(bundle: Path, error: type[BaseException]) -> None:
    def work() -> None:
        with staged(bundle) as folder:
            (folder / NETWORK).write_bytes(b"half of it")
            raise error

    before = contents(bundle)
    with pytest.raises(error):
        work()
    assert contents(bundle) == before
    assert list(bundle.parent.iterdir()) == [bundle]


def test_a_full_disk_is_said_in_one_line(bundle: Path) -> None:
    before = contents(bundle)
    with pytest.raises(BundleError, match="cannot be written: No space left on device"), staged(bundle):
        raise OSError(28, "No space left on device")
    assert contents(bundle.parent) == {f"bundle/{name}": data for name, data in before.items()}


def test_where_the_last_rename_fails_the_old_bundle_comes_back(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(bundle)
    rename = Path.rename
    monkeypatch.setattr(writing, "exchange", lambda a, b: False)  # as on systems without it

    def fail_for_the_new(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new)
    with pytest.raises(BundleError, match="cannot be written: Permission denied"), staged(bundle) as folder:
        (folder / "file").write_bytes(b"new")
    assert contents(bundle) == before
    assert list(bundle.parent.iterdir()) == [bundle]


def assert_not_replaced(out: Path, message: str = "exists and is not a bundle alone: it is not replaced") -> None:
    with pytest.raises(BundleError, match=message), staged(out):
        pytest.fail("the work was begun")


def test_an_empty_folder_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with staged(tmp_path / "model") as folder:
        (folder / "file").write_bytes(b"new")
    assert contents(tmp_path) == {"model/file": b"new"}


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"precious")
    assert_not_replaced(tmp_path / "model")
    assert contents(tmp_path) == {"model": b"precious"}


@pytest.mark.parametrize("name", ["notes.txt", MANIFEST])
def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / name).write_bytes(b"{}")
    assert_not_replaced(tmp_path / "model")
    assert contents(tmp_path) == {f"model/{name}": b"{}"}


def test_a_bundle_with_a_stranger_in_it_is_not_replaced(bundle: Path) -> None:
    (bundle / "notes").mkdir()
    (bundle / "notes" / "mine.txt").write_bytes(b"precious")
    before = contents(bundle)
    assert_not_replaced(bundle)
    assert contents(bundle) == before


def test_a_damaged_bundle_may_be_replaced(bundle: Path) -> None:
    (bundle / NETWORK).write_bytes(b"damaged")
    (bundle / SCHEDULE).unlink()
    with staged(bundle):
        pass
    assert contents(bundle) == {}


def test_the_working_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert_not_replaced(Path())


def test_below_a_file_there_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    assert_not_replaced(tmp_path / "file" / "model", "bundle .*model cannot be written: ")


def test_a_name_too_long_to_be_written(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be written: File name too long"), staged(tmp_path / ("a" * 300)):
        pass
    assert list(tmp_path.iterdir()) == []
