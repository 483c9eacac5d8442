"""Conversations and pairs as rows in one form: OpenAI's messages, TRL's pairs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from modelwright.base.errors import UserError
from modelwright.base.files import atomic_path
from modelwright.base.schema import Conversation, Json, Message, Preference
from modelwright.data.conversations.layouts import Layout
from modelwright.data.conversations.messages import READ, Fields
from modelwright.data.conversations.threads import SHAREGPT_READ

SUFFIXES = (".jsonl", ".parquet")
_ROWS_A_GROUP = 1024
_TEXT, _CALL = pa.string(), pa.struct({"name": pa.string(), "arguments": pa.string(), "id": pa.string()})
_MESSAGES = pa.list_(
    pa.struct(
        {"role": _TEXT, "content": _TEXT, "tool_calls": pa.list_(_CALL), "tool_call_id": _TEXT},
    )
)
_STRINGS = dict.fromkeys(("chosen", "rejected", "judge", "method"), _TEXT)
_COLUMNS = {
    "conversations": pa.schema({"messages": _MESSAGES, "tools": _TEXT, "others": _TEXT}),
    "preferences": pa.schema({"prompt": _MESSAGES, **_STRINGS, "others": _TEXT}),
}
"""`tools` and `others` (fields of the row that no layout reads) are JSON text: a column needs one type for
all rows, and they have none."""


def as_row(example: Conversation | Preference, others: Fields) -> dict[str, Json]:
    """A row that `read` gives back as it was. `others` are the row's fields that are no part of it."""
    if isinstance(example, Preference):
        pair = {"chosen": example.chosen, "rejected": example.rejected}
        facts = {"judge": example.judge, "method": example.method}
        return {**others, "prompt": [_message(m) for m in example.prompt], **pair, **facts}
    row: dict[str, Json] = {"messages": [_message(message) for message in example.messages]}
    return {**others, **row, **({"tools": list(example.tools)} if example.tools else {})}


def _message(message: Message) -> dict[str, Json]:
    made: dict[str, Json] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        made["tool_calls"] = [
            {
                **({"id": call.id} if call.id else {}),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    return made | ({"tool_call_id": message.tool_call_id} if message.tool_call_id else {})


def others(fields: Fields, layout: Layout) -> dict[str, Json]:
    """The fields that the layout does not read, under names that no layout of the new row reads."""
    taken = {"messages", "tools", "prompt", "chosen", "rejected", "judge", "method", "conversations"}
    return {
        f"row_{name}" if name in taken else name: value
        for name, value in fields.items()
        if name not in layout.known and value is not None
    }


def lost(fields: Fields) -> Iterator[str]:
    """Names of what messages say and our form has no place for: a speaker's name, hidden reasoning."""
    for name in ("messages", "conversations", "prompt", "completion", "chosen", "rejected"):
        messages = fields.get(name)
        read = SHAREGPT_READ if name == "conversations" else READ
        for message in messages if isinstance(messages, list) else ():
            extra = set(message) - read if isinstance(message, dict) else set[str]()
            yield from sorted(f"{name}[].{key}" for key in extra if not _says_nothing(key, message[key]))


def _says_nothing(key: str, value: Json) -> bool:
    """Whether a value changes nothing; weight 0 is a fault in answers, and other turns are not learned."""
    return value in (None, "", [], 1) or (key == "weight" and value == 0)


def write_rows(path: Path, rows: Iterable[dict[str, Json]]) -> int:
    """Write rows as JSON Lines or Parquet, by the suffix; how many. The file is there when all is written."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: the suffix is '{path.suffix}', expected {' or '.join(SUFFIXES)}")
    with atomic_path(path) as temporary:
        if path.suffix == ".parquet":
            return _write_parquet(temporary, rows)
        count = 0
        with open(temporary, "w", encoding="utf-8") as file:
            for row in rows:
                file.write(line(row) + "\n")
                count += 1
    return count


def line(row: Fields) -> str:
    """A row as a line of JSON; dates and decimals, which columns may hold, as text. Half a surrogate pair,
    which fields that nobody reads may hold, stays the escape that it was."""
    text = json.dumps(row, ensure_ascii=False, default=str)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _write_parquet(path: Path, rows: Iterable[dict[str, Json]]) -> int:
    count, writer, waiting = 0, None, list[dict[str, Any]]()
    try:
        for row in rows:
            count += 1
            schema = _COLUMNS["conversations" if "messages" in row else "preferences"]
            writer = writer or pq.ParquetWriter(path, schema)
            waiting.append(_columns(row, schema))
            if len(waiting) >= _ROWS_A_GROUP:
                writer.write_table(pa.Table.from_pylist(waiting, schema))
                waiting = []
        if writer is None:
            raise UserError(f"{path.name}: no row is left to write")
        writer.write_table(pa.Table.from_pylist(waiting, writer.schema))
    finally:
        if writer is not None:
            writer.close()
    return count


def _columns(row: dict[str, Json], schema: pa.Schema) -> dict[str, Any]:
    rest = {name: value for name, value in row.items() if name not in schema.names}
    made: dict[str, Any] = {name: row.get(name) for name in schema.names}
    for name in ("messages", "prompt"):
        if made.get(name):
            made[name] = [_flat(message) for message in made[name]]
    if "tools" in made:
        made["tools"] = line(row["tools"]) if "tools" in row else None
    return made | {"others": line(rest) if rest else None}


def _flat(message: dict[str, Json]) -> dict[str, Json]:
    calls = [{"id": call.get("id"), **call["function"]} for call in message.get("tool_calls", ())]
    return {**message, "tool_calls": calls or None}
