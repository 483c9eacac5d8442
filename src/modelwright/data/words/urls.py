"""What is a URL or an e-mail address, and hence one word.

The form is that of Diego Perini's expression (MIT, https://gist.github.com/dperini/729294) as spaCy uses it:
scheme, user, host, port and path, of which only the host must be there. It is written out here so that no
text can make it slow.
"""

from __future__ import annotations

from modelwright.data.words import kinds

Span = tuple[int, int]
"""Two places: of the first character, and behind the last."""


def is_url(text: str, start: int, end: int) -> bool:
    """Whether the chunk is a URL or an e-mail address: scheme, user, host, port and path, of which only
    the host must be there. A host is what a scheme or an "@" stands before, or stands at the beginning."""
    of = kinds.of()
    if _is_host(text, start, end):
        return True
    scheme = start
    while scheme < end and (
        text[scheme] in "_+-." or of[ord(text[scheme])] & (kinds.ALPHABETIC | kinds.NUMBER)
    ):
        scheme += 1
    if scheme - start > 1 and text.startswith("://", scheme, end) and _is_host(text, scheme + 3, end):
        return True
    at = text.find("@", start + 1, end)
    while at >= 0:
        if _is_host(text, at + 1, end):
            return True
        at = text.find("@", at + 1, end)
    return False


def _is_host(text: str, start: int, end: int) -> bool:
    """Whether all of it is a domain name or an IPv4 address, and perhaps a port and a path."""
    labels: list[Span] = []
    place = begin = start
    while place < end and text[place] not in ":/?#":
        if text[place] == ".":
            if not _is_label(text, begin, place):
                return False
            labels.append((begin, place))
            begin = place + 1
        elif place - begin > 64:
            return False
        place += 1
    if not labels or not (_is_top(text, begin, place) or _is_address(text, [*labels, (begin, place)])):
        return False
    if place < end and text[place] == ":":
        port = place + 1
        while port < end and kinds.of()[ord(text[port])] & kinds.DECIMAL:
            port += 1
        if not 2 <= port - place - 1 <= 5:
            return False
        place = port
    return place == end or text[place] in "/?#"


def _is_label(text: str, start: int, end: int) -> bool:
    def may_stand(character: str) -> bool:
        ascii_one = character.isascii() and character.isalnum()
        return ascii_one or "\u00a1" <= character <= "\uffff"

    if not 1 <= end - start <= 64 or not may_stand(text[start]) or not may_stand(text[end - 1]):
        return False
    return all(character in "_-" or may_stand(character) for character in text[start:end])


def _is_top(text: str, start: int, end: int) -> bool:
    """A top-level domain: letters, none of upper case."""
    of = kinds.of()
    return 2 <= end - start <= 63 and all(of[ord(c)] & kinds.LOWER for c in text[start:end])


def _is_address(text: str, parts: list[Span]) -> bool:
    """A public IPv4 address, as far as the first number tells."""
    numbers = [text[start:end] for start, end in parts]
    if len(numbers) != 4 or not all(n.isascii() and n.isdigit() and len(n) <= 3 for n in numbers):
        return False
    values = [int(number) for number in numbers]
    first, second, third, last = values
    private = first in (10, 127) or (first, second) in ((169, 254), (192, 168))
    if private or (first == 172 and 16 <= second <= 31):
        return False
    starts_well = numbers[0][0] != "0" and numbers[3][0] != "0"
    whole = all(len(n) < 3 or n[0] != "0" for n in numbers[1:3])
    return starts_well and whole and first <= 223 and max(second, third) <= 255 and last <= 254
