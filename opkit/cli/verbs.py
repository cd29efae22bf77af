"""The commands, one function each: from arguments to an exit code; `evaluate` has its own module."""

import json
import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from opkit.cli.evaluating import evaluate
from opkit.cli.settings import (
    FLAGS,
    OWN_TRAINER_ARGUMENTS,
    Request,
    about,
    construct,
    device_name,
    dump,
    layered,
    make_parser,
    plain,
    printed_help,
    resolve,
    with_names,
    without_name,
    worker_count,
)
from opkit.errors import ConfigError
from opkit.registry import names, tuples

__all__ = ["convert", "doctor", "evaluate", "export", "generate", "train", "verify"]

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from opkit.store import Dataset


def generate(argv: list[str]) -> int:
    from opkit.signals import preemptible

    with preemptible():
        return _generate_data(argv)


def _generate_data(argv: list[str]) -> int:
    request = Request(argv, (*FLAGS, "help"))
    request.no_positional()
    if "help" in request.flags and "pde" not in request.names:
        request.names["pde"] = names("pde")[0]
    chosen, settings = layered(request, ("pde", "preset"))
    from opkit.registry import pde_class
    from opkit.settings import Data, Evaluation

    parser = make_parser("generate")
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
    if printed_help("generate", request, parser, settings, f"Settings with --pde {chosen['pde']}:\n"):
        return 0
    config = resolve(parser, settings, request, "generate")
    if "seed" not in request.overrides and "model" in settings:
        config["seed"] = None  # a training run's file: its seed is that of the weights
    if config["seed"] is not None:
        if "data.seed" in request.overrides and config["data"]["seed"] != config["seed"]:
            raise ConfigError(f"seed={config['seed']} and data.seed={config['data']['seed']} differ; give one of them.")
        config["data"]["seed"] = config["seed"]
    config = plain(config)
    if "print_config" in request.flags:
        print(dump(with_names(config, chosen)), end="")
        return 0
    pde = construct("pde", pde_class(chosen["pde"]), tuples(config["pde"]))
    data = construct("data", Data, config["data"])
    evaluation = construct("evaluation", Evaluation, tuples(config["evaluation"]))
    workers = worker_count(config["workers"])
    from opkit.evaluation import fine_problems
    from opkit.launch import launch
    from opkit.store import Dataset, data_root

    device = "cpu" if config["device"] == "auto" else device_name(config["device"])
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


def train(argv: list[str]) -> int:
    request = Request(argv)
    request.no_positional()
    if "help" in request.flags:
        request.names.setdefault("pde", "darcy")
        request.names.setdefault("model", "fno")
    chosen, settings = layered(request, ("pde", "model", "preset"))
    from opkit.registry import Architecture, model_class, pde_class
    from opkit.settings import Data, Evaluation, Loss, Optim, Stepping, Unroll

    pde_type, model_type = pde_class(chosen["pde"]), model_class(chosen["model"])
    parser = make_parser("train")
    parser.add_class_arguments(pde_type, "pde")
    parser.add_class_arguments(model_type, "model", skip=model_type.from_data())
    parser.add_class_arguments(Data, "data")
    parser.add_class_arguments(Optim, "optim")
    parser.add_class_arguments(Stepping, "stepping")
    parser.add_class_arguments(Unroll, "unroll")
    parser.add_class_arguments(Loss, "loss")
    parser.add_class_arguments(Evaluation, "evaluation")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the initial weights and the order of samples.")
    parser.add_argument(
        "--seeds", type=int, default=1, help="Runs to make, with seed, seed + 1, ...; their mean and spread are told."
    )
    parser.add_argument(
        "--run_dir", type=str | None, default=None, help="Where the run goes; runs/<model>-<pde> if null."
    )
    parser.add_argument(
        "--workers", type=int | None, default=None, help="Processes that make data; null: one per core."
    )
    parser.add_argument(
        "--compile", type=bool | str, default="auto",
        help="Train through torch.compile: true, false, or auto (models and runs that gain from it).",
    )  # fmt: skip
    parser.add_argument(
        "--logger", type=str, default="csv",
        help="Where figures go beside metrics.csv: csv (nowhere), wandb, tensorboard, or wandb,tensorboard.",
    )  # fmt: skip
    parser.add_argument(
        "--gate", type=str | None, default=None, help='Conditions such as "rel_l2<0.02"; failed: exit 3.'
    )
    note = "\n".join(
        [
            f"Settings with --pde {chosen['pde']} --model {chosen['model']}. --check tries one step and tells what",
            "a run would cost, --resume continues one, --print_config shows all values. Arguments of Lightning's",
            "Trainer are settings too: trainer.max_epochs=3, trainer.devices=8.\n",
        ]
    )
    if printed_help("train", request, parser, settings, note):
        return 0
    from lightning import Trainer  # only now: five seconds that --help need not wait for

    # Plain strings where Lightning also takes objects: no setting may name a class to import.
    skipped = OWN_TRAINER_ARGUMENTS | {"accelerator", "strategy"}
    parser.add_class_arguments(Trainer, "trainer", skip=skipped, instantiate=False)
    for name in ("accelerator", "strategy"):
        parser.add_argument(f"--trainer.{name}", type=str, default="auto")
    config = plain(resolve(parser, settings, request, "train"))
    if config["run_dir"] is None:
        sweep, own = os.environ.get("WANDB_SWEEP_ID"), os.environ.get("WANDB_RUN_ID")
        place = f"sweep-{sweep}/{own}" if sweep and own else f"{chosen['model']}-{chosen['pde']}"
        config["run_dir"] = f"runs/{place}"
    config = with_names(config, chosen)
    if config["compile"] not in (True, False, "auto"):
        raise ConfigError(f"compile={config['compile']}: accepted are true, false and auto.")
    if "print_config" in request.flags:
        print(dump(config), end="")
        return 0
    import torch

    from opkit.evaluation import check_gate, parse_gate
    from opkit.losses import TrainingLoss
    from opkit.stepping import stepped, unrolled

    pde = construct("pde", pde_type, tuples(without_name(config["pde"])))
    model = Architecture(chosen["model"], without_name(config["model"]))
    stepping = construct("stepping", Stepping, config["stepping"])
    unroll = construct("unroll", Unroll, config["unroll"])
    spec = stepped(pde.spec, stepping, pde.times)
    unrolled(stepping, unroll, pde.times)
    loss = construct("loss", Loss, config["loss"])
    TrainingLoss(loss, spec, pde)
    try:
        model.check(spec)
        with torch.device("meta"):  # shapes alone: a network too large for the memory is built when it is trained
            model.build(spec)
    except (ValueError, TypeError, OverflowError, RuntimeError) as problem:
        raise ConfigError(about("model", str(problem), model.arguments)) from None
    if config["seed"] < 0:
        raise ConfigError(f"seed must not be negative, got {config['seed']}.")
    if config["seeds"] < 1:
        raise ConfigError(f"seeds must be at least 1, got {config['seeds']}.")
    if config["seed"] + config["seeds"] > 2**32:
        raise ConfigError(f"seed={config['seed']}: seeds are below 2**32, those of all seeds={config['seeds']} runs.")
    data, optim = construct("data", Data, config["data"]), construct("optim", Optim, config["optim"])
    evaluation = construct("evaluation", Evaluation, tuples(config["evaluation"]))
    workers = worker_count(config["workers"])
    from opkit.evaluation.protocol import fine_resolutions
    from opkit.loggers import parse as parse_loggers
    from opkit.seeds import train_seeds
    from opkit.training import Run, train

    grids = (pde.resolution, *fine_resolutions(pde, evaluation))
    gate = parse_gate(config["gate"], grids, pde.times is not None) if config["gate"] else None
    trainer = {k: v for k, v in config["trainer"].items() if v is not None}
    run_dir = Path(config["run_dir"])
    run = Run(
        pde, model, data, optim, stepping, unroll, loss, evaluation, trainer, config, run_dir, config["seed"], workers,
        config["compile"], parse_loggers(config["logger"]),
    )  # fmt: skip
    if "check" in request.flags:
        from opkit.check import check

        for line in check(run):
            print(line)
        return 0
    if config["seeds"] == 1:
        folders = [train(run, "resume" in request.flags)]
    else:
        folders = train_seeds(run, config["seeds"], "resume" in request.flags)
    if gate:
        from opkit.files import read_json

        for folder in folders:
            check_gate(gate, read_json(folder / "evaluation" / "report.json", ConfigError))
    return 0


def export(argv: list[str]) -> int:
    request = Request(argv)
    parser = make_parser("export")
    parser.add_argument(
        "--output", type=str | None, default=None, help="File to write; exports/model.pt2 in the bundle if null."
    )
    if printed_help(
        "export",
        request,
        parser,
        {},
        "opkit export DIRECTORY: batch and grid sizes stay free; of a model tied to its grid, the batch alone.\n",
    ):
        return 0
    if len(request.positional) != 1:
        given = " ".join(request.positional) or "nothing"
        raise ConfigError(f"give one run or bundle directory, as in `opkit export runs/fno-darcy`; got {given}.")
    from opkit.export import export
    from opkit.surrogate import find_bundle, load

    config = resolve(parser, {}, request, "export")
    if "print_config" in request.flags:
        print(dump(plain(config)), end="")
        return 0
    bundle = find_bundle(request.positional[0])
    target = Path(config["output"]) if config["output"] else bundle / "exports" / "model.pt2"
    difference = export(load(bundle), target)
    print(
        f"wrote {target}; on a batch it was not traced on it differs from the surrogate by {difference:.1e} (relative)"
    )
    return 0


def convert(argv: list[str]) -> int:
    from opkit.signals import preemptible

    with preemptible():
        return _convert_data(argv)


def _convert_data(argv: list[str]) -> int:
    request = Request(argv, (*FLAGS, "verify"))
    if "source" in request.overrides:
        return _convert_checkpoint(request)
    parser = make_parser("convert")
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
            "opkit convert FOLDER to=pdebench output=FILE: stored data as a file for others.",
            "opkit convert WEIGHTS source=mgno.MgNO_DC --pde darcy [reference.num_layer=4 ...]: weights published with",
            "an original implementation become a bundle; `opkit convert source=mgno.MgNO_DC --help` says more.\n",
        ]
    )
    if request.config:
        raise ConfigError("--config: opkit convert takes only what you say of this file, as pde.viscosity=1e-3.")
    if "help" in request.flags or not request.positional:
        if "pde" in request.names or "help" in request.flags:
            from opkit.registry import pde_class

            parser.add_class_arguments(pde_class(request.names.get("pde", "darcy")), "pde")
        if printed_help("convert", request, parser, {}, note):
            return 0
        config = resolve(parser, {}, request, "convert")
        if "print_config" in request.flags:
            print(dump(plain(config)), end="")
            return 0
    if len(request.positional) != 1:
        given = " ".join(request.positional) or "nothing"
        raise ConfigError(f"give one file or data folder, as in `opkit convert burgers_data_R10.mat`; got {given}.")
    if "samples" in request.overrides and "verify" not in request.flags:
        raise ConfigError("samples counts what --verify solves; to take some samples only, say rows=0:100.")
    source = Path(request.positional[0])
    return (_convert_folder if source.is_dir() else _convert_file)(source, request, parser)


def _convert_checkpoint(request: Request) -> int:
    """Weights of an original implementation become a bundle."""
    from opkit.interop import sources
    from opkit.registry import pde_class
    from opkit.settings import Stepping

    reference = {}
    for key in [k for k in request.overrides if k.startswith("reference.")]:
        reference[key.removeprefix("reference.")] = _literal(key, request.overrides.pop(key))
    asked_help = "help" in request.flags
    if asked_help:
        request.names.setdefault("pde", "darcy")
    chosen, settings = layered(request, ("pde",))
    parser = make_parser("convert")
    parser.add_argument(
        "--source", type=str, default=None,
        help="The original class the weights are of, as in opkit.interop.from_reference.",
    )  # fmt: skip
    parser.add_argument("--output", type=str | None, default=None, help="Folder to write; null: named after the file.")
    for side, what in (("input", "input"), ("output", "prediction")):
        parser.add_argument(
            f"--{side}_mean", type=list[float] | None, default=None,
            help=f"Mean of each {what} channel in the normaliser it was trained with; null: 0.",
        )  # fmt: skip
        parser.add_argument(f"--{side}_std", type=list[float] | None, default=None, help="Its deviation; null: 1.")
    parser.add_class_arguments(Stepping, "stepping")
    parser.add_class_arguments(pde_class(chosen["pde"]), "pde")
    note = "\n".join(
        [
            "opkit convert WEIGHTS source=NAME --pde NAME [reference.ARGUMENT=VALUE ...]: a bundle for opkit.load.",
            textwrap.fill(f"The source is one of {', '.join(sources())}.", 100),
            "reference.* are the original constructor's arguments by their original names, lists as [1,2].\n",
        ]
    )
    if printed_help("convert", request, parser, settings, note):
        return 0
    config = plain(resolve(parser, settings, request, "convert"))
    if "print_config" in request.flags:
        print(dump({**config, "reference": reference}), end="")
        return 0
    if len(request.positional) != 1:
        given = " ".join(request.positional) or "nothing"
        raise ConfigError(f"give one file of weights, as in `opkit convert weights.pt source=...`; got {given}.")
    from opkit.interop.checkpoint import read_state_dict, to_surrogate

    path = Path(request.positional[0])
    pde = construct("pde", pde_class(chosen["pde"]), tuples(config["pde"]))
    stepping = construct("stepping", Stepping, config["stepping"])
    statistics = {k: config[k] for k in ("input_mean", "input_std", "output_mean", "output_std") if config[k]}
    output = Path(config["output"] or f"{path.stem}-surrogate")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"output={output} exists already. Choose another, or remove it.")
    weights, stated = read_state_dict(path)
    surrogate = to_surrogate(weights, config["source"], stated | reference, pde, stepping, statistics)
    surrogate.save(output)
    print(f"{surrogate} in {output}; use it: opkit.load({str(output)!r})")
    if not statistics:
        print(
            "The file holds no normaliser: the surrogate takes and gives what the original network did. If that was "
            "trained on normalised fields, say input_mean=[...] input_std=[...] output_mean=[...] output_std=[...]."
        )
    return 0


def _literal(key: str, value: Any) -> Any:
    """What was typed for `reference.*`, whose types only the original knows: JSON, else YAML, which takes 1e-7 for a
    text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        import yaml

        try:
            return yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(
                f"{key}={value} is neither a number, a word nor a list. Write for example {key}=4 or {key}=[1,2]."
            ) from None


def _convert_file(source: Path, request: Request, parser: "ArgumentParser") -> int:
    from opkit import convert
    from opkit.formats import open_arrays, recognise
    from opkit.registry import pde_class

    named = request.names.get("pde")
    with open_arrays(source) as arrays:
        content = recognise(arrays, source, pde_class(named).equation if named else None)
        request.names.setdefault("pde", content.equation)
        chosen, settings = layered(request, ("pde",))
        of_name = settings.get("pde", {}) if named else {}
        stated, values = convert.settle(content, of_name, request.overrides)
        settings["pde"] = values
        parser.add_class_arguments(pde_class(chosen["pde"]), "pde")
        config = plain(resolve(parser, settings, request, "convert"))
        if "print_config" in request.flags:
            print(dump(with_names(config, chosen)), end="")
            return 0
        if config["samples"] < 1:
            raise ConfigError(f"samples must be at least 1, got {config['samples']}.")
        pde = construct("pde", pde_class(chosen["pde"]), tuples(config["pde"]))
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
    config = plain(resolve(parser, {}, request, "convert"))
    if "print_config" in request.flags:
        print(dump(config), end="")
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


def verify(argv: list[str]) -> int:
    request = Request(argv)
    parser = make_parser("verify")
    note = "\n".join(
        [
            "opkit verify DIRECTORY: the error of a run or bundle is measured again and compared with its own",
            "metrics.json; stored data are read whole, and the first sample of each split is drawn and solved again.\n",
        ]
    )
    if printed_help("verify", request, parser, {}, note):
        return 0
    config = resolve(parser, {}, request, "verify")
    if "print_config" in request.flags:
        print(dump(config), end="")
        return 0
    if len(request.positional) != 1:
        given = " ".join(request.positional) or "nothing"
        raise ConfigError(f"give one run, bundle or data directory, as in `opkit verify runs/fno-darcy`; got {given}.")
    from opkit.verify import verify

    for line in verify(Path(request.positional[0])):
        print(line)
    return 0


def doctor(argv: list[str]) -> int:
    request = Request(argv)
    parser = make_parser("doctor")
    if printed_help("doctor", request, parser, {}, "opkit doctor: no settings; what a bug report should contain.\n"):
        return 0
    request.no_positional()
    config = resolve(parser, {}, request, "doctor")
    if "print_config" in request.flags:
        print(dump(config), end="")
        return 0
    from opkit.doctor import findings

    for name, value in findings():
        print(f"{name:<18} {value}")
    return 0
