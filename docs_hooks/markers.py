"""Markers in the pages, and what takes their place when the site is built.

A marker is an HTML comment on a line of its own, `<!-- KIND: WORDS -->`:

    <!-- measured: pugd -->             what was measured of a method
    <!-- cite: pugd -->                 BibTeX of its paper, and a link to it
    <!-- study: digits tuned 0.4 -->    the best twelve contenders of a study under one condition, the best first
    <!-- study: digits tuned 0.4 all -->    all of them
    <!-- family: 0.4 -->                every method at one noise level, decay fixed, at equal steps and equal gradients
    <!-- methods: all -->               the table of all methods
    <!-- text: text_forgetting -->      a study of text, with what its methods forget

Other comments stay as they are, unless they look like a marker that does not exist: that is an error.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path

from family_table import of_family
from flatmin.registry import METHODS, lookup
from forgetting import of_text
from measured import MOST_ROWS, of_condition, of_method
from overview import overview

MARKER = re.compile(r"^<!-- *([a-z]+): *([^>]*?) *-->$", re.MULTILINE)

#: (words, page, folder of the results) -> Markdown.
Filler = Callable[[str, str, Path], str]


def fill(text: str, page: str, results: Path) -> str:
    """The text of a page, its markers replaced.

    Args:
        text: Markdown.
        page: where it is, a path under `docs/`.
        results: the folder with the published numbers.

    Raises:
        ValueError: a marker does not exist, or what it names does not; the message says where.
    """

    def filled(marker: re.Match[str]) -> str:
        kind, words = marker.groups()
        try:
            if kind not in FILLERS:
                raise ValueError(f"markers are {', '.join(FILLERS)}")
            return FILLERS[kind](words, page, results)
        except ValueError as error:
            raise ValueError(f"docs/{page}: {marker[0]}: {error}") from error

    return MARKER.sub(filled, text)


def cite(name: str) -> str:
    """BibTeX of a method's paper, and a link to it.

    Raises:
        ValueError: there is no such method.
    """
    paper = lookup(name).paper
    if paper is None:
        return f"There is no paper of `{name}` to cite."
    link = f"[arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})" if paper.arxiv else paper.venue
    return f"{link}, or `flatmin cite {name}`:\n\n```bibtex\n{paper.bibtex(name)}\n```"


def _measured(words: str, page: str, results: Path) -> str:
    return of_method(lookup(words).name, results, _link(page))


def _cite(words: str, page: str, results: Path) -> str:
    return cite(words)


def _study(words: str, page: str, results: Path) -> str:
    found = re.fullmatch(r"(\w+) (\w+) ([\d.]+)( all)?", words)
    if not found:
        raise ValueError("write a study, an arm and a noise, such as `study: digits tuned 0.4`, and `all` for all rows")
    study, arm, noise, everything = found.groups()
    most = None if everything else MOST_ROWS
    return of_condition(study, arm, float(noise), results, _link(page), most)


def _family(words: str, page: str, results: Path) -> str:
    try:
        noise = float(words)
    except ValueError:
        raise ValueError("write a noise level, such as `family: 0.4`") from None
    return of_family(noise, results, _link(page))


def _text(words: str, page: str, results: Path) -> str:
    return of_text(words, results)


def _methods(words: str, page: str, results: Path) -> str:
    if words != "all":
        raise ValueError("write `methods: all`")
    return overview(METHODS, _link(page))


FILLERS: dict[str, Filler] = {
    "measured": _measured,
    "cite": _cite,
    "study": _study,
    "family": _family,
    "methods": _methods,
    "text": _text,
}


def _link(page: str) -> Callable[[str], str]:
    """From a path under `docs/` to what leads there from `page`."""
    return lambda target: posixpath.relpath(target, posixpath.dirname(page) or ".")
