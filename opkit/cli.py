"""The commands: `opkit <verb> --pde NAME --model NAME --preset NAME key=value ...`.

Settings are layered, later ones winning: defaults of the constructors, configs/train.yaml, the PDE's, the model's and
the preset's YAML, `--config FILE`, then dotted `key=value`. The schema is the signatures themselves: those of the
chosen PDE and model, of `opkit.settings` and of Lightning's Trainer, read by jsonargparse.
"""

import contextlib
import errno
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import opkit
from opkit.errors import ConfigError, OpkitError, Preempted
from opkit.registry import Kind, config_folder, family, names, read, read_yaml, suggest, tuples

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from opkit.store import Dataset

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
FLAGS = ("help", "print_config", "resume")
SECTIONS = {
    "pde", "model", "data", "optim", "trainer", "evaluation", "seed", "run_dir", "workers", "compile", "gate",
    "device", "launcher", "scheduler",
}  # fmt: skip
"""Everything a configuration file may speak of; each verb takes some of it."""
SYNONYMS = {
    "hidden_channels": "width", "modes": "n_modes", "domain_padding": "padding", "epochs": "max_epochs",
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


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if argv[0] == "--version":
        print(f"opkit {opkit.__version__}")
        return 0
    verb = argv[0]
    if verb not in VERBS:
        return _complain(f"there is no command {verb!r}; there are: {', '.join(VERBS)}.{suggest(verb, list(VERBS))}")
    # Large fields are allocated and freed every step: huge pages spare the kernel most of that work.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        return _COMMANDS[verb](argv[1:])
    except OpkitError as problem:
        return _complain(str(problem), problem.exit_code, verb)
    except Preempted as stop:
        return _complain(str(stop), stop.exit_code, verb)
    except KeyboardInterrupt:
        return _complain("interrupted; what was finished is kept", 130, verb)
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return _complain(f"the disk is full ({problem}). Free some space and repeat the command with "
                             "--resume if it was training; nothing half-written is kept.", 2, verb)  # fmt: skip
        if isinstance(problem, PermissionError):
            return _complain(f"no permission: {problem}. Choose a place you can write to.", 2, verb)
        raise


def _complain(message: str, code: int = 2, verb: str = "") -> int:
    print(f"opkit {verb}: {message}" if verb else f"opkit: {message}", file=sys.stderr)
    return code


def _overview() -> str:
    lines = [f"opkit {opkit.__version__}: neural operators that stand in for slow simulations", "", "commands:"]
    lines += [f"  opkit {verb:<10} {text}" for verb, text in VERBS.items()]
    lines += ["", "`opkit <command> --help` lists its settings. From a checkout, `python train.py` is `opkit train`."]
    for kind in CHOICES:
        lines.append(f"--{kind}: {', '.join(names(kind))}")
    return "\n".join(lines)


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
            if not dashed and not equals:
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


def _layers(request: Request, wanted: tuple[Kind, ...]) -> tuple[dict[str, str], dict[str, Any]]:
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
        _merge(settings, layer)
        for key in dict.fromkeys(keys):
            _merge(settings, cases.get(key, {}))
    for kind in ("pde", "model"):
        if isinstance(saved.get(kind), dict):
            saved[kind].pop("name", None)
    _merge(settings, saved)
    return chosen, settings


def _merge(into: dict[str, Any], layer: dict[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            out |= _flatten(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def _resolve(parser: "ArgumentParser", settings: dict[str, Any], request: Request, verb: str) -> dict[str, Any]:
    """Settings and overrides checked against the schema, as plain values by section.

    Files may speak of sections a verb does not have (generating needs no trainer); any other key must exist.
    """
    import jsonargparse

    known = [a.dest for a in parser._actions if a.dest not in ("help", "trainer.help")]
    for key, value in request.overrides.items():
        if key not in known:
            raise ConfigError(_unknown(key, value, known))
    if "resume" in request.flags and verb != "train":
        raise ConfigError(f"--resume continues a training run; `opkit {verb}` has nothing to resume.")
    elsewhere = SECTIONS - {key.partition(".")[0] for key in known}
    values = {k: v for k, v in _flatten(settings).items() if k.partition(".")[0] not in elsewhere}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(_unknown(key, value, known, " (in a configuration file)"))
    values |= request.overrides
    for key, value in values.items():
        if "class_path" in f"{key} {value}":
            raise ConfigError(f"{key}: class_path is read from opkit's own configs/ alone. Use --pde and --model.")
    arguments = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items()]
    try:
        with contextlib.redirect_stderr(None):
            config = parser.parse_args(arguments)
    except jsonargparse.ArgumentError as problem:
        raise ConfigError(_readable(str(problem), values)) from None
    return config.as_dict()


def _unknown(key: str, value: Any, known: list[str], where: str = "") -> str:
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


def _readable(message: str, values: dict[str, Any]) -> str:
    """jsonargparse's message on one line, led by the key and the value given."""
    match = re.search(r'[Kk]ey "([^"]+)"|argument --([\w.]+)', message)
    key = (match[1] or match[2]) if match else ""
    reasons = [line.strip() for line in message.splitlines() if line.strip()]
    detail = " ".join(reasons).replace("Parser key ", "")
    given = f"{key}={values[key]}: " if key in values else ""
    return f"{given}{detail}"


def _parser(verb: str) -> "ArgumentParser":
    from jsonargparse import ArgumentParser

    return ArgumentParser(
        prog=f"opkit {verb}", exit_on_error=False, description=VERBS[verb], default_env=False, add_help=False
    )


def _finish(verb: str, request: Request, parser: "ArgumentParser", settings: dict[str, Any], note: str) -> bool:
    """Answer --help; True if that was asked."""
    if "help" not in request.flags:
        return False
    known = [a.dest for a in parser._actions]
    sections = {key.partition(".")[0] for key in known}
    for key, value in _flatten(settings).items():
        if key.partition(".")[0] in sections and key in known:
            parser.set_defaults({key: value})
    print(note)
    parser.print_help()
    return True


def _construct(section: str, build: Callable[..., Any], values: dict[str, Any]) -> Any:
    """`build(**values)`, its complaint led by the setting it is about."""
    try:
        return build(**values)
    except (ValueError, TypeError) as problem:
        raise ConfigError(_about(section, str(problem), values)) from None


def _about(section: str, text: str, values: dict[str, Any]) -> str:
    """A constructor's complaint with the full name of the first setting it speaks of: width -> model.width."""
    if text.startswith(section + "."):
        return text
    for word in re.findall(r"[A-Za-z_]\w*", text):
        if word in values:
            return f"{section}.{word}={_plain(values[word])}: {text}"
    return f"{section}: {text}"


def _dump(config: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(config, sort_keys=False)


def _plain(value: Any) -> Any:
    """Tuples, paths and enums as YAML can hold them."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _generate(argv: list[str]) -> int:
    from opkit.signals import preemptible

    with preemptible():
        return _generate_data(argv)


def _generate_data(argv: list[str]) -> int:
    request = Request(argv, (*FLAGS, "help"))
    request.no_positional()
    if "help" in request.flags and "pde" not in request.names:
        request.names["pde"] = names("pde")[0]
    chosen, settings = _layers(request, ("pde", "preset"))
    from opkit.registry import pde_class
    from opkit.settings import Data, Evaluation

    parser = _parser("generate")
    parser.add_class_arguments(pde_class(chosen["pde"]), "pde")
    parser.add_class_arguments(Data, "data")
    parser.add_class_arguments(Evaluation, "evaluation")
    parser.add_argument("--workers", type=int | None, default=None, help="Processes; null means one per core.")
    parser.add_argument(
        "--device", type=str, default="auto",
        help="Where to solve: cpu, cuda (one process per GPU), cuda:1, ...; auto: cpu.",
    )  # fmt: skip
    parser.add_argument(
        "--launcher", type=Literal["auto", "local", "dask", "slurm", "torchrun"], default="auto",
        help="What makes the shards: a pool on this machine, Dask, or this rank of a SLURM or torchrun job; auto: what "
        "started this process.",
    )  # fmt: skip
    parser.add_argument(
        "--scheduler", type=str | None, default=None,
        help="Address of a Dask scheduler, tcp://host:8786; null starts workers on this machine.",
    )  # fmt: skip
    parser.add_argument("--seed", type=int | None, default=None, help="Short for data.seed.")
    if _finish("generate", request, parser, settings, f"Settings with --pde {chosen['pde']}:\n"):
        return 0
    config = _resolve(parser, settings, request, "generate")
    if "seed" not in request.overrides and "model" in settings:
        config["seed"] = None  # a training run's file: its seed is that of the weights
    if config["seed"] is not None:
        if "data.seed" in request.overrides and config["data"]["seed"] != config["seed"]:
            raise ConfigError(f"seed={config['seed']} and data.seed={config['data']['seed']} differ; give one of them.")
        config["data"]["seed"] = config["seed"]
    config = _plain(config)
    if "print_config" in request.flags:
        print(_dump(_named(config, chosen)), end="")
        return 0
    pde = _construct("pde", pde_class(chosen["pde"]), tuples(config["pde"]))
    data = _construct("data", Data, config["data"])
    evaluation = _construct("evaluation", Evaluation, tuples(config["evaluation"]))
    workers = _workers(config["workers"])
    from opkit.evaluation import fine_problems
    from opkit.launch import launch
    from opkit.store import Dataset, data_root

    device = "cpu" if config["device"] == "auto" else _device(config["device"])
    wanted = [(pde, s, getattr(data, s)) for s in ("train", "val", "test")]
    wanted += [(fine, "test", min(data.test_fine, data.test)) for fine in fine_problems(pde, evaluation)]
    with launch(config["launcher"], config["scheduler"], workers, device) as run:
        for problem, split, count in wanted:
            stored = Dataset(problem, split, data.seed, data_root())
            remaining = run.make(stored, count)
            grid = " x ".join(map(str, problem.grid.shape))
            line = f"{split:<5} {count:>6} samples on {grid}: {stored.folder}"
            if remaining:
                print(f"{line}: {remaining} still to be made by ranks other than {run.rank.number} of {run.rank.count}")
                continue
            stored.verify(count)
            print(line)
            print(f"      {_label_error_line(stored, count)}")
    return 0


def _label_error_line(stored: "Dataset", count: int) -> str:
    errors = stored.label_error(count)
    if not len(errors):
        return f"label error unknown: {stored.no_label_error(count)}"
    worst = errors.flatten(1).max(1).values if errors.ndim > 1 else errors
    where = " in its worst frame" if errors.ndim > 1 else ""
    return f"label error about {worst.mean():.1e}{where} ({len(errors)} of {count} samples solved on a refined grid)"


def _train(argv: list[str]) -> int:
    request = Request(argv)
    request.no_positional()
    if "help" in request.flags:
        request.names.setdefault("pde", "darcy")
        request.names.setdefault("model", "fno")
    chosen, settings = _layers(request, ("pde", "model", "preset"))
    from opkit.registry import Architecture, model_class, pde_class
    from opkit.settings import Data, Evaluation, Optim

    pde_type, model_type = pde_class(chosen["pde"]), model_class(chosen["model"])
    parser = _parser("train")
    parser.add_class_arguments(pde_type, "pde")
    parser.add_class_arguments(model_type, "model", skip={"in_channels", "out_channels", "location"})
    parser.add_class_arguments(Data, "data")
    parser.add_class_arguments(Optim, "optim")
    parser.add_class_arguments(Evaluation, "evaluation")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the initial weights and the order of samples.")
    parser.add_argument(
        "--run_dir", type=str | None, default=None, help="Where the run goes; runs/<model>-<pde> if null."
    )
    parser.add_argument(
        "--workers", type=int | None, default=None, help="Processes that make data; null: one per core."
    )
    parser.add_argument(
        "--compile", type=bool | str, default="auto",
        help="Train through torch.compile: true, false, or auto (runs long enough to gain from it).",
    )  # fmt: skip
    parser.add_argument(
        "--gate", type=str | None, default=None, help='Conditions such as "rel_l2<0.02"; failed: exit 3.'
    )
    note = "\n".join(
        [
            f"Settings with --pde {chosen['pde']} --model {chosen['model']}. --resume continues a run,",
            "--print_config shows all values. Arguments of Lightning's Trainer are settings too:",
            "trainer.max_epochs=3, trainer.devices=8.\n",
        ]
    )
    if _finish("train", request, parser, settings, note):
        return 0
    from lightning import Trainer  # only now: five seconds that --help need not wait for

    # Plain strings where Lightning also takes objects: no setting may name a class to import.
    skipped = OWN_TRAINER_ARGUMENTS | {"accelerator", "strategy"}
    parser.add_class_arguments(Trainer, "trainer", skip=skipped, instantiate=False)
    for name in ("accelerator", "strategy"):
        parser.add_argument(f"--trainer.{name}", type=str, default="auto")
    config = _plain(_resolve(parser, settings, request, "train"))
    if config["run_dir"] is None:
        config["run_dir"] = f"runs/{chosen['model']}-{chosen['pde']}"
    config = _named(config, chosen)
    if config["compile"] not in (True, False, "auto"):
        raise ConfigError(f"compile={config['compile']}: accepted are true, false and auto.")
    if "print_config" in request.flags:
        print(_dump(config), end="")
        return 0
    from opkit.evaluation import check_gate, parse_gate

    pde = _construct("pde", pde_type, tuples(_without_name(config["pde"])))
    model = Architecture(chosen["model"], _without_name(config["model"]))
    try:
        model.check(pde.spec)
        model.build(pde.spec)
    except (ValueError, TypeError) as problem:
        raise ConfigError(_about("model", str(problem), model.arguments)) from None
    if config["seed"] < 0:
        raise ConfigError(f"seed must not be negative, got {config['seed']}.")
    data, optim = _construct("data", Data, config["data"]), _construct("optim", Optim, config["optim"])
    evaluation = _construct("evaluation", Evaluation, tuples(config["evaluation"]))
    workers = _workers(config["workers"])
    from opkit.evaluation.protocol import fine_resolutions
    from opkit.training import train

    grids = (pde.resolution, *fine_resolutions(pde, evaluation))
    gate = parse_gate(config["gate"], grids) if config["gate"] else None
    trainer = {k: v for k, v in config["trainer"].items() if v is not None}
    run_dir = Path(config["run_dir"])
    train(
        pde, model, data, optim, evaluation, trainer, config, run_dir, config["seed"], workers, config["compile"],
        "resume" in request.flags,
    )  # fmt: skip
    if gate:
        from opkit.files import read_json

        check_gate(gate, read_json(run_dir / "evaluation" / "report.json", ConfigError))
    return 0


def _evaluate(argv: list[str]) -> int:
    request = Request(argv)
    if "help" not in request.flags and len(request.positional) != 1:
        given = " ".join(request.positional) or "nothing"
        raise ConfigError(f"give one run or bundle directory, as in `opkit evaluate runs/fno-darcy`; got {given}.")
    from opkit.settings import Data, Evaluation

    parser = _parser("evaluate")
    parser.add_class_arguments(Data, "data")
    parser.add_class_arguments(Evaluation, "evaluation")
    parser.add_argument(
        "--workers", type=int | None, default=None, help="Processes that make data; null: one per core."
    )
    parser.add_argument(
        "--device", type=str, default="auto", help="Where to run: cpu, cuda, cuda:1, ...; auto: a GPU if there is one."
    )
    parser.add_argument(
        "--gate", type=str | None, default=None, help='Conditions such as "rel_l2<0.02"; failed: exit 3.'
    )
    if _finish(
        "evaluate", request, parser, {}, "opkit evaluate DIRECTORY [key=value ...]; defaults are the run's own.\n"
    ):
        return 0
    from opkit.evaluation import check_gate, evaluate_surrogate, fine_resolutions, parse_gate
    from opkit.registry import problem_of
    from opkit.surrogate import find_bundle, load

    path = Path(request.positional[0])
    if request.names or request.config:
        raise ConfigError("a trained surrogate knows its PDE and model; give only data.*, evaluation.*, workers, gate.")
    bundle = find_bundle(path)
    surrogate = load(bundle)
    stored = surrogate.physics["data"]
    settings: dict[str, Any] = {"data": {k: stored[k] for k in ("seed", "train", "val", "test", "test_fine")}}
    if (path / "config.yaml").is_file():
        saved = read_yaml(path / "config.yaml")
        _merge(settings, {k: saved[k] for k in ("evaluation",) if k in saved})
    config = _plain(_resolve(parser, settings, request, "evaluate"))
    if "print_config" in request.flags:
        print(_dump(config), end="")
        return 0
    data = _construct("data", Data, config["data"])
    evaluation = _construct("evaluation", Evaluation, tuples(config["evaluation"]))
    pde = problem_of(surrogate.physics)
    grids = (pde.resolution, *fine_resolutions(pde, evaluation))
    gate = parse_gate(config["gate"], grids) if config["gate"] else None
    surrogate.to(_device(config["device"]))
    report = evaluate_surrogate(
        surrogate, pde, data, evaluation, path / "evaluation", bundle, _workers(config["workers"]), record=False
    )
    if gate:
        check_gate(gate, report)
    return 0


def _export(argv: list[str]) -> int:
    request = Request(argv)
    parser = _parser("export")
    parser.add_argument(
        "--output", type=str | None, default=None, help="File to write; exports/model.pt2 in the bundle if null."
    )
    if _finish(
        "export",
        request,
        parser,
        {},
        "opkit export DIRECTORY: batch and grid sizes stay free, from as many points as the model has modes.\n",
    ):
        return 0
    if len(request.positional) != 1:
        given = " ".join(request.positional) or "nothing"
        raise ConfigError(f"give one run or bundle directory, as in `opkit export runs/fno-darcy`; got {given}.")
    from opkit.export import export
    from opkit.surrogate import find_bundle, load

    config = _resolve(parser, {}, request, "export")
    if "print_config" in request.flags:
        print(_dump(_plain(config)), end="")
        return 0
    bundle = find_bundle(request.positional[0])
    target = Path(config["output"]) if config["output"] else bundle / "exports" / "model.pt2"
    difference = export(load(bundle), target)
    print(
        f"wrote {target}; on a grid it was not traced on it differs from the surrogate by {difference:.1e} (relative)"
    )
    return 0


def _convert(argv: list[str]) -> int:
    from opkit.signals import preemptible

    with preemptible():
        return _convert_data(argv)


def _convert_data(argv: list[str]) -> int:
    request = Request(argv, (*FLAGS, "verify"))
    parser = _parser("convert")
    parser.add_argument(
        "--to", type=Literal["opkit", "pdebench", "neuraloperator", "well"], default="opkit",
        help="What to write: opkit's own layout, PDEBench's HDF5, neuraloperator's .pt, or a folder for The Well's "
        "reader.",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=str | None, default=None,
        help="File or folder to write; with to=opkit null is imported-<hash> in the data folder.",
    )  # fmt: skip
    parser.add_argument(
        "--split", type=Literal["train", "val", "test"] | None, default=None,
        help="Which split a file becomes (null: train), or which split of a folder is meant (null: the only one).",
    )  # fmt: skip
    parser.add_argument(
        "--rows", type=str | None, default=None, help="Samples of a file to take, first:stop, as in 0:1000; null: all."
    )
    parser.add_argument("--samples", type=int, default=4, help="With --verify: how many samples are solved.")
    note = "\n".join(
        [
            "opkit convert FILE [--pde NAME] [pde.viscosity=1e-3 ...]: a file others made becomes opkit's data. --pde",
            "and pde.* say what the file does not; they are recorded as stated by you.",
            "opkit convert FILE --verify: which published definition does it follow? Writes nothing.",
            "opkit convert FOLDER to=pdebench output=FILE: stored data as a file for others.\n",
        ]
    )
    if request.config:
        raise ConfigError("--config: opkit convert takes only what you say of this file, as pde.viscosity=1e-3.")
    if "help" in request.flags or not request.positional:
        if "pde" in request.names or "help" in request.flags:
            from opkit.registry import pde_class

            parser.add_class_arguments(pde_class(request.names.get("pde", "darcy")), "pde")
        if _finish("convert", request, parser, {}, note):
            return 0
        config = _resolve(parser, {}, request, "convert")
        if "print_config" in request.flags:
            print(_dump(_plain(config)), end="")
            return 0
    if len(request.positional) != 1:
        given = " ".join(request.positional) or "nothing"
        raise ConfigError(f"give one file or data folder, as in `opkit convert burgers_data_R10.mat`; got {given}.")
    if "samples" in request.overrides and "verify" not in request.flags:
        raise ConfigError("samples counts what --verify solves; to take some samples only, say rows=0:100.")
    source = Path(request.positional[0])
    return (_convert_folder if source.is_dir() else _convert_file)(source, request, parser)


def _convert_file(source: Path, request: Request, parser: "ArgumentParser") -> int:
    from opkit import convert
    from opkit.formats import open_arrays, recognise
    from opkit.registry import pde_class

    named = request.names.get("pde")
    with open_arrays(source) as arrays:
        content = recognise(arrays, source, pde_class(named).equation if named else None)
        request.names.setdefault("pde", content.equation)
        chosen, settings = _layers(request, ("pde",))
        of_name = settings.get("pde", {}) if named else {}
        stated, values = convert.settle(content, of_name, request.overrides)
        settings["pde"] = values
        parser.add_class_arguments(pde_class(chosen["pde"]), "pde")
        config = _plain(_resolve(parser, settings, request, "convert"))
        if "print_config" in request.flags:
            print(_dump(_named(config, chosen)), end="")
            return 0
        if config["samples"] < 1:
            raise ConfigError(f"samples must be at least 1, got {config['samples']}.")
        pde = _construct("pde", pde_class(chosen["pde"]), tuples(config["pde"]))
        todo = convert.plan(source, content, pde, stated, config["rows"])
        for line in convert.describe(arrays, content, todo, guessed=named is None):
            print(line)
        output = Path(config["output"]) if config["output"] else None
        if "verify" in request.flags:
            for line in convert.verify_file(content, todo, config["samples"]):
                print(line)
        elif config["to"] == "opkit":
            split = config["split"] or "train"
            data = convert.import_data(content, todo, arrays.format, split, output)
            print(f"{split} split in {data.folder}; `opkit verify {data.folder}` checks it")
        else:
            if config["to"] == "well":
                raise ConfigError("to=well lays out opkit's own data: convert the file first, then its folder.")
            if config["split"]:
                raise ConfigError(f"split={config['split']} has no meaning where a file is written.")
            convert.write(convert.file_samples(content, todo), config["to"], _output(output))
            print(f"wrote {output}")
    return 0


def _convert_folder(source: Path, request: Request, parser: "ArgumentParser") -> int:
    from opkit import convert
    from opkit.formats.well import write_well

    if request.names or any(key.startswith("pde.") for key in request.overrides):
        raise ConfigError("stored data know their problem; --pde and pde.* are for files others made.")
    config = _plain(_resolve(parser, {}, request, "convert"))
    if "print_config" in request.flags:
        print(_dump(config), end="")
        return 0
    if config["rows"]:
        raise ConfigError("rows is for files others made; a folder is converted whole.")
    if config["samples"] < 1:
        raise ConfigError(f"samples must be at least 1, got {config['samples']}.")
    splits = [data for data in convert.find_splits(source) if config["split"] in (None, data.split)]
    if not splits:
        raise ConfigError(f"split={config['split']}: {source} has no such split.")
    output = Path(config["output"]) if config["output"] else None
    if "verify" in request.flags:
        for data in splits:
            print(data.folder)
            for line in convert.verify_stored(data, config["samples"]):
                print(line)
        return 0
    if config["to"] == "opkit":
        raise ConfigError(f"{source} already is in opkit's layout. Say to=pdebench, to=neuraloperator or to=well.")
    target = _output(output)
    if config["to"] == "well":
        for data in splits:
            convert.stored_samples(data)  # verified
        write_well(splits, target)
    elif len(splits) > 1:
        found = ", ".join(data.split for data in splits)
        raise ConfigError(f"{source} has the splits {found}, and to={config['to']} writes one file: say split=NAME.")
    else:
        convert.write(convert.stored_samples(splits[0]), config["to"], target)
    print(f"wrote {target}")
    return 0


def _output(path: Path | None) -> Path:
    if path is None:
        raise ConfigError("output is missing: say where to write, as in output=darcy_test.hdf5.")
    return path


def _verify(argv: list[str]) -> int:
    request = Request(argv)
    parser = _parser("verify")
    note = "\n".join(
        [
            "opkit verify DIRECTORY: the error of a run or bundle is measured again and compared with its own",
            "metrics.json; stored data are read whole, and the first sample of each split is drawn and solved again.\n",
        ]
    )
    if _finish("verify", request, parser, {}, note):
        return 0
    config = _resolve(parser, {}, request, "verify")
    if "print_config" in request.flags:
        print(_dump(config), end="")
        return 0
    if len(request.positional) != 1:
        given = " ".join(request.positional) or "nothing"
        raise ConfigError(f"give one run, bundle or data directory, as in `opkit verify runs/fno-darcy`; got {given}.")
    from opkit.verify import verify

    for line in verify(Path(request.positional[0])):
        print(line)
    return 0


def _doctor(argv: list[str]) -> int:
    request = Request(argv)
    parser = _parser("doctor")
    if _finish("doctor", request, parser, {}, "opkit doctor: no settings; what a bug report should contain.\n"):
        return 0
    request.no_positional()
    config = _resolve(parser, {}, request, "doctor")
    if "print_config" in request.flags:
        print(_dump(config), end="")
        return 0
    from opkit.doctor import findings

    for name, value in findings():
        print(f"{name:<18} {value}")
    return 0


def _named(config: dict[str, Any], chosen: dict[str, str]) -> dict[str, Any]:
    """The configuration with the chosen names first, so that a saved file says what it is about."""
    out = dict(config)
    for kind in ("pde", "model"):
        if kind in chosen:
            out[kind] = {"name": chosen[kind], **config[kind]}
    order = ["pde", "model", "data", "optim", "trainer", "evaluation"]
    return {k: out[k] for k in [*order, *out] if k in out}


def _without_name(section: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in section.items() if k != "name"}


def _workers(value: int | None) -> int | None:
    if value is not None and value < 1:
        raise ConfigError(f"workers must be at least 1, got {value}.")
    return value


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as problem:
        raise ConfigError(f"device={name} is not available here ({str(problem).splitlines()[0]}).") from None
    return name


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "generate": _generate,
    "train": _train,
    "evaluate": _evaluate,
    "export": _export,
    "convert": _convert,
    "verify": _verify,
    "doctor": _doctor,
}


def entry() -> None:
    """The console script."""
    sys.exit(main())
