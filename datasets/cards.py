"""Measure what the dataset cards state, and write their tables.

    python datasets/cards.py measure [EQUATION | EQUATION/VARIANT | EQUATION/convergence ...]     up to two hours
    python datasets/cards.py time [EQUATION | EQUATION/VARIANT ...]      times alone: nothing else may run beside it
    python datasets/cards.py                                             write the tables

Measurements go to datasets/measured/<equation>.json; the cards' tables are made from those files alone, between the
lines `<!-- tables -->` and `<!-- end of tables -->`. A test renders them again, compares keys of the variants with the
configurations, and solves one sample of each equation anew: cards cannot go stale unnoticed.

Times are process CPU seconds of one thread. A label's error is estimated by `PDE.label_error` on the first samples of
the test split.
"""

import dataclasses
import itertools
import json
import math
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

from opkit.fields import first_index
from opkit.files import human_bytes, write_json, write_text
from opkit.pdes import PDE, Burgers, Darcy, Labels, NavierStokes
from opkit.registry import family, names, pde_class, read, tuples
from opkit.store import Dataset

HERE = Path(__file__).parent
FAMILIES = ("burgers", "darcy", "navier_stokes")
BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"
SEED = 0


def variant(name: str) -> PDE:
    return pde_class(name)(**tuples(read("pde", name).get("pde", {})))


def variants(equation: str) -> list[str]:
    return [name for name in names("pde") if family(name) == equation]


def fingerprint(pde: PDE) -> float:
    """Root mean square of the first test sample's last label: changes whenever the data do."""
    label = pde.label(1, SEED, first_index("test"))
    values = label.fields[pde.outputs[0]]
    last = values if pde.times is None else values[:, -1]
    return float(last.square().mean().sqrt())


def time_variant(pde: PDE) -> tuple[float, Labels]:
    """CPU seconds per sample in the batch generation uses, and the labels."""
    tile, first = pde.tile(), first_index("test")
    pde.on(pde.label_grid.shape[0]).sample(1, SEED, first)  # tables are made once per process
    start = time.process_time()
    label = pde.label(tile, SEED, first)
    return (time.process_time() - start) / tile, label


def measure_variant(name: str) -> dict[str, Any]:
    """Time, size and label error of one variant."""
    pde = variant(name)
    first = first_index("test")
    seconds, label = time_variant(pde)
    one = dataclasses.replace(label, fields={k: v[:1] for k, v in label.fields.items()})
    try:
        errors = pde.label_error(one, SEED, first)
        error: float | None = float(errors[0] if errors.ndim == 1 else errors[0, 1:].square().mean().sqrt())
        reason = None
    except ValueError as problem:
        error, reason = None, str(problem)
    data = Dataset(pde, "test", SEED, Path())
    return {
        "key": data.key,
        "grid": " x ".join(map(str, pde.grid.shape)),
        "label_grid": " x ".join(map(str, pde.label_grid.shape)),
        "frames": None if pde.times is None else len(pde.times),
        "until": None if pde.times is None else float(pde.times[-1]),
        "law": pde.input_law,
        "seconds": seconds,
        "bytes": data.estimate(1000) / 1000,
        "label_error": error,
        "no_label_error": reason,
        "diagnostics": {k: float(v[0]) for k, v in label.diagnostics.items()},
    }


def relative(u: torch.Tensor, truth: torch.Tensor) -> float:
    return float(((u - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)).max())


def orders(errors: list[float], factors: list[float]) -> list[float | None]:
    """Observed order between neighbours: log of the errors' ratio over log of the refinement."""
    pairs = zip(errors, errors[1:], factors, strict=False)
    return [None, *(math.log(a / b) / math.log(f) if b > 0 else None for a, b, f in pairs)]


def study(title: str, head: str, parameter: list[float], errors: list[float], factors: list[float]) -> dict[str, Any]:
    return {"title": title, "head": head, "parameter": parameter, "errors": errors, "orders": orders(errors, factors)}


def convergence_burgers() -> list[dict[str, Any]]:
    out = []
    for name in ("burgers", "burgers-unit", "burgers-1e-3"):
        pde = dataclasses.replace(variant(name), resolution=1024, times=(0.0, 1.0))
        a = pde.sample(10, SEED)
        exact = dataclasses.replace(pde, scheme="cole-hopf").solve(a)[:, 1]
        steps = [8e-3, 4e-3, 2e-3, 1e-3]
        errors = [relative(dataclasses.replace(pde, dt=dt).solve(a)[:, 1], exact) for dt in steps]
        title = f"`{name}`, 1024 points, t = 1: error against the exact solution, largest of 10 samples"
        out.append(study(title, "time step", steps, errors, [2.0] * 3))
    smooth = Burgers(resolution=1024, modes=10)
    a = smooth.sample(10, SEED)
    exact = dataclasses.replace(smooth, scheme="cole-hopf").solve(a)[:, 1]
    steps = [8e-3, 4e-3, 2e-3, 1e-3]
    errors = [relative(dataclasses.replace(smooth, dt=dt).solve(a)[:, 1], exact) for dt in steps]
    title = "The default problem with initial fields of ten waves (`pde.modes=10`): the scheme's own order"
    out.append(study(title, "time step", steps, errors, [2.0] * 3))
    truth = Burgers(resolution=4096, modes=42, dt=5e-4)
    u = truth.solve(truth.sample(10, SEED))[:, 1]
    points = [128, 192, 256, 384]
    errors = []
    for n in points:
        pde = Burgers(resolution=n, modes=42, dt=5e-4, unresolved="accept")
        errors.append(relative(pde.solve(pde.sample(10, SEED))[:, 1], truth.grid.resample(u, pde.grid, "spectral")))
    title = "`burgers`, initial fields of 42 waves, dt = 5e-4: error by points (spectral: no fixed order)"
    out.append(study(title, "points", points, errors, [1.5, 4 / 3, 1.5]))
    return out


def convergence_darcy() -> list[dict[str, Any]]:
    out = []
    sizes = [61, 121, 241, 481]
    for title, settings in (
        ("two values 3 and 12, harmonic faces (the default)", {}),
        ("two values 3 and 12, arithmetic faces (published data)", {"face_mean": "arithmetic"}),
        ("log-normal, harmonic faces", {"coefficient": "lognormal"}),
        ("log-normal, arithmetic faces", {"coefficient": "lognormal", "face_mean": "arithmetic"}),
    ):
        base = Darcy(modes=64, label_resolution=1, **settings)
        finest = dataclasses.replace(base, resolution=1921, face_mean="harmonic")
        coarse = base.on(61).grid
        truth = finest.grid.resample(finest.solve(finest.sample(2, SEED)), coarse, "strided")
        errors = []
        for n in sizes:
            pde = base.on(n)
            errors.append(relative(pde.grid.resample(pde.solve(pde.sample(2, SEED)), coarse, "strided"), truth))
        text = f"{title}: error against 1921 x 1921 nodes, largest of 2 samples of 64 x 64 modes"
        out.append(study(text, "nodes per side", sizes, errors, [2.0] * 3))
    return out


def convergence_navier_stokes() -> list[dict[str, Any]]:
    out = []
    pde = NavierStokes(times=(0.0, 1.0))
    a = pde.sample(5, SEED)
    truth = dataclasses.replace(pde, dt=1.25e-3).solve(a)[:, 1]
    for scheme, precision, steps in (
        ("etdrk4", "float64", [1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128]),
        ("etdrk4", "float32", [1 / 8, 1 / 16, 1 / 32, 1 / 64]),
        ("imex", "float64", [1 / 16, 1 / 32, 1 / 64, 1 / 128]),
        ("reference", "float64", [1 / 250, 1 / 500, 1 / 1000]),
        ("reference", "float32", [1 / 1000, 1 / 10000]),
    ):
        errors = []
        for dt in steps:
            ours = dataclasses.replace(pde, scheme=scheme, precision=precision, dt=dt)
            errors.append(relative(ours.solve(a)[:, 1], truth))
        title = f"`scheme={scheme}`, {precision}, 64 x 64, viscosity 1e-3, t = 1: error, largest of 5 samples"
        factors = [a / b for a, b in itertools.pairwise(steps)]
        out.append(study(title, "time step", steps, errors, factors))
    numbers = [1.2, 0.6, 0.3]
    errors = [relative(dataclasses.replace(pde, cfl=c).solve(a)[:, 1], truth) for c in numbers]
    out.append(study("Default: step by Courant number, t = 1", "Courant number", numbers, errors, [2.0, 2.0]))
    fine = pde.on(192)
    u = dataclasses.replace(fine, cfl=0.3).solve(fine.sample(5, SEED))[:, 1]
    points = [32, 48, 64, 96]
    errors = []
    for n in points:
        ours = dataclasses.replace(pde.on(n), cfl=0.3)
        errors.append(relative(ours.solve(ours.sample(5, SEED))[:, 1], fine.grid.resample(u, ours.grid, "strided")))
    title = "Default: error at t = 1 by points per side, against 192 x 192 (spectral: no fixed order)"
    out.append(study(title, "points per side", points, errors, [1.5, 4 / 3, 1.5]))
    return out


CONVERGENCE = {
    "burgers": convergence_burgers,
    "darcy": convergence_darcy,
    "navier_stokes": convergence_navier_stokes,
}


def machine() -> str:
    """Processor and torch, as tables state them."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return f"{model}, one thread, torch {torch.__version__}"


def measured(equation: str) -> dict[str, Any]:
    path = HERE / "measured" / f"{equation}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"variants": {}}


def measure(equation: str, only: list[str]) -> None:
    content = measured(equation)
    content["machine"] = machine()
    content["seed"] = SEED
    if not only or "convergence" in only:
        content["convergence"] = CONVERGENCE[equation]()
        content["fingerprint"] = fingerprint(variant(equation))
    known = variants(equation)
    for name in [n for n in only if n != "convergence"] if only else known:
        content["variants"][name] = measure_variant(name)
        print(name, json.dumps(content["variants"][name]), flush=True)
        content["variants"] = {n: v for n, v in sorted(content["variants"].items()) if n in known}
        write_json(HERE / "measured" / f"{equation}.json", content)
    write_json(HERE / "measured" / f"{equation}.json", content)


def measure_times(equation: str, only: list[str]) -> None:
    content = measured(equation)
    for name in only or variants(equation):
        content["variants"][name]["seconds"] = time_variant(variant(name))[0]
    content["machine"] = machine()
    write_json(HERE / "measured" / f"{equation}.json", content)


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def duration(seconds: float) -> str:
    for unit, size in (("s", 90), ("min", 90 * 60)):
        if seconds < size:
            return f"{seconds / (1 if unit == 's' else 60):.2g} {unit}"
    return f"{seconds / 3600:.3g} h"


def render(equation: str) -> str:
    """The tables of a card."""
    content = measured(equation)
    rows = []
    for name, v in content["variants"].items():
        until = "steady" if v["frames"] is None else f"{v['frames']} to t = {v['until']:g}"
        error = "not measured" if v["label_error"] is None else f"{v['label_error']:.1e}"
        rows.append(
            [f"`{name}`", v["grid"], v["label_grid"], until, error, f"{v['seconds']:.2g}",
             duration(1000 * v["seconds"]), human_bytes(1000 * v["bytes"])]
        )  # fmt: skip
    head = [
        "`--pde`", "stored grid", "label grid", "frames", "label error", "CPU s per sample", "1000 samples, one core",
        "on disk, at most",
    ]  # fmt: skip
    laws = [[f"`{name}`", v["law"]] for name, v in content["variants"].items()]
    parts = [
        f"Measured on {content['machine']}, seed {content['seed']}, by `python datasets/cards.py measure {equation}`.",
        table(head, rows),
        "The label error is the relative L2 distance of the first test sample's label (all frames of a trajectory) to "
        "one on a grid twice as fine (three times, on cells) with the step halved, extrapolated by the scheme's order.",
        table(["`--pde`", "law of the inputs"], laws),
    ]
    for s in content["convergence"]:
        lines = [
            [f"{p:g}", f"{e:.1e}", "" if o is None else f"{o:.2f}"]
            for p, e, o in zip(s["parameter"], s["errors"], s["orders"], strict=True)
        ]
        parts += [s["title"] + ".", table([s["head"], "relative L2 error", "observed order"], lines)]
    return "\n\n".join(parts)


def with_tables(card: str, equation: str) -> str:
    before, _, rest = card.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{render(equation)}\n\n{END}{after}"


def main(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    if arguments[:1] in (["measure"], ["time"]):
        work = measure if arguments[0] == "measure" else measure_times
        wanted = arguments[1:] or list(FAMILIES)
        for equation in FAMILIES:
            only = [item.partition("/")[2] for item in wanted if item.startswith(f"{equation}/")]
            if equation in wanted or only:
                work(equation, [] if equation in wanted else only)
    for equation in FAMILIES:
        if "convergence" not in measured(equation):
            continue  # never measured whole
        path = HERE / f"{equation}.md"
        write_text(path, with_tables(path.read_text(encoding="utf-8"), equation))


if __name__ == "__main__":
    main(sys.argv[1:])
