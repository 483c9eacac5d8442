"""What lies beside a model's weights, as a folder to change: a tokenizer with more tokens, or another's."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from modelwright.base.errors import UserError
from modelwright.formats.huggingface import TOKENIZER_FILES
from modelwright.formats.stored import DESCRIPTIONS, INDEX
from modelwright.tokenizer.bpe import BPETokenizer


@contextmanager
def described(folder: Path) -> Generator[Path]:
    """A copy of a model folder without its weights; gone afterwards."""
    with tempfile.TemporaryDirectory() as place:
        for file in {file for pattern in DESCRIPTIONS for file in folder.glob(pattern) if file.is_file()}:
            if file.name != INDEX:
                shutil.copyfile(file, Path(place) / file.name)
        yield Path(place)


def take_tokenizer(folder: Path, adapter: Path, rows: int, before: int) -> None:
    """Put the tokenizer beside an adapter, where there is one, into `folder`, whose own it must go on from.
    `rows` is how many tokens the model has with the adapter, and had `before`."""
    own = BPETokenizer.load(folder)
    if rows > before and not (adapter / TOKENIZER_FILES[0]).is_file():
        raise UserError(
            f"{adapter} has rows for {rows - before:,} tokens that the model lacks, and no"
            f" {TOKENIZER_FILES[0]} that says which: save the tokenizer that it was trained with beside it"
        )
    if (adapter / TOKENIZER_FILES[0]).is_file():
        theirs = BPETokenizer.load(adapter)
        if theirs.tokens[: own.vocab_size] != own.tokens:
            raise UserError(
                f"{adapter} was made for another vocabulary: its tokenizer does not begin with the"
                f" {own.vocab_size:,} tokens of {folder}'s. Take the model that it was trained beside"
            )
        for name in TOKENIZER_FILES:
            if (adapter / name).is_file():
                shutil.copyfile(adapter / name, folder / name)
        own = theirs
    if own.vocab_size > rows:
        raise UserError(
            f"{adapter}: its tokenizer has {own.vocab_size:,} tokens, and the model has rows for {rows:,}"
        )
