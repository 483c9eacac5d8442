"""The tokenizer: byte-level BPE on the `tokenizers` library, with a folder that others can load.

Every text can be encoded, since each of the 256 bytes is a token, and decoding gives back the same
text. The pre-tokenizer is one that llama.cpp knows by name (`tokenizer.patterns`), so it cuts text as we
do. Ids come from our own encoder (`tokenizer.native`) where it can be compiled and knows the pattern, and
from the library otherwise: they are the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from modelwright.base.errors import DamagedFile, UserError
from modelwright.base.files import write_json, write_text
from modelwright.tokenizer.chat import CHAT_TEMPLATE, END_OF_TEXT, SPECIAL_TOKENS, TURN_END
from modelwright.tokenizer.native import Encoder, library
from modelwright.tokenizer.patterns import Cut, bytes_of, content_of, cut_of

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"


class BPETokenizer:
    """Text <-> ids. Implements `base.seams.Tokenizer`."""

    def __init__(self, backend: tokenizers.Tokenizer, chat_template: str = CHAT_TEMPLATE) -> None:
        """`backend` must know the three special tokens of `tokenizer.chat`."""
        missing = [token for token in SPECIAL_TOKENS if backend.token_to_id(token) is None]
        if missing:
            raise UserError(
                f"the tokenizer lacks the special tokens {', '.join(missing)}, which the chat template "
                "needs. Use a tokenizer made by 'modelwright tokenize', one with ChatML tokens, or let "
                "'modelwright tokenize' add them: --set tokenizer.start_from.add_special_tokens=true"
            )
        self._backend = backend
        self._backend.encode_special_tokens = True
        self._backend.no_padding()
        self._backend.no_truncation()
        self.chat_template = chat_template
        self.special_ids: Mapping[str, int] = {
            token.content: number
            for number, token in sorted(backend.get_added_tokens_decoder().items())
            if token.special
        }
        self._added = {token.content: number for number, token in backend.get_added_tokens_decoder().items()}
        self._special_numbers = frozenset(self.special_ids.values())

    @classmethod
    def load(cls, folder: Path) -> BPETokenizer:
        """Read a tokenizer folder, or any Hugging Face model folder with a `tokenizer.json`."""
        file = Path(folder) / TOKENIZER_FILE
        if not file.is_file():
            raise UserError(f"{folder} has no {TOKENIZER_FILE}: it is not a tokenizer or a model folder")
        try:
            backend = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise DamagedFile(
                f"{file} ({file.stat().st_size:,} bytes) is not a tokenizer: {error}. Copy it again."
            ) from error
        template = Path(folder) / TEMPLATE_FILE
        return cls(backend, template.read_text(encoding="utf-8") if template.is_file() else CHAT_TEMPLATE)

    def save(self, folder: Path) -> None:
        """Write the three files that transformers, vLLM and llama.cpp's converters read."""
        folder = Path(folder)
        write_text(folder / TOKENIZER_FILE, self._backend.to_str(pretty=True))
        write_json(folder / CONFIG_FILE, self._huggingface_config())
        write_text(folder / TEMPLATE_FILE, self.chat_template)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; what looks like a special token in it stays plain text."""
        return self.encode_arrays([text])[0].tolist()

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts at once."""
        ids, ends = self.encode_arrays(texts)
        flat, places = ids.tolist(), [0, *ends.tolist()]
        return [flat[start:end] for start, end in pairwise(places)]

    def encode_arrays(self, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The ids of all texts, one text behind the other, and (len(texts),) where each text's ids end.

        This is `encode` without a list on the way: one core writes tens of megabytes of text a second."""
        encoder = self._encoder
        if encoder is None:
            found = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
            return _flat([encoding.ids for encoding in found])
        literal = self._literal
        if literal is not None and any(literal.search(text) for text in texts):
            return _flat([self._encode_around(literal, encoder, text) for text in texts])
        return encoder.encode([self._composed(text) for text in texts])

    def _composed(self, text: str) -> str:
        """The text after the normalizer, where there is one."""
        plain = self.cut is None or not self.cut.composed or text.isascii()
        return text if plain else self._backend.normalizer.normalize_str(text)

    def encode_plainly(self, text: str) -> list[int]:
        """`encode` by the `tokenizers` library: the plain version."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def _encode_around(self, literal: re.Pattern[str], encoder: Encoder, text: str) -> list[int]:
        """The ids of a text in which added tokens stand that are not special, such as Qwen's `<think>`."""
        ids: list[int] = []
        done = 0
        for match in literal.finditer(text):
            if match[0] not in self.special_ids:
                ids += encoder.encode([self._composed(text[done : match.start()])])[0].tolist()
                ids.append(self._added[match[0]])
                done = match.end()
        return ids + encoder.encode([self._composed(text[done:])])[0].tolist()

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """Text of `ids`; bytes that are not UTF-8 (a character cut in two) become U+FFFD."""
        if not self._byte_level:
            return self._backend.decode(list(ids), skip_special_tokens=skip_special)
        kept = (i for i in ids if not (skip_special and i in self._special_numbers))
        return b"".join(self.token_bytes(i) for i in kept).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for: streaming needs them, as a token may be half a letter."""
        return self._bytes[token_id]

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included: ids run from 0 to `vocab_size - 1`."""
        return len(self._bytes)

    @cached_property
    def byte_lengths(self) -> list[int]:
        """Bytes of text per id, 0 for special tokens: the measure under bits per byte."""
        return [
            0 if number in self._special_numbers else len(piece) for number, piece in enumerate(self._bytes)
        ]

    @property
    def end_of_text_id(self) -> int:
        """Ends a document."""
        return self.special_ids[END_OF_TEXT]

    @property
    def pad_id(self) -> int:
        """Fills up rows; never looked at."""
        return self.end_of_text_id

    @property
    def end_of_turn_id(self) -> int:
        """Ends a turn of a conversation."""
        return self.special_ids[TURN_END]

    @property
    def eos_id(self) -> int:
        """Ends an answer: the end of a turn."""
        return self.end_of_turn_id

    @property
    def merges(self) -> list[tuple[str, str]]:
        """BPE merges in order of rank, in the byte-to-letter alphabet of `tokenizer.json`."""
        merges: list[Any] = self._content["model"]["merges"]
        return [
            (first, second) for first, second in (m.split(" ") if isinstance(m, str) else m for m in merges)
        ]

    @property
    def tokens(self) -> list[str]:
        """Spelling of every id, in order, as `tokenizer.json` writes it."""
        return [self._backend.id_to_token(number) or "" for number in range(self.vocab_size)]

    @cached_property
    def cut(self) -> Cut | None:
        """How text is cut before merging, by a name that others know; None where it has none."""
        return cut_of(self._content)

    def describe(self) -> str:
        """For the log: what encodes, and how text is cut."""
        by = "compiled C++" if self._encoder else "the tokenizers library"
        name = (self.cut and self.cut.gguf_name) or "a pattern that llama.cpp has no name for"
        return f"{self.vocab_size:,} ids, text cut by {name}, encoded by {by}"

    @property
    def _content(self) -> dict[str, Any]:
        return content_of(self._backend)

    @cached_property
    def _byte_level(self) -> bool:
        """Whether tokens are spelled in the byte-to-letter alphabet, and not as SentencePiece spells them."""
        decoder: dict[str, Any] = self._content.get("decoder") or {}
        kinds = {decoder.get("type"), *(part["type"] for part in decoder.get("decoders", ()))}
        return "ByteLevel" in kinds

    @cached_property
    def _encoder(self) -> Encoder | None:
        """The compiled encoder, where there is one for this tokenizer."""
        functions, content = library(), self._content
        added = [token for token in self._backend.get_added_tokens_decoder().values() if not token.special]
        plain = not any(token.single_word or token.lstrip or token.rstrip for token in added)
        if functions is None or self.cut is None or not plain:
            return None
        if self.cut.composed and any(token.normalized for token in added):
            return None
        try:
            return Encoder(functions, content, self.cut)
        except KeyError:  # bytes are missing in the vocabulary, or the results of merges
            return None

    @cached_property
    def _literal(self) -> re.Pattern[str] | None:
        """Finds added tokens in a text, the leftmost and longest first; None where all are special."""
        added = self._backend.get_added_tokens_decoder().values()
        if all(token.special for token in added):
            return None
        return re.compile(
            "|".join(re.escape(word) for word in sorted((t.content for t in added), key=len)[::-1])
        )

    @cached_property
    def _bytes(self) -> list[bytes]:
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        added = {token.content for token in self._backend.get_added_tokens_decoder().values()}
        pieces = [b""] * (max(vocabulary.values()) + 1)
        for token, number in vocabulary.items():
            spelled = bytes_of(token) if self._byte_level else _sentencepiece_bytes(token)
            pieces[number] = token.encode() if token in added or spelled is None else spelled
        return pieces

    def _huggingface_config(self) -> dict[str, Any]:
        """`tokenizer_config.json` that transformers 4 and 5 read alike: no class name that only one of
        them knows, special tokens as plain strings, the chat template inside."""
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": False,
            "add_eos_token": False,
            "add_prefix_space": False,
            "bos_token": None,
            "eos_token": TURN_END,
            "pad_token": END_OF_TEXT,
            "unk_token": None,
            "clean_up_tokenization_spaces": False,
            "chat_template": self.chat_template,
        }


def _sentencepiece_bytes(token: str) -> bytes:
    """What a token of SentencePiece stands for: a space is written U+2581, a lone byte <0x41>."""
    lone = re.fullmatch("<0x([0-9A-F]{2})>", token)
    return bytes.fromhex(lone[1]) if lone else token.replace("\u2581", " ").encode()


def _flat(rows: Sequence[list[int]]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    ids = np.fromiter((number for row in rows for number in row), dtype=np.uint32)
    return ids, np.cumsum([len(row) for row in rows], dtype=np.int64)
