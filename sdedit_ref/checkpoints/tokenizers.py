"""CLIP's tokenizers in diffusers folders: vocab.json and merges.txt, or the tokenizer.json of newer versions."""

import json
from pathlib import Path
from typing import Any

from sdedit.errors import CheckpointError, reason

from .checkpoint import Tokenizer

MAX_BYTES = 1 << 26

MARKS = r"<\|startoftext\|>|<\|endoftext\|>|"
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
NORMALISERS = ["NFC", "Replace", "Lowercase"]
"""CLIP's way to split a text into words, and to clean it."""

WORD_END = "</w>"


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder. Raises CheckpointError for one that is missing or not CLIP's."""
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        vocabulary = read_json(folder / "vocab.json")
        lines = read_bytes(folder / "merges.txt").decode("utf-8", "replace").split("\n")
        pairs = [line.split() for line in lines if line.strip() and not line.startswith("#version")]
    elif (folder / "tokenizer.json").is_file():
        whole = read_json(folder / "tokenizer.json")
        check_kind(folder / "tokenizer.json", whole)
        vocabulary = whole["model"].get("vocab")
        pairs = [merge.split() if isinstance(merge, str) else merge for merge in whole["model"].get("merges", [])]
    else:
        raise CheckpointError(f"{folder}: no vocab.json with merges.txt, and no tokenizer.json in it")
    if not isinstance(vocabulary, dict) or not all(type(number) is int for number in vocabulary.values()):
        raise CheckpointError(f"{folder}: its vocabulary is no mapping of tokens to ids")
    if not all(len(pair) == 2 and all(isinstance(part, str) for part in pair) for pair in pairs):
        raise CheckpointError(f"{folder}: its merges are no pairs")
    config = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    bos, eos = mark(folder, config, vocabulary, "bos_token"), mark(folder, config, vocabulary, "eos_token")
    pad = mark(folder, config, vocabulary, "pad_token") if config.get("pad_token") else eos
    return Tokenizer(vocabulary, tuple((first, second) for first, second in pairs), bos, eos, pad)


def check_kind(path: Path, whole: Any) -> None:
    """Raise CheckpointError unless a tokenizer.json cleans and splits as CLIP does."""
    try:
        model = whole["model"]
        steps = [step["type"] for step in whole["normalizer"]["normalizers"]]
        split, bytes_ = whole["pre_tokenizer"]["pretokenizers"]
        fits = (
            model["type"] == "BPE"
            and model["end_of_word_suffix"] == WORD_END
            and steps == NORMALISERS
            and split["pattern"]["Regex"].removeprefix(MARKS) == PATTERN
            and bytes_["type"] == "ByteLevel"
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise CheckpointError(f"{path} is a tokenizer of another kind: accepted is CLIP's")


def mark(folder: Path, config: Any, vocabulary: dict[str, int], name: str) -> int:
    """The id of a mark that the folder's config names, or that CLIP has."""
    default = {"bos_token": "<|startoftext|>"}.get(name, "<|endoftext|>")
    named = config.get(name, default) if isinstance(config, dict) else default
    token = named.get("content") if isinstance(named, dict) else named
    if token not in vocabulary:
        raise CheckpointError(f"{folder}: its vocabulary lacks the {name} {str(token)[:40]!r}")
    return vocabulary[token]


def read_json(path: Path) -> Any:
    """The JSON of a file; raises CheckpointError."""
    try:
        return json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {reason(error) if isinstance(error, ValueError) else error}"
        ) from None


def read_bytes(path: Path) -> bytes:
    """The bytes of a file of at most MAX_BYTES; raises CheckpointError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason(error)}") from None
    if len(data) > MAX_BYTES:
        raise CheckpointError(f"{path} is larger than {MAX_BYTES} bytes")
    return data
