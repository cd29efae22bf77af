"""The wheel carries its configurations and works from an empty folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import SMALL

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The wheel, built and unpacked: dependencies come from the environment, opkit only from here."""
    pytest.importorskip("hatchling")
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target / "site")
    return target / "site"


def test_the_wheel_holds_the_package_and_its_configurations(site):
    shipped = {str(p.relative_to(ROOT)) for p in (ROOT / "configs").rglob("*.yaml")}
    assert {str(p.relative_to(site / "opkit")) for p in (site / "opkit" / "configs").rglob("*.yaml")} == shipped
    assert (site / "opkit" / "evaluation" / "report.html.j2").is_file()
    (metadata,) = site.glob("*.dist-info")
    assert "opkit = opkit.cli:entry" in (metadata / "entry_points.txt").read_text()
    assert {p.name for p in site.iterdir()} == {"opkit", metadata.name}


def test_it_trains_from_an_empty_folder(site, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k not in ("OPKIT_DATA", "PYTHONPATH")}
    environment["PYTHONPATH"] = str(site)
    code = "import sys; from opkit.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-P", "-c", code, "train", *SMALL]
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, capture_output=True)
    assert (tmp_path / "runs" / "fno-darcy" / "evaluation" / "report.html").is_file()
    assert list((tmp_path / "datasets" / "data" / "darcy").glob("*/train/*.h5"))
