from __future__ import annotations

import gzip
import json
import random
import re
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.data.privacy.find import find
from modelwright.data.privacy.finding import KINDS
from modelwright.data.privacy.numbers import luhn
from modelwright.data.privacy.prescan import key_regions, number_regions, one_byte_each

TOKEN = "a8Fk2Lm9Qz4Xw7Rt1Yb6Nc3Vd5Hg0JsPeUi"

PRESENT = {
    "email": [
        "ann.lee@mail.org",
        "bob+news@sub.domain.co.uk",
        "o'hara@firm.ie",
        "jürgen@müller.de",
        "x_1%y@a-b.io",
        "иван@почта.рф",
        "A.B@UPPER.COM",
        "first.last@museum.museum",
        "git@github.com",
        "1234@numbers.net",
    ],
    "phone": [
        "+44 20 7946 0958",
        "+1 (212) 555-7890",
        "+1-415-345-4754",
        "+49 30 901820-0",
        "+33 1 42 68 53 00",
        "+81-3-3201-3331",
        "+919876543210",
        "0049 30 901820",
        "(212) 555-7890",
        "212-555-7890",
        "212.555.7890",
        "1-800-356-9377",
        "020 7946 0958",
        "07700 901123",
        "(01632) 960123",
        "01 42 68 53 00",
        "01.42.68.53.00",
        "030/901820",
        "0171-1234567",
    ],
    "iban": [
        "DE89 3704 0044 0532 0130 00",
        "DE89370400440532013000",
        "GB29 NWBK 6016 1331 9268 19",
        "FR14 2004 1010 0505 0001 3M02 606",
        "NL91 ABNA 0417 1643 00",
        "NO93 8601 1117 947",
        "MT84 MALT 0110 0001 2345 MTLC AST0 01S",
        "CH93 0076 2011 6238 5295 7",
        "ES91 2100 0418 4502 0005 1332",
    ],
    "card": [
        "4111 1111 1111 1111",
        "5555-5555-5555-4444",
        "378282246310005",
        "6011111111111117",
        "30569309025904",
        "3530111333300000",
        "2223003122003222",
        "4012888888881881",
    ],
    "ip": ["8.8.8.8", "172.217.16.142", "2001:4860:4860::8888", "2a00:1450:4001:81b::200e", "93.184.216.34"],
    "secret": [
        "AKIAIOSFODNN7EXAMPLE"[:13] + "2345672",
        f"ghp_{TOKEN}x",
        f"github_pat_{TOKEN}",
        f"sk-{TOKEN}",
        f"sk-proj-{TOKEN}",
        f"sk_live_{TOKEN}",
        f"xoxb-123456789012-{TOKEN}",
        f"AIza{TOKEN}"[:39],
        f"hf_{TOKEN}",
        f"glpat-{TOKEN[:20]}",
        f"npm_{TOKEN}q",
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA04up8hoq\nxyz=\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC",
    ],
    "national_id": ["078-05-1120", "12345678Z"],
}
ASSIGNED = [
    f"password = '{TOKEN[:12]}'",
    f'"client_secret": "{TOKEN}"',
    f"API_KEY={TOKEN}",
    f"auth_token: {TOKEN}",
    f"https://user:{TOKEN[:9]}@host.org/x",
]

ABSENT = [
    *(
        "ISBN 978-0-306-40615-7",
        "ISBN 0-306-40615-2",
        "on 2024-03-05 12:30:45",
        "from 1914-1918 to 1939-1945",
    ),
    *(
        "12.05.1987",
        "05/12/1987",
        "3.14159265358979",
        "1,234,567,890",
        "1 234 567 890 people",
        "€12.000.000,00",
    ),
    *("192.168.1.1", "10.0.0.1", "127.0.0.1", "169.254.1.1", "192.0.2.7", "version 3.8.11.1", "256.1.1.1"),
    *("::1", "fe80::1", "2001:db8::7", "std::vector", "ab::cd", "12:30:45", "5.5.5.5.5"),
    *("4111 1111 1111 1112", "1234567812345670", "0000 0000 0000 0000", "DE88 3704 0044 0532 0130 00"),
    *(
        "GB82 WEST 1234 5698 7654",
        "email@example.com",
        "a@b",
        "@handle",
        "icon@2x.png",
        "x @ y.com",
        "a..b@c.org",
    ),
    *("password = changeme123", "password: <PASSWORD1>", "the secret: nobodyknew", "token = $TOKEN1234567"),
    *("secretary: Mrs. Dalloway", "sk-learn-is-a-library-for-python-users", "AKIAXXXXXXXXXXXXXXXX"),
    *(
        "Rooms 101, 102, 103 and 104",
        "pp. 112-118, 220-234",
        "Matthew 5:3-12; 6:9-13",
        "555-0100",
        "1600x1200",
    ),
    *(
        "order 8005551234567890123",
        "2^31 = 2147483648",
        "(202) 555-0143",
        "0.0.0.0",
        "-----BEGIN CERTIFICATE-----",
    ),
    *("https://user:${PASSWORD}@host.org/x", "sha256:" + "ab12" * 16),
]


@pytest.mark.parametrize("kind", PRESENT)
def test_every_labelled_example_is_found_whole(kind: str) -> None:
    for value in PRESENT[kind]:
        for frame in ("{}", "Write to {}.", "({})", "see\n{}\nbelow", "日本 {}, or", "“{}”"):
            text = frame.format(value)
            start = text.index(value)
            found = [each for each in find(text, KINDS) if each.kind == kind]
            assert [(each.start, each.end) for each in found] == [(start, start + len(value))], (text, found)


@pytest.mark.parametrize("text", ASSIGNED)
def test_random_text_that_is_called_a_secret(text: str) -> None:
    (found,) = find(text, ["secret"])
    assert text[found.start : found.end] in TOKEN


@pytest.mark.parametrize("text", ABSENT)
def test_what_only_looks_alike(text: str) -> None:
    for frame in ("{}", "They had {} there.", "({})"):
        assert find(frame.format(text)) == []


def test_one_text_with_everything() -> None:
    values = [(kind, value) for kind in PRESENT for value in PRESENT[kind]]
    random.Random(0).shuffle(values)
    text = "".join(f"Here stands {value} ; " for _, value in values)
    assert Counter(each.kind for each in find(text, KINDS)) == Counter(kind for kind, _ in values)


def test_only_what_is_asked_for() -> None:
    text = "ann@mail.org and 8.8.8.8 and 078-05-1120"
    assert [each.kind for each in find(text, ["ip"])] == ["ip"]
    assert [each.kind for each in find(text)] == ["email", "ip"]


def test_luhn() -> None:
    assert luhn("79927398713") and not luhn("79927398710") and not luhn("0" * 16)


HOSTILE = [
    "a@",
    "1",
    "1 ",
    "1.",
    "password=",
    "://a:",
    "+1(",
    "A",
    "sk-",
    "eyJ",
    "eyJaaaaaaaaaaaaaaaaa.",
    ":",
    "2001:",
    "-----BEGIN PRIVATE KEY-----",
    "GB29 ",
    "tel ",
    "password:a1b2c3d4",
    "x@a-",
    "(0",
    "@",
    "a.",
    "00 1",
    "\u0660",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_text_takes_linear_time(piece: str) -> None:
    """Nothing is timed: where time were quadratic, each of these would take minutes."""
    text = (piece * 200_000)[:200_000] + "@"
    assert all(0 <= found.start < found.end <= len(text) for found in find(text, KINDS))


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300) | st.text("0123456789 .-+@abcAZ:/=_", max_size=300))
def test_findings_are_ordered_apart_and_within(text: str) -> None:
    end = 0
    for found in find(text, KINDS):
        assert end <= found.start < found.end <= len(text)
        end = found.end


@settings(max_examples=100, deadline=None)
@given(st.text("ab-_ .1é日", max_size=120))
def test_the_prescan_misses_no_long_run(text: str) -> None:
    letters = one_byte_each(text)
    assert len(letters) == len(text)
    assert key_regions(letters) == [match.span() for match in re.finditer(r"[A-Za-z0-9_-]{16,}", text)]
    expected = [match[0] for match in re.finditer(r"[0-9](?:[^0-9]{0,3}[0-9])*", text)]
    counts = [sum(map(str.isdigit, run)) for run in expected]
    assert [count for count, _, _ in number_regions(letters, 4)] == [count for count in counts if count >= 4]


def test_nothing_in_novels(shared_data: Path) -> None:
    file = sorted((shared_data / "litbank_novels").glob("*.parquet"))[0]
    texts = pq.read_table(file)["text"].to_pylist()[:25]
    assert sum(len(find(text, KINDS)) for text in texts) == 0


def test_against_datatrove_on_real_pages(shared_data: Path) -> None:
    """SQLite's pages: both find the addresses; datatrove also takes versions of four numbers for IPs."""
    pii = pytest.importorskip("datatrove.pipeline.formatters.pii")
    theirs = pii.PIIFormatter(email_replacement="\0E", ip_replacement="\0I")
    with gzip.open(shared_data / "sqlite_docs_html" / "pages.jsonl.gz", "rt", encoding="utf-8") as file:
        pages = [json.loads(line)["html"] for line in file]
    pages = [page for page in pages if "@" in page or page.count(".") > 300][:200]
    ours = Counter(each.kind for page in pages for each in find(page, ["email", "ip"]))
    masked = [theirs.format(page) for page in pages]
    their_emails = sum(page.count("\0E") for page in masked)
    their_ips = sum(page.count("\0I") for page in masked)
    examples = sum(page.count(f"@{domain}") for page in pages for domain in ("example.com", "example.org"))
    assert 0 < ours["email"] <= their_emails <= ours["email"] + examples + 2
    assert ours["ip"] <= their_ips
