"""What the log says of the candidates."""

from __future__ import annotations

from modelwright.stages.average import describe


def test_a_candidate_is_told_in_words() -> None:
    row = {"candidate": "ema", "validation_bits_per_byte": 1.32701, "validation_loss": 0.4884, "chosen": True}
    assert describe(row) == "ema (chosen): validation bits per byte 1.3270, validation loss 0.4884"
    assert describe({**row, "chosen": False}).startswith("ema: ")
