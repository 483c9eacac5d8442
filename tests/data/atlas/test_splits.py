from __future__ import annotations

from collections import Counter

from modelwright.data.atlas.splits import operands_split, split_of


def test_split_is_a_property_of_the_key() -> None:
    assert split_of("fact", "capital", "France") == split_of("fact", "capital", "France")
    assert len({split_of("a", number) for number in range(200)}) == 3
    assert any(split_of("ab", "c", n) != split_of("a", "bc", n) for n in range(50))


def test_shares_are_kept() -> None:
    counts = Counter(split_of("share", number, test=0.2, validation=0.3) for number in range(5_000))
    assert abs(counts["test"] / 5_000 - 0.2) < 0.02
    assert abs(counts["validation"] / 5_000 - 0.3) < 0.02
    assert {split_of("none", number, test=0.0, validation=0.0) for number in range(100)} == {"train"}


def test_sums_do_not_depend_on_the_order_of_the_operands() -> None:
    for left in range(30):
        for right in range(30):
            assert operands_split("+", left, right) == operands_split("+", right, left)
            assert operands_split("*", left, right) == operands_split("*", right, left)
