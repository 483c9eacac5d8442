"""New tokens for a tokenizer that exists: they get the next ids, and all that was there stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelwright.base.errors import ConfigError, UserError
from modelwright.base.files import read_json, write_json, write_text
from modelwright.tokenizer.bpe import TOKENIZER_FILE, BPETokenizer
from modelwright.tokenizer.roles import CONFIG_FILE, TEMPLATE_FILE

ADDED_FILE = "added_tokens.json"
"""Where old folders name added tokens once more."""


def add_tokens(folder: Path, tokens: Mapping[str, bool], template: str | None = None) -> dict[str, int]:
    """Token -> id of each, after writing them into a folder's files. `tokens` says which are special: of
    those a text never makes one, a chat template alone does. `template` takes the place of the folder's."""
    before = BPETokenizer.load(folder)
    for token in tokens:
        _refuse_known(before, token)
    ids = {token: before.vocab_size + place for place, token in enumerate(tokens)}
    entries = [(number, _entry(token, tokens[token])) for token, number in ids.items()]
    content = read_json(folder / TOKENIZER_FILE)
    content["added_tokens"] = [
        *content.get("added_tokens", ()),
        *({"id": number, **entry} for number, entry in entries),
    ]
    write_json(folder / TOKENIZER_FILE, content)
    _name_again(folder, ids, entries)
    if template is not None:
        _set_template(folder, template)
    _check(folder, ids, tokens)
    return ids


def _refuse_known(tokenizer: BPETokenizer, token: str) -> None:
    if not token.strip():
        raise ConfigError(f"new_tokens: {token!r} is no text that could be told from white space")
    pieces = tokenizer.encode(token)
    known = tokenizer.id_of(token)
    if known is None and len(pieces) == 1:
        known = pieces[0]
    if known is not None:
        raise ConfigError(
            f"new_tokens: {token!r} is token {known} of this tokenizer already: leave it out, or spell it"
            " otherwise"
        )


def _entry(token: str, special: bool) -> dict[str, Any]:
    """As `tokenizer.json` spells one: found in a text as it stands, whatever is beside it."""
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"content": token, **plain, "special": special}


def _name_again(folder: Path, ids: Mapping[str, int], entries: list[tuple[int, dict[str, Any]]]) -> None:
    """In the other files that name added tokens, where they do."""
    if (folder / CONFIG_FILE).is_file():
        config = read_json(folder / CONFIG_FILE)
        if isinstance(config.get("added_tokens_decoder"), dict):
            config["added_tokens_decoder"] |= {str(number): entry for number, entry in entries}
            write_json(folder / CONFIG_FILE, config)
    if (folder / ADDED_FILE).is_file():
        write_json(folder / ADDED_FILE, {**read_json(folder / ADDED_FILE), **ids})


def _set_template(folder: Path, template: str) -> None:
    """In its own file, and where older programs look for it."""
    write_text(folder / TEMPLATE_FILE, template)
    config: dict[str, Any] = read_json(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}
    write_json(folder / CONFIG_FILE, {**config, "chat_template": template})


def _check(folder: Path, ids: Mapping[str, int], tokens: Mapping[str, bool]) -> None:
    """The library counts ids by itself: what it gives must be what was written."""
    after = BPETokenizer.load(folder)
    for token, number in ids.items():
        found = after.id_of(token)
        alone = tokens[token] or after.encode(token) == [number]
        if found != number or not alone:
            raise UserError(
                f"new_tokens: {token!r} would be token {number}, and the tokenizers library gives"
                f" {found if found != number else after.encode(token)}: the vocabulary has holes, or another"
                " token takes a part of it"
            )
