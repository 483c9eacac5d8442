"""What the files beside a `tokenizer.json` say: which tokens begin and end a text, and the chat templates.

Makers spread it over files that came about at different times; the first that speaks is believed:

| what | files, in order |
| --- | --- |
| bos, eos, pad, unk | tokenizer_config.json, special_tokens_map.json |
| what ends an answer | eos, and all of `eos_token_id` in generation_config.json, else in config.json |
| chat template | chat_template.jinja, tokenizer_config.json (one, or several by name) |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from modelwright.base.errors import DamagedFile
from modelwright.base.files import read_json

CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
SPECIAL_FILE = "special_tokens_map.json"
GENERATION_FILE = "generation_config.json"
_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """What a folder says of its tokenizer; empty where it says nothing."""

    named: Mapping[str, str] = field(default_factory=dict[str, str])
    """"bos_token", "eos_token", "pad_token", "unk_token" -> the token."""
    stops: tuple[int, ...] = ()
    """Ids that end an answer, besides eos."""
    adds_bos: bool | None = None
    """Whether every text begins with bos; None where `tokenizer.json` alone says it."""
    templates: Mapping[str, str] = field(default_factory=dict[str, str])
    """Chat templates by name: "default", and sometimes "tool_use" for when there are tools."""

    @classmethod
    def read(cls, folder: Path) -> Roles:
        """What the files in `folder` say."""
        config, special = _object(folder / CONFIG_FILE), _object(folder / SPECIAL_FILE)
        named = {name: _spelled(config.get(name)) or _spelled(special.get(name)) for name in _NAMES}
        stated = _object(folder / GENERATION_FILE).get("eos_token_id")
        if stated is None:
            stated = _object(folder / "config.json").get("eos_token_id")
        stops = cast(list[Any], stated if isinstance(stated, list) else [stated])
        adds_bos = config.get("add_bos_token")
        return cls(
            named={name: token for name, token in named.items() if token},
            stops=tuple(stop for stop in stops if isinstance(stop, int)),
            adds_bos=adds_bos if isinstance(adds_bos, bool) and named["bos_token"] else None,
            templates=_templates(folder / TEMPLATE_FILE, config.get("chat_template")),
        )


def _templates(file: Path, stated: Any) -> dict[str, str]:
    """Chat templates by name. tokenizer_config.json holds a text, or a list of them with names."""
    several = cast(list[Any], stated if isinstance(stated, list) else [])
    named = [cast(dict[str, Any], one) for one in several if isinstance(one, dict)]
    found = {str(one["name"]): str(one["template"]) for one in named if {"name", "template"} <= one.keys()}
    if isinstance(stated, str):
        found["default"] = stated
    if file.is_file():
        try:
            found["default"] = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DamagedFile(f"{file} is no UTF-8 text: {error}. Copy it again.") from error
    return found


def _spelled(token: Any) -> str:
    """A token as old and new files write it: as text, or as an object."""
    content = cast(dict[str, Any], token).get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else ""


def _object(file: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one where there is no file."""
    found: Any = read_json(file) if file.is_file() else {}
    if not isinstance(found, dict):
        raise DamagedFile(f"{file} holds no JSON object. Copy it again.")
    return cast(dict[str, Any], found)
