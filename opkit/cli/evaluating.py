"""`opkit evaluate`: one surrogate, or several side by side."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opkit.cli.settings import (
    Request,
    construct,
    device_name,
    dump,
    make_parser,
    merge,
    plain,
    printed_help,
    resolve,
    worker_count,
)
from opkit.errors import ConfigError, Preempted
from opkit.registry import read_yaml, tuples

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

NOTE = (
    "opkit evaluate DIRECTORY [DIRECTORY ...] [key=value ...]; defaults are the run's own. Several directories are\n"
    "also compared with each other; those that have a report already are only read, unless a key is given.\n"
)


def evaluate(argv: list[str]) -> int:
    from opkit.signals import preemptible

    with preemptible():
        try:
            return _evaluate_all(argv)
        except Preempted as stop:
            raise Preempted(stop.signal, "reports are as they were; the same command begins again") from None


def _evaluate_all(argv: list[str]) -> int:
    request = Request(argv)
    if "suite" in request.overrides:
        request.overrides["evaluation.suite"] = request.overrides.pop("suite")
    if "help" not in request.flags and not request.positional:
        raise ConfigError("give a run or bundle directory, or several, as in `opkit evaluate runs/fno-darcy`.")
    from opkit.settings import Data, Evaluation

    parser = make_parser("evaluate")
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
    parser.add_argument(
        "--suite", type=str | None, default=None, help="Short for evaluation.suite: quick, standard or full."
    )
    parser.add_argument(
        "--output", type=str | None, default=None,
        help="Several directories: folder of the comparison; null: leaderboard/ beside the first.",
    )  # fmt: skip
    if printed_help("evaluate", request, parser, {}, NOTE):
        return 0
    if request.names or request.config:
        raise ConfigError(
            "a trained surrogate knows its PDE and model; give only data.*, evaluation.*, suite, workers, device, gate "
            "and output."
        )
    paths = list(map(Path, request.positional))
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"{path} is no directory. Give that of a run or a bundle, as in runs/fno-darcy.")
    if "print_config" in request.flags:
        for path in paths:
            print(dump(_settings(path, parser, request)[0]), end="")
        return 0
    for path in paths:
        if twice := [p for p in paths if p is not path and p.resolve() == path.resolve()]:
            raise ConfigError(f"{path} is given twice, as {twice[0]} too. Give each run once.")
    if len(paths) == 1 and not _members(paths[0])[1:]:
        if "output" in request.overrides:
            raise ConfigError("output= is for the comparison of several runs; this is one, its report goes into it.")
        return _evaluate(paths[0], parser, request)
    return _compare(paths, parser, request)


def _settings(path: Path, parser: "ArgumentParser", request: Request) -> tuple[dict[str, Any], Any, Path]:
    """(resolved settings, the surrogate, its bundle)."""
    from opkit.surrogate import find_bundle, load

    bundle = find_bundle(path)
    surrogate = load(bundle)
    stored = surrogate.physics["data"]
    settings: dict[str, Any] = {"data": {k: stored[k] for k in ("seed", "train", "val", "test", "test_fine")}}
    settings["data"]["mode"] = stored.get("mode", "stored")
    if (path / "config.yaml").is_file():
        saved = read_yaml(path / "config.yaml")
        merge(settings, {k: saved[k] for k in ("evaluation",) if k in saved})
    config = plain(resolve(parser, settings, request, "evaluate"))
    del config["suite"]
    return config, surrogate, bundle


def _evaluate(path: Path, parser: "ArgumentParser", request: Request) -> int:
    from opkit.evaluation import check_gate, evaluate_surrogate, fine_resolutions, parse_gate
    from opkit.registry import problem_of
    from opkit.settings import Data, Evaluation

    config, surrogate, bundle = _settings(path, parser, request)
    if not os.access(path, os.W_OK):
        raise ConfigError(f"{path}: no permission to write its evaluation/ there. Evaluate a copy.")
    data = construct("data", Data, config["data"])
    evaluation = construct("evaluation", Evaluation, tuples(config["evaluation"]))
    pde = problem_of(surrogate.physics)
    grids = (pde.resolution, *fine_resolutions(pde, evaluation))
    gate = parse_gate(config["gate"], grids, pde.times is not None) if config["gate"] is not None else None
    surrogate.to(device_name(config["device"]))
    workers = worker_count(config["workers"])
    report = evaluate_surrogate(surrogate, pde, data, evaluation, path / "evaluation", bundle, workers, record=False)
    if gate:
        check_gate(gate, report)
    return 0


def _members(path: Path) -> list[Path]:
    """The runs behind a directory: one per seed where it holds several, else itself."""
    return sorted(p for p in path.glob("seed-*") if p.is_dir()) if (path / "seeds.json").is_file() else [path]


def _compare(paths: list[Path], parser: "ArgumentParser", request: Request) -> int:
    from opkit.evaluation.leaderboard import check_target, is_evaluated, leaderboard, show, summary
    from opkit.files import sha256
    from opkit.settings import Evaluation
    from opkit.surrogate import find_bundle

    config = _settings(_members(paths[0])[0], parser, request)[0]
    target = Path(config["output"]) if config["output"] else paths[0].parent / "leaderboard"
    check_target(target)
    changes = set(request.overrides) - {"output", "workers", "device", "gate"}
    for path in paths:
        for run in _members(path):
            weights = sha256(find_bundle(run) / "model.safetensors")
            if changes or not is_evaluated(run, weights):
                print(f"{run}:")
                _evaluate(run, parser, request)
            elif "gate" in request.overrides:
                _check(run, parser, request)
    evaluation = construct("evaluation", Evaluation, tuples(config["evaluation"]))
    content = leaderboard({str(p): _members(p) for p in paths}, target, evaluation.resamples, evaluation.seed)
    show(content)
    print(summary(content))
    print(f"leaderboard: {target / 'leaderboard.html'}")
    return 0


def _check(run: Path, parser: "ArgumentParser", request: Request) -> None:
    """The gate, on a report that is there."""
    from opkit.evaluation import check_gate, parse_gate
    from opkit.files import read_json

    report = read_json(run / "evaluation" / "report.json", ConfigError)
    grids = (report["training_resolution"], *(r["resolution"] for r in report["super_resolution"]))
    check_gate(parse_gate(_settings(run, parser, request)[0]["gate"], grids, report["rollout"] is not None), report)
