"""Several runs side by side: what differs by more than chance, and what must not be compared."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from opkit.cli import main
from opkit.errors import ConfigError
from opkit.evaluation.leaderboard import _compare_all, cells, is_evaluated, leaderboard, summary
from opkit.evaluation.statistics import Comparison


def copy_of(run: Path, folder: Path, change) -> Path:
    """A run's evaluation whose per-sample errors, and their mean, are changed."""
    shutil.copytree(run / "evaluation", folder / "evaluation")
    with open(folder / "evaluation" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    report = json.loads((folder / "evaluation" / "report.json").read_text())
    for row in rows:
        if (row["metric"], row["model"], row["resolution"]) == ("rel_l2", "surrogate", "13"):
            row["value"] = str(change(float(row["value"]), int(row["sample"])))
    values = [
        float(r["value"]) for r in rows if (r["metric"], r["model"], r["resolution"]) == ("rel_l2", "surrogate", "13")
    ]
    report["metrics"][0]["value"] = float(np.mean(values))
    with open(folder / "evaluation" / "metrics.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (folder / "evaluation" / "report.json").write_text(json.dumps(report))
    return folder


@pytest.fixture
def runs(small_run, tmp_path):
    noise = np.random.default_rng(0).normal(0, 1e-3, 100)
    return {
        "a": [copy_of(small_run, tmp_path / "a", lambda v, i: v)],
        "b": [copy_of(small_run, tmp_path / "b", lambda v, i: v + noise[i])],
        "c": [copy_of(small_run, tmp_path / "c", lambda v, i: v * 1.5)],
    }


def test_only_what_differs_by_more_than_chance_is_worse(runs, tmp_path):
    found = leaderboard(runs, tmp_path / "out", 500, 0)
    verdicts = {row["run"]: row["verdict"] for row in found["runs"]}
    assert verdicts == {"a": "as good", "b": "as good", "c": "worse"}
    assert found["runs"][-1]["run"] == "c" and found["runs"][-1]["difference"]["p_holm"] < 0.05
    assert "cannot be told apart" in summary(found)
    page = (tmp_path / "out" / "leaderboard.html").read_text()
    assert '<div class="scroll" tabindex="0" role="region" aria-label="Runs compared">' in page
    assert "<strong>" not in page and "http" not in re.sub(r"Content-Security-Policy|http-equiv", "", page)
    with open(tmp_path / "out" / "leaderboard.csv", newline="") as file:
        assert [row["run"] for row in csv.DictReader(file)] == [row["run"] for row in found["runs"]]


def test_a_clear_winner_is_bold(runs, tmp_path):
    found = leaderboard({k: runs[k] for k in "ac"}, tmp_path / "out", 500, 0)
    assert [row["verdict"] for row in found["runs"]] == ["best", "worse"]
    assert (tmp_path / "out" / "leaderboard.html").read_text().count("<strong>") == 1
    assert "a is best; the others differ from it by more than chance (5%, Holm; of these weights" in summary(found)


def test_seeds_of_one_run_are_one_row(runs, tmp_path):
    found = leaderboard({"both": runs["a"] + runs["b"] + runs["c"], "c": runs["c"]}, tmp_path / "out", 500, 0)
    row = next(r for r in found["runs"] if r["run"] == "both")
    single = [json.loads((runs[k][0] / "evaluation" / "report.json").read_text())["metrics"][0]["value"] for k in "abc"]
    assert row["seeds"] == 3 and row["rel_l2"]["value"] == pytest.approx(np.mean(single))
    assert row["spread"] == pytest.approx(np.std(single, ddof=1))
    assert cells(row, 1)["run"].endswith("(3 seeds, preliminary)") and cells(row | {"seeds": 5}, 1)["run"].endswith(
        "(5 seeds)"
    )
    # Three runs that lie v, v, 1.5 v apart: their spread alone gives 4.3 sqrt(v^2 / 12 / 3).
    half = (row["rel_l2"]["ci_high"] - row["rel_l2"]["ci_low"]) / 2
    assert half > 0.99 * 4.302653 * np.std(single, ddof=1) / np.sqrt(3)
    assert "another seed may differ" in summary(found)


@pytest.mark.parametrize(("p", "verdict"), [(0.012, "as good"), (0.008, "worse")])
def test_all_pairs_are_corrected_for(p, verdict, monkeypatch):
    """Four runs, six pairs: 6 * 0.012 = 0.072 and 6 * 0.008 = 0.048. Were three pairs counted, those with the first
    alone, 0.036 and 0.024 would both be worse."""
    rows = [{"run": name, "rel_l2": {"value": 0.0}, "difference": None} for name in "abcd"]
    errors = {name: np.full((1, 5), float(i)) for i, name in enumerate("abcd")}

    def told(own, other, *_):
        return Comparison(0.0, None, None, p if (own[0, 0], other[0, 0]) == (3.0, 0.0) else 0.9, 5)

    monkeypatch.setattr("opkit.evaluation.leaderboard.compare_runs", told)
    _compare_all(rows, errors, 100, 0)
    assert [row["verdict"] for row in rows] == ["as good", "as good", "as good", verdict]


@pytest.mark.slow
def test_the_best_of_many_equals_is_not_better_than_the_rest():
    """Ten runs that differ by noise, sixty times: corrected for the nine comparisons with the smallest alone, six of
    these tables name a run worse; three are what 5 percent allow."""
    random = np.random.default_rng(1)
    named = 0
    for trial in range(60):
        draws = sorted((random.normal(1, 0.1, 60) for _ in range(10)), key=lambda v: v.mean())
        rows = [{"run": str(i), "rel_l2": {"value": 0.0}, "difference": None} for i in range(10)]
        _compare_all(rows, {str(i): v[None] for i, v in enumerate(draws)}, 1999, trial)
        named += any(row["verdict"] == "worse" for row in rows)
    assert named <= 3


def test_a_place_that_cannot_be_made_is_one_message(runs):
    with pytest.raises(ConfigError, match=r"output=/proc/here cannot be made: "):
        leaderboard(runs, Path("/proc/here"), 200, 0)


def test_what_is_no_comparison_is_not_replaced(runs, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("...")
    with pytest.raises(ConfigError, match="would be replaced"):
        leaderboard(runs, tmp_path / "thesis", 200, 0)
    assert (tmp_path / "thesis" / "chapter1.tex").is_file()
    for _ in range(2):  # an earlier comparison is
        leaderboard(runs, tmp_path / "out", 200, 0)


def test_one_run_and_runs_without_an_error_are_called_so(runs, tmp_path):
    alone = leaderboard({"seeds": runs["a"]}, tmp_path / "out", 200, 0)
    assert "there is no other" in summary(alone)
    path = runs["c"][0] / "evaluation" / "report.json"
    report = json.loads(path.read_text())
    report["metrics"][0] |= {"value": None, "reason": "undefined for 3 of 10 samples"}
    path.write_text(json.dumps(report))
    found = leaderboard({k: runs[k] for k in "ac"}, tmp_path / "out", 200, 0)
    assert summary(found).endswith("there is no other. Undefined: c.") and found["runs"][0]["verdict"] == "only one"


def test_rollouts_of_other_lengths_are_not_compared(runs, tmp_path):
    for name, steps in (("a", 100), ("b", 200)):
        path = runs[name][0] / "evaluation" / "report.json"
        report = json.loads(path.read_text())
        report["rollout"] = {"verdict": "diverges", "reference_steps": 100, "steps": steps}
        path.write_text(json.dumps(report))
    found = leaderboard({k: runs[k] for k in "ab"}, tmp_path / "out", 200, 0)
    assert [row["stability"] for row in found["runs"]] == [None, None]
    assert "not equally long" in (tmp_path / "out" / "leaderboard.html").read_text()


def test_a_damaged_table_is_named(runs, tmp_path):
    table = runs["b"][0] / "evaluation" / "metrics.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(line for line in lines if not line.startswith("3,")))
    with pytest.raises(ConfigError, match=r"metrics\.csv has rel_l2 of 9 samples, not of 10"):
        leaderboard(runs, tmp_path / "out", 200, 0)
    (runs["b"][0] / "evaluation" / "report.json").write_text("[]")
    assert not is_evaluated(runs["b"][0], "0" * 64)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r["data"]["keys"].update({"13": "0" * 16}), "test data"),
        (lambda r: r["data"].update(test=4), r"data\.test"),
        (lambda r: r.update(pde="burgers"), "equation"),
    ],
)
def test_different_tests_are_not_compared(runs, tmp_path, change, said):
    path = runs["b"][0] / "evaluation" / "report.json"
    report = json.loads(path.read_text())
    change(report)
    path.write_text(json.dumps(report))
    with pytest.raises(ConfigError, match=f"not tested on the same samples: {said}"):
        leaderboard(runs, tmp_path / "out", 500, 0)
    assert not (tmp_path / "out").exists()


def test_a_report_of_other_weights_is_not_read(small_run):
    report = json.loads((small_run / "evaluation" / "report.json").read_text())
    assert is_evaluated(small_run, report["weights_sha256"]) and not is_evaluated(small_run, "0" * 64)


def test_the_command(small_run, small_data, tmp_path, capsys):
    for name in ("one", "two"):
        shutil.copytree(small_run, tmp_path / name)
    shutil.rmtree(tmp_path / "two" / "evaluation")
    before = (tmp_path / "one" / "evaluation" / "report.json").stat().st_mtime_ns
    paths = [str(tmp_path / "one"), str(tmp_path / "two")]
    assert main(["evaluate", *paths]) == 0
    out = capsys.readouterr().out
    assert "cannot be told apart" in out and str(tmp_path / "leaderboard" / "leaderboard.html") in out
    assert (tmp_path / "one" / "evaluation" / "report.json").stat().st_mtime_ns == before
    shutil.rmtree(tmp_path / "leaderboard")
    assert main(["evaluate", *paths, "output=null"]) == 0 and (tmp_path / "leaderboard" / "leaderboard.html").is_file()
    assert main(["evaluate", *paths, "--gate", "rel_l2<1e-9", f"output={tmp_path / 'elsewhere'}"]) == 3
    assert main(["evaluate", str(tmp_path / "one"), str(tmp_path / "none")]) == 2
