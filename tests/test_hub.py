"""Models by name, from a stand-in for the Hugging Face Hub on loopback."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import Run, assert_mistake
from diffusers_folders import save_ddpm
from hypothesis import given
from hypothesis import strategies as st
from stand_in_hub import Hub, Model

from sdedit.errors import CheckpointError
from sdedit.runtime import Editor
from sdedit.runtime.bundle import MANIFEST, SHIPPED, read_bundle
from sdedit.runtime.hub import HubName, download, parse_hub_name
from sdedit_ref.checkpoints.hub import needed_files

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: pip install '.[hub]'")

NAME = "me/earth"


def contents(folder: Path) -> dict[str, bytes]:
    """The folder's files by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub with the shipped model on it; this process uses it, and a cache of its own."""
    from huggingface_hub import constants

    with Hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        hub.models[NAME] = Model(contents(SHIPPED))
        hub.models[NAME].files |= {"README.md": b"# earth", "notes/other.bin": b"1"}
        yield hub


# Names


@given(
    st.from_regex(r"[a-zA-Z0-9]{1,9}/[a-zA-Z0-9][a-zA-Z0-9._-]{0,9}[a-zA-Z0-9]", fullmatch=True),
    st.none() | st.from_regex(r"[a-z]{1,5}(/[a-z]{1,5})?\.ckpt", fullmatch=True),
    st.none() | st.sampled_from(["main", "v1.0", "refs/pr/3", "0" * 40]),
)
def test_a_name_is_read_as_it_is_written(model: str, file: str | None, revision: str | None) -> None:
    name = HubName(model, file, revision)
    assert parse_hub_name(str(name)) == name


@pytest.mark.parametrize(
    "text", ["hf:", "hf:a", "hf:/a", "hf:a/", "hf:a/b@", "hf:a/b/../c", "hf:a/b/c\\d", "hf:a b/c", "hf:../a"]
)
def test_what_is_no_name_is_refused(text: str, run: Run) -> None:
    assert_mistake(run("inspect", text), "is no name of a model on the Hub: accepted is hf:OWNER/NAME")


# Bundles


def test_a_bundle_opens_by_its_name(hub: Hub, guide: Path) -> None:
    """It edits as the installed one does; only its own files were asked for, each once."""
    with Editor.open(f"hf:{NAME}", threads=1) as editor, Editor.open(threads=1) as installed:
        images = [it.edit(guide, t0=0.1, steps=2).images[0].pil for it in (editor, installed)]
    assert np.array_equal(*map(np.asarray, images))
    listed = {MANIFEST, *read_bundle(SHIPPED).manifest.files}
    assert sorted(hub.models[NAME].asked) == sorted(listed)
    read_bundle(f"hf:{NAME}@main")
    assert len(hub.models[NAME].asked) == len(listed)


def test_a_bundle_opens_without_a_network(hub: Hub, run: Run) -> None:
    read_bundle(f"hf:{NAME}")
    hub.stop()
    assert read_bundle(f"hf:{NAME}", verify_all=True).sha256 == read_bundle(SHIPPED).sha256
    assert_mistake(run("inspect", "hf:me/other"), "hf:me/other: the Hub cannot be reached")


def test_environment_variables_choose_hub_and_cache(hub: Hub, tmp_path: Path) -> None:
    environment = os.environ | {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }
    command = [sys.executable, "-m", "sdedit", "inspect", f"hf:{NAME}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "name: earth64" in done.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:me/nothing", "hf:me/nothing: the Hub has no such model, or it is private: log in with `hf auth login`"),
        ("hf:me/gated", "hf:me/gated is gated: accept its terms at https://huggingface.co/me/gated, then log in"),
        ("hf:me/earth@v9", "hf:me/earth@v9: the model has no revision v9"),
        ("hf:me/plain", "hf:me/plain is no bundle, for it has no bundle.json: `sdedit export hf:me/plain` makes one"),
        ("hf:me/earth/network.onnx", "hf:me/earth/network.onnx: a bundle is a whole model; accepted is hf:OWNER/NAME"),
        ("hf:me/broken", "bundle.json states no revision"),
    ],
)
def test_each_mistake_is_one_line(hub: Hub, run: Run, name: str, message: str) -> None:
    hub.models |= {
        "me/gated": Model({MANIFEST: b"{}"}, gated=True),
        "me/plain": Model({"a.ckpt": b"1"}),
        "me/broken": Model({MANIFEST: b"[]"}),
    }
    assert_mistake(run("inspect", name), message)


def test_a_download_that_was_cut_is_made_whole(hub: Hub) -> None:
    model = hub.models[NAME]
    model.cut.add("network.onnx")
    read_bundle(f"hf:{NAME}", verify_all=True)
    assert len([name for name in model.asked if name.startswith("network.onnx")]) == 2


@pytest.mark.parametrize("file", ["network.onnx", "MODEL_CARD.md"])
def test_other_bytes_than_the_hub_lists_are_refused(hub: Hub, run: Run, file: str) -> None:
    """And not kept: the next try downloads them again."""
    hub.models[NAME].altered.add(file)
    assert_mistake(
        run("inspect", f"hf:{NAME}"), f"{file} was downloaded with other bytes than the Hub lists: try again"
    )
    hub.models[NAME].altered.clear()
    read_bundle(f"hf:{NAME}", verify_all=True)


def test_a_cache_that_cannot_be_written_is_named(hub: Hub, tmp_path: Path, run: Run) -> None:
    (tmp_path / "cache").write_text("no folder")
    assert_mistake(run("inspect", f"hf:{NAME}"), f"hf:{NAME} cannot be downloaded: ")


def test_a_missing_package_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    message = "names of models on the Hub need the package huggingface_hub: pip install 'PATH[hub]'"
    assert_mistake(run("inspect", f"hf:{NAME}"), message)


# Checkpoints

FOLDER = [
    "README.md",
    "model_index.json",
    "v1-5-pruned.safetensors",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.bin",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "safety_checker/config.json",
    "safety_checker/pytorch_model.bin",
    "onnx/unet/model.onnx",
]


def test_of_a_diffusers_folder_the_needed_files_are_chosen() -> None:
    """Safetensors before pickles, no second precision, no component that no network of ours has."""
    assert sorted(needed_files(f"hf:{NAME}", FOLDER)) == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.bin",
    ]


def test_averaged_weights_are_chosen_before_others() -> None:
    files = ["unet/config.json", "unet/a.safetensors", "unet_ema/config.json", "unet_ema/a.fp16.safetensors"]
    assert sorted(needed_files(f"hf:{NAME}", files)) == ["unet_ema/a.fp16.safetensors", "unet_ema/config.json"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["a.ckpt", "b.pt"],
            "no config.json; name one of its files, as in hf:me/earth/a.ckpt; the model has a.ckpt, b.pt",
        ),
        ([f"{n}.pt" for n in range(9)], "0.pt, 1.pt, 2.pt, 3.pt, 4.pt and 4 more"),
        (["README.md"], "no config.json; nor has it a file that ends in .safetensors, .ckpt, .pt, .pth, .bin"),
    ],
)
def test_other_models_are_told_what_to_name(files: list[str], message: str) -> None:
    with pytest.raises(CheckpointError) as raised:
        needed_files(f"hf:{NAME}", files)
    assert str(raised.value).endswith(message)


def test_one_file_of_a_model_is_fetched(hub: Hub, run: Run) -> None:
    """A name of a file is no pattern."""
    hub.models["me/files"] = Model({"folder/a[1].ckpt": b"abc", "folder/a1.ckpt": b"other"})
    path = download(parse_hub_name("hf:me/files/folder/a[1].ckpt@main"), list)
    assert path.read_bytes() == b"abc"
    assert hub.models["me/files"].asked == ["folder/a[1].ckpt"]
    assert_mistake(run("export", "hf:me/files/b.ckpt", "--dry-run"), "hf:me/files/b.ckpt: the model has no such file")
    assert_mistake(run("export", "hf:me/files", "--dry-run"), "name one of its files, as in hf:me/files/folder/a1.ckpt")


def test_export_takes_a_folder_by_its_name(hub: Hub, run: Run, tmp_path: Path) -> None:
    diffusers_folder, _ = save_ddpm(tmp_path / "tiny")
    hub.models["google/tiny"] = Model(contents(diffusers_folder))
    code, stdout, stderr = run("export", "hf:google/tiny", "--dry-run")
    assert (code, stderr) == (0, "")
    assert stdout == run("export", diffusers_folder, "--dry-run")[1]


def test_a_file_outside_the_model_is_never_written(hub: Hub, tmp_path: Path) -> None:
    hub.models["me/outside"] = Model({"config.json": b"{}", "../../../escaped.json": b"{}"})
    download(HubName("me/outside"), lambda files: files)
    assert not list(tmp_path.rglob("escaped.json"))


# Pushing


def test_a_pushed_bundle_is_the_same(hub: Hub, run: Run) -> None:
    code, stdout, stderr = run("push", SHIPPED, "hf:me/mine")
    assert (code, stderr) == (0, "")
    assert f"{hub.address}/me/mine/commit/" in stdout
    assert hub.models["me/mine"].private
    assert hub.models["me/mine"].files == contents(SHIPPED)
    assert read_bundle("hf:me/mine", verify_all=True).sha256 == read_bundle(SHIPPED).sha256


def test_only_a_whole_bundle_is_pushed(hub: Hub, run: Run, tmp_path: Path) -> None:
    assert_mistake(run("push", tmp_path, "hf:me/mine"), "bundle.json")
    assert_mistake(run("push", SHIPPED, "hf:me/mine/file"), "a bundle is pushed as a whole model")
    assert_mistake(run("push", SHIPPED, "mine"), "'mine' is no name of a model on the Hub")
    assert "me/mine" not in hub.models
