"""The answers that there are: a line each, written when it comes, so that a kill loses none that was paid.

An answer is found again by a hash of who was asked what, and how. So a station that goes on asks only what it
has not asked, and one that was begun anew with other filters asks nothing twice either: it reads the journals
of its earlier runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from modelwright.base.files import canonical_json, sha256_text
from modelwright.base.metrics import MetricsFile
from modelwright.base.schema import Answer, Prompt
from modelwright.base.seams import Writer
from modelwright.data.conversations.write import as_row

_NAMES = frozenset(field.name for field in fields(Answer))


class Journal:
    """Answers by what was asked, in a file of JSON lines."""

    def __init__(self, path: Path, writer: Writer, earlier: Iterable[Path] = ()) -> None:
        """`earlier`: journals of other runs, which are read and not changed."""
        self._writer = writer
        self._known: dict[str, Answer] = {}
        self._in_vain: dict[str, tuple[int, int]] = {}
        """(prompt tokens, tokens) of earlier sessions' answers with a fault: paid, and asked again."""
        self._used: set[str] = set()
        self.asked = 0
        """Answers that this run wanted, each once, those that were there already among them."""
        self.prompt_tokens = self.tokens = 0
        """Read and written for them, as far as the writer counts."""
        self.uncounted = 0
        """Answers of which the writer does not say how long they are."""
        self.torn = 0
        """Lines that could not be read: what a kill left half, or what somebody else wrote."""
        for each in (*earlier, path):
            self._known |= self._read(each)
        self._file = MetricsFile(path)

    def __len__(self) -> int:
        """Answers that need not be asked for."""
        return len(self._known)

    def answers(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Answer]]:
        """(place of the prompt, answer), each place once: first what is there, then what the writer writes,
        which is written down before it is handed on. Equal prompts are asked once."""
        places: dict[str, list[int]] = {}
        for place, prompt in enumerate(prompts):
            places.setdefault(self.key(prompt), []).append(place)
        missing = [key for key in places if key not in self._known]
        for key in [key for key in places if key in self._known]:
            self._use(key, self._known[key])
            yield from ((place, self._known[key]) for place in places[key])
        for number, answer in self._writer.write([prompts[places[key][0]] for key in missing]):
            key = missing[number]
            said = {name: value for name, value in asdict(answer).items() if value not in (None, "")}
            self._file.write(0, {"key": key, **said})
            if not answer.fault:
                self._known[key] = answer
            self._use(key, answer)
            yield from ((place, answer) for place in places[key])

    def _use(self, key: str, answer: Answer) -> None:
        """Count an answer."""
        if key not in self._used:
            self._used.add(key)
            self.asked += 1
            lost_prompt, lost = self._in_vain.get(key, (0, 0))
            self.prompt_tokens += lost_prompt + (answer.prompt_tokens or 0)
            self.tokens += lost + (answer.tokens or 0)
            self.uncounted += answer.tokens is None and not answer.fault

    def _lose(self, key: str, answer: Answer) -> None:
        """Note what an earlier answer with a fault took."""
        prompt_tokens, tokens = self._in_vain.get(key, (0, 0))
        self._in_vain[key] = (prompt_tokens + (answer.prompt_tokens or 0), tokens + (answer.tokens or 0))

    def key(self, prompt: Prompt) -> str:
        """Hex sha256 of who is asked what, and how."""
        asked = [self._writer.name, as_row(prompt.conversation, {}), asdict(prompt.sampling)]
        return sha256_text(canonical_json(asked))

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._file.close()

    def _read(self, path: Path) -> dict[str, Answer]:
        """What an earlier session has written down; what failed is asked again."""
        found: dict[str, Answer] = {}
        if not path.is_file():
            return found
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                entry = _entry(line)
                if entry is None:
                    self.torn += 1
                elif not entry[1].fault:
                    found[entry[0]] = entry[1]
                else:
                    self._lose(*entry)
        return found


def _entry(line: str) -> tuple[str, Answer] | None:
    """A line's key and answer; None where it is none."""
    try:
        said: Any = json.loads(line)
        key = said["key"]
        answer = Answer(**{name: value for name, value in said.items() if name in _NAMES})
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    texts = (key, answer.text, answer.reasoning, answer.finish_reason, answer.model, answer.fault)
    counts = (answer.tokens or 0, answer.prompt_tokens or 0)
    is_one = all(isinstance(text, str) for text in texts) and all(isinstance(n, int) for n in counts)
    return (key, answer) if is_one else None
