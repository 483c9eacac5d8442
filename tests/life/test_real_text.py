"""The whole line on real text: a play, novels, conversations and judgements of people."""

from __future__ import annotations

import gzip
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.life.tiny import ancestors, artifacts, command, documents, held_out_loss, metrics
from tests.server.running import running

from modelwright.base.artifact import Artifact
from modelwright.base.files import read_json
from modelwright.base.schema import Conversation, Message, Sampling
from modelwright.cli import main
from modelwright.data.corpus import read_corpus
from modelwright.formats.huggingface import load_model
from modelwright.inference.engine import Engine
from modelwright.recipes.stations import WHOLE_LIFE
from modelwright.terminal.chat import Chat
from modelwright.terminal.load import load
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.chat import render
from modelwright.tokenizer.shards import TokenShards

CONTEXT = 512
QUESTION = "What is the meaning of life? Réponds en français, s'il te plaît. 👍"


def lines_of(file: Path) -> list[dict[str, Any]]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def sources(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Slices of the real files, in their own formats, as a recipe names them."""
    folder = tmp_path_factory.mktemp("raw")
    with gzip.open(shared_data / "tinyshakespeare" / "input.txt.gz", "rt", encoding="utf-8") as file:
        (folder / "shakespeare.txt").write_text(file.read(80_000), encoding="utf-8")
    novels = next(
        pq.ParquetFile(shared_data / "litbank_novels" / "novels-00000.parquet").iter_batches(batch_size=2)
    )
    rows = [row | {"text": row["text"][:40_000]} for row in novels.to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows), folder / "novels.parquet")
    talks = shared_data / "oasst_trees"
    licence = {"licence": "Apache-2.0", "jurisdiction": "US", "personal_data": None}
    return {
        "data.sources": [
            {"path": str(folder / "shakespeare.txt"), "licence": "MIT", "jurisdiction": "GB"},
            {
                "path": str(folder / "novels.parquet"),
                "licence": "LicenseRef-public-domain",
                "jurisdiction": "US",
                "personal_data": False,
            },
        ],
        "finetune.sources": [{"path": str(talks / "sft_messages.jsonl.gz"), **licence}],
        "align.sources": [{"path": str(talks / "preference_pairs.jsonl.gz"), **licence}],
    }


@pytest.fixture(scope="module")
def life(sources: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """The run directory of a life on them."""
    folder = tmp_path_factory.mktemp("real") / "tiny"
    settings = sources | {
        "data.max_document_characters": 2_000,
        "tokenizer.vocab_size": 512,
        "model.depth": 1,
        "model.max_position_embeddings": CONTEXT,
        "pretrain.tokens": 50_000,
        "pretrain.rows": 4,
        "pretrain.validate_every": 100,
        "pretrain.checkpoint_every": 100,
        "pretrain.validation_tokens": 100_000,  # all there is
        "finetune.conversations": 150,
        "finetune.validation_conversations": 100,
        "finetune.context": CONTEXT,
        "finetune.rows": 2,
        "align.pairs": 80,
        "align.epochs": 3,
        "align.context": CONTEXT,
        "align.rows": 4,
        "align.validation_pairs": 100,
    }
    assert main([*command(folder, settings), "--quiet"]) == 0
    return folder


def test_the_corpus_is_the_text_with_its_licences(life: Path, sources: dict[str, Any]) -> None:
    kept = {side: list(read_corpus(life / "prepare" / side)) for side in ("train", "validation")}
    assert not {d.id for d in kept["train"]} & {d.id for d in kept["validation"]}
    assert len(kept["validation"]) >= 3
    play, novels = (source["path"] for source in sources["data.sources"])
    raw = {play: [Path(play).read_text(encoding="utf-8")], novels: pq.read_table(novels)["text"].to_pylist()}
    for path, licence in ((play, "MIT"), (novels, "LicenseRef-public-domain")):
        pieces = [d for side in kept.values() for d in side if d.source == path]
        assert {piece.licence for piece in pieces} == {licence}
        # Cutting, splitting and storing lose and repeat nothing.
        assert sum(len(piece.text) for piece in pieces) == sum(map(len, raw[path]))
        assert all(any(piece.text in text for text in raw[path]) for piece in pieces)


def baselines(life: Path) -> dict[str, float]:
    """Bits per byte of held-out text for one who knows the vocabulary, and one who also knows how often
    each token comes in the training text (add-one smoothing). As in the measure, the first token of a
    document is given and its end does not count."""
    tokenizer = BPETokenizer.load(life / "tokenize" / "tokenizer")
    shards = {side: TokenShards.open(life / "tokenize" / side) for side in ("train", "validation")}
    counts = np.bincount(shards["train"].read(0, len(shards["train"])), minlength=tokenizer.vocab_size) + 1.0
    bits = -np.log2(counts / counts.sum())
    lengths = np.array(tokenizer.byte_lengths)
    judged = np.concatenate([np.array(ids[1:]) for ids in documents(shards["validation"])])
    judged = judged[lengths[judged] > 0]
    size = lengths[judged].sum()
    return {
        "uniform": math.log2(tokenizer.vocab_size) * len(judged) / size,
        "unigram": float(bits[judged].sum() / size),
    }


def test_the_base_model_knows_more_than_how_often_tokens_come(life: Path) -> None:
    reached = Artifact.load(life / "pretrain").metrics["validation_bits_per_byte"]
    known = baselines(life)
    assert known["unigram"] < known["uniform"] < 8
    assert reached < 0.97 * known["unigram"]


def test_conversations_that_do_not_fit_are_counted_and_said(life: Path, sources: dict[str, Any]) -> None:
    tokenizer = BPETokenizer.load(life / "pretrain" / "model")
    for station, unit in (("finetune", "conversations"), ("align", "pairs")):
        said = (life / station / "log.txt").read_text()
        rows = lines_of(Path(sources[f"{station}.sources"][0]["path"]))[::4]
        over = sum(longest(tokenizer, row) > CONTEXT + 1 for row in rows) / len(rows)
        for side in ("train", "validation"):
            line = next(line for line in said.splitlines() if f" {side}: " in line)
            told = re.search(rf"{side}: (\d+) {unit}; left out: (\d+) over {CONTEXT} tokens", line)
            assert told, line
            found, left_out = map(int, told.groups())
            assert 0 < left_out < found
            if side == "train":  # drawn from the file, so the share is the file's but for chance
                assert abs(left_out / found - over) < 0.2


def longest(tokenizer: BPETokenizer, row: dict[str, Any]) -> int:
    """Tokens of a conversation, or of the longer side of a pair."""
    if "messages" in row:
        talks = [row["messages"]]
    else:
        prompt = row["prompt"]
        asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        talks = [
            asked + ([{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer[-1:])
            for answer in (row["chosen"], row["rejected"])
        ]
    turns = [tuple(Message(role=m["role"], content=m["content"]) for m in talk) for talk in talks]
    return max(len(render(tokenizer, Conversation(messages=talk)).ids) for talk in turns)


def test_it_learns_from_people(life: Path, one_thread: None) -> None:
    base, sft = held_out_loss(life, "pretrain"), held_out_loss(life, "finetune")
    assert sft == pytest.approx(Artifact.load(life / "finetune").metrics["validation_loss"], rel=1e-5)
    assert sft < base - 0.1
    first, *_, last = metrics(life, "align")
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert last["loss"] < math.log(2)  # on pairs it has seen; too few to say anything of held-out ones
    assert set(read_json(life / "evaluate" / "results.json")) == {"base", "sft", "aligned"}


def test_licences_reach_the_bundle_and_its_card(life: Path) -> None:
    kept = [d for side in ("train", "validation") for d in read_corpus(life / "prepare" / side)]
    licences = Counter(document.licence for document in kept)
    jurisdictions = Counter(document.jurisdiction for document in kept)
    assert set(licences) == {"MIT", "LicenseRef-public-domain"}
    bundle = Artifact.load(life / "export")
    card = (life / "export" / "README.md").read_text(encoding="utf-8")
    for made in ancestors(bundle).values():
        found = made.manifest.provenance
        assert licences.items() <= found.licences.items()
        assert found.jurisdictions["GB"] == jurisdictions["GB"]
        assert found.personal_data["unknown"] >= licences["MIT"]
    for licence, count in licences.items():
        assert f"| {licence} | {count:,} |" in card
    counted = bundle.manifest.provenance.documents
    assert counted > len(kept)  # conversations and pairs are data too
    by_kind = {kind: texts.documents for kind, texts in bundle.learned_from().items()}
    assert by_kind["documents"] == len(kept) and sum(by_kind.values()) == counted
    assert bundle.learned_from()["documents"].licences == licences
    assert ", ".join(f"{count:,} {kind}" for kind, count in by_kind.items()) in card
    assert "license: other" in card
    assert all(
        made.id[:12] in card for verb, made in artifacts(life).items() if verb in ("prepare", "average")
    )


def test_the_bundle_is_verified(life: Path) -> None:
    pytest.importorskip("transformers")
    verdicts = read_json(life / "export" / "verification.json")
    assert {verdict["status"] for verdict in verdicts} <= {"passed", "not verified"}
    passed = {verdict["file"] for verdict in verdicts if verdict["status"] == "passed"}
    assert passed == {"hf", "model-f16.gguf", "model-q8_0.gguf"}
    assert Artifact.load(life / "export").metrics["verification"] == "verified"


def test_chat_and_server_give_the_same_decodable_answer(life: Path, one_thread: None) -> None:
    loaded = load(life)
    assert loaded.about.path.name == "hf"  # what was exported is what one talks to
    talk = Chat(loaded, Sampling(max_tokens=24))
    said = "".join(talk.say(QUESTION))
    assert said and said.encode("utf-8").decode("utf-8") == said

    turns = Conversation(messages=(Message(role="user", content=QUESTION),))
    ids = render(loaded.tokenizer, turns, add_generation_prompt=True).ids
    made = loaded.engine.sample([ids], Sampling(max_tokens=24))[0]
    assert (
        made.text
        == said
        == loaded.tokenizer.decode(
            [token for token in made.ids if token not in loaded.tokenizer.special_ids.values()]
        )
    )
    assert all(0 <= token < loaded.tokenizer.vocab_size for token in made.ids)

    engine = Engine(load_model(loaded.about.path), loaded.tokenizer, max_slots=4)
    asked = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 24, "temperature": 0}
    with running(engine) as url:
        answer = httpx.post(f"{url}/v1/chat/completions", json={"model": "tiny", **asked}, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == said
    assert answer.json()["usage"]["prompt_tokens"] == len(ids)


def test_the_report_covers_every_station(life: Path) -> None:
    said = (life / "report.html").read_text(encoding="utf-8")
    assert all(artifacts(life)[verb].id[:8] in said for verb in WHOLE_LIFE)
    assert "LicenseRef-public-domain" in said
