"""From a text to the network's inputs: CLIP's tokens (Radford et al. 2021), then the bundle's text encoders.

A bundle holds a tokenizer's vocabulary and merges alone. How a text is cleaned and split is CLIP's and is written here,
so that no pattern comes from outside.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sdedit.errors import BundleError, EngineError, PlanError, install_hint, raise_interrupt, reason, shown

from .bundle import TEXT, Bundle, TextEncoder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
"""A loaded network: inputs by name -> outputs by name."""

PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""CLIP's words: marks, endings, letters, single digits, and runs of other signs."""

WORD_END = "</w>"

KEPT = 32
"""Texts whose embeddings are kept."""

Tokens = tuple[tuple[int, ...], ...]
"""Ids of a text, one list an encoder, with the marks and without what fills up."""


class Prompts:
    """Embeds texts for one bundle. Not thread-safe: its owner locks it."""

    def __init__(self, bundle: Bundle, load: Callable[[str], Run]) -> None:
        """load: loads the network in a file of the bundle; it is let go after each use, for it is large."""
        text = bundle.manifest.text
        assert text is not None
        self._bundle, self._text, self._load = bundle, text, load
        self._tokenizers: list[Tokenizer] = []
        self._embedded: OrderedDict[str, Mapping[str, np.ndarray]] = OrderedDict()

    def tokens(self, what: str, text: str) -> Tokens:
        """The text's ids. what: prompt or negative, for errors. Raises PlanError for a text that is too long."""
        if not self._tokenizers:
            self._tokenizers = [read_tokenizer(self._bundle, encoder) for encoder in self._text.encoders]
        found = []
        room = self._text.length - 2
        for encoder, tokenizer in zip(self._text.encoders, self._tokenizers, strict=True):
            encoding = tokenizer.encode(text, add_special_tokens=False)
            if len(encoding.ids) > room:
                rest = text[encoding.offsets[room][0] :]
                raise PlanError(f"{what} is {len(encoding.ids)} tokens, {room} fit: cut from {shown(rest[:24])}")
            found.append((encoder.bos, *encoding.ids, encoder.eos))
        return tuple(found)

    def embed(self, texts: Mapping[str, Tokens]) -> dict[str, Mapping[str, np.ndarray]]:
        """The network's inputs for each text: context float32 [L, D], and pooled [P] if it takes one."""
        missing = {text: tokens for text, tokens in texts.items() if text not in self._embedded}
        if missing:
            run = self._load(TEXT)
            for text, tokens in missing.items():
                outputs = run(self._filled(tokens))
                if not all(np.isfinite(values).all() for values in outputs.values()):
                    raise EngineError(f"{TEXT} returned values that are not finite")
                self._embedded[text] = {name: values[0] for name, values in outputs.items()}
        found = {text: self._embedded[text] for text in texts}
        for text in texts:
            self._embedded.move_to_end(text)
        while len(self._embedded) > KEPT:
            self._embedded.popitem(last=False)
        return found

    def _filled(self, tokens: Tokens) -> dict[str, np.ndarray]:
        return fill_up(tokens, self._text.encoders, self._text.length)


def fill_up(tokens: Tokens, encoders: tuple[TextEncoder, ...], length: int) -> dict[str, np.ndarray]:
    """The inputs of text.onnx, int64 [1, length] each."""
    return {
        f"tokens_{number}": np.array([[*ids, *[encoder.pad] * (length - len(ids))]], np.int64)
        for number, (ids, encoder) in enumerate(zip(tokens, encoders, strict=True))
    }


def read_tokenizer(bundle: Bundle, encoder: TextEncoder) -> "Tokenizer":
    """The encoder's tokenizer from the bundle's files. Raises BundleError, and EngineError without the library."""
    vocabulary, merges = (bundle.read(name) for name in encoder.files)
    try:
        return make_tokenizer(parse_vocabulary(vocabulary, encoder), parse_merges(merges), encoder)
    except ValueError as error:
        raise BundleError(f"bundle {bundle.path}: {encoder.folder} is no tokenizer: {reason(error)}") from None


def parse_vocabulary(data: bytes, encoder: TextEncoder) -> dict[str, int]:
    """Token -> id from vocab.json. Raises ValueError for ids that the encoder does not embed."""
    try:
        vocabulary = json.loads(data)
    except RecursionError:
        vocabulary = None
    if not isinstance(vocabulary, dict) or not all(
        type(number) is int and 0 <= number < encoder.tokens for number in vocabulary.values()
    ):
        raise ValueError(f"vocab.json does not map tokens to 0..{encoder.tokens - 1}")
    return vocabulary


def parse_merges(data: bytes) -> list[tuple[str, str]]:
    """The pairs of merges.txt, the first merged first. Raises ValueError."""
    lines = data.decode("utf-8").split("\n")
    pairs = [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#version")]
    if not all(len(pair) == 2 for pair in pairs):
        raise ValueError("merges.txt has a line that is no pair")
    return pairs  # type: ignore[return-value] # they are pairs


def make_tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, str]], encoder: TextEncoder) -> "Tokenizer":
    """CLIP's tokenizer of this vocabulary, without marks. Raises ValueError, and EngineError without the library."""
    try:
        from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
    except ImportError as error:
        raise_interrupt(error)
        raise EngineError(f"a prompt needs the package tokenizers: {install_hint('text')}") from None
    names = {number: token for token, number in vocabulary.items()}
    if encoder.bos not in names or encoder.eos not in names:
        raise ValueError("vocab.json lacks the marks of a text's beginning and end")
    bos, eos = names[encoder.bos], names[encoder.eos]
    try:
        model = models.BPE(vocabulary, merges, unk_token=eos, end_of_word_suffix=WORD_END)
    except Exception as error:  # it raises Exception itself
        raise ValueError(f"its merges do not fit its vocabulary: {reason(error)}") from None
    tokenizer = Tokenizer(model)
    steps: Any = [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    tokenizer.normalizer = normalizers.Sequence(steps)
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.add_special_tokens(
        [AddedToken(mark, normalized=False, special=True) for mark in dict.fromkeys((bos, eos))]
    )
    return tokenizer
