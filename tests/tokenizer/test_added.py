"""New tokens in a tokenizer that exists: the next ids, nothing else, and as transformers reads them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.errors import ConfigError, DamagedFile, UserError
from modelwright.base.files import read_json, write_json
from modelwright.tokenizer.added import add_tokens
from modelwright.tokenizer.bpe import BPETokenizer

NEW = {"<tool>": False, "naïve café": False, "<|wish|>": True}
TEXT = "The <tool> of naïve café is <|wish|> Paris<tool>."


@pytest.fixture
def folder(tiny_tokenizer: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_tokenizer, tmp_path / "tokenizer"))


def test_they_get_the_next_ids_and_nothing_else_changes(folder: Path, tiny_tokenizer: Path) -> None:
    before = BPETokenizer.load(tiny_tokenizer)
    ids = add_tokens(folder, NEW)
    after = BPETokenizer.load(folder)
    assert list(ids.values()) == [before.vocab_size + place for place in range(3)]
    assert after.vocab_size == before.vocab_size + 3
    assert after.tokens[: before.vocab_size] == before.tokens
    assert after.chat_template == before.chat_template
    assert after.special_ids == {**before.special_ids, "<|wish|>": ids["<|wish|>"]}
    found = after.encode(TEXT)
    assert (found.count(ids["<tool>"]), found.count(ids["naïve café"])) == (2, 1)
    assert ids["<|wish|>"] not in found  # in a text it is no token
    assert found == after.encode_plainly(TEXT) and after.decode(found) == TEXT


PLAIN = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)


@settings(max_examples=60, deadline=None)
@given(text=PLAIN)
def test_texts_without_them_are_encoded_as_before(
    tiny_tokenizer: Path, added: BPETokenizer, text: str
) -> None:
    before = BPETokenizer.load(tiny_tokenizer)
    whole = f"{text}<tool>{text}"
    assert added.decode(added.encode(whole)) == whole
    if not any(token in text for token in NEW):
        assert added.encode(text) == before.encode(text)


@pytest.fixture(scope="module")
def added(tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> BPETokenizer:
    place = shutil.copytree(tiny_tokenizer, tmp_path_factory.mktemp("added") / "tokenizer")
    add_tokens(Path(place), NEW)
    return BPETokenizer.load(Path(place))


@pytest.mark.parametrize("kind", ["PreTrainedTokenizerFast", "Qwen2Tokenizer"])
def test_transformers_reads_them_alike(folder: Path, kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = read_json(folder / "tokenizer_config.json") | {"tokenizer_class": kind}
    config["added_tokens_decoder"] = {
        str(token["id"]): {name: value for name, value in token.items() if name != "id"}
        for token in read_json(folder / "tokenizer.json")["added_tokens"]
    }
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "added_tokens.json", {})
    ids = add_tokens(folder, NEW)
    assert read_json(folder / "added_tokens.json") == ids
    ours = BPETokenizer.load(folder)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert len(theirs) == ours.vocab_size
    assert {token: theirs.convert_tokens_to_ids(token) for token in ids} == ids
    text = TEXT.replace("<|wish|>", "")  # transformers makes special tokens of texts, and we do not
    assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text)
    assert theirs.decode([ids["<|wish|>"], ids["<tool>"]], skip_special_tokens=True) == "<tool>"


def test_a_template_takes_the_place_of_the_models(folder: Path) -> None:
    add_tokens(folder, {"<|wish|>": True}, "{% for m in messages %}<|wish|>{{ m['content'] }}{% endfor %}")
    assert BPETokenizer.load(folder).chat_template.startswith("{% for m")
    assert read_json(folder / "tokenizer_config.json")["chat_template"].startswith("{% for m")


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("<|im_end|>", r"'<\|im_end\|>' is token \d+ of this tokenizer already"),
        ("The", "'The' is token"),
        (" \n", "told from white space"),
        ("", "told from white space"),
    ],
)
def test_what_cannot_be_added_is_refused(folder: Path, token: str, message: str) -> None:
    before = (folder / "tokenizer.json").read_bytes()
    with pytest.raises(ConfigError, match=message):
        add_tokens(folder, {token: False})
    assert (folder / "tokenizer.json").read_bytes() == before


def test_a_tokenizer_with_holes_is_refused(folder: Path) -> None:
    content = read_json(folder / "tokenizer.json")
    vocabulary = content["model"]["vocab"]
    vocabulary[max(vocabulary, key=vocabulary.__getitem__)] += 7
    content["added_tokens"] = []
    write_json(folder / "tokenizer.json", content)
    with pytest.raises(UserError):
        add_tokens(folder, {"<tool>": False})
    (folder / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(DamagedFile, match="not a tokenizer"):
        add_tokens(folder, {"<tool>": False})
