"""Tokens that a model gets before it is tuned: in its tokenizer, its embedding and its head."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import model_validator

from modelwright.base.config import Config
from modelwright.base.errors import ConfigError, UserError
from modelwright.base.files import sha256_text
from modelwright.formats.described import described
from modelwright.model.adapters import Adapter
from modelwright.model.rows import HEAD, Rows, learn_rows, matrices, take_rows, widen
from modelwright.model.transformer import Transformer
from modelwright.tokenizer.added import add_tokens
from modelwright.tokenizer.bpe import TOKENIZER_FILE, BPETokenizer
from modelwright.training.batches import Fitting

MARKS = frozenset("<>[]{}|\\^~`@#_=")
"""What tokens are spelled with so that no ordinary text does; one that has none of these stands in texts."""


class NewTokensConfig(Config):
    """Which tokens. A list alone is `plain`."""

    plain: tuple[str, ...] = ()
    """Found wherever a text spells them, as Qwen's <think> is."""
    special: tuple[str, ...] = ()
    """Never made by a text: the chat template alone writes them."""
    template: Path | None = None
    """A chat template (Jinja) that takes the place of the model's. None: the model's, as it is."""
    begin: Literal["pieces", "mean"] = "pieces"
    """Where their rows begin: the mean of the pieces that each was cut into before, or of all tokens."""
    train: Literal["rows", "all"] = "rows"
    """What of embedding and head is trained beside an adapter: the new rows, or all (PEFT's modules_to_save,
    as large as the matrices)."""

    @model_validator(mode="before")
    @classmethod
    def _of_list(cls, given: Any) -> Any:
        return {"plain": given} if isinstance(given, list | tuple) else given

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        every = (*self.plain, *self.special)
        twice = sorted({token for token in every if every.count(token) > 1})
        if twice or not every:
            raise ValueError(
                f"new_tokens names {', '.join(map(repr, twice))} more than once: leave the others out"
                if twice
                else "new_tokens names no token: give plain or special ones, or leave it out"
            )
        return self


@dataclass(frozen=True, slots=True)
class NewTokens:
    """What became of them."""

    folder: Path
    """The model's folder, or one with its tokenizer and these in it."""
    ids: Mapping[str, int] = field(default_factory=dict[str, int])
    pieces: Mapping[int, tuple[int, ...]] = field(default_factory=dict[int, tuple[int, ...]])
    """Id -> what the tokenizer cut the token into before; nothing where rows begin as the mean of all."""
    whole: bool = False
    """Whether beside an adapter all rows are trained."""
    log: Callable[[str], None] = print

    def widen(self, model: Transformer) -> None:
        """Give them rows, where the model has not been given them."""
        if self.pieces:
            widen(model, self.pieces)

    def learn(self, model: Transformer, begin: Adapter | None) -> None:
        """Let their rows learn beside an adapter; those of one that is begun with go on."""
        if begin is not None and begin.rows:
            take_rows(model, _fitting(begin, self.pieces, model))
        elif self.pieces:
            ids = None if self.whole else torch.tensor(list(self.pieces))
            learn_rows(model, dict.fromkeys(matrices(model), ids))

    def look_for(self, learned: Fitting) -> None:
        """Say which of them no example has: their rows learn nothing of what they mean."""
        for token, number in self.ids.items():
            if not learned.holding(number):
                self.log(
                    f"new token {token!r} stands in none of the conversations: it learns no meaning. Special"
                    " ones are written by the chat template alone; plain ones must be spelled as here"
                )


def _fitting(begin: Adapter, pieces: Mapping[int, Any], model: Transformer) -> dict[str, Rows]:
    """The rows of an adapter that training begins with, where they are of this vocabulary."""
    size = model.config.vocab_size
    if begin.unties and model.config.tie_word_embeddings:
        raise UserError(
            "begin_adapter takes the head apart from the embedding that it was: merge it (modelwright merge),"
            " and train beside the merged model"
        )
    kept = {n: each for n, each in begin.rows.items() if n != HEAD or not model.config.tie_word_embeddings}
    for name, each in kept.items():
        ids = set(range(len(each.values)) if each.ids is None else each.ids.tolist())
        missing = sorted(pieces.keys() - ids)
        if max(ids) >= size or missing or (each.ids is None and len(ids) != size):
            why = f"none for new token {missing[0]}" if missing else f"some up to token {max(ids)}"
            raise ConfigError(
                f"begin_adapter was made for another vocabulary: of {name} it has {len(ids):,} rows, {why},"
                f" and the model has {size:,}. Give the new_tokens that it was trained with"
            )
    return kept


@contextmanager
def with_tokens(
    config: NewTokensConfig | None, parent: Path, log: Callable[[str], None]
) -> Generator[NewTokens]:
    """The tokens in a copy of what lies beside a model's weights; gone afterwards."""
    if config is None:
        yield NewTokens(parent)
        return
    before = BPETokenizer.load(parent)
    template = None if config.template is None else _read(config.template)
    with described(parent) as folder:
        tokens = dict.fromkeys(config.plain, False) | dict.fromkeys(config.special, True)
        ids = add_tokens(folder, tokens, template)
        own = config.begin == "pieces"
        pieces = {number: tuple(before.encode(token)) if own else () for token, number in ids.items()}
        log(f"new tokens: {', '.join(f'{token!r} = {number}' for token, number in ids.items())}")
        for remark in remarks(config, before):
            log(remark)
        yield NewTokens(folder, ids, pieces, config.train == "all", log)


def remarks(config: NewTokensConfig, before: BPETokenizer | None) -> list[str]:
    """What should be known of plain tokens that ordinary text spells. `before`: the tokenizer that gets them;
    None where it is not there yet."""
    ordinary = [token for token in config.plain if MARKS.isdisjoint(token)]
    found: list[str] = []
    for token in ordinary:
        was = f", which was {len(before.encode(token))} tokens before," if before else ""
        found.append(
            f"new token {token!r}{was} is ordinary text: wherever it stands, also within longer words, texts"
            " are cut otherwise than those that the model has learned from. Spell it as no text does"
            f" (<{token.strip()}>), or name it under new_tokens.special"
        )
    return found


def tokenizer_in(model: Path | None) -> BPETokenizer | None:
    """The tokenizer of a model's folder, or of the station that made one; None where there is none yet."""
    for folder in (model, model / "model") if model else ():
        if (folder / TOKENIZER_FILE).is_file():
            return BPETokenizer.load(folder)
    return None


def mark(config: NewTokensConfig | None) -> str:
    """A mark of the template's file: when it changes, the stage runs anew."""
    return f" {sha256_text(_read(config.template))}" if config and config.template else ""


def _read(template: Path) -> str:
    try:
        return template.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"new_tokens.template: {template} cannot be read: {error}") from error
