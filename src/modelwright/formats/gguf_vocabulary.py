"""A tokenizer as a GGUF file states it: tokens, types, merges or scores, and which have a part to play.

Byte-level BPE is written with the name that llama.cpp has for its pre-tokenizer. SentencePiece's BPE is
written as llama.cpp's kind "llama", which knows no merges: it joins the neighbours whose piece has the best
score. So a piece's score is the rank of its merges, and a tokenizer in which neighbours that make a piece are
not always merged is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, TokenType

from modelwright.base.errors import DamagedFile, UserError
from modelwright.base.files import read_json
from modelwright.tokenizer.bpe import TOKENIZER_FILE, BPETokenizer
from modelwright.tokenizer.patterns import REGEX, cut_of

_SPACE = "\u2581"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What GGUF says about a folder's tokenizer."""

    tokens: list[str]
    """By id, as `tokenizer.json` spells them."""
    types: list[TokenType]
    merges: list[str]
    """Of byte-level BPE, in order."""
    pre: str
    """llama.cpp's name for the pre-tokenizer; "" for SentencePiece's kind."""
    scores: list[float]
    space_first: bool
    """Of SentencePiece's kind: whether a space is put before a text."""
    roles: Mapping[str, int]
    """"bos", "eos", "eot", "pad" -> id."""
    adds_bos: bool
    chat_template: str

    @classmethod
    def read(cls, folder: Path, rows: int) -> Vocabulary:
        """Read and check a folder's tokenizer; `rows` is how many embeddings the model has."""
        tokenizer, content = BPETokenizer.load(folder), read_json(folder / TOKENIZER_FILE)
        try:
            tokens, types = _tokens(content, rows)
            sentencepiece = bool(content["model"].get("byte_fallback"))
            return cls(
                tokens=tokens,
                types=_sentencepiece_types(tokens, types, content) if sentencepiece else types,
                merges=[] if sentencepiece else [" ".join(merge) for merge in tokenizer.merges],
                pre="" if sentencepiece else _pre_tokenizer(content),
                scores=_scores(tokens, types, tokenizer.merges) if sentencepiece else [],
                space_first=sentencepiece and _space_first(content),
                roles=_roles(tokenizer),
                adds_bos=tokenizer.bos_id is not None,
                chat_template=tokenizer.chat_template,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedFile(
                f"{folder}: the tokenizer files lack something a GGUF needs: {error!r}. Expected byte-level"
                " or SentencePiece's BPE."
            ) from error

    def write(self, writer: GGUFWriter) -> None:
        """Add all of it to a file's metadata."""
        writer.add_tokenizer_model("gpt2" if self.pre else "llama")
        writer.add_tokenizer_pre(self.pre or "default")
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.pre:
            writer.add_token_merges(self.merges)
        else:
            writer.add_token_scores(self.scores)
            writer.add_add_space_prefix(self.space_first)
        writer.add_bos_token_id(self.roles["bos"])
        writer.add_eos_token_id(self.roles["eos"])
        writer.add_eot_token_id(self.roles["eot"])
        writer.add_pad_token_id(self.roles["pad"])
        writer.add_add_bos_token(self.adds_bos)
        if self.chat_template:
            writer.add_chat_template(self.chat_template)


def _roles(tokenizer: BPETokenizer) -> dict[str, int]:
    """Without a BOS id llama.cpp assumes token 11 of a byte-level vocabulary: one is always named."""
    bos = tokenizer.special_ids.get(tokenizer.roles.named.get("bos_token", ""))
    return {
        "bos": tokenizer.end_of_text_id if bos is None else bos,
        **{"eos": tokenizer.eos_id, "eot": tokenizer.end_of_turn_id, "pad": tokenizer.pad_id},
    }


def _tokens(content: Mapping[str, Any], rows: int) -> tuple[list[str], list[TokenType]]:
    ids: dict[int, str] = {index: token for token, index in content["model"]["vocab"].items()}
    types = dict.fromkeys(ids, TokenType.NORMAL)
    for added in content["added_tokens"]:
        ids[added["id"]] = added["content"]
        types[added["id"]] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    if len(ids) > rows or max(ids) >= rows:
        raise UserError(
            f"the tokenizer has {max(ids) + 1} tokens but the model has {rows} embeddings: they do not belong"
            " together. Export a folder whose tokenizer is the one the model was trained with."
        )
    unused = {index: f"[UNUSED{index}]" for index in range(rows) if index not in ids}
    types.update(dict.fromkeys(unused, TokenType.UNUSED))
    ids.update(unused)
    return [ids[index] for index in range(rows)], [types[index] for index in range(rows)]


def _pre_tokenizer(content: Mapping[str, Any]) -> str:
    cut = cut_of(content)
    if cut is None or cut.gguf_name is None:
        raise UserError(
            f"tokenizer.json pre-tokenizes by {content.get('pre_tokenizer')!r} behind the normalizer "
            f"{content.get('normalizer')!r}; llama.cpp has no name for that, and a wrong name breaks text "
            f"silently. Known: {', '.join(REGEX)}, without a normalizer."
        )
    return cut.gguf_name


def _sentencepiece_types(
    tokens: Sequence[str], types: Sequence[TokenType], content: Mapping[str, Any]
) -> list[TokenType]:
    """Bytes and the unknown piece have types of their own."""
    lone = {f"<0x{byte:02X}>" for byte in range(256)}
    made = [TokenType.BYTE if token in lone else kind for token, kind in zip(tokens, types, strict=True)]
    unknown = content["model"].get("unk_token")
    return [TokenType.UNKNOWN if t == unknown else kind for t, kind in zip(tokens, made, strict=True)]


def _scores(
    tokens: Sequence[str], types: Sequence[TokenType], merges: Sequence[Sequence[str]]
) -> list[float]:
    """Minus the rank of the first merge that makes each piece."""
    rank: dict[str, int] = {}
    for number, (left, right) in enumerate(merges):
        rank.setdefault(left + right, number)
    known = {(left, right) for left, right in merges}
    pieces = {token for token, kind in zip(tokens, types, strict=True) if kind == TokenType.NORMAL}
    for piece in pieces:
        halves = {(piece[:cut], piece[cut:]) for cut in range(1, len(piece))}
        others = [(a, b) for a, b in halves - known if a in pieces and b in pieces]
        if others and not piece.startswith("<0x"):
            raise UserError(
                f"the tokenizer does not merge {others[0][0]!r} and {others[0][1]!r}, which make a piece of"
                " it: llama.cpp would, since its SentencePiece has no merges. Export the Hugging Face folder"
                " only (export.gguf=[])."
            )
    return [-float(rank.get(token, 0)) for token in tokens]


def _space_first(content: Mapping[str, Any]) -> bool:
    """Whether a space is put before a text. What llama.cpp does not do to a text is refused."""
    normalizer, before = content.get("normalizer") or {}, content.get("pre_tokenizer") or {}
    steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
    prepended = {"type": "Prepend", "prepend": _SPACE}
    replaced = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    metaspace = before.get("type") == "Metaspace" and not before.get("split", True)
    cuts_at_spaces = before.get("type") == "Split" and before.get("behavior") == "MergedWithPrevious"
    known = all(step in (prepended, replaced) for step in steps) and (metaspace or replaced in steps)
    if not known or (before and not metaspace and not cuts_at_spaces):
        raise UserError(
            f"tokenizer.json changes text by {normalizer!r} and {before!r}, which llama.cpp's SentencePiece"
            " does not do. Export the Hugging Face folder only (export.gguf=[])."
        )
    return prepended in steps or (metaspace and before.get("prepend_scheme") != "never")
