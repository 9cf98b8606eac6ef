"""Processors and memory under containers' limits, a place to remember things, and engines that are silent."""

import os
import platform
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import QUICK, Run, assert_mistake
from hypothesis import given
from hypothesis import strategies as st
from import_graph import PACKAGES, files
from stubs import stub_editor

from sdedit.errors import EngineError, PlanError
from sdedit.runtime import EditOptions, Editor, cache, cgroups, machine, once
from sdedit.runtime.bundle import SHIPPED, read_bundle
from sdedit.runtime.devices import check_recipe
from sdedit.runtime.engines import open_engine

VERSION_2 = "29 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
VERSION_1 = """\
32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 {root} /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset
35 31 0:32 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
"""

System = Callable[..., None]


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    """Makes a root of a file system with these mounts, groups and files, which is read instead of this machine's."""

    def make(mounts: str, groups: str, files: dict[str, str]) -> None:
        for name, text in {"proc/self/mountinfo": mounts, "proc/self/cgroup": groups, **files}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text + "\n")

    monkeypatch.setattr(cgroups, "ROOT", tmp_path)
    return make


def v2(group: str, **files: str) -> tuple[str, str, dict[str, str]]:
    return VERSION_2, f"0::{group}", {f"sys/fs/cgroup{group}/{k.replace('__', '.')}": v for k, v in files.items()}


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", None), ("100000 100000", 1), ("150000 100000", 2), ("1000 100000", 1), ("800000 100000", 8)],
)
def test_quotas_of_version_2_are_rounded_up(system: System, quota: str, expected: int | None) -> None:
    system(*v2("/work", cpu__max=quota))
    assert cgroups.limit_processors() == expected


@pytest.mark.parametrize("text", ["", "max", "100000", "x y", "100000 0", "-1 100000", "1 2 3"])
def test_nonsense_limits_nothing_or_one(system: System, text: str) -> None:
    system(*v2("/work", cpu__max=text))
    assert cgroups.limit_processors() in (None, 1)


def test_the_smallest_quota_of_all_groups_around_counts(system: System) -> None:
    files = {"sys/fs/cgroup/a/cpu.max": "300000 100000", "sys/fs/cgroup/a/b/c/cpu.max": "max 100000"}
    system(VERSION_2, "0::/a/b/c", files)
    assert cgroups.limit_processors() == 3


def test_quotas_of_version_1(system: System) -> None:
    folder = "sys/fs/cgroup/cpu,cpuacct/docker/abc"
    files = {f"{folder}/cpu.cfs_quota_us": "250000", f"{folder}/cpu.cfs_period_us": "100000"}
    system(VERSION_1.format(root="/"), "4:cpu,cpuacct:/docker/abc\n0::/", files)
    assert cgroups.limit_processors() == 3
    system(VERSION_1.format(root="/"), "4:cpu,cpuacct:/docker/abc", {f"{folder}/cpu.cfs_quota_us": "-1"})
    assert cgroups.limit_processors() is None


@pytest.mark.parametrize("root", ["/docker/abc", "/"])
def test_a_container_finds_its_limits_although_it_sees_the_hosts_path(system: System, root: str) -> None:
    """Docker with version 1: /proc/self/cgroup has the host's path, and the mount shows only the container's group."""
    folder = "sys/fs/cgroup/cpu,cpuacct"
    files = {f"{folder}/cpu.cfs_quota_us": "50000", f"{folder}/cpu.cfs_period_us": "100000"}
    system(VERSION_1.format(root=root), "4:cpu,cpuacct:/docker/abc", files)
    assert cgroups.limit_processors() == 1


def test_sets_of_processors_count(system: System) -> None:
    system(*v2("/work", cpuset__cpus__effective="0-2,7"))
    assert cgroups.limit_processors() == 4
    system(VERSION_1.format(root="/"), "3:cpuset:/x", {"sys/fs/cgroup/cpuset/x/cpuset.cpus": "5"})
    assert cgroups.limit_processors() == 1


def test_mount_points_with_spaces_are_found(system: System) -> None:
    system(
        r"29 23 0:26 / /sys/my\040groups rw - cgroup2 cgroup2 rw", "0::/", {"sys/my groups/cpu.max": "200000 100000"}
    )
    assert cgroups.limit_processors() == 2


def test_without_groups_nothing_is_limited(system: System) -> None:
    assert cgroups.limit_processors() is None
    assert cgroups.free_memory() is None


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_text_in_proc_is_survived(mounts: str, groups: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        lines = {"cgroup": groups.splitlines(), "mountinfo": (VERSION_2 + mounts).splitlines()}
        patch.setattr(cgroups, "_lines", lambda file: lines.get(file.name, []))
        assert cgroups.limit_processors() is None


def test_memory_of_groups(system: System) -> None:
    mib = 1 << 20
    stat = f"anon 5\ninactive_file {10 * mib}"
    system(*v2("/w", memory__max=str(100 * mib), memory__current=str(40 * mib), memory__stat=stat))
    assert cgroups.free_memory() == 70 * mib
    assert machine.available_memory() <= 70 * mib  # type: ignore[operator]


def test_a_quota_decides_how_many_threads_an_engine_gets(system: System) -> None:
    system(*v2("/work", cpu__max="100000 100000"))
    assert machine.available_processors() == 1
    assert open_engine(read_bundle(SHIPPED), engine="onnxruntime").threads == 1


def test_more_threads_than_processors_are_warned_of_once() -> None:
    once.warn_once.cache_clear()
    threads = machine.available_processors() + 1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            assert open_engine(read_bundle(SHIPPED), engine="onnxruntime", threads=threads).threads == threads
    (warning,) = caught
    assert str(warning.message).startswith(f"sdedit: {threads} threads share {threads - 1} processors")
    assert "\n" not in str(warning.message)


@pytest.mark.parametrize("room", PACKAGES)
def test_processors_and_load_are_asked_for_in_one_place(room: str) -> None:
    """os.cpu_count knows no limits, and Windows has neither os.getloadavg nor os.sched_getaffinity."""
    asking = [
        path.name for path in files(room) if re.search(r"cpu_count|getloadavg|getaffinity", path.read_text("utf-8"))
    ]
    assert asking == (["machine.py"] if room == "runtime" else [])


# Sizes that this machine has not.


def test_too_many_slots_say_what_is_needed_and_what_there_is() -> None:
    message = r"^1000000000 slots of 64x64 need 475,\d\d\d\.0 GB of memory, [\d,.]+ GB are available: \d+ would fit$"
    with pytest.raises(EngineError, match=message):
        Editor.open(slots=10**9)


def test_slots_are_refused_before_an_engine_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr("sdedit.runtime.devices.opening.open_engine", load)
    monkeypatch.setattr("sdedit.runtime.machine.available_memory", lambda: 10**6)
    with pytest.raises(EngineError, match=r"3 slots of 64x64 need .*: 2 would fit"):
        Editor.open(slots=3)


@pytest.mark.parametrize("mask", [None, np.full((400, 500), 255, np.uint8)])
def test_more_images_than_fit_into_memory_are_refused_before_one_is_made(
    monkeypatch: pytest.MonkeyPatch, mask: np.ndarray | None
) -> None:
    """An image takes its state, 12 bytes a pixel, and its picture: 4 a pixel of the photo, if there is a mask."""
    each = 16 * 64 * 64 if mask is None else 12 * 64 * 64 + 4 * mask.size
    guide = np.zeros((400, 500, 3), np.uint8)
    side = "64x64" if mask is None else "400x500"
    with stub_editor(lambda x, _: x) as editor:
        monkeypatch.setattr("sdedit.runtime.machine.available_memory", lambda: 10 * each)
        options = EditOptions(steps=1, size="native")
        with pytest.raises(EngineError, match=rf"^11 images of {side} need \d\.\d GB of memory, .*: 10 would fit$"):
            editor.submit(guide, mask, images=11, **options)
        assert len(editor.edit(guide, mask, images=10, **options).images) == 10
        assert len(editor.edit(guide, mask, images=2**32, image_numbers=[2**31], **options).images) == 1  # as replay
        monkeypatch.undo()
        with pytest.raises(EngineError, match=r"^4294967296 images of .* GB are available: \d+ would fit$"):
            editor.edit(guide, mask, images=2**32, **options)
        with pytest.raises(EngineError, match=r"^4294967296 images of "):
            editor.edit(guide, mask, images=2**32, image_numbers=range(2**32), **options)
        with pytest.raises(PlanError, match=r"^image_numbers range\(0, 1000000000\) is not in 0..3: images is 4$"):
            editor.edit(guide, mask, images=4, image_numbers=range(10**9), **options)


def test_a_command_refuses_more_images_than_fit_into_memory(
    run: Run, guide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdedit.runtime.machine.available_memory", lambda: 10**6)
    result = run("edit", guide, "--out", tmp_path / "out.png", "--images", 1000, *QUICK)
    assert_mistake(result, "1000 images of 64x64 need 0.1 GB of memory, 0.0 GB are available: 15 would fit")
    assert list(tmp_path.iterdir()) == [guide]


def test_a_recipe_gets_no_more_than_this_machine_has() -> None:
    processors = machine.available_processors()
    check_recipe("cpu", processors, 1)
    check_recipe("cuda", None, 4)
    with pytest.raises(EngineError, match=f"the recipe's {processors + 1} threads are more than the {processors}"):
        check_recipe("cpu", processors + 1, 1)
    with pytest.raises(EngineError, match="the recipe's batch 2 is not 1"):
        check_recipe("cpu", 1, 2)


# The cache.


def test_a_file_of_the_cache_is_complete_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDEDIT_CACHE", str(tmp_path / "a" / "b"))
    assert cache.read_cached("x") is None
    assert cache.write_cached("x", b"1") == tmp_path / "a" / "b" / "x"
    assert cache.read_cached("x") == b"1"

    def fails(self: Path, to: Path) -> None:
        raise OSError(28, "No space left on device")

    once.warn_once.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fails)
        with pytest.warns(RuntimeWarning, match="cannot be written, nothing is remembered"):
            assert cache.write_cached("x", b"2") is None
    assert [file.name for file in (tmp_path / "a" / "b").iterdir()] == ["x"]
    assert cache.read_cached("x") == b"1"
    assert cache.delete_cached("x") == tmp_path / "a" / "b" / "x"
    assert cache.delete_cached("x") is None


HOMELESS = """
import os, sys, warnings
for name in ("HOME", "XDG_CACHE_HOME", "SDEDIT_CACHE", "USERPROFILE"):
    os.environ.pop(name, None)
import pwd
def getpwuid(uid): raise KeyError(uid)
pwd.getpwuid = getpwuid  # a user that the system does not know, as in containers
from sdedit.runtime import cache
assert cache.cache_folder() is None
os.environ["SDEDIT_CACHE"] = "~/here"
assert cache.cache_folder() is None
del os.environ["SDEDIT_CACHE"]
warnings.simplefilter("always")
assert cache.write_cached("x", b"1") is None and cache.write_cached("y", b"1") is None
assert cache.read_cached("x") is None and cache.delete_cached("x") is None
assert not os.listdir("."), os.listdir(".")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pwd")
def test_without_a_home_nothing_is_remembered_and_this_is_said_once(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", HOMELESS], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("sdedit: nothing is remembered: this user has no home folder; set SDEDIT_CACHE") == 1


# Engines are silent.

SILENT = """
import sys
{first}
from sdedit.runtime import Editor
import numpy as np
for name in {order}:
    with Editor.open(engine=name, threads=1) as editor:
        editor.edit(np.zeros((64, 64, 3), np.uint8), steps=1)
print(sorted(name for name in ("openvino_telemetry",) if name in sys.modules))
import os
print(os.environ.get("ORT_DISABLE_TELEMETRY"))
"""

NO_NETWORK = """
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
static int noted(void) {
    int file = open(getenv("NOTED"), O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (file >= 0 && write(file, "asked\\n", 6) > 0) close(file);
    return -1;
}
int getaddrinfo(const char *a, const char *b, const void *c, void *d) { return noted(); }
int connect(int a, const void *b, unsigned c) { return noted(); }
void *gethostbyname(const char *a) { noted(); return NULL; }
"""


@pytest.fixture(scope="module")
def no_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library whose functions note that a name was asked for, or a connection, and refuse it."""
    folder = tmp_path_factory.mktemp("network")
    (folder / "no.c").write_text(NO_NETWORK)
    command = ["cc", "-shared", "-fPIC", "-w", "-o", folder / "no.so", folder / "no.c"]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs Linux and a C compiler")
    return folder / "no.so"


@pytest.mark.parametrize("order", [("onnxruntime", "openvino"), ("openvino", "onnxruntime")], ids="-".join)
def test_engines_write_nothing_ask_nothing_and_print_nothing(
    no_network: Path, tmp_path: Path, order: tuple[str, str]
) -> None:
    home, noted = tmp_path / "home", tmp_path / "noted"
    home.mkdir()
    unset = ("ORT_DISABLE_TELEMETRY", "SDEDIT_CACHE")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        (home / name).mkdir()
        environment[name] = str(home / name)
    environment |= {"LD_PRELOAD": str(no_network), "NOTED": str(noted)}
    script = SILENT.format(first="", order=order)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\nNone\n", "")
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []  # nor was `noted` written


def test_an_onnxruntime_that_the_program_imported_before_is_silenced_from_then_on() -> None:
    first = """
import onnxruntime
real, calls = onnxruntime.disable_telemetry_events, []
onnxruntime.disable_telemetry_events = lambda: (calls.append(1), real())
import atexit
atexit.register(lambda: print(len(calls) > 0))
"""
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    script = SILENT.format(first=first, order=("onnxruntime",))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout == "[]\n1\nTrue\n", done.stderr


THREADS = """
import sys, threading
from sdedit.runtime.engines.importing import import_onnxruntime, import_openvino
barrier, failed = threading.Barrier(8), []
def work(index):
    barrier.wait()
    try:
        (import_openvino if index % 2 else import_onnxruntime)()
    except BaseException as error:
        failed.append(repr(error))
threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
import os
print(failed, "openvino_telemetry" in sys.modules, os.environ.get("ORT_DISABLE_TELEMETRY"))
"""


def test_engines_may_be_imported_from_several_threads() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout == "[] False None\n", done.stderr


def test_the_process_is_as_before_when_an_import_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from sdedit.runtime.engines import importing

    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    with pytest.raises(EngineError, match="engine of_nowhere is not installed"):
        importing.import_engine("of_nowhere", "cpu")
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"
    assert "openvino_telemetry" not in sys.modules or sys.modules["openvino_telemetry"] is not None


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps free memory and is asked for it")
def test_free_memory_goes_back_to_the_system() -> None:
    """A block that is still used lies above the free ones, so the C library does not give them back by itself."""

    def resident() -> int:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    blocks = [b"x" * 100_000 for _ in range(1000)]
    used = resident()
    last = blocks[-1]
    del blocks
    machine.return_free_memory()
    assert resident() <= used - 80_000_000
    assert last
