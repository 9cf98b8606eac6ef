"""Which guide is edited to which files, printing of file names, and a progress bar."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import click

from ..errors import ImageError, printable, reason

STREAM = Path("-")
"""Name that stands for stdin as GUIDE, and for stdout as OUT."""

MAX_OUTPUTS = 1_000_000
"""Most files that one command writes: their names are all checked before the first edit."""

NAMED = 10
"""Most entries of a folder that one message names."""


@dataclass(frozen=True)
class Outputs:
    """files: guide -> the images to write. left_out: entries of the folder that are not edited, with the reason."""

    files: dict[Path, list[Path]]
    left_out: dict[Path, str] = field(default_factory=dict)


def plan_outputs(guide: Path, out: Path, images: int, inputs: list[Path]) -> Outputs:
    """Name the files of every edit and check them before anything is computed.

    inputs: files besides the guide that must not be overwritten. Raises ImageError.
    """
    if out == STREAM:
        check_stdout(guide, images)
        return Outputs({guide: [out]})
    if is_folder(guide):
        return plan_folder(guide, out, images)
    from sdedit.runtime.images import check_output

    targets = number(out, images)
    for target in targets:
        check_output(target, [guide, *inputs])
    return Outputs({guide: targets})


def check_stdout(guide: Path, images: int) -> None:
    """Raise ImageError unless the result of an edit can go to stdout."""
    if is_folder(guide) or images > 1:
        what = f"{guide} is a folder" if is_folder(guide) else f"--images is {images}"
        raise ImageError(f"--out - writes one image, but {what}: name an output")
    if sys.__stdout__ is None:
        raise ImageError("--out -: stdout is closed")
    if sys.stdout.isatty():
        raise ImageError("--out -: stdout is a terminal, which shows no images: send it to a file or a pipe")


def stdin() -> BinaryIO:
    """The bytes of stdin. Raises ImageError if it is closed."""
    if sys.stdin is None:
        raise ImageError("guide -: stdin is closed")
    return sys.stdin.buffer


def plan_folder(folder: Path, out: Path, images: int) -> Outputs:
    """The outputs of a folder of guides, in the folder `out`, which may be missing."""
    from sdedit.runtime.images.listing import list_pictures

    listing = list_pictures(folder)
    if not listing.pictures:
        raise ImageError(f"folder {folder} has no images{describe(listing.left_out)}")
    try:
        if out.exists() and not out.is_dir():
            raise ImageError(f"output {out} is not a folder, but {folder} is")
        if not out.parent.is_dir():
            raise ImageError(f"output {out} cannot be made: there is no folder {out.parent}")
    except OSError as error:
        raise ImageError(f"output {out} cannot be made: {reason(error)}") from None
    check_count(len(listing.pictures) * images)
    files = {guide: number(out / f"{guide.stem}.png", images) for guide in listing.pictures}
    check_distinct(files)
    left_out = {path: why for path, why in listing.left_out.items() if path.resolve() != out.resolve()}
    return Outputs(files, left_out)


def check_distinct(files: dict[Path, list[Path]]) -> None:
    """Raise ImageError if an output would overwrite a guide, or belong to two guides."""
    guides = {guide.resolve() for guide in files}
    owners: dict[Path, Path] = {}
    for guide, targets in files.items():
        for target in targets:
            if target.resolve() in guides:
                raise ImageError(f"output {target} would overwrite an input: choose another folder")
            owner = owners.setdefault(target, guide)
            if owner != guide:
                raise ImageError(f"output {target} would be written for both {owner.name} and {guide.name}: rename one")


def number(out: Path, images: int) -> list[Path]:
    """OUT, or OUT-0, OUT-1, ... for several images. Raises ImageError if they are too many."""
    check_count(images)
    if images <= 1:
        return [out]
    width = len(str(images - 1))
    return [out.with_name(f"{out.stem}-{index:0{width}}{out.suffix}") for index in range(images)]


def check_count(files: int) -> None:
    if files > MAX_OUTPUTS:
        raise ImageError(f"one command writes at most {MAX_OUTPUTS} files, not {files}")


def make_folder(folder: Path) -> None:
    """Make the folder of the outputs if it is missing. Raises ImageError."""
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ImageError(f"output {folder} cannot be made: {reason(error)}") from None


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; False as well if the system does not accept the name or let us look."""
    try:
        return path != STREAM and path.is_dir()
    except (OSError, ValueError):
        return False


def describe(left_out: dict[Path, str]) -> str:
    """The end of a message about entries of a folder that are not edited; empty if there are none."""
    named = [f"{path.name} ({why})" for path, why in list(left_out.items())[:NAMED]]
    if len(left_out) > NAMED:
        named.append(f"{len(left_out) - NAMED} more")
    return f"; left out: {', '.join(named)}" if named else ""


def shown(path: Path) -> str:
    """A path for a terminal: characters that do not print, such as escapes and line ends, are escaped."""
    return printable(str(path))


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on stderr; None if stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=1, label=printable(title), file=sys.stderr) as bar:

        def on_step(step: int, steps: int) -> None:
            bar.length = steps
            bar.update(step - bar.pos)

        yield on_step
