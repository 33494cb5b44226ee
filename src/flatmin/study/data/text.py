"""Text by characters: a file, its alphabet, its three splits, and windows of it."""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

#: The fractions of a text where validation and test begin.
VALIDATION, TEST = 0.9, 0.95
#: A character that occurs less often in the training splits has no symbol of its own.
OCCURRENCES = 10
#: The symbol of all characters that have none of their own.
OTHER = 0


@dataclass(frozen=True)
class Text:
    """The splits of a text as symbols, each (n,) int64.

    Args:
        train: the first 90 % of the characters.
        validation: the next 5 %.
        test: the last 5 %.
    """

    train: Tensor
    validation: Tensor
    test: Tensor

    @property
    def others(self) -> float:
        """The fraction of the test characters that have no symbol of their own."""
        return (self.test == OTHER).double().mean().item()


@dataclass(frozen=True)
class Corpus:
    """One or two texts in one alphabet.

    Args:
        symbols: their number: those of characters, and the one of all others.
        first: the text that training begins with.
        then: the text that it goes on with; None for one text.
        digest: the start of the SHA-256 of both files.
    """

    symbols: int
    first: Text
    then: Text | None
    digest: str


def load(path: str, then: str = "") -> Corpus:
    """Read one or two files.

    The alphabet has the characters that occur at least ten times in the training splits, of both texts together. All
    others, in any split, are one more symbol, which a model has to predict like any character; which of them it was is
    not counted.

    Args:
        path: of a file in UTF-8.
        then: of a second one; empty for none.

    Raises:
        ValueError: a file cannot be read, or is no text in UTF-8.
    """
    contents = [_read(name, option) for name, option in ((path, "data"), (then, "then")) if name or option == "data"]
    return _corpus(*contents)


#: Texts that are on another machine, by path.
_REMEMBERED: dict[str, str] = {}


def remember(texts: Mapping[str, str]) -> None:
    """Use the texts that another process has read, in place of files of these names."""
    _REMEMBERED.update(texts)


def contents(*paths: str) -> dict[str, str]:
    """The texts of files, as `remember` takes them. An empty path is none."""
    return {path: _read(path, "data") for path in paths if path}


def _read(path: str, option: str) -> str:
    if path in _REMEMBERED:
        return _REMEMBERED[path]
    if not path:
        raise ValueError(f"{option} must be a file of text, got none; write --{option} FILE")
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{option}: cannot read {path}: {error.strerror}; write --{option} FILE") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{option}: {path} is not UTF-8 ({error}); convert it, for example with iconv") from None


@functools.lru_cache(maxsize=2)
def _corpus(*contents: str) -> Corpus:
    counts = Counter("".join(content[: int(VALIDATION * len(content))] for content in contents))
    alphabet = sorted(character for character, count in counts.items() if count >= OCCURRENCES)
    symbols = {character: number for number, character in enumerate(alphabet, start=OTHER + 1)}

    def text(content: str) -> Text:
        found = torch.tensor([symbols.get(character, OTHER) for character in content], dtype=torch.int64)
        first, second = int(VALIDATION * len(content)), int(TEST * len(content))
        return Text(found[:first], found[first:second], found[second:])

    texts = [text(content) for content in contents]
    digest = hashlib.sha256("\0".join(contents).encode()).hexdigest()[:12]
    return Corpus(len(alphabet) + 1, texts[0], texts[1] if len(texts) > 1 else None, digest)


class Windows:
    """Batches of windows of a text, in a random order: in a pass, nearly every character is predicted once.

    Each pass cuts the text at other places. It draws from torch's global generator. What does not fill a window or a
    batch is left out.

    Args:
        text: symbols that are seen, (n,).
        targets: symbols that are to be predicted, (n,).
        context: length of a window.
        batch_size: windows per batch.
    """

    def __init__(self, text: Tensor, targets: Tensor, context: int, batch_size: int) -> None:
        self._text, self._targets, self._context, self._batch_size = text, targets, context, batch_size
        self.count = max(0, len(text) - context) // context

    def __len__(self) -> int:
        """The number of batches of a pass."""
        return self.count // self._batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        begin = int(torch.randint(self._context, ()))
        for rows in torch.split(torch.randperm(self.count), self._batch_size)[: len(self)]:
            places = begin + self._context * rows[:, None] + torch.arange(self._context)
            yield self._text[places], self._targets[places + 1]


def in_order(text: Tensor, context: int, batch_size: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of the windows of a text, one after another; what does not fill a window is left out.

    Args:
        text: symbols, (n,) with n > `context`.
        context: length of a window.
        batch_size: windows per batch; the last one may be smaller.
    """
    count = (len(text) - 1) // context
    inputs, targets = (text[start : start + count * context].view(count, context) for start in (0, 1))
    return [*zip(torch.split(inputs, batch_size), torch.split(targets, batch_size), strict=True)]


def spread(text: Tensor, context: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The same windows in a fixed random order, so that the first ones are from all over the text."""
    count = (len(text) - 1) // context
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    for rows in torch.split(order, batch_size):
        places = context * rows[:, None] + torch.arange(context)
        yield text[places], text[places + 1]
