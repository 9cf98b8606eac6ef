"""Make the page of a study, one HTML file, and the key beside it that says whose each picture is.

The pictures are inside the page, so it is one file to hand on, which cannot lose them, and which opens without a
server. It has neither names of files nor recipes: whoever answers cannot know which picture is whose.
"""

import base64
import hashlib
import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from sdedit.console import to_json
from sdedit.errors import SdeditError, reason
from sdedit.runtime.codec import to_image
from sdedit.runtime.images import encode_png

from ..runs import Inputs, Results, read_images

logger = logging.getLogger("sdedit")

REALS = "real images"
"""Name of the second set where one set of results is compared with real images."""

MAX_PICTURE_BYTES = 48 * 2**20
"""Most bytes of all PNGs of a page, which is a third larger: larger pages are slow to open and hard to hand on."""


@dataclass(frozen=True)
class Pair:
    """Two pictures of one guide. first: which of the page's two is the first set's, 0 or 1."""

    guide: str
    first: int


@dataclass(frozen=True)
class Key:
    """study: the page's number. sets: their names. questions: those that the page asks, of `page.js`."""

    study: str
    sets: tuple[str, str]
    questions: tuple[str, ...]
    pairs: tuple[Pair, ...]


def check_page(page: Path, sets: Sequence[str]) -> None:
    """Raise SdeditError for a page that cannot be written, or too many sets. Call it before anything is computed."""
    if len(sets) > 2:
        raise SdeditError(f"a study compares two sets of results, or one with real images, not {len(sets)}")
    if page.suffix != ".html":
        raise SdeditError(f"study {page} is a web page: give it a name that ends in .html")
    if not page.parent.is_dir():
        raise SdeditError(f"study {page} cannot be written: {page.parent} is not a folder")


def key_path(page: Path) -> Path:
    """The file of the page's key."""
    return page.with_suffix(".key.json")


@dataclass(frozen=True)
class Trial:
    """guide: name of the guide. shown: its PNG, if people see it. pictures: PNGs of the first set and the second."""

    guide: str
    shown: bytes | None
    pictures: tuple[bytes, bytes]


def make_study(sets: Mapping[str, Results], inputs: Inputs, reals: Sequence[Path], page: Path) -> Key:
    """Write the page that compares two sets of results, and its key. One set is compared with `reals`.

    A pair is one guide's results of the first seed in each set. With two sets people are asked which picture is more
    real and then, seeing the guide, which is better overall; real images have no guide, so they are asked the first
    alone. The same pictures always give the same page. Raises ImageError, and SdeditError where a file cannot be
    written or a page of other pictures has this name: its key may still be needed.
    """
    check_page(page, list(sets))
    first, second = [*sets, REALS][:2]
    trials = gather(sets, inputs, reals)
    check_bytes(page, [png for trial in trials for png in (trial.shown, *trial.pictures) if png is not None])
    digests = [hashlib.sha256(png).digest() for trial in trials for png in trial.pictures]
    number = hashlib.sha256(b"".join(digests)).hexdigest()[:12]
    sides = [hashlib.sha256(f"{number} {index}".encode()).digest()[0] & 1 for index in range(len(trials))]
    questions = ("real",) if trials[0].shown is None else ("real", "overall")
    pairs = tuple(Pair(trial.guide, side) for trial, side in zip(trials, sides, strict=True))
    key = Key(number, (first, second), questions, pairs)
    told = [
        {"guide": address(trial.shown), "pictures": [address(trial.pictures[n]) for n in ((1, 0) if side else (0, 1))]}
        for trial, side in zip(trials, sides, strict=True)
    ]
    write_key(key, page)
    write(page, assemble({"study": number, "questions": questions, "pairs": told}))
    return key


def gather(sets: Mapping[str, Results], inputs: Inputs, reals: Sequence[Path]) -> list[Trial]:
    """The pairs of different pictures. Raises ImageError, and SdeditError if there are none."""
    stems = list(inputs.guides)
    own = [read_images(found.paths[: len(stems)], "result") for found in sets.values()]
    size = (own[0].shape[3], own[0].shape[2])
    shown: Sequence[bytes | None] = [None] * len(stems)
    if len(own) == 1:
        own.append(read_images(reals[: len(stems)], "real image", size))
    else:
        shown = pngs(read_images(list(inputs.guides.values()), "guide", size))
    both = zip(stems, shown, pngs(own[0]), pngs(own[1]), strict=True)
    trials = [Trial(stem, png, (first, second)) for stem, png, first, second in both]
    different = [trial for trial in trials if trial.pictures[0] != trial.pictures[1]]
    if not different:
        raise SdeditError(f"the pictures of {' and '.join([*sets, REALS][:2])} are equal: there is nothing to choose")
    if len(different) < len(trials):
        logger.warning(
            "%d of %d pairs are left out: their pictures are equal", len(trials) - len(different), len(trials)
        )
    return different


def pngs(images: np.ndarray) -> list[bytes]:
    """Each image, float32 [3, H, W], as a PNG of its pixels alone."""
    return [encode_png(to_image(image), {}) for image in images]


def check_bytes(page: Path, pictures: Sequence[bytes]) -> None:
    size = sum(map(len, pictures))
    if size > MAX_PICTURE_BYTES:
        raise SdeditError(
            f"study {page} would have {size / 2**20:.0f} MiB of pictures; {MAX_PICTURE_BYTES // 2**20} are accepted: "
            "take fewer guides, or smaller ones"
        )


def address(png: bytes | None) -> str | None:
    """The picture as the address of an image in HTML."""
    return None if png is None else f"data:image/png;base64,{base64.b64encode(png).decode()}"


def assemble(told: Mapping[str, object]) -> str:
    """The page. Its policy lets it run its own script alone and ask no other machine for anything."""
    folder = Path(__file__).parent
    html, style, script = ((folder / f"page.{suffix}").read_text(encoding="utf-8") for suffix in ("html", "css", "js"))
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    policy = "default-src 'none'; img-src data:; style-src 'sha256-{}'; script-src 'sha256-{}'".format(*digests)
    data = to_json(told, indent=None).replace("<", "\\u003c")
    for mark, text in {"POLICY": policy, "STYLE": style, "SCRIPT": script, "DATA": data}.items():
        html = html.replace(f"[[{mark}]]", text)
    return html


def write_key(key: Key, page: Path) -> None:
    path = key_path(page)
    if path.exists() and read_key(path).study != key.study:
        raise SdeditError(f"{path} is the key of a study with other pictures: choose another name")
    write(path, to_json(asdict(key)) + "\n")


def read_key(path: Path) -> Key:
    """The key in a file. Raises SdeditError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        pairs = tuple(Pair(str(pair["guide"]), int(pair["first"])) for pair in found["pairs"])
        first, second = map(str, found["sets"])
        return Key(str(found["study"]), (first, second), tuple(map(str, found["questions"])), pairs)
    except OSError as error:
        raise SdeditError(f"key {path} cannot be read: {reason(error)}") from None
    except (ValueError, TypeError, KeyError, RecursionError):
        raise SdeditError(f"{path} is not the key of a study") from None


def write(path: Path, text: str) -> None:
    """Write a text file: it is complete or untouched. Raises SdeditError."""
    temporary = path.with_name(f".sdedit-{secrets.token_hex(8)}")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.replace(path)
    except OSError as error:
        raise SdeditError(f"{path} cannot be written: {reason(error)}") from None
    finally:
        temporary.unlink(missing_ok=True)
