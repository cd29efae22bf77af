"""Dataset cards: their tables are those of the stored measurements, which are those of the code as it is."""

import importlib.util
import math
import sys
from pathlib import Path

import pytest

from opkit.store import Dataset

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("cards", ROOT / "datasets" / "cards.py")
cards = importlib.util.module_from_spec(spec)
sys.modules["cards"] = cards
spec.loader.exec_module(cards)


@pytest.mark.parametrize("equation", cards.FAMILIES)
def test_the_tables_are_made_from_the_measurements(equation):
    card = (ROOT / "datasets" / f"{equation}.md").read_text()
    assert cards.with_tables(card, equation) == card, "run `python datasets/cards.py`"


@pytest.mark.parametrize("equation", cards.FAMILIES)
def test_every_variant_was_measured_as_it_is_configured(equation):
    found = {name: v["key"] for name, v in cards.measured(equation)["variants"].items()}
    keys = {name: Dataset(cards.variant(name), "test", cards.SEED, Path()).key for name in cards.variants(equation)}
    stale = sorted(name for name in found.keys() | keys.keys() if found.get(name) != keys.get(name))
    command = " ".join(f"{equation}/{name}" for name in stale)
    assert not stale, f"run `python datasets/cards.py measure {command}`"


@pytest.mark.parametrize("equation", cards.FAMILIES)
def test_the_code_still_makes_the_data_that_were_measured(equation, one_thread):
    stated = cards.measured(equation)["fingerprint"]
    assert math.isclose(cards.fingerprint(cards.variant(equation)), stated, rel_tol=1e-8), (
        f"run `python datasets/cards.py measure {equation}`"
    )


def test_orders_are_slopes():
    assert cards.orders([1.0, 0.25, 1 / 32], [2.0, 2.0]) == [None, 2.0, 3.0]


def test_cards_name_their_sources_and_every_variant():
    for equation in cards.FAMILIES:
        card = (ROOT / "datasets" / f"{equation}.md").read_text()
        assert "## Cite" in card and "## Equation" in card
        for name in cards.variants(equation):
            assert f"`{name}`" in card
