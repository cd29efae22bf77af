"""report.html in a real browser: the scrubber moves, nothing is complained of, nothing leaves the page. And report.json
against its published schema."""

import base64
import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import h5py
import jsonschema
import numpy as np
import pytest

import opkit
from opkit.cli import main
from opkit.evaluation.report import _html
from opkit.evaluation.rollout import REASONS

SCHEMA = Path(__file__).parents[1] / "opkit" / "evaluation" / "report.schema.json"
CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))


@pytest.fixture(scope="module")
def flow_run(tmp_path_factory):
    """A small trained run of an evolution equation in the plane."""
    root = tmp_path_factory.mktemp("flow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPKIT_DATA", str(root / "data"))
        settings = [
            "pde.resolution=16", "pde.label_resolution=16", "pde.modes=5", "pde.times=[0,0.2,0.4]", "model.width=4",
            "model.n_modes=[8,8]", "model.projection_width=8", "evaluation.resolutions=[24,32]", "data.train=6",
            "data.val=2", "data.test=4", "data.test_fine=2", "data.batch_size=4", "trainer.max_epochs=1",
            "trainer.accelerator=cpu", "evaluation.resamples=100", "evaluation.timing=1", "evaluation.suite=full",
            "compile=false", "workers=1",
        ]  # fmt: skip
        assert main(["train", "--model", "fno", "--pde", "navier_stokes", *settings, f"run_dir={root / 'run'}"]) == 0
    return root / "run"


@pytest.mark.parametrize("which", ["small_run", "flow_run"])
def test_report_json_keeps_its_schema(which, request):
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    report = json.loads((request.getfixturevalue(which) / "evaluation" / "report.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    assert [f"{list(e.absolute_path)}: {e.message[:200]}" for e in validator.iter_errors(report)] == []
    for spoil in (
        lambda r: r["metrics"][0].update(value="low"),
        lambda r: r["metrics"][0].pop("ci_low"),
        lambda r: r.pop("verdicts"),
        lambda r: r.update(unheard_of=1),
    ):
        wrong = json.loads(json.dumps(report))
        spoil(wrong)
        assert not validator.is_valid(wrong)


def test_the_schema_knows_every_reason_a_rollout_ends_for():
    """Which of them a run has is chance."""
    ended = json.loads(SCHEMA.read_text())["$defs"]["rollout"]["properties"]["ended"]
    assert set(ended["items"]["properties"]["reason"]["enum"]) == set(REASONS)


@pytest.mark.parametrize("which", ["small_run", "flow_run"])
def test_samples_are_the_data_and_what_the_bundle_predicts(which, request):
    run = request.getfixturevalue(which)
    physics = json.loads((run / "surrogate" / "physics.json").read_text())
    (shard,) = run.parent.glob(f"data/*/{physics['data']['key']}/test/samples-*.h5")
    with open(run / "evaluation" / "metrics.csv", newline="") as table:
        rows = [r for r in csv.DictReader(table) if (r["model"], r["metric"]) == ("surrogate", "rel_l2")]
    grid = min(int(r["resolution"]) for r in rows)
    own = {int(r["sample"]): float(r["value"]) for r in rows if int(r["resolution"]) == grid}
    surrogate = opkit.load(run)
    with h5py.File(run / "evaluation" / "samples.h5") as file, h5py.File(shard) as data:
        index, errors = file["sample/index"][:], file["sample/rel_l2"][:]
        assert len(index) == min(8, len(own)) and len(set(index.tolist())) == len(index)
        assert (np.diff(errors) >= 0).all() and errors[0] == pytest.approx(min(own.values()))
        assert errors[-1] == pytest.approx(max(own.values()))
        assert errors == pytest.approx([own[i] for i in index], rel=1e-6)
        (target,) = file["truth"]
        truth, prediction = file[f"truth/{target}"][:], file[f"prediction/{target}"][:]
        (given,) = file["inputs"]
        inputs = file[f"inputs/{given}"][:]
        order = np.argsort(index)
        stored = data[f"t0_fields/{target}"][index[order]]
        if which == "flow_run":
            assert (stored[:, 0] == inputs[order, 0]).all() and (stored[:, 1:] == truth[order]).all()
            again = surrogate.rollout(inputs, truth.shape[1])[:, :, 0]
            assert file["rollout/truth"].shape == file["rollout/surrogate"].shape
            assert len(file["rollout/step"]) == file["rollout/truth"].shape[1]
        else:
            assert (stored == truth[order, 0]).all()
            assert (data[f"t0_fields/{given}"][index[order]] == inputs[order, 0]).all()
            again = surrogate(inputs)
        assert np.abs(prediction - again).max() < 1e-5 * np.abs(again).max()
        assert file["grid/x"].shape == truth.shape[-1:]


@pytest.mark.parametrize(("error", "starred"), [(3e-3, False), (1e-3, True)])
def test_a_note_stands_only_under_a_table_that_has_its_mark(small_run, error, starred):
    """The surrogate errs by 1%, the labels by 0.2%, a solver setting by less than that or more."""
    report = json.loads((small_run / "evaluation" / "report.json").read_text())
    report["label_error"] |= {"value": 2e-3, "maximum": 2e-3}
    times = {"median": 0.1, "low": 0.1, "high": 0.1, "repeats": 3, "batch": 1}
    known = {"surrogate": 1e-2, "9 x 9": error}
    own, setting = ({"name": n, "error": e, "latency": times, "throughput": times} for n, e in known.items())
    report["speed"] = {
        "surrogate": own, "settings": [setting], "device": "cpu", "threads": 1, "samples": 4, "seconds_of_data": None
    }  # fmt: skip
    pictures = dict.fromkeys(("samples", "distribution", "resolution", "spectra", "speed"), SimpleNamespace(png=b""))
    page = _html(report, pictures, [], opkit.load(small_run))
    assert "(cpu, 1 thread)" in page and "solver, 9 x 9" in page and "solver, surrogate" not in page
    assert ("* Below the labels' own error" in page) == (page.count("%*</td>") == 1) == starred


@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_the_page_in_a_browser(flow_run, width, scheme):
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        driver.get((flow_run / "evaluation" / "report.html").as_uri())
        slider = driver.find_element(By.CSS_SELECTOR, ".scrubber input")
        tops = "const [f, i] = [...document.querySelectorAll('.frame, .frame img')].map(e => e.getBoundingClientRect())"
        offset = f"{tops}; return [i.top - f.top, f.height]"
        assert driver.execute_script(offset)[0] == pytest.approx(0, abs=1.5)
        slider.send_keys(Keys.ARROW_RIGHT)
        moved, height = driver.execute_script(offset)
        assert moved == pytest.approx(-height, abs=1.5) and height > 50
        assert slider.get_attribute("aria-valuetext").startswith("step 2,")
        button = driver.find_element(By.CSS_SELECTOR, ".scrubber button")
        button.click()
        assert button.text == "Stop"
        assert driver.get_log("browser") == []
        asked = [json.loads(e["message"])["message"] for e in driver.get_log("performance")]
        urls = [m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"]
        assert {u.split(":")[0] for u in urls} <= {"file", "data"}
        # Nothing but tables, which scroll by themselves, may be wider than a phone.
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        unnamed = "return [...document.querySelectorAll('.scroll')].filter(e => e.tabIndex || !e.ariaLabel).length"
        assert driver.execute_script(unnamed) == 0
        named = "return [...document.querySelectorAll('table')].map(e => e.getAttribute('aria-labelledby'))"
        names = driver.execute_script(named)
        assert len(set(names)) == len(names) > 5
        assert all(driver.find_element(By.ID, name).text for name in names)
        panels = driver.execute_script("return [...document.querySelectorAll('.wide')].map(e => e.clientWidth)")
        assert len(panels) > 3 and min(panels) > 880
        hidden = "return [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).length"
        assert (driver.execute_script(hidden) > len(panels)) == (width < 600)  # on a desktop nothing has to scroll
        assert driver.execute_script(hidden) == 0 or width < 600
        wide = "return [...document.images].filter(i => !i.naturalWidth).length"
        assert driver.execute_script(wide) == 0
        ink = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert ("13, 17, 23" in ink) == (scheme == "dark")
        assert len(base64.b64decode(driver.get_screenshot_as_base64())) > 10_000
    finally:
        driver.quit()


def test_every_time_to_an_event_has_its_samples(flow_run):
    report = json.loads((flow_run / "evaluation" / "report.json").read_text())
    with open(flow_run / "evaluation" / "events.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    times = [m for m in report["metrics"] if m.get("unit") == "time units"]
    assert {m["model"] for m in times} == {"surrogate", "persistence"} and len(times) == 8
    for m in times:
        mine = [r for r in rows if (r["model"], r["event"]) == (m["model"], m["name"])]
        assert len(mine) == m["n"] and sum(r["observed"] == "0" for r in mine) == round(m["censored"] * m["n"])
        assert max(float(r["time"]) for r in mine) == pytest.approx(m["maximum"])


def test_every_shift_has_its_samples(flow_run):
    report = json.loads((flow_run / "evaluation" / "report.json").read_text())
    with open(flow_run / "evaluation" / "metrics.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    measured = [r for r in report["shifts"]["rows"] if r["rel_l2"] is not None]
    assert len(measured) > 3
    for row in measured:
        values = [float(r["value"]) for r in rows if r["metric"] == f"rel_l2 at {row['what']} x {row['factor']:g}"]
        assert np.mean(values) == pytest.approx(row["rel_l2"]["value"]) and len(values) == row["rel_l2"]["n"]
