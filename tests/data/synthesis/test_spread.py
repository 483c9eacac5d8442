"""The grid: every prefix of its draws is even."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.base.config import validate
from modelwright.base.errors import ConfigError
from modelwright.data.synthesis.personas import PersonasConfig, persona_prompt
from modelwright.data.synthesis.spread import Grid, evenness, reached

SIZES = st.lists(st.integers(1, 7), min_size=1, max_size=4)


def grid(sizes: list[int], seed: int) -> Grid:
    return Grid(
        {f"axis {n}": [f"{n}.{value}" for value in range(size)] for n, size in enumerate(sizes)}, seed
    )


@given(SIZES, st.integers(0, 500), st.integers(0, 3))
def test_after_any_number_of_draws_all_values_were_drawn_equally_often(
    sizes: list[int], draws: int, seed: int
) -> None:
    made = grid(sizes, seed)
    cells = [made.cell(draw) for draw in range(draws)]
    for axis, values in made.axes.items():
        counts = Counter(cell[axis] for cell in cells)
        assert max(counts[v] for v in values) - min(counts[v] for v in values) <= 1


@given(SIZES, st.integers(0, 3))
def test_all_cells_come_once_before_any_comes_again(sizes: list[int], seed: int) -> None:
    made = grid(sizes, seed)
    cells = [tuple(made.cell(draw).items()) for draw in range(2 * made.cells)]
    assert len(set(cells[: made.cells])) == made.cells
    assert set(Counter(cells).values()) == {2}


def test_the_seed_decides_the_order() -> None:
    orders = [[grid([7, 5], seed).cell(draw) for draw in range(35)] for seed in (1, 1, 2)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


@pytest.mark.parametrize("values", [[], ["a", "a"]])
def test_axes_have_values_each_once(values: list[str]) -> None:
    with pytest.raises(ValueError, match="axis 'who' needs values"):
        Grid({"who": values}, 1)


def test_what_was_reached() -> None:
    axes = {"who": ("a", "b"), "what": ("x", "y")}
    cells = [{"who": "a", "what": "x"}, {"who": "a", "what": "y"}, {"who": "a", "what": "y"}]
    (who, what), share = reached(axes, cells)
    assert (who.counts, who.evenness) == ({"a": 3, "b": 0}, 0)
    assert what.evenness == pytest.approx(0.9183, abs=1e-4)  # the entropy of a third, in bits
    assert share == 0.5
    assert reached(axes, [])[1] == 0


@given(st.lists(st.integers(0, 50), min_size=2, max_size=9))
def test_evenness_is_a_share(counts: list[int]) -> None:
    assert 0 <= evenness(counts) <= 1 + 1e-12
    assert evenness([7] * len(counts)) == pytest.approx(1)


def test_a_persona_is_asked_in_its_cell() -> None:
    config = PersonasConfig()
    cell = Grid(config.axes(), 3).cell(0)
    asked = persona_prompt(config, cell).messages[0].content
    assert all(value in asked for value in cell.values())
    assert config.levels[cell["level"]] in asked


@pytest.mark.parametrize(
    "axis", [{"personas": []}, {"topics": ["x", "x"]}, {"levels": {}}, {"topics": [" "]}]
)
def test_an_axis_without_values_is_refused(axis: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"at least one, none of them empty|each of them once"):
        validate(PersonasConfig, axis, "personas")
