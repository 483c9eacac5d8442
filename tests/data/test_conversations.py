from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modelwright.base.errors import DamagedFile, UserError
from modelwright.base.schema import Message, ToolCall
from modelwright.data.conversations import sides
from modelwright.data.conversations.read import made_of, read_conversations, read_preferences
from modelwright.data.conversations.sides import conversations_from, preferences_from
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.source import Source
from modelwright.data.sources import provenance_of
from modelwright.data.split import side_of

USER = {"role": "user", "content": "Hi?"}
ANSWER = {"role": "assistant", "content": "Hello."}
OTHER = {"role": "assistant", "content": "Go away."}


def put(folder: Path, *rows: Any) -> list[Source]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [Source(path=str(path))]


def test_conversations_in_openai_form(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "system", "content": "S"}, USER, ANSWER], "rank": 1},
        {"messages": [ANSWER]},
    ]
    one, two = read_conversations(put(tmp_path, *rows))
    assert [m.role for m in one.messages] == ["system", "user", "assistant"]
    assert one.messages[1] == Message(role="user", content="Hi?")
    assert one.meta["rank"] == 1 and one.meta["place"] == "line 1" and one.tools == ()
    assert two.messages == (Message(role="assistant", content="Hello."),)


def test_calls_of_tools(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}]
    inner = {"name": "clock", "arguments": {"zone": "Österreich"}}
    full = {"id": "call_1", "type": "function", "function": inner | {"arguments": '{"zone":  "UTC"}'}}
    result = {"role": "tool", "content": "", "tool_call_id": "call_1"}
    asking = {"role": "assistant", "content": None, "tool_calls": [full, inner]}
    (read,) = read_conversations(put(tmp_path, {"messages": [USER, asking, result, ANSWER], "tools": tools}))
    assert read.tools == tuple(tools)
    assert read.messages[1] == Message(
        role="assistant",
        content="",
        tool_calls=(
            ToolCall(name="clock", arguments='{"zone":  "UTC"}', id="call_1"),
            ToolCall(name="clock", arguments='{"zone": "Österreich"}'),
        ),
    )
    assert read.messages[2] == Message(role="tool", content="", tool_call_id="call_1")


def test_parquet_and_gzip_read_alike(tmp_path: Path) -> None:
    rows = [{"messages": [USER, ANSWER]}] * 3
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    read = read_conversations([Source(path=str(tmp_path))])
    assert len(read) == 6 and len({conversation.messages for conversation in read}) == 1


WRONG_CONVERSATIONS = [
    ({"text": "x"}, 'no field "messages", it has "text"'),
    ({"messages": "x"}, "messages is a str, expected a list of messages"),
    ({"messages": []}, "messages is an empty list"),
    ({"messages": [USER]}, "no message has the role 'assistant'"),
    (
        {"messages": [USER, {"role": "asistant", "content": "x"}]},
        r"messages\[1\]: unknown role 'asistant'\. Did you mean",
    ),
    (
        {"messages": [USER, {**ANSWER, "tool_calls": {"name": "f"}}]},
        r"tool_calls is an object .* expected a list",
    ),
    (
        {"messages": [USER, {**ANSWER, "tool_calls": [{"id": "f"}]}]},
        r"tool_calls\[0\] is an object with .id.",
    ),
    (
        {"messages": [USER, {**ANSWER, "tool_calls": [{"name": "f", "arguments": "{a"}]}]},
        r"arguments is '\{a', expected a JSON object",
    ),
    ({"messages": [{**USER, "tool_calls": [{"name": "f"}]}, ANSWER]}, "the role 'user' calls a tool"),
    ({"messages": [USER, {"role": ["user"], "content": "x"}]}, r"messages\[1\]: unknown role"),
    ({"messages": [{"from": "human", "value": "x"}]}, r'messages\[0\] is an object with "from", "value"'),
    ({"messages": [USER, {"role": "assistant", "content": None}]}, r"messages\[1\]\.content is null"),
    ({"messages": [USER, {"role": "assistant", "content": " \n"}]}, r"messages\[1\]\.content is empty"),
    ({"messages": [USER, {"role": "assistant", "content": "\ud800"}]}, "half a surrogate pair"),
    ({"messages": [USER, ANSWER], "tools": {"a": 1}}, "tools is dict, expected a list"),
]


@pytest.mark.parametrize(("row", "message"), WRONG_CONVERSATIONS)
def test_wrong_conversations_are_named_or_counted(tmp_path: Path, row: Any, message: str) -> None:
    good = {"messages": [USER, ANSWER]}
    sources = put(tmp_path, good, row, good)
    with pytest.raises(DamagedFile, match=rf"rows\.jsonl, line 2: .*{message}"):
        read_conversations(sources)
    faults = Faults("skip")
    assert len(read_conversations(sources, faults)) == 2
    assert faults.counts.total() == 1


def test_preferences_in_each_of_their_forms(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Hi?", "chosen": "Hello.", "rejected": "Go away.", "judge": "human", "method": "rank"},
        {"prompt": [USER], "chosen": "Hello.", "rejected": "Go away."},
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [OTHER]},
        {"prompt": [USER], "chosen": [USER, ANSWER], "rejected": [USER, OTHER]},
        {"chosen": [USER, ANSWER], "rejected": [USER, OTHER]},
    ]
    pairs = read_preferences(put(tmp_path, *rows))
    assert {(p.prompt, p.chosen, p.rejected) for p in pairs} == {
        ((Message(role="user", content="Hi?"),), "Hello.", "Go away.")
    }
    assert [(p.judge, p.method) for p in pairs[:2]] == [("human", "rank"), ("unknown", "unknown")]


WRONG_PREFERENCES = [
    ({"prompt": "x", "chosen": "a"}, 'no field "rejected", it has "prompt", "chosen"'),
    ({"prompt": "x", "chosen": "a", "rejected": "a"}, "the same text"),
    ({"prompt": "x", "chosen": "a", "rejected": ""}, "rejected is empty"),
    ({"prompt": 3, "chosen": "a", "rejected": "b"}, "prompt is a int, expected a list of messages"),
    (
        {"prompt": "x", "chosen": [USER], "rejected": "b"},
        "chosen: expected the prompt's messages and then one",
    ),
    ({"chosen": [USER, ANSWER], "rejected": [ANSWER, OTHER]}, "expected the prompt's messages"),
    ({"chosen": [ANSWER], "rejected": [OTHER]}, "no prompt"),
    ({"chosen": "\n\nHuman: x", "rejected": "y"}, "chosen is a str, expected a list of messages"),
]


@pytest.mark.parametrize(("row", "message"), WRONG_PREFERENCES)
def test_wrong_preferences_are_named(tmp_path: Path, row: Any, message: str) -> None:
    good = {"prompt": "x", "chosen": "a", "rejected": "b"}
    with pytest.raises(DamagedFile, match=rf"rows\.jsonl, line 2: .*{message}"):
        read_preferences(put(tmp_path, good, row))


def test_text_files_hold_no_conversations(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Hi", encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.txt: conversations are read from jsonl"):
        read_conversations([Source(path=str(tmp_path))])


def test_no_question_is_on_both_sides(tmp_path: Path) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Question {i % 100}"},
                {"role": "assistant", "content": f"{i}"},
            ]
        }
        for i in range(300)
    ]
    sources = put(tmp_path, *rows)
    train = conversations_from(sources, 1, 1000, "train")
    validation = conversations_from(sources, 1, 1000, "validation")
    assert len(train) + len(validation) == 300 and len(validation) >= 3
    assert not {c.messages[0] for c in train} & {c.messages[0] for c in validation}
    few = conversations_from(sources, 1, 10, "train")
    assert len(few) == 10 and few == [c for c in train if c in few]
    assert few == conversations_from(sources, 1, 10, "train") != conversations_from(sources, 2, 10, "train")


def test_atlas_and_files_together(tmp_path: Path) -> None:
    sources = [Source(path="atlas"), *put(tmp_path, {"messages": [USER, ANSWER]})]
    made = conversations_from(sources, 3, 8, "train")
    assert len(made) in (8, 9)
    assert made[:8] == conversations_from(sources[:1], 3, 8, "train")
    pairs = preferences_from([Source(path="atlas")], 3, 5, "validation")
    assert len(pairs) == 5 and all(pair.chosen != pair.rejected for pair in pairs)


def test_real_conversations_and_preferences(shared_data: Path) -> None:
    folder = shared_data / "oasst_trees"
    conversations = read_conversations([Source(path=str(folder / "sft_messages.jsonl.gz"))])
    assert len(conversations) == 687
    assert all(conversation.messages[-1].role == "assistant" for conversation in conversations)
    pairs = read_preferences([Source(path=str(folder / "preference_pairs.jsonl.gz"))], Faults("skip"))
    assert len(pairs) >= 740


def test_what_is_known_of_a_source_is_known_of_what_was_learned(tmp_path: Path) -> None:
    rows = [
        {"messages": [USER, ANSWER], "license": "MIT"},
        {"messages": [USER, OTHER], "personal_data": True},
    ]
    (bare,) = put(tmp_path, *rows)
    silent = provenance_of(read_conversations([bare]))
    assert silent.licences == {"MIT": 1, "unknown": 1} and silent.sources == {bare.path: 2}
    assert silent.personal_data == {"unknown": 1, "yes": 1}
    said = bare.model_copy(update={"licence": "Apache-2.0", "jurisdiction": "DE", "personal_data": False})
    found = conversations_from([said, Source(path="atlas")], seed=1, count=3, split="train")
    told = provenance_of(found)
    ours = sum(each.meta["source"] == bare.path for each in found)
    assert told.documents == len(found) == ours + 3 and told.personal_data == {"no": ours + 3}
    assert told.licences.get("Apache-2.0", 0) == told.jurisdictions.get("DE", 0) == ours


def test_whether_a_file_may_hold_something_out_is_known_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[object] = []

    def counted(*args: Any, **how: Any) -> list[Any]:
        read.append(args)
        return made_of(*args, **how)

    monkeypatch.setattr(sides, "made_of", counted)

    def found(questions: Iterable[str], whole: bool = False) -> tuple[bool, int]:
        """What is said of a file, and how many of its rows were looked at."""
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps({"question": q, "answer": "Yes."}) + "\n" for q in questions))
        read.clear()
        return sides.may_be_held_out([Source(path=str(path))], whole=whole), len(read)

    here = [side_of(f"Is it {n}?", sides.VALIDATION_FRACTION) for n in range(5000)]
    first = here.index("validation")
    assert found(f"Is it {n}?" for n in range(5000)) == (True, first + 1)
    learned = [f"Is it {n}?" for n in range(60) if here[n] == "train"]
    assert found(learned) == (False, len(learned))
    assert found(learned, whole=True) == (True, 1)
    assert found(learned[:1] * 3000) == (True, sides.ENOUGH + 1), "nobody reads on for ever"
    assert found([]) == (False, 0) == found([], whole=True)
