from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.errors import DamagedFile, UserError
from modelwright.base.files import sha256_text
from modelwright.base.schema import Document, Reason
from modelwright.data.decontaminate import native
from modelwright.data.decontaminate.disguise import WRAPPINGS
from modelwright.data.decontaminate.index import ALL, ENOUGH, Config, Index
from modelwright.data.decontaminate.items import EvalItem, read_items
from modelwright.data.decontaminate.plain import Found, search
from modelwright.data.decontaminate.step import step
from modelwright.data.decontaminate.words import FILLER, alike, fold, words


def words_of(text: str) -> list[str]:
    return text.split()


NAMES = words_of("Ann Bob Cora Dev Emil Fay Gus Hal Ida Jo Kim Lou Mia Ned Ona Pat Quin Rae Sol Tess")
THINGS = words_of("kites plums boats drums lamps coins shells ropes bells tiles masks wheels")


def made_items(number: int = 60) -> list[EvalItem]:
    dice = random.Random(5)
    return [
        EvalItem(
            "sums",
            str(index),
            f"{dice.choice(NAMES)} has {index + 3} {dice.choice(THINGS)} and buys {dice.randint(2, 90)} more "
            f"{dice.choice(THINGS)} from {dice.choice(NAMES)} on a dull day. "
            f"After that {dice.choice(NAMES)} gives {dice.randint(2, 9)} away. How many are left in the end?",
            f"There are {dice.randint(100, 999)} left.",
        )
        for index in range(number)
    ]


@pytest.fixture(scope="module")
def index() -> Index:
    return Index.build(made_items())


CLEAN = (
    "The day was windy and the boats lay in the harbour. After that nobody spoke of the shells again, and "
    "in the end there was little left to say about how many ropes had been bought from the old man. "
) * 5


def test_found_whatever_the_wrapping(index: Index) -> None:
    item = made_items()[7]
    for wrap in (str, *WRAPPINGS):
        text = f"{CLEAN}\n\n{wrap(item.question)}\n\n{CLEAN}"
        hit = index.check(text)
        assert hit is not None and str(hit) == "sums/7", wrap
        assert hit.score == 1.0
    assert index.check(CLEAN) is None and index.check("") is None


def test_the_span_is_the_items(index: Index) -> None:
    item = made_items()[3]
    for before in ("", "Ünïcödé, 日本 İ first. "):
        text = f"{before}{item.question} {item.answer} {CLEAN}"
        (hit,) = index.find(text)
        assert text[hit.start : hit.end].rstrip(".?") == f"{item.question} {item.answer}"[:-1].rstrip(
            "?"
        ) or (text[hit.start : hit.end] == item.question[:-1])


def test_edits_cost_the_weight_of_their_words(index: Index) -> None:
    item = made_items()[11]
    edited = item.question.split()
    edited[4], edited[9], edited[14] = "xx", "yy", "zz"
    hit = index.check(" ".join(edited))
    assert hit is not None and 0.8 <= hit.score < 1.0
    assert index.check(" ".join(reversed(item.question.split()))) is None
    assert index.check(" ".join(item.question.split()[:10])) is None


def test_a_light_question_needs_its_answer() -> None:
    items = [*made_items(), EvalItem("qa", "oslo", "Oslo lies in", "Norwegian Kingdom of Haakon")]
    index = Index.build(items)
    assert index.check(f"{CLEAN} Oslo lies in the north. {CLEAN}") is None
    hit = index.check(f"{CLEAN} Oslo lies in (the) Norwegian Kingdom of Haakon. {CLEAN}")
    assert hit is not None and (hit.item, hit.kind) == ("oslo", "question and answer")
    far = f"Oslo lies in {CLEAN} Norwegian Kingdom of Haakon"
    assert index.check(far) is None


def test_items_that_cannot_be_found_are_counted() -> None:
    turns = [" ".join(["wax", "wane"][n >> bit & 1] for bit in range(8)) for n in range(256)]
    shared = [EvalItem("t", str(n), turn) for n, turn in enumerate(turns)]
    index = Index.build(
        [
            *shared,
            EvalItem("t", "none", "[ ( ) ]"),
            EvalItem("t", "sum", "3-7+7-1", "2"),
            EvalItem("t", "light", "Yes or no?"),
            *made_items(),
        ]
    )
    assert index.coverage() == {
        "usable": 60, "only words that many items share": 256, "no words": 2, "too generic": 1,
    }  # fmt: skip


def test_numbers_alone_are_no_words() -> None:
    sums = [EvalItem("sums", str(n), f"{n % 9}-7+{n}-1", str(n % 9 + n - 8)) for n in range(9, 60)]
    index = Index.build([*sums, *made_items()])
    assert index.check(f"{CLEAN} Versions 3.7.12, 3-7+12-1 and 7. {CLEAN}") is None
    assert index.check(f"{CLEAN} {made_items()[3].question} {CLEAN}") is not None


def test_items_alike_in_words_stand_for_each_other() -> None:
    brackets = [
        EvalItem("t", str(n), f"Complete the sequence so that all brackets are closed properly: {'[(' * n}")
        for n in range(99)
    ]
    index = Index.build([*brackets, *made_items()])
    assert index.coverage() == {"usable": 159}
    assert str(index.check(f"{CLEAN} {brackets[7].question} {CLEAN}")) == "t/0"


def test_saved_and_mapped(index: Index, tmp_path: Path) -> None:
    index.save(tmp_path / "index")
    again = Index.load(tmp_path / "index")
    text = CLEAN + made_items()[20].question
    assert again.find(text) == index.find(text) != []
    assert again.config == index.config and again.names == index.names
    damaged = tmp_path / "index" / "part_words.npy"
    content = bytearray(damaged.read_bytes())
    content[-4:] = b"\xff\xff\xff\x7f"  # a word that does not exist
    damaged.write_bytes(content)
    with pytest.raises(DamagedFile, match="contradict"):
        Index.load(tmp_path / "index")
    damaged.write_bytes(content[:40])
    with pytest.raises(DamagedFile, match="not a whole"):
        Index.load(tmp_path / "index")


def test_no_items_is_a_mistake() -> None:
    with pytest.raises(UserError, match="no evaluation items"):
        Index.build([])


def document(text: str) -> Document:
    return Document(text=text, id=sha256_text(text), source="a")


def test_the_step_drops_or_cuts(index: Index) -> None:
    item = made_items()[0]
    texts = [CLEAN, f"{CLEAN}\n\n{item.question}\n\nThe end.", item.question[:-1]]
    dropped: list[Reason] = []
    kept = list(step(index)(map(document, texts), lambda _, reason: dropped.append(reason)))
    assert [each.text for each in kept] == [CLEAN]
    assert [(each.rule, each.value, each.says) for each in dropped] == [("contaminated", 1.0, "sums/0")] * 2
    dropped.clear()
    kept = list(step(index, "cut")(map(document, texts), lambda _, reason: dropped.append(reason)))
    assert [each.text for each in kept] == [CLEAN, f"{CLEAN}\n\n?\n\nThe end."]
    assert kept[1].meta["decontaminated"] == ["sums/0"] and kept[1].id == sha256_text(kept[1].text)
    assert [each.says for each in dropped] == ["sums/0"]


SHORT = [
    EvalItem("qa", "a", "Which mountain has snow at Kilimanjaro?", "Kibo peak"),
    EvalItem("qa", "b", "Do sardines sleep well?"),
    *(EvalItem("filler", str(n), f"Which has word{n} at word{n + 1}") for n in range(300)),
]


def test_one_edit_does_not_hide_a_short_item() -> None:
    index = Index.build(SHORT)
    assert ("qa", "a") not in set(index.fragile()) and ("qa", "b") in set(index.fragile())
    for edited in (
        "Which mountain has snow at Kilimanjaro? Kibo summit",  # replaced
        "Which mountain snow at Kilimanjaro? Kibo peak",  # left out
        "Which mountain has snow at Kilimanjaro? Kiob peak",  # too short to be told misspelt
        "Which mountain has fresh snow at Kilimanjaro? Kibo peak",  # put in
    ):
        hit = index.check(f"{CLEAN} {edited} {CLEAN}")
        assert str(hit) == "qa/a", edited
    misspelt = index.check(f"{CLEAN} Which montain has snow at Kilimanjaro? Kibo peek {CLEAN}")
    assert misspelt is not None and misspelt.score == 1.0
    for other in (
        "At Kilimanjaro snow has which mountain? Peak Kibo",  # in another order
        "Which mountain, they asked when they had come so far, has any snow at Kilimanjaro? Kibo peak",
        f"Which mountain has ice at Kilimanjaro? {CLEAN[:90]} Kibo peak",  # the answer is not beside it
        "Which hill has ice at Kilimanjaro? Kibo peak",
    ):
        assert index.check(f"{CLEAN} {other} {CLEAN}") is None, other


@pytest.mark.parametrize(
    ("word", "other", "same"),
    [
        *[("mountain", each, True) for each in ("montain", "moutnain", "mountains", "mauntain")],
        *[("mountain", each, False) for each in ("fountains", "moutnian", "mount", "ntainmou")],
        *[("1066", "1067", False), ("and", "adn", False), ("from", "form", True)],
    ],
)  # fmt: skip
def test_misspelt_words(word: str, other: str, same: bool) -> None:
    assert alike(word.encode(), other.encode()) == alike(other.encode(), word.encode()) == same


def distance(one: bytes, two: bytes) -> int:
    """Optimal string alignment by its definition."""
    if not one or not two:
        return len(one) + len(two)
    ways = [distance(one[1:], two[1:]) + (one[0] != two[0])]
    ways += [distance(one[1:], two) + 1, distance(one, two[1:]) + 1]
    if len(one) > 1 and len(two) > 1 and one[0] == two[1] and one[1] == two[0]:
        ways.append(distance(one[2:], two[2:]) + 1)
    return min(ways)


@given(st.text("ab", min_size=4, max_size=6), st.text("ab", min_size=4, max_size=6))
def test_alike_is_an_edit_distance_of_one(one: str, two: str) -> None:
    assert alike(one.encode(), two.encode()) == (distance(one.encode(), two.encode()) <= 1)


def test_escapes_are_read() -> None:
    found = words(fold("Chi\\u0219in\\u0103u\\n\\u56fd\\ud83d x\\uffff"))
    assert [word for word, _, _ in found] == ["chișinău", "国", "x"]


VOCABULARY = [
    *NAMES,
    *THINGS,
    *words_of("has and buys more from on a the day 3 7 left are 日本 ü İ \\n \\u00e9"),
]
texts = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from(VOCABULARY), max_size=60).map(" ".join),
    st.lists(st.sampled_from([item.question for item in made_items(3)]), max_size=2).map("\n".join),
)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=6), st.lists(texts, min_size=1, max_size=3)
)
def test_the_compiled_search_finds_the_same(parts: list[tuple[str, str, str]], asked: list[str]) -> None:
    if native.library() is None:
        pytest.skip("no compiler")
    items = [EvalItem("s", str(number), *part) for number, part in enumerate(parts)]
    arrays = Index.build(items, Config(ngram_words=3)).arrays
    find = native.searcher(arrays)
    for text in [asked[0], " ".join([*asked, *parts[0], parts[-1][0]])]:
        rows = find(text, 60, 500, ALL)
        assert rows == search(arrays, fold(text), 60, 500, ALL)
        for limit in (1, 3):
            assert find(text, 60, 500, limit) == search(arrays, fold(text), 60, 500, limit) == rows[:limit]


def test_the_same_on_real_text(shared_data: Path) -> None:
    if native.library() is None:
        pytest.skip("no compiler")
    items = [
        *read_items(shared_data / "humaneval"),
        *list(read_items(shared_data / "gsm8k" / "test.jsonl.gz"))[:300],
    ]
    arrays = Index.build(items).arrays
    find = native.searcher(arrays)
    for item in items[::29]:
        text = CLEAN + item.question.upper() + item.answer
        rows = find(text, 60, 17_600, ALL)
        assert rows == search(arrays, fold(text), 60, 17_600, ALL) != []


TEMPLATED = [item.question for item in made_items(300)]
ACCENTED = [question.replace("kites", "é") for question in TEMPLATED]
TEMPLATES = Index.build(made_items(300))


@settings(max_examples=40, deadline=None)
@given(
    texts, st.lists(st.sampled_from([*TEMPLATED, *(q.replace("kites", "é") for q in TEMPLATED)]), max_size=12)
)
def test_the_best_hit_is_one_of_all_and_the_best_where_they_are_few(text: str, asked: list[str]) -> None:
    whole = " ".join([text, *asked])
    best, hits = TEMPLATES.check(whole), TEMPLATES.find(whole)
    assert (best is None) == (not hits) and (best is None or best in hits)
    rows = native.searcher(TEMPLATES.arrays)(whole, 60, TEMPLATES._least, ALL)
    if len(rows) < ENOUGH:
        assert best == max(hits, key=lambda hit: hit.score, default=None)


def test_a_text_that_repeats_a_suite_is_judged_by_its_first_hits() -> None:
    assert len(TEMPLATES.find(" ".join(TEMPLATED))) > 4 * ENOUGH
    searched: list[int] = []

    def counted(text: str, floor: int, least: int, limit: int) -> list[Found]:
        searched.append(limit)
        return TEMPLATES._search(text, floor, least, limit)

    index = Index(TEMPLATES.arrays, TEMPLATES.names, TEMPLATES.config)
    index.__dict__["_search"] = counted
    best = index.check(" ".join(TEMPLATED))
    assert best is not None and best.score == 1.0 and searched == [ENOUGH]


def test_places_that_are_no_hits_do_not_hide_the_one_that_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these has most words of an item, so it is a place to judge, and lacks too many others."""
    strange = {name: "Zoe" for name in NAMES[1:]} | {str(number): "77" for number in range(1000)}
    strangers = " ".join(strange.get(word, word) for q in TEMPLATED[:200] for word in q.split())
    assert len(TEMPLATES._search(strangers, 60, TEMPLATES._least, ALL)) > 10
    monkeypatch.setattr("modelwright.data.decontaminate.index.ENOUGH", 3)
    assert TEMPLATES.check(strangers) is None
    best = TEMPLATES.check(f"{strangers} {TEMPLATED[7]}")
    assert best is not None and (best.item, best.score) == ("7", 1.0)


SHORT_OF_MEMORY = """
import resource, sys
from modelwright.data.decontaminate.index import Index
from modelwright.data.decontaminate.items import EvalItem
others = [EvalItem("s", str(n), f"Which has word{n} at word{n + 1}") for n in range(300)]
index = Index.build([EvalItem("s", "k", "Which mountain has snow at Kilimanjaro?", "Kibo peak"), *others])
text = "Which mountain has snow at Kilimanjaro? Kibo peak. "
assert index.check(text).score == 1.0
pages = int(open("/proc/self/statm").read().split()[0])
long = "a " * 4_000_000  # 24 bytes a word
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (64 << 20), -1))
try:
    index.check(long)
except MemoryError as error:
    print("said", error)
assert index.check(text).score == 1.0  # and nothing is left of it
"""


def test_too_little_memory_is_an_error_and_not_the_end_of_the_process() -> None:
    if native.library() is None:
        pytest.skip("no compiler")
    done = subprocess.run([sys.executable, "-c", SHORT_OF_MEMORY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "said a text of 8,000,000 bytes could not be searched" in done.stdout


def test_a_text_of_shuffled_items_takes_no_longer(index: Index) -> None:
    dice = random.Random(0)
    pieces = [" ".join(item.question.split()[at : at + 5]) for item in made_items() for at in range(0, 30, 3)]
    hostile = " ".join(dice.choice(pieces) for _ in range(4_000))
    index.find(hostile)  # pytest's own time limit is the bar: this once took minutes


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_folding_keeps_places(text: str) -> None:
    folded = fold(text)
    assert len(folded) == len(text)
    for word, start, end in words(folded):
        assert folded[start:end].replace(FILLER, "") == word and start < end


def test_words() -> None:
    assert [word for word, _, _ in words(fold("Don’t pay $1,000.50—日本語 \\nfoo_bar İx"))] == words_of(
        "don t pay 1 000 50 日 本 語 foo bar ix"
    )
