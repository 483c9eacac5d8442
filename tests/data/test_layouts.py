"""Rows of every layout: which one a file has is found, never guessed, and what does not fit is named."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelwright.base.errors import DamagedFile, UserError
from modelwright.base.schema import Message
from modelwright.data.conversations.read import read_conversations, read_preferences
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.json import _Items
from modelwright.data.readers.source import Source


def put(folder: Path, *rows: Any, **facts: Any) -> list[Source]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [Source(path=str(path), **facts)]


def turns(*said: tuple[str, str]) -> tuple[Message, ...]:
    return tuple(Message(role=role, content=text) for role, text in said)  # type: ignore[arg-type]


ONE = turns(("user", "Hi?"), ("assistant", "Hello."))
TREE = {
    "prompt": {
        "role": "prompter",
        "text": "Hi?",
        "replies": [
            {"role": "assistant", "text": "Hello.", "rank": 0, "replies": []},
            {
                "role": "assistant",
                "text": "Go.",
                "rank": 1,
                "replies": [{"role": "prompter", "text": "Why?"}],
            },
            {"role": "assistant", "text": "Spam.", "rank": 2, "deleted": True, "replies": []},
        ],
    }
}
SAID = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
CALL = {"name": "clock", "arguments": {"zone": "UTC"}}
OF_LAYOUT: dict[str, tuple[dict[str, Any], list[tuple[Message, ...]]]] = {
    "messages": ({"messages": SAID}, [ONE]),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "Hi?"},
                           {"from": "gpt", "value": "Hello."}], "system": "S"},
        [turns(("system", "S")) + ONE],
    ),
    "alpaca": (
        {"instruction": "Add.", "input": "1, 2", "output": "3", "history": [["Hi?", "Hello."]], "system": ""},
        [ONE + turns(("user", "Add.\n\n1, 2"), ("assistant", "3"))],
    ),
    "dolly": ({"instruction": "Hi?", "context": "", "response": "Hello."}, [ONE]),
    "self_instruct": (
        {"instruction": "Add.", "instances": [{"input": "1, 2", "output": "3"}, {"output": "?"}]},
        [
            turns(("user", "Add.\n\n1, 2"), ("assistant", "3")),
            turns(("user", "Add."), ("assistant", "?")),
        ],
    ),
    "question_answer": (
        {"question": "1 + 2?", "rationale": "Count.", "answer": "3"},
        [turns(("user", "1 + 2?"), ("assistant", "Count.\n\n3"))],
    ),
    "question_answers": ({"question": "Hi?", "answers": {"text": ["Hello.", "Hey."]}}, [ONE]),
    "prompt_completion": ({"prompt": [{"role": "user", "content": "Hi?"}], "completion": "Hello."}, [ONE]),
    "labelled": ({"prompt": "Hi?", "completion": "Hello.", "label": True}, [ONE]),
    "tree": (TREE, [ONE, turns(("user", "Hi?"), ("assistant", "Go."))]),
}  # fmt: skip


@pytest.mark.parametrize("layout", OF_LAYOUT)
def test_a_layout_is_found_and_read(tmp_path: Path, layout: str) -> None:
    row, expected = OF_LAYOUT[layout]
    made = read_conversations(put(tmp_path, {**row, "id": 7}))
    assert [conversation.messages for conversation in made] == expected
    assert all(
        conversation.meta["layout"] == layout and conversation.meta["id"] == 7 for conversation in made
    )


def test_other_names_that_fields_often_have(tmp_path: Path) -> None:
    same = [
        {"prompt": "Hi?", "response": "Hello."},
        {"conversations": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]},
    ]
    for row in same:
        assert [made.messages for made in read_conversations(put(tmp_path, row))] == [ONE]
    beside = {**same[1], "messages": None}
    (made,) = read_conversations(put(tmp_path, beside))
    assert made.messages == ONE, "a null in the layout's own name does not win over the other name"
    german = put(
        tmp_path, {"Frage": "Hi?", "Antwort": "Hello."}, fields={"question": "Frage", "answer": "Antwort"}
    )
    assert [made.messages for made in read_conversations(german)] == [ONE]
    wrong = put(tmp_path, {"Frage": "Hi?"}, fields={"qestion": "Frage"})
    with pytest.raises(UserError, match=r"no layout has 'qestion'\. Did you mean 'question'"):
        read_conversations(wrong)


def test_calls_in_sharegpt_and_text_parts_of_openai(tmp_path: Path) -> None:
    tools = json.dumps([{"type": "function", "function": {"name": "clock", "parameters": {}}}])
    said = [
        {"from": "human", "value": "When?"},
        {"from": "function_call", "value": json.dumps(CALL)},
        {"from": "observation", "value": "noon"},
        {"from": "gpt", "value": "At noon."},
    ]
    (made,) = read_conversations(put(tmp_path, {"conversations": said, "tools": tools}))
    assert [turn.role for turn in made.messages] == ["user", "assistant", "tool", "assistant"]
    assert made.messages[1].tool_calls[0].arguments == '{"zone": "UTC"}' and made.tools == tuple(
        json.loads(tools)
    )
    parts = [{"type": "text", "text": "Hi"}, {"type": "text", "text": "?"}]
    rows = [{"role": "developer", "content": "S"}, {"role": "user", "content": parts}]
    (made,) = read_conversations(
        put(tmp_path, {"messages": [*rows, {"role": "assistant", "content": "Hello."}]})
    )
    assert made.messages == turns(("system", "S")) + ONE


def test_the_weight_of_an_answer_is_read_in_either_form(tmp_path: Path) -> None:
    """Weight 0 of an answer cannot be met; of any other turn it changes nothing."""
    speakers = {"user": "human", "assistant": "gpt"}
    for weights, expected in (((0, 1), {}), ((0, 0), {"weight 0": 1})):
        told = [{**turn, "weight": weight} for turn, weight in zip(SAID, weights, strict=True)]
        rows = [
            {"messages": told},
            {
                "conversations": [
                    {"from": speakers[turn["role"]], "value": turn["content"], "weight": turn["weight"]}
                    for turn in told
                ]
            },
        ]
        for row in rows:
            faults = Faults("skip")
            made = read_conversations(put(tmp_path, row), faults)
            assert [each.messages for each in made] == ([] if expected else [ONE])
            assert faults.counts == expected


def test_preferences_from_transcripts_and_trees(tmp_path: Path) -> None:
    opening = "\n\nHuman: Hi?\n\nAssistant:"
    (pair,) = read_preferences(put(tmp_path, {"chosen": f"{opening} Hello.", "rejected": f"{opening} Go."}))
    assert (pair.prompt, pair.chosen, pair.rejected) == (ONE[:1], "Hello.", "Go.")
    (pair,) = read_preferences(put(tmp_path, TREE))
    assert (pair.prompt, pair.chosen, pair.rejected, pair.method) == (ONE[:1], "Hello.", "Go.", "rank")


def test_what_is_labelled_as_bad_is_passed_over_and_counted(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Hi?", "completion": text, "label": good}
        for text, good in (("Hello.", True), ("Go.", False))
    ]
    faults = Faults()
    assert [made.messages for made in read_conversations(put(tmp_path, *rows), faults)] == [ONE]
    assert faults.passed_over == {"no demonstration": 1}


def test_rows_that_fit_several_layouts_are_no_guess(tmp_path: Path) -> None:
    row = {"instruction": "Hi?", "output": "Hello.", "response": "Go."}
    with pytest.raises(
        UserError, match=r"rows\.jsonl: of the first 1 rows, 1 look like alpaca .* or dolly .*layout: "
    ):
        read_conversations(put(tmp_path, row))
    assert read_conversations(put(tmp_path, row, layout="alpaca"))[0].messages == ONE
    mixed = [OF_LAYOUT["alpaca"][0], OF_LAYOUT["messages"][0]]
    with pytest.raises(
        UserError, match=r"1 look like alpaca .*, 1 look like messages .*A file has one layout"
    ):
        read_conversations(put(tmp_path, *mixed))
    faults = Faults("skip")
    assert len(read_conversations(put(tmp_path, *mixed, layout="alpaca"), faults)) == 1
    assert faults.counts == {"missing field": 1}


def test_unknown_columns_and_the_other_kind_of_rows(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r'no layout .* which have "Frage", "Antwort"\. Known: messages .*fields: \{que'
    ):
        read_conversations(put(tmp_path, {"Frage": "Hi?", "Antwort": "Hello."}))
    with pytest.raises(UserError, match=r"preference pairs \(layout preference\), from which align learns"):
        read_conversations(put(tmp_path, {"prompt": "Hi?", "chosen": "a", "rejected": "b"}))
    with pytest.raises(UserError, match=r"conversations \(layout alpaca\), from which finetune learns"):
        read_preferences(put(tmp_path, OF_LAYOUT["alpaca"][0]))
    (tmp_path / "a.csv").write_text("question;answer\na;b\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"one column, .* looks like several"):
        read_conversations([Source(path=str(tmp_path / "a.csv"))])


WRONG = [
    ("alpaca", {"instruction": "Hi?", "output": " "}, "empty text", "output is empty"),
    ("alpaca", {"instruction": "Hi?", "output": "a", "history": [["a"]]}, "wrong history", "pairs of"),
    ("alpaca", {"instruction": "Hi?"}, "missing field", 'no field "output", it has "instruction"'),
    ("dolly", {"instruction": 5, "response": "a"}, "text is no string", "instruction is a int"),
    ("self_instruct", {"instruction": "Hi?", "instances": "a"}, "wrong instances", "a list of objects"),
    ("question_answer", {"question": "Hi?", "answer": None}, "missing field", 'no field "answer"'),
    ("question_answers", {"question": "Hi?", "answers": []}, "wrong answers", "an empty list, expected"),
    ("question_answers", {"question": "Hi?", "answers": [3]}, "text is no string", "answers is a int"),
    ("prompt_completion", {"prompt": {}, "completion": "a"}, "wrong messages", "prompt is an object"),
    ("labelled", {"prompt": "a", "completion": "b", "label": "perhaps"}, "wrong label", "expected true"),
    ("sharegpt", {"conversations": [{"from": "human"}]}, "wrong messages", 'expected {"from", "value"}'),
    ("sharegpt", {"conversations": [{"from": "cat", "value": "a"}]}, "unknown role", "unknown role 'cat'"),
    ("sharegpt", {"conversations": [{"from": "function_call", "value": "{"}]}, "wrong tool calls", "JSON"),
    ("sharegpt", {"conversations": {"a": 1}}, "wrong messages", "expected a list of from and value"),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "not text", "only text"),
    ("messages", {"messages": [{"role": "assistant", "content": "a", "weight": 0}]}, "weight 0", "weight 0 "),
    (
        "sharegpt",
        {"conversations": [{"from": "function_call", "value": "{}", "weight": 0}]},
        "weight 0",
        "[0]: weight 0",
    ),
    ("messages", {"messages": [SAID[1]], "tools": "{"}, "wrong tools", "tools"),
    ("tree", {"prompt": {"role": "cat", "replies": []}}, "wrong tree", "a message is an object with"),
    ("tree", {"prompt": {"role": "prompter", "text": "a", "replies": {}}}, None, ""),
    ("tree", {"prompt": {"role": "prompter", "text": "a", "replies": 3}}, "wrong tree", "replies is a int"),
]  # fmt: skip


@pytest.mark.parametrize(("layout", "row", "kind", "message"), WRONG)
def test_a_row_that_does_not_fit_is_named(
    tmp_path: Path, layout: Any, row: Any, kind: str | None, message: str
) -> None:
    told: list[tuple[str, str]] = []
    faults = Faults("skip", lambda where, why: told.append((where, str(why))))
    sources = put(tmp_path, row, OF_LAYOUT[layout][0], layout=layout)
    assert len(read_conversations(sources, faults)) == len(OF_LAYOUT[layout][1])
    assert list(faults.counts) == ([kind] if kind else []) and len(told) == 1
    assert told[0][0].endswith("rows.jsonl, line 1") and message in told[0][1]


def test_every_format_that_has_rows(tmp_path: Path) -> None:
    rows = [{"question": f'{n}, "n"\n?', "answer": f"ä{n}"} for n in range(3)]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=2), encoding="utf-8")
    (tmp_path / "b.json").write_text("\ufeff" + "\n".join(map(json.dumps, rows)), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    for name, mark in (("d.csv", ","), ("e.tsv", "\t")):
        with open(tmp_path / name, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["question", "answer"], delimiter=mark)
            writer.writeheader()
            writer.writerows(rows)
    put(tmp_path, *rows)
    each = [
        [made.messages for made in read_conversations([Source(path=str(tmp_path / name))])]
        for name in ("a.json", "b.json", "c.parquet", "d.csv", "e.tsv", "rows.jsonl")
    ]
    assert all(messages == each[0] for messages in each) and len(each[0]) == 3
    assert len(read_conversations([Source(path=str(tmp_path))])) == 12, "in folders, .json is something else"
    named = read_conversations([Source(path=str(tmp_path / "*.json"))])
    assert len(named) == 6, "a glob that ends with .json names them"


def test_what_columns_add_to_objects_is_no_field(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": "{}"}]}
    rows = [
        {
            "messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}],
            "tools": None,
        },
        {"messages": [{"role": "user", "content": "Hi?"}, call], "tools": [{"function": {"name": "f"}}]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    one, two = read_conversations([Source(path=str(tmp_path))])
    assert one.messages == ONE and one.tools == () and two.messages[1].tool_calls[0].name == "f"


VALUES = st.text(max_size=6) | st.lists(st.text(max_size=3), max_size=2)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.lists(st.dictionaries(st.text(max_size=4), VALUES, max_size=4), max_size=5),
    st.integers(1, 7),
    st.booleans(),
)
def test_a_json_list_is_cut_where_its_items_end(rows: list[Any], size: int, is_list: bool) -> None:
    text = json.dumps(rows, indent=1) if is_list else " \n".join(map(json.dumps, rows))
    pieces = [text.encode()[start : start + size] for start in range(0, len(text.encode()), size)]
    assert [json.loads(item) for item in _Items().of(pieces)] == rows


def test_broken_lists(tmp_path: Path) -> None:
    path, good = tmp_path / "a.json", '{"question": "a", "answer": "b"}'
    for text, kinds, count in (
        (f"[{good}, {{a}}, 3, [1], {good}]", {"not JSON": 1, "not an object": 2}, 2),
        (f"[{good}, {good}", {"file truncated or garbled": 1}, 2),
        (f'[{good}, {{"question": "', {"file truncated or garbled": 1}, 1),
        (f"[{good}}}]", {"not JSON": 1}, 1),
        (f"[{good}, \\ {good}, {good}, {good}]", {"not JSON": 1}, 4),
        (f"{good}\\\n{good}\n{good}", {"not JSON": 1}, 3),
        ("[" * 100_000, {"file truncated or garbled": 1}, 0),
        ('{"question": ' + "[" * 50_000 + "]" * 50_000 + "}" + good, {"not JSON": 1}, 1),
    ):
        path.write_text(text, encoding="utf-8")
        faults = Faults("skip")
        assert len(read_conversations([Source(path=str(path))], faults)) == count
        assert faults.counts == kinds, text[:50]
    path.write_text(f"[{good}, {{a}}]", encoding="utf-8")
    with pytest.raises(DamagedFile, match=r"a\.json, row 2: not valid JSON"):
        read_conversations([Source(path=str(path))])


def test_deeply_nested_rows_are_listed(tmp_path: Path) -> None:
    node: dict[str, Any] = {"role": "assistant", "text": "a"}
    for depth in range(400):
        node = {"role": "prompter" if depth % 2 == 0 else "assistant", "text": "a", "replies": [node]}
    faults = Faults("skip")
    made = read_conversations(put(tmp_path, {"prompt": node}, TREE), faults)
    assert len(made) == 2 + 1 - faults.counts["nested too deeply"] - faults.counts["not JSON"]


def test_real_files_of_every_layout(shared_data: Path) -> None:
    counts = {
        "dolly_hhrlhf_1k/train_small.jsonl.gz": ("prompt_completion", 1000),
        "oasst_trees/en_100_tree.jsonl.gz": ("tree", 546),
        "gsm8k/test.jsonl.gz": ("question_answer", 1319),
        "self_instruct_seed/seed_tasks.jsonl.gz": ("self_instruct", 175),
    }
    for name, (layout, count) in counts.items():
        made = read_conversations([Source(path=str(shared_data / name))])
        assert len(made) == count and {each.meta["layout"] for each in made} == {layout}
    mbpp = Source(path=str(shared_data / "mbpp/mbpp.jsonl.gz"), fields={"question": "text", "answer": "code"})
    assert len(read_conversations([mbpp])) == 974


def test_real_trees_and_transcripts_give_the_pairs_that_were_made_of_them(shared_data: Path) -> None:
    trees, pairs = (
        read_preferences([Source(path=str(shared_data / "oasst_trees" / name))])
        for name in ("en_100_tree.jsonl.gz", "preference_pairs.jsonl.gz")
    )
    assert [(p.prompt, p.chosen, p.rejected) for p in trees] != [] and {
        (p.prompt, p.chosen, p.rejected) for p in trees
    } == {(p.prompt, p.chosen, p.rejected) for p in pairs}
    faults = Faults("skip")
    made = read_preferences([Source(path=str(shared_data / "hh_rlhf/harmless-base.test.jsonl.gz"))], faults)
    assert len(made) + faults.counts.total() == 2312 and len(made) > 2300
