"""From a command line to settings: names, layers of configuration files, dotted overrides, checked against signatures.

Settings are layered, later ones winning: defaults of the constructors, configs/train.yaml, the PDE's, the model's and
the preset's YAML, `--config FILE`, then dotted `key=value`. The schema is the signatures themselves: those of the
chosen PDE and model, of `opkit.settings` and of Lightning's Trainer, read by jsonargparse.
"""

import contextlib
import json
import os
import re
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opkit.errors import ConfigError
from opkit.registry import NOT_YAML, Kind, config_folder, family, names, read, read_yaml, suggest

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

VERBS = {
    "generate": "make the data of a PDE",
    "train": "train a surrogate and evaluate it",
    "evaluate": "measure a surrogate again",
    "export": "write a surrogate as a program for torch.export",
    "convert": "read files others made, and write files for others' programs",
    "verify": "check a surrogate or stored data against what they claim",
    "doctor": "say what opkit finds on this machine",
}
CHOICES: tuple[Kind, ...] = ("pde", "model", "preset")
FLAGS = ("help", "print_config", "resume", "check")
SECTIONS = {
    "pde", "model", "data", "optim", "stepping", "unroll", "loss", "trainer", "evaluation", "seed", "run_dir",
    "workers", "compile", "gate", "device", "launcher", "scheduler", "logger", "seeds",
}  # fmt: skip
"""Everything a configuration file may speak of; each verb takes some of it."""
SYNONYMS = {
    "hidden_channels": "width", "modes": "n_modes", "epochs": "max_epochs",
    "learning_rate": "lr", "n_train": "train", "n_test": "test", "s": "resolution", "bs": "batch_size",
}  # fmt: skip
"""What users of other packages type, for the hint in an error message."""
OWN_TRAINER_ARGUMENTS = {
    "logger", "callbacks", "default_root_dir", "plugins", "profiler", "enable_checkpointing", "enable_progress_bar",
    "enable_model_summary", "use_distributed_sampler", "num_sanity_val_steps", "gradient_clip_val",
    "gradient_clip_algorithm", "barebones", "model_registry", "reload_dataloaders_every_n_epochs",
    "enable_autolog_hparams",
}  # fmt: skip
"""Arguments of Lightning's Trainer that opkit sets itself."""


class Request:
    """A parsed command line: chosen names, overrides in order, flags and positional arguments."""

    def __init__(self, argv: list[str], flags: tuple[str, ...] = FLAGS):
        self.names: dict[str, str] = {}
        self.overrides: dict[str, Any] = {}
        self.flags: set[str] = set()
        self.positional: list[str] = []
        self.config: Path | None = None
        rest = list(argv)
        while rest:
            argument = rest.pop(0)
            key, equals, value = argument.removeprefix("--").partition("=")
            dashed = argument.startswith("--")
            if argument == "-h":
                dashed, key = True, "help"
            if dashed and key in flags and not equals:
                self.flags.add(key)
                continue
            if not dashed and (not equals or "/" in key or os.path.isdir(argument)):  # whose name may have one
                self.positional.append(argument)
                continue
            if not equals:
                if not rest:
                    raise ConfigError(f"--{key} needs a value, as in --{key}=VALUE.")
                value = rest.pop(0)
            if key in CHOICES:
                self.names[key] = value
            elif key == "config":
                self.config = Path(value)
            else:
                self.overrides[key] = value

    def no_positional(self) -> None:
        if self.positional:
            raise ConfigError(
                f"cannot read {self.positional[0]!r}. Settings are written key=value, as in data.train=200."
            )


def layered(request: Request, wanted: tuple[Kind, ...]) -> tuple[dict[str, str], dict[str, Any]]:
    """Chosen names, and the settings below the command line's, merged."""
    saved = read_yaml(request.config) if request.config else {}
    chosen = dict(request.names)
    for kind in ("pde", "model"):
        section = saved.get(kind)
        if kind in wanted and kind not in chosen and isinstance(section, dict) and "name" in section:
            chosen[kind] = str(section["name"])
    for kind in wanted:
        if kind != "preset" and kind not in chosen:
            raise ConfigError(f"--{kind} is missing; there are: {', '.join(names(kind))}.")
    for kind in chosen:
        if kind not in wanted:
            raise ConfigError(f"--{kind} has no meaning here.")
    pde, model = chosen.get("pde", ""), chosen.get("model", "")
    keys = [family(pde), pde, model, f"{model}-{family(pde)}", f"{model}-{pde}"]
    settings: dict[str, Any] = {}
    for layer in [read_yaml(config_folder() / "train.yaml"), *(read(k, chosen[k]) for k in CHOICES if k in chosen)]:
        cases = layer.pop("for", {})
        layer.pop("class_path", None)
        merge(settings, layer)
        for key in dict.fromkeys(keys):
            merge(settings, cases.get(key, {}))
    for kind in ("pde", "model"):
        if isinstance(saved.get(kind), dict):
            saved[kind].pop("name", None)
    merge(settings, saved)
    return chosen, settings


def merge(into: dict[str, Any], layer: dict[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            out |= flatten(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def resolve(parser: "ArgumentParser", settings: dict[str, Any], request: Request, verb: str) -> dict[str, Any]:
    """Settings and overrides checked against the schema, as plain values by section.

    Files may speak of sections a verb does not have (generating needs no trainer); any other key must exist.
    """
    import jsonargparse

    known = [a.dest for a in parser._actions if a.dest not in ("help", "trainer.help")]
    for key, value in request.overrides.items():
        if key not in known:
            raise ConfigError(unknown(key, value, known))
    if "resume" in request.flags and verb != "train":
        raise ConfigError(f"--resume continues a training run; `opkit {verb}` has nothing to resume.")
    if "check" in request.flags and verb != "train":
        raise ConfigError(f"--check tries a training run; `opkit {verb}` has none.")
    elsewhere = SECTIONS - {key.partition(".")[0] for key in known}
    try:
        values = {k: v for k, v in flatten(settings).items() if k.partition(".")[0] not in elsewhere}
    except RecursionError:
        raise ConfigError("a configuration file has a section that is inside itself (& and * of YAML).") from None
    for key, value in values.items():
        if key not in known:
            raise ConfigError(unknown(key, value, known, " (in a configuration file)"))
    values |= request.overrides
    for key, value in values.items():
        if "class_path" in f"{key} {value}":
            raise ConfigError(f"{key}: class_path is read from opkit's own configs/ alone. Use --pde and --model.")
    arguments = [f"--{key}={_written(key, value)}" for key, value in values.items()]
    try:
        with contextlib.redirect_stderr(None):
            config = parser.parse_args(arguments)
    except jsonargparse.ArgumentError as problem:
        raise ConfigError(readable(str(problem), values, parser)) from None
    except NOT_YAML as problem:
        guilty = next((f"{k}={v}" for k, v in values.items() if isinstance(v, str) and not _is_readable(v)), verb)
        raise ConfigError(f"{guilty} cannot be read ({problem}).") from None
    for key, value in values.items():
        if config.get(key) is None and isinstance(value, str) and value.strip().lower() not in ("null", "~"):
            raise ConfigError(f"{key}={value} reads as nothing, being a comment. Write {key}=null if that is meant.")
    return config.as_dict()


def _written(key: str, value: Any) -> str:
    """A value of a file as it would be typed."""
    import yaml

    if isinstance(value, str):
        return value
    try:
        text = json.dumps(value)  # refuses what is no setting
        if "Infinity" in text or "NaN" in text:  # words to YAML, which is what is read
            text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").rstrip()
        return text
    except (TypeError, ValueError, RecursionError):
        raise ConfigError(
            f"{key}={value} in a configuration file: a {type(value).__name__} is no setting. Accepted are numbers, "
            "words and lists of them; what YAML takes for a date needs quotes."
        ) from None


def _is_readable(text: str) -> bool:
    import yaml

    try:
        yaml.safe_load(text)
    except yaml.YAMLError:
        pass
    except NOT_YAML:
        return False
    return True


def unknown(key: str, value: Any, known: list[str], where: str = "") -> str:
    section, _, leaf = key.rpartition(".")
    siblings = sorted(k for k in known if k.rpartition(".")[0] == section)
    synonym = f"{section}.{SYNONYMS.get(leaf, leaf)}".lstrip(".")
    everywhere = [k for k in known if k.rpartition(".")[2] == leaf]
    hint = (
        f" Did you mean {synonym!r}?" if synonym in known else suggest(key, known) or
        (f" Did you mean {everywhere[0]!r}?" if everywhere else "")
    )  # fmt: skip
    listed = f" {section or 'settings'} has: {', '.join(k.rpartition('.')[2] for k in siblings)}." if siblings else ""
    if section == "trainer" and leaf in OWN_TRAINER_ARGUMENTS:
        hint, listed = " opkit sets this argument of Lightning's Trainer itself.", ""
    return f"unknown setting {key!r} (given {key}={value}){where}.{hint}{listed}"


def readable(message: str, values: dict[str, Any], parser: "ArgumentParser | None" = None) -> str:
    """jsonargparse's message on one line, led by the key and the value given; of a value of the wrong type, which are
    right."""
    match = re.search(r'[Kk]ey "([^"]+)"|argument --([\w.]+)', message)
    key = (match[1] or match[2]) if match else ""
    reasons = [line.strip() for line in message.splitlines() if line.strip()]
    detail = " ".join(reasons).replace("Parser key ", "")
    hint = next((getattr(a, "_typehint", None) for a in parser._actions if a.dest == key), None) if parser else None
    if key in values and "Expected a" in detail and (words := accepted(hint)):
        return f"{key}={values[key]}: accepted is {words}."
    given = f"{key}={values[key]}: " if key in values else ""
    return f"{given}{detail}"


def accepted(hint: Any) -> str | None:
    """The values a type has, in words; None where there are none for it."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return ("one of " if len(parts) > 1 else "") + ", ".join(map(str, parts))
    if origin in (typing.Union, types.UnionType):
        found = [accepted(part) for part in parts]
        return " or ".join(words for words in found if words) if all(found) else None
    if origin in (tuple, list, Sequence) and parts:
        inner = PLURALS.get(parts[0])
        if inner is None:
            return None
        count = f"{len(parts)} " if origin is tuple and ... not in parts else ""
        return f"a list of {count}{inner}, as [1, 2]" if not count else f"a list of {count}{inner}"
    return WORDS.get(hint)


WORDS = {
    int: "a whole number", float: "a number", bool: "true or false", str: "a word", type(None): "null", None: "null",
}  # fmt: skip
PLURALS = {int: "whole numbers", float: "numbers", str: "words"}


def make_parser(verb: str) -> "ArgumentParser":
    from jsonargparse import ArgumentParser

    return ArgumentParser(
        prog=f"opkit {verb}", exit_on_error=False, description=VERBS[verb], default_env=False, add_help=False
    )


def printed_help(verb: str, request: Request, parser: "ArgumentParser", settings: dict[str, Any], note: str) -> bool:
    """Answer --help; True if that was asked."""
    if "help" not in request.flags:
        return False
    known = [a.dest for a in parser._actions]
    sections = {key.partition(".")[0] for key in known}
    for key, value in flatten(settings).items():
        if key.partition(".")[0] in sections and key in known:
            parser.set_defaults({key: value})
    print(note)
    parser.print_help()
    return True


def construct(section: str, build: Callable[..., Any], values: dict[str, Any]) -> Any:
    """`build(**values)`, its complaint led by the setting it is about."""
    try:
        return build(**values)
    except (ValueError, TypeError) as problem:
        raise ConfigError(about(section, str(problem), values)) from None


def about(section: str, text: str, values: dict[str, Any]) -> str:
    """A constructor's complaint with the full name of the first setting it speaks of: width -> model.width."""
    if text.startswith(section + "."):
        return text
    for word in re.findall(r"[A-Za-z_]\w*", text):
        if word in values:
            return f"{section}.{word}={plain(values[word])}: {text}"
    return f"{section}: {text}"


def dump(config: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(config, sort_keys=False)


def plain(value: Any) -> Any:
    """Tuples, paths and enums as YAML can hold them."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def with_names(config: dict[str, Any], chosen: dict[str, str]) -> dict[str, Any]:
    """The configuration with the chosen names first, so that a saved file says what it is about."""
    out = dict(config)
    for kind in ("pde", "model"):
        if kind in chosen:
            out[kind] = {"name": chosen[kind], **config[kind]}
    order = ["pde", "model", "data", "optim", "stepping", "unroll", "loss", "trainer", "evaluation"]
    return {k: out[k] for k in [*order, *out] if k in out}


def without_name(section: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in section.items() if k != "name"}


def worker_count(value: int | None) -> int | None:
    if value is not None and value < 1:
        raise ConfigError(f"workers must be at least 1, got {value}.")
    return value


def device_name(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as problem:
        raise ConfigError(f"device={name} is not available here ({str(problem).splitlines()[0]}).") from None
    return name
