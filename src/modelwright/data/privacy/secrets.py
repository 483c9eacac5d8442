"""Keys and passwords: forms that their issuers publish, and random text that is called a secret."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from modelwright.data.privacy.finding import Finding
from modelwright.data.privacy.prescan import Region, places_of

_KEYS = re.compile(
    r"""(?<![A-Za-z0-9])(?:
        (?:AKIA|ASIA)[A-Z2-7]{16}                           # Amazon Web Services, access key id
      | gh[pousr]_[A-Za-z0-9]{36,255}                       # GitHub
      | github_pat_[A-Za-z0-9_]{22,255}
      | glpat-[A-Za-z0-9_-]{20,64}                          # GitLab
      | sk-(?:[a-z]{2,8}-){0,2}[A-Za-z0-9_-]{20,200}        # OpenAI, Anthropic and others of this form
      | [sr]k_(?:live|test)_[A-Za-z0-9]{16,128}             # Stripe
      | xox[abeoprs]-[A-Za-z0-9-]{10,200}                   # Slack
      | AIza[A-Za-z0-9_-]{35}                               # Google
      | hf_[A-Za-z0-9]{30,64}                               # Hugging Face
      | npm_[A-Za-z0-9]{36}
    )(?![A-Za-z0-9])""",
    re.VERBOSE,
)
_WEB_TOKEN = re.compile(
    r"eyJ[A-Za-z0-9_-]{10,4096}\.eyJ[A-Za-z0-9_-]{10,8192}\.[A-Za-z0-9_-]{10,1024}(?![\w-])"
)
_BLOCK = "-----BEGIN"
_PRIVATE = re.compile(r"-----BEGIN (?:[A-Z0-9]{2,10} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_END = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
MAX_BLOCK = 1 << 16


def keys(text: str, region: Region) -> Iterator[Finding]:
    """Keys by the forms of their issuers in one run of letters and digits, and JSON web tokens (RFC 7519),
    the first of whose three parts is the run."""
    start, end = region
    for match in _KEYS.finditer(text, start, end):
        if _is_random(match[0]):
            yield Finding("secret", *match.span())
    if text.startswith("eyJ", start) and (match := _WEB_TOKEN.match(text, start)):
        yield Finding("secret", *match.span())


def private_keys(text: str) -> Iterator[Finding]:
    """Blocks of private keys, also those whose end is missing."""
    behind = 0
    for place in places_of(text, _BLOCK):
        match = _PRIVATE.match(text, place)
        if match is None or place < behind:
            continue
        limit = min(len(text), match.end() + MAX_BLOCK)
        end = _END.search(text, match.end(), limit)
        behind = end.end() if end else _end_of_base64(text, match.end(), limit)
        yield Finding("secret", place, behind)


_BASE64_LINES = re.compile(r"(?:\s{0,8}[A-Za-z0-9+/=]{16,})*")


def _end_of_base64(text: str, start: int, limit: int) -> int:
    lines = _BASE64_LINES.match(text, start, limit)
    return lines.end() if lines else start


_CALLED = ("passw", "secret", "token", "_key", "-key", "apikey")
_ASSIGNED = re.compile(
    r"[\w-]{0,24}[\"']?\s{0,3}(?::=|=>|[:=])\s{0,3}[\"']?([^\s\"'`,;<>(){}\[\]$%*]{8,200})(?![^\s\"'`,;)}\]<])"
)
_PLACEHOLDER = re.compile(
    r"example|sample|change|your|dummy|placeholder|xxxx|\.\.\.|test|password|secret", re.IGNORECASE
)
MIN_ENTROPY = 3.0
"""Bits a character. English words of this length have less than random letters and digits do, but not much:
a secret must hold digits and letters, too."""


def assigned(text: str) -> Iterator[Finding]:
    """Random text assigned to what is called password, secret, token or key."""
    if not ("=" in text or ":" in text):
        return
    lowered = text.replace("İ", "i").lower()  # the one letter that lower() makes two of
    for called in _CALLED:
        for place in places_of(lowered, called):
            match = _ASSIGNED.match(text, place)
            if match and _is_random(match[1]) and not _PLACEHOLDER.search(match[1]):
                yield Finding("secret", *match.span(1))


def credentials(text: str) -> Iterator[Finding]:
    """The password in scheme://user:password@host."""
    for at in places_of(text, "@") if "://" in text else ():
        match = _USER.search(text[max(0, at - 200) : at])
        if match and not re.match(r"[$<{]", match[1]):
            yield Finding("secret", at - len(match[1]), at)


_USER = re.compile(r"[a-z]://[^\s/:@]{1,64}:([^\s/:@]{3,100})\Z")


def _is_random(value: str) -> bool:
    letters = Counter(value)
    bits = -sum(n / len(value) * math.log2(n / len(value)) for n in letters.values())
    return bits >= MIN_ENTROPY and bool(re.search(r"\d", value)) and bool(re.search(r"[A-Za-z]", value))
