"""Names of equations, models and presets: the YAML files in configs/ are the registry.

A file in configs/pde or configs/model names its class and whatever settings differ from the defaults:

    class_path: opkit.models.fno.FNO
    model: {padding: 0.1}                     settings, sections as in `--print_config`
    for:                                      settings for some combinations only, keyed by PDE, its family, model,
                                              "model-family" or "model-pde"
      burgers: {model: {n_modes: [32]}}

Class paths are read from these shipped files alone, must lie in opkit, and are checked before anything is imported.
"""

import difflib
import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from opkit.errors import BundleError, ConfigError

if TYPE_CHECKING:
    from opkit.grid import Spec
    from opkit.models import Operator
    from opkit.pdes import PDE

Kind = Literal["pde", "model", "preset"]
NOT_YAML = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What PyYAML raises beside errors of its own, at 2026-99-99, `!!bool x`, or a thousand brackets."""


def config_folder() -> Path:
    """configs/ inside the installed package, or beside it in a checkout."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "configs"


def names(kind: Kind) -> list[str]:
    """Known names, sorted."""
    return sorted(path.stem for path in (config_folder() / kind).glob("*.yaml"))


def family(pde: str) -> str:
    """The problem a variant belongs to: `darcy` of `darcy-rough`, `navier_stokes` of `navier_stokes_1e-4`."""
    return next((n for n in names("pde") if pde != n and pde.startswith((n + "-", n + "_"))), pde)


def suggest(given: str, known: list[str]) -> str:
    """' Did you mean ...?' where something known is close, else nothing."""
    near = difflib.get_close_matches(given, known, 1)
    return f" Did you mean {near[0]!r}?" if near else ""


def read(kind: Kind, name: str) -> dict[str, Any]:
    """The content of configs/<kind>/<name>.yaml.

    Raises:
        ConfigError: There is no such name; the message lists those there are.
    """
    known = names(kind)
    if name not in known:
        raise ConfigError(f"There is no {kind} {name!r}; there are: {', '.join(known)}.{suggest(name, known)}")
    return read_yaml(config_folder() / kind / f"{name}.yaml")


def read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as problem:
        raise ConfigError(f"Cannot read {path}: {problem.strerror}.") from None
    except (yaml.YAMLError, *NOT_YAML) as problem:
        mark = getattr(problem, "problem_mark", None)
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        what = getattr(problem, "problem", None) or " ".join(str(problem).split())
        raise ConfigError(f"{path} is not valid YAML: {what}{where}.") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold sections such as model: and trainer:, got a {type(content).__name__}.")
    return content


def pde_class(name: str) -> "type[PDE]":
    """The class behind `--pde name`."""
    return _load_class("pde", name)


def model_class(name: str) -> "type[Operator]":
    """The class behind `--model name`."""
    return _load_class("model", name)


def _load_class(kind: Kind, name: str) -> Any:
    path = read(kind, name).get("class_path", "")
    package = f"opkit.{kind}s"
    if not path.startswith(package + "."):
        raise ConfigError(f"configs/{kind}/{name}.yaml: class_path must name a class in {package}, got {path!r}.")
    module, _, attribute = path.rpartition(".")
    base = getattr(importlib.import_module(f"{package}.base"), "PDE" if kind == "pde" else "Operator")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as problem:
        raise ConfigError(f"configs/{kind}/{name}.yaml: {path} cannot be imported ({problem}).") from None
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(f"configs/{kind}/{name}.yaml: {path} is not a {base.__name__}.")
    return found


def tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Constructor arguments as Python has them: JSON and YAML know lists, signatures say tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def problem_of(physics: dict[str, Any]) -> "PDE":
    """The PDE that a bundle's physics.json, or a dataset's manifest, describes.

    Raises:
        BundleError: This opkit knows no such problem.
    """
    try:
        return pde_class(physics["pde"])(**tuples(physics["parameters"]))
    except (KeyError, TypeError, ValueError) as problem:
        raise BundleError(f"physics.json does not describe a problem this opkit knows ({problem}).") from None


@dataclass(frozen=True)
class Architecture:
    """A model by name, with the constructor arguments that are not decided by the data."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def build(self, spec: "Spec") -> "Operator":
        """The untrained model for data described by `spec`."""
        return model_class(self.name).build(spec, **self.arguments)

    def check(self, spec: "Spec") -> None:
        """Refuse arguments that cannot work with `spec`."""
        model_class(self.name).check(spec, self.arguments)
