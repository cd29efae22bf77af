"""Imports run one way, and nothing heavy is imported before it is needed."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_import_contract_holds():
    from importlinter.cli import lint_imports

    assert lint_imports(str(ROOT / "pyproject.toml"), no_cache=True) == 0


def imported(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules, file=sys.__stdout__)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return {name.partition(".")[0] for name in result.stdout.split()}


def test_importing_opkit_imports_nothing_heavy():
    assert not imported("import opkit") & {"torch", "numpy", "scipy", "h5py", "yaml", "lightning", "rich"}


def test_public_names_are_there_and_others_are_not():
    import pytest

    import opkit

    for name in opkit.__all__:
        assert getattr(opkit, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        opkit.nothing  # noqa: B018
