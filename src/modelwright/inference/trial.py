"""Compiling the grammar of a structure, tried first in a process of its own.

The library bounds most of its work, but not all: a dozen patterns that must hold at once keep it busy for
minutes, and nothing stops a thread that computes. So a grammar is first compiled in a child process with a
limit on its processor time and memory (`python -m modelwright.inference.trial` reads it from standard input);
one that passes takes as long again in the process that asked. The child needs no tokenizer: it takes every
byte for a token.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

from modelwright.base.errors import UserError

try:
    import resource
except ModuleNotFoundError:  # Windows: the clock has to do
    resource = None

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

SECONDS = 2
"""Processor time that a child may take, its start included. An object with 1,000 optional keys takes 0.4."""
PATIENCE = 30
"""Seconds on the clock after which the child is given up whatever it does."""
BYTES = 1 << 30
STEPS = 16
"""Tokens that are tried after the beginning: many a grammar shows its cost only at the second."""
LIMITS: dict[str, Any] = {
    "initial_lexer_fuel": 200_000,  # a fifth of the default
    "step_lexer_fuel": 20_000,  # a tenth: a step of '(a{1000}){1000}' gives up after 0.3 s, not after 4
    "step_max_items": 20_000,
    "max_items_in_row": 10_000,  # an object with 900 optional keys has 3,600
    "max_lexer_states": 50_000,  # 0.6 kB each; four formatted strings take 150 in an answer
    "verbose_errors": False,  # the messages go to clients
}


class Refused(Exception):
    """A grammar that cannot be compiled within the limits; says why."""


def compiled(tokens: LLTokenizer, grammar: str) -> LLMatcher:
    """The grammar at the beginning of a text, once a few steps of some text have been tried. `Refused` where
    it is wrong, too complex, or fits no text."""
    from llguidance import LLMatcher, LLParserLimits

    start = LLMatcher(tokens, grammar, limits=LLParserLimits(**LIMITS), log_level=0)
    ahead = start.deep_copy()
    for step in range(STEPS):
        bias = ahead.compute_logit_bias()
        if ahead.is_error() and ahead.stop_reason() != "NoExtensionBias":
            raise Refused(brief(ahead.get_error()))
        if ahead.is_stopped():
            if not step and not ahead.is_accepting():
                raise Refused("it fits no text at all")
            break
        allowed = [token for token, value in enumerate(bias) if value]
        ahead.consume_token(allowed[len(allowed) // 2])
    return start


def try_out(grammar: str) -> None:
    """Compile a grammar in a child process; `Refused` where that fails or takes too long."""
    command = [sys.executable, "-P", "-m", "modelwright.inference.trial"]
    try:
        child = subprocess.run(command, input=grammar.encode(), capture_output=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise Refused(f"compiling it takes more than {PATIENCE} seconds") from None
    if child.returncode == 1:
        raise Refused(child.stdout.decode())
    if child.returncode:
        raise Refused(f"compiling it takes more than {SECONDS} seconds or {BYTES >> 30} GiB of memory")


def brief(message: str) -> str:
    """A message of the library in one line, without its remark on what it leaves out."""
    return " ".join(message.replace("<non-verbose/>", "").split())[:300]


def library() -> Any:
    """llguidance, or what to do where it is absent."""
    try:
        import llguidance
    except ModuleNotFoundError as error:
        raise UserError(
            "structured output needs llguidance. Run: pip install 'modelwright[structured]'"
        ) from error
    return llguidance


class _Bytes:
    """A vocabulary of the 256 bytes and an end."""

    eos_token_id, bos_token_id = 256, None
    tokens = [bytes([byte]) for byte in range(256)] + [b"<end>"]
    special_token_ids = [256]

    def __call__(self, text: str) -> list[int]:
        return list(text.encode())


def _main() -> int:
    """The child: exit code 0 for a grammar that compiles, 1 and why for one that does not."""
    from llguidance import LLTokenizer, TokenizerWrapper

    if resource is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        compiled(LLTokenizer(TokenizerWrapper(_Bytes())), sys.stdin.buffer.read().decode())
    except Refused as error:
        sys.stdout.buffer.write(str(error).encode())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main())
