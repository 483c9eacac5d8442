"""Numbers that prove themselves by check digits: bank accounts, payment cards, identity numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator

from modelwright.data.privacy.finding import Finding
from modelwright.data.privacy.prescan import Region

IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HU LB NI PL SV", 29: "BR PS QA UA", 30: "JO KW MU", 31: "MT SC", 32: "LC",
        33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip
"""Characters of an account number by country (the IBAN registry of ISO 13616)."""

_IBAN = re.compile(r"(?<![A-Za-z0-9])([A-Z]{2})\d\d[ -]?[A-Z0-9]")


def ibans(text: str, region: Region) -> Iterator[Finding]:
    """Account numbers of a known country and its length, whose remainder modulo 97 is 1."""
    for match in _IBAN.finditer(text, *region):
        length = IBAN_LENGTHS.get(match[1])
        end = match.start()
        kept = ""
        while length and len(kept) < length and end < min(len(text), match.start() + 48):
            letter = text[end]
            if letter.isascii() and (letter.isdigit() or letter.isupper()):
                kept += letter
            elif letter not in " -":
                break
            end += 1
        if len(kept) != length or text[end : end + 1].isalnum():
            continue
        if int("".join(str(int(letter, 36)) for letter in kept[4:] + kept[:4])) % 97 == 1:
            yield Finding("iban", match.start(), end)


_CARD = re.compile(r"(?<![\w.+-])\d(?:[ -]?\d){12,18}(?!\w|[.,-]\d)", re.ASCII)
_ISSUERS = (
    (re.compile(r"4"), (13, 16, 19)),  # Visa
    (re.compile(r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), (16,)),  # Mastercard
    (re.compile(r"3[47]"), (15,)),  # American Express
    (re.compile(r"6011|64[4-9]|65"), (16, 19)),  # Discover
    (re.compile(r"3(?:0[0-5]|[68])"), (14,)),  # Diners Club
    (re.compile(r"35(?:2[89]|[3-8])"), (16,)),  # JCB
    (re.compile(r"62"), (16, 17, 18, 19)),  # UnionPay
)


def cards(text: str, region: Region) -> Iterator[Finding]:
    """Card numbers of a known issuer and its length, right by Luhn's check digit."""
    for match in _CARD.finditer(text, *region):
        digits = re.sub(r"[ -]", "", match[0])
        if any(start.match(digits) and len(digits) in sizes for start, sizes in _ISSUERS) and luhn(digits):
            yield Finding("card", *match.span())


def luhn(digits: str) -> bool:
    """Whether the last digit checks the others (ISO/IEC 7812-1)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = int(digit) * (2 if place % 2 else 1)
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0 and len(set(digits)) > 1


_SSN = re.compile(r"(?<![\w.-])(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\w-])", re.ASCII)
_DNI = re.compile(r"(?<![\w.-])(\d{8})-?([A-Z])(?![\w-])", re.ASCII)
_DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"


def national_ids(text: str, region: Region) -> Iterator[Finding]:
    """Social security numbers of the United States, by form; Spanish DNI, by check letter."""
    for match in _SSN.finditer(text, *region):
        yield Finding("national_id", *match.span())
    for match in _DNI.finditer(text, *region):
        if _DNI_LETTERS[int(match[1]) % 23] == match[2]:
            yield Finding("national_id", *match.span())
