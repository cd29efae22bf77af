"""The README is true: its commands parse, its tree exists, and its two recipes work as written."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from opkit.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def commands() -> list[str]:
    lines = [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    inline = re.findall(r"`(python (?:train|evaluate|datasets/generate)\.py [^`]*)`", README)
    found = {line for line in [*lines, *inline] if line.startswith("python ")}
    return sorted(line for line in found if "--pde heat" not in line)  # the reader's own: see the recipes below


@pytest.mark.parametrize("command", commands())
def test_commands_parse(command, small_run, small_data, capsys):
    words = shlex.split(re.sub(r"runs/(fno|mgno)-darcy", str(small_run), command))
    verb = {"train.py": "train", "evaluate.py": "evaluate", "datasets/generate.py": "generate"}[words[1]]
    assert main([verb, *words[2:], "--print_config"]) == 0


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for block in blocks("sh"):
        for target in re.findall(r"^make (\w+)", block, flags=re.M):
            assert re.search(rf"^{target}:", makefile, flags=re.M), target


def test_the_tree_is_the_tree():
    (tree,) = [b for b in blocks("text") if b.startswith("opkit/")]
    folder = ""
    for line in tree.splitlines():
        indented = line.startswith("  ")
        for name in re.findall(
            r"(?:^|\s)([\w.]+(?:\.py|/))(?=\s|$)", line.split("   ")[0] if not indented else line[:20]
        ):
            path = ROOT / (folder if indented else "") / name
            assert path.exists(), path
            if not indented and name.endswith("/"):
                folder = name
    listed = set(re.findall(r"^  ([\w.]+)", tree, flags=re.M))
    helpers = {"errors.py", "files.py", "progress.py", "registry.py", "settings.py", "transforms.py"}
    helpers |= {"__init__.py", "__main__.py"}
    present = {p.name for p in (ROOT / "opkit").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert present - listed - helpers <= {"export.py", "verify.py", "doctor.py"}


def test_linked_files_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_recipes_work_as_written(tmp_path):
    """In a copy of the package: the four blocks, saved under the names the text gives them, and the command."""
    for name in ("opkit", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for kind in ("py", "yaml"):
        pattern = rf"`((?:opkit|configs)/[\w/]+\.{kind})`:\n\n```\w+\n(.*?)```"
        found = re.findall(pattern, README, flags=re.S)
        assert len(found) == 2
        for path, content in found:
            assert not (tmp_path / path).exists()
            (tmp_path / path).write_text(content)
    settings = [
        "pde.resolution=17", "data.train=16", "data.val=4", "data.test=6", "data.test_fine=4", "data.batch_size=4",
        "trainer.max_epochs=2", "trainer.accelerator=cpu", "evaluation.resamples=100", "evaluation.timing=1",
        "compile=false", "workers=1",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OPKIT_DATA": str(tmp_path / "data")}
    code = "import sys; from opkit.cli import main; sys.exit(main(sys.argv[1:]))"
    for model, extra in (("fno", ["model.n_modes=[8,8]", "model.width=8"]), ("pointwise", [])):
        command = [sys.executable, "-P", "-c", code, "train", "--model", model, "--pde", "heat", *settings, *extra]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert (tmp_path / "runs" / f"{model}-heat" / "surrogate" / "model.safetensors").is_file()
