"""Bundles: what the manifest says of what was written, and that writing is all or nothing."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import FIELDS, write_bundle

from sdedit.errors import BundleError
from sdedit.runtime.bundle import (
    MANIFEST,
    NETWORK,
    REFERENCE,
    SCHEDULE,
    link_files,
    read_bundle,
    staged,
    staging,
    write_manifest,
)
from sdedit.runtime.bundle.files import SMALL_BYTES
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
    (bundle / "variants" / "notes.txt").write_bytes(b"int8")
    write_manifest(bundle, FIELDS)
    entry = read_bundle(bundle).manifest.files["variants/notes.txt"]
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


def test_a_staged_folder_replaces_what_a_link_leads_to(bundle: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(bundle)
    with staged(link) as folder:
        (folder / "file").write_bytes(b"new")
    assert link.is_symlink()
    assert contents(bundle) == {"file": b"new"}


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
    monkeypatch.setattr(staging, "rename_by_system", lambda a, b, how: False)  # as on systems without it

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


# What happens at `out` while the bundle is written


def kept_beside(out: Path, error: BundleError) -> dict[str, bytes]:
    """The new bundle, which the error says where to find."""
    kept = Path(str(error).rpartition("the new bundle is ")[2])
    assert kept.parent == out.parent
    return contents(kept)


@pytest.fixture(params=["system", "two renames"])
def renaming(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "two renames":
        monkeypatch.setattr(staging, "rename_by_system", lambda a, b, how: False)


def refusal_of(out: Path, meanwhile: Callable[[], object]) -> BundleError:
    """The error of an export during which something happens."""

    def export() -> None:
        with staged(out) as folder:
            (folder / "file").write_bytes(b"new")
            meanwhile()

    with pytest.raises(BundleError, match="changed while the bundle was written, and stays as it is") as caught:
        export()
    return caught.value


@pytest.mark.usefixtures("renaming")
def test_a_file_that_appears_at_out_meanwhile_is_not_touched(tmp_path: Path) -> None:
    out = tmp_path / "model"
    error = refusal_of(out, lambda: out.write_bytes(b"precious"))
    assert out.read_bytes() == b"precious"
    assert kept_beside(out, error) == {"file": b"new"}


@pytest.mark.usefixtures("renaming")
def test_a_bundle_that_appears_at_out_meanwhile_is_not_touched(tmp_path: Path) -> None:
    out = tmp_path / "model"
    error = refusal_of(out, lambda: write_bundle(out))
    assert (out / NETWORK).exists()
    assert kept_beside(out, error) == {"file": b"new"}


@pytest.mark.usefixtures("renaming")
def test_a_file_put_into_the_old_bundle_meanwhile_is_not_lost(bundle: Path) -> None:
    error = refusal_of(bundle, lambda: (bundle / "notes.txt").write_bytes(b"precious"))
    assert (bundle / "notes.txt").read_bytes() == b"precious"
    assert (bundle / NETWORK).exists()
    assert kept_beside(bundle, error) == {"file": b"new"}


@pytest.mark.usefixtures("renaming")
def test_another_bundle_put_there_meanwhile_is_not_lost(bundle: Path, tmp_path: Path) -> None:
    other = write_bundle(tmp_path / "other")
    refusal_of(bundle, lambda: (bundle.rename(tmp_path / "moved"), other.rename(bundle)))
    assert (bundle / NETWORK).exists()
    assert (tmp_path / "moved" / NETWORK).exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from sdedit.runtime.bundle import staged, staging
out = Path(sys.argv[1])
if sys.argv[2] == "between":
    staging.rename_by_system = lambda a, b, how: False
    rename = Path.rename
    def stop(self, target):
        if self.name == "new":
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)
    Path.rename = stop
with staged(out) as folder:
    (folder / "file").write_bytes(b"new")
    if sys.argv[2] != "between":
        number = getattr(signal, sys.argv[2])
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)  # whoever runs the tests may ignore it
        os.kill(os.getpid(), number)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals and locks of POSIX")
@pytest.mark.parametrize("moment", ["SIGKILL", "SIGTERM", "SIGHUP", "between"])
def test_what_a_killed_export_left_is_removed_by_the_next(bundle: Path, moment: str) -> None:
    """Killed between two renames, it left no bundle at its place: that is brought back first."""
    before = contents(bundle)
    done = subprocess.run([sys.executable, "-c", KILLED, bundle, moment], check=False)
    assert done.returncode < 0
    assert len(list(bundle.parent.glob(".sdedit-bundle-*"))) == 1
    assert bundle.exists() == (moment != "between")
    with pytest.raises(RuntimeError), staged(bundle.parent / "other"):
        raise RuntimeError
    assert contents(bundle) == before
    assert list(bundle.parent.iterdir()) == [bundle]


def test_the_folder_of_an_export_that_runs_is_not_removed(tmp_path: Path) -> None:
    with staged(tmp_path / "a") as first:
        with staged(tmp_path / "b") as second:
            (second / "file").write_bytes(b"b")
        (first / "file").write_bytes(b"a")
    assert contents(tmp_path) == {"a/file": b"a", "b/file": b"b"}


def test_all_is_on_the_disk_before_the_rename(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    flush, put = staging.flush_path, staging.put
    monkeypatch.setattr(staging, "flush_path", lambda path: (order.append(path.name), flush(path)))
    monkeypatch.setattr(staging, "put", lambda *arguments: (order.append("put"), put(*arguments)))
    with staged(bundle) as folder:
        (folder / "file").write_bytes(b"new")
    assert order == ["file", "new", "put", bundle.parent.name]


def test_a_bundle_does_not_change_with_one_that_was_made_of_it(bundle: Path, tmp_path: Path) -> None:
    """Large files are shared; they are only ever replaced. Small ones, which people edit, are copies."""
    (bundle / "large.bin").write_bytes(bytes(SMALL_BYTES + 1))
    write_manifest(bundle, FIELDS)
    before = contents(bundle)
    with staged(tmp_path / "other") as folder:
        write_manifest(folder, FIELDS, link_files(read_bundle(bundle), folder))
    assert (tmp_path / "other" / "large.bin").stat().st_ino == (bundle / "large.bin").stat().st_ino
    for name in (NETWORK, SCHEDULE, REFERENCE, MANIFEST):
        (tmp_path / "other" / name).write_bytes(b"edited in place")
    assert contents(bundle) == before
