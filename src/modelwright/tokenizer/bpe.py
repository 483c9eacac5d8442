"""The tokenizer: BPE on the `tokenizers` library, with a folder that others can load.

Ours are byte-level: every text can be encoded, since each of the 256 bytes is a token, and decoding gives
back the same text. The pre-tokenizer is one that llama.cpp knows by name (`tokenizer.patterns`), so it cuts
text as we do. Ids come from our own encoder (`tokenizer.native`) where it can be compiled and knows the
pattern, and from the library otherwise: they are the same. Tokenizers of imported models stay as they are,
SentencePiece's too, and what their folders say of special tokens is kept (`tokenizer.roles`).
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
from modelwright.tokenizer.imported import ImportedTemplate
from modelwright.tokenizer.native import Encoder, library
from modelwright.tokenizer.patterns import Cut, add_special_tokens, bytes_of, content_of, cut_of
from modelwright.tokenizer.roles import CONFIG_FILE, GENERATION_FILE, TEMPLATE_FILE, Roles
from modelwright.tokenizer.segments import Segments

TOKENIZER_FILE = "tokenizer.json"


class BPETokenizer:
    """Text <-> ids. Implements `base.seams.Tokenizer`."""

    def __init__(
        self, backend: tokenizers.Tokenizer, chat_template: str = CHAT_TEMPLATE, roles: Roles | None = None
    ) -> None:
        """With our template, `backend` must know the special tokens of `tokenizer.chat`; without any (""),
        the model takes no turns."""
        self.roles = roles or Roles()
        known = {token for token in self.roles.named.values() if backend.token_to_id(token) is not None}
        needed = SPECIAL_TOKENS[1:] if self.roles.named.get("eos_token") in known else SPECIAL_TOKENS
        missing = [token for token in needed if backend.token_to_id(token) is None]
        if missing and chat_template == CHAT_TEMPLATE:
            raise UserError(
                f"the tokenizer lacks the special tokens {', '.join(missing)}, which the chat template "
                "needs. Use a tokenizer made by 'modelwright tokenize', one with ChatML tokens, or let "
                "'modelwright tokenize' add them: --set tokenizer.start_from.add_special_tokens=true"
            )
        decoder = backend.get_added_tokens_decoder().values()
        add_special_tokens(backend, sorted(known - {token.content for token in decoder if token.special}))
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
        roles = Roles.read(Path(folder))
        return cls(backend, roles.templates.get("default", ""), roles)

    def save(self, folder: Path) -> None:
        """Write the files that transformers, vLLM and llama.cpp's converters read."""
        folder = Path(folder)
        write_text(folder / TOKENIZER_FILE, self.as_json())
        write_json(folder / CONFIG_FILE, self._huggingface_config())
        write_text(folder / TEMPLATE_FILE, self.chat_template)
        if self.roles.stops:
            write_json(folder / GENERATION_FILE, {"eos_token_id": list(self.stop_ids)})

    def as_json(self) -> str:
        """The tokenizer without what the files beside it say, as `tokenizer.json` spells it."""
        return self._backend.to_str(pretty=True)

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
        return encoder.encode([self.composed(text) for text in texts])

    def composed(self, text: str) -> str:
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
                ids += encoder.encode([self.composed(text[done : match.start()])])[0].tolist()
                ids.append(self._added[match[0]])
                done = match.end()
        return ids + encoder.encode([self.composed(text[done:])])[0].tolist()

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """Text of `ids`; bytes that are not UTF-8 (a character cut in two) become U+FFFD."""
        if not self._byte_level:
            return self._backend.decode(list(ids), skip_special_tokens=skip_special)
        kept = (i for i in ids if not (skip_special and i in self._special_numbers))
        return b"".join(self.token_bytes(i) for i in kept).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for: streaming needs them, as a token may be half a letter."""
        return self._bytes[token_id]

    def id_of(self, token: str) -> int | None:
        """The id of a token as `tokenizer.json` spells it; None where there is none."""
        return self._backend.token_to_id(token)

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

    def begin(self, text: str) -> list[int]:
        """Ids of a text that a model shall continue: `encode`, behind bos where the model is used to it."""
        return [*([] if self.bos_id is None else [self.bos_id]), *self.encode(text)]

    @cached_property
    def bos_id(self) -> int | None:
        """Begins every text, where the tokenizer's files say so; a chat template writes its own."""
        if self.roles.adds_bos is not None:
            return self._id_of("bos_token") if self.roles.adds_bos else None
        alone, whole = (self._backend.encode("a", add_special_tokens=wish).ids for wish in (False, True))
        return whole[0] if whole[:1] != alone[:1] and whole[0] in self._special_numbers else None

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """All that ends an answer: the end of a turn, the end of a text, and what the model's files name."""
        stated = {stop for stop in self.roles.stops if 0 <= stop < self.vocab_size}
        ends = (self._end_of_turn, self.special_ids.get(END_OF_TEXT), self._id_of("eos_token"))
        return tuple(sorted(stated | {end for end in ends if end is not None}))

    @cached_property
    def end_of_text_id(self) -> int:
        """Ends a document: what ends an answer and no turn, else what ends both."""
        if END_OF_TEXT in self.special_ids:
            return self.special_ids[END_OF_TEXT]
        if not self.stop_ids:
            raise UserError(
                f"the tokenizer does not say which token ends a text: state eos_token in its {CONFIG_FILE}"
            )
        return next((stop for stop in self.stop_ids if stop != self._end_of_turn), self.stop_ids[0])

    @property
    def pad_id(self) -> int:
        """Fills up rows; never looked at."""
        stated = self._id_of("pad_token")
        return self.end_of_text_id if stated is None else stated

    @property
    def end_of_turn_id(self) -> int:
        """Ends a turn of a conversation; without turns, a text."""
        return self.end_of_text_id if self._end_of_turn is None else self._end_of_turn

    @property
    def eos_id(self) -> int:
        """Ends an answer: the end of a turn."""
        return self.end_of_turn_id

    @cached_property
    def imported(self) -> ImportedTemplate | None:
        """The chat template, where it is not ours: one of another's, or none that would take a turn."""
        if self.chat_template == CHAT_TEMPLATE:
            return None
        templates = {**self.roles.templates, "default": self.chat_template}
        stops = frozenset(stop for stop in (*self.roles.stops, self._id_of("eos_token")) if stop is not None)
        return ImportedTemplate(templates, self.roles.named, stops, Segments(self._backend), self)

    @property
    def chats(self) -> bool:
        """Whether the model came with a chat template of its own."""
        return self.imported is not None and bool(self.chat_template)

    @property
    def _end_of_turn(self) -> int | None:
        return self.special_ids[TURN_END] if self.imported is None else self.imported.end_of_turn

    def _id_of(self, role: str) -> int | None:
        """The id of "bos_token", "eos_token", "pad_token", where the files name one that there is."""
        return self.special_ids.get(self.roles.named.get(role, ""))

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
        own = {
            name: self.roles.named.get(name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")
        }
        ours = {"eos_token": TURN_END, "pad_token": own["pad_token"] or END_OF_TEXT}
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": self.bos_id is not None,
            "add_eos_token": False,
            "add_prefix_space": False,
            **own,
            **(ours if self.imported is None else {}),
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
