"""The tokenizer: byte-level BPE on the `tokenizers` library, with a folder that others can load.

Every text can be encoded, since each of the 256 bytes is a token, and decoding gives back the same
text. The pre-tokenizer is Qwen2's (GGUF calls it "qwen2"), so llama.cpp cuts text as we do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from modelwright.base.errors import DamagedFile, UserError
from modelwright.base.files import write_json, write_text
from modelwright.tokenizer.chat import CHAT_TEMPLATE, END_OF_TEXT, SPECIAL_TOKENS, TURN_END

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
                "needs. Use a tokenizer made by 'modelwright tokenize', or one with ChatML tokens."
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
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts at once, on all cores."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """Text of `ids`; bytes that are not UTF-8 (a character cut in two) become U+FFFD."""
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
        merges: list[Any] = json.loads(self._backend.to_str())["model"]["merges"]
        return [
            (first, second) for first, second in (m.split(" ") if isinstance(m, str) else m for m in merges)
        ]

    @property
    def tokens(self) -> list[str]:
        """Spelling of every id, in order, as `tokenizer.json` writes it."""
        return [self._backend.id_to_token(number) or "" for number in range(self.vocab_size)]

    @cached_property
    def _bytes(self) -> list[bytes]:
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        added = {token.content for token in self._backend.get_added_tokens_decoder().values()}
        pieces = [b""] * (max(vocabulary.values()) + 1)
        for token, number in vocabulary.items():
            pieces[number] = token.encode() if token in added else bytes(LETTER_BYTES[c] for c in token)
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


def _letter_bytes() -> dict[str, int]:
    """Letter -> byte for the alphabet in which GPT-2 (2019) and all after it spell tokens.

    Printable Latin-1 bytes stand for themselves; the other 68 get the letters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


LETTER_BYTES = _letter_bytes()
