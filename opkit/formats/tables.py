"""What arrays with certain names and shapes are. N samples, X points on a line, n x n points on a square, T frames.

    coeff, sol                  (N, n, n)                             Darcy; FNO and Galerkin transformer .mat
    a, u                        (N, X)                                Burgers u(., 0) -> u(., 1); FNO .mat
    a, u, t                     (N, n, n), (N, n, n, T), T            Navier-Stokes; FNO .mat, u[..., 0] at t[0] > 0
    input, output, visc, tspan  (N, X), (N, T, X)                     Burgers; FNO script and PINO .mat
    x, y                        (N, n, n) twice; (N, X), (N, T, X)    Darcy; Burgers; neuraloperator .pt, or HDF5
    tensor, nu, x-coordinate    (N, 1, n, n), (N, n, n)               Darcy; PDEBench, attribute beta is the source
    tensor, t-coordinate        (N, T, X), T + 1                      Burgers; PDEBench, viscosity = attribute Nu / pi
    tensor, t-coordinate        (N, T, n, n), T + 1                   Navier-Stokes; as opkit writes it

Any pair may hold any equation that fits its shapes if the user says so. Frame 0 of opkit is the input; files whose
first frame is later get it put in front, and files whose first frame is all zeros (a fault of the FNO Burgers script)
get it put there.
"""

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from opkit.errors import DataError
from opkit.formats.base import BLOCK_BYTES, Arrays, Column, Content, Read

PAIRS = (("coeff", "sol"), ("input", "output"), ("a", "u"), ("x", "y"))
TIMES = ("t", "tspan", "times", "t-coordinate")
VISCOSITY = ("visc", "viscosity", "nu", "Nu")
LOOK = 4
"""Samples looked at to see what an array holds."""
SAME = 1e-5
"""Relative difference up to which a first frame is the input: files keep one in single, one in double precision."""
DIMENSIONS = {"burgers": 1, "darcy": 2, "navier_stokes": 2}
TABLE = (
    "coeff, sol (Darcy); a, u (Burgers, or Navier-Stokes with t); input, output (Burgers); x, y (neuraloperator); "
    "tensor with nu or t-coordinate (PDEBench)"
)


def recognise(arrays: Arrays, path: Path, equation: str | None = None) -> Content:
    """What the arrays are.

    Args:
        arrays: As read.
        path: The file, for messages.
        equation: The equation, where the user says which; None decides by names and shapes.

    Raises:
        DataError: No rule fits; the message lists the arrays there are.
    """
    if equation is not None and equation not in DIMENSIONS:
        raise DataError(f"{path}: files of {equation} are not read; there are {', '.join(DIMENSIONS)}.")
    columns = {name: column for name, column in arrays.columns.items() if 0 not in column.shape}
    if "tensor" in columns:
        return _pdebench(arrays, columns, path, equation)
    for first, second in PAIRS:
        if first in columns and second in columns and columns[first].shape[:1] == columns[second].shape[:1]:
            return _pair(arrays, columns, first, second, path, equation)
    lone = next(
        (
            f" ({a} without {b}: is the file whole?)"
            for p in PAIRS
            for a, b in (p, p[::-1])
            if a in columns and len(p[0]) > 1
        ),
        "",
    )
    found = ", ".join(f"{name} {'x'.join(map(str, c.shape)) or 'scalar'}" for name, c in arrays.columns.items())
    raise DataError(
        f"{path} ({arrays.format}) has no arrays opkit knows: it has {found or 'none'}{lone}. Known are {TABLE}."
    )


def _pair(
    arrays: Arrays, columns: dict[str, Column], first: str, second: str, path: Path, equation: str | None
) -> Content:
    a, u = _without_channel(columns[first]), _without_channel(columns[second])
    space = a.shape[1:]
    shapes = f"{first} {columns[first].shape} and {second} {columns[second].shape}"
    if len(space) not in (1, 2) or len(set(space)) != 1 or space[0] < 5:
        raise DataError(f"{path}: {shapes} are not samples on a line or a square of equally many points (5 at least).")
    time_axis: int | None
    if u.shape[1:] == space:
        time_axis = None
    elif u.shape[1:-1] == space and not (u.shape[2:] == space and first in ("x", "input")):
        time_axis = -1  # as MATLAB users put it
    elif len(u.shape) == len(space) + 2 and u.shape[2:] == space:
        time_axis = 1
    else:
        raise DataError(
            f"{path}: {shapes} do not fit together; the second must be as the first, or with a time axis more."
        )
    clock = next((columns[name].all().ravel() for name in TIMES if name in columns), None)
    if equation is None:
        equation = _guess(columns[first], len(space), time_axis is not None or clock is not None, path, shapes)
    if DIMENSIONS[equation] != len(space) or (equation == "darcy" and time_axis is not None):
        raise DataError(f"{path}: {shapes} cannot be {equation}. Leave --pde out to have the equation guessed.")
    if equation == "darcy":
        return _darcy_pair(a, u, first, second, space[0])
    content = _evolution(a, u, time_axis, clock, equation, path, (first, second))
    scalars: dict[str, np.ndarray] = {}
    parameters, notes = dict(content.parameters), list(content.notes)
    name = next((name for name in VISCOSITY if name in columns or _number(arrays.attributes.get(name))), None)
    if name is not None:
        values = columns[name].all().ravel() if name in columns else np.array([arrays.attributes[name]])
        parameters |= _viscosity(values, content.count, scalars, path, name)
    if len(space) == 1 and "x" in columns and "x" not in (first, second):
        parameters |= _length(columns["x"].all().ravel(), space[0], path)
    return dataclasses.replace(content, parameters=parameters, scalars=scalars, notes=tuple(notes))


def _guess(column: Column, dimensions: int, evolves: bool, path: Path, shapes: str) -> str:
    if dimensions == 1:
        return "burgers"
    if evolves:
        return "navier_stokes"
    sample = column.read(0, min(LOOK, column.shape[0]))
    if sample.dtype != bool and sample.min() < 0 and len(np.unique(sample)) > 2:
        raise DataError(
            f"{path}: {shapes} look like one field mapped to another that changes sign: no coefficient of Darcy flow. "
            "(neuraloperator's nsforcing files map a forcing to a vorticity, a problem opkit does not have.) If they "
            "are two states of a flow, say --pde navier_stokes and pde.times=[0, T]."
        )
    return "darcy"


def _darcy_pair(a: "_View", u: "_View", first: str, second: str, n: int) -> Content:
    parameters, notes, codes = _coefficient(a)
    if (first, second) == ("coeff", "sol") and n == 421:
        notes.append(
            "Published 421 x 421 files: values belong to cell centres (i + 1/2) / 421, though every loader takes them "
            "for the nodes i / 420 (0.5% of u). Their generator moved a to nodes by a cubic spline, which overshoots "
            "and is negative in places, and u back again. Stored here as nodes, as everyone uses them."
        )
    edge, inside = _edges(u.read(0, min(LOOK, a.count)))
    if edge > 1e-6 * inside:
        notes.append(
            f"u does not vanish on its outermost rows (up to {edge / inside:.1%} of its maximum): its points are not "
            "nodes on the boundary."
        )
    keys = {first: "a", second: "u"}
    fields = {"a": a.read, "u": u.read}
    return Content("darcy", a.count, n, fields, keys, parameters, {}, {}, tuple(notes), _block(a, u), codes)


def _coefficient(a: "_View") -> tuple[dict[str, Any], list[str], bool]:
    """What the values of a coefficient tell: parameters, notes, and whether they are codes 0 and 1."""
    values = np.unique(a.read(0, min(16, a.count)))
    if a.dtype == bool or (len(values) <= 2 and set(values.tolist()) <= {0, 1}):
        note = (
            "a is a code, 0 or 1: which values of the coefficient they stand for is not in the file. Say so with "
            "pde.values=[low, high], and 0 is stored as low, 1 as high."
        )
        return {}, [note], True
    if len(values) == 2 and values[0] > 0:
        return {"coefficient": "threshold", "values": (float(values[0]), float(values[1]))}, [], False
    if values[0] <= 0:
        note = f"a is not positive everywhere (from {values[0]:g} to {values[-1]:g}): the equation is not elliptic."
        return {}, [note], False
    return {}, [], False


def _edges(u: np.ndarray) -> tuple[float, float]:
    """Largest |u| on the outermost rows, and anywhere."""
    size = np.abs(u)
    rows = (size[:, 0], size[:, -1], size[:, :, 0], size[:, :, -1])
    return float(max(row.max() for row in rows)), float(max(size.max(), np.finfo(np.float32).tiny))


def _evolution(
    a: "_View", u: "_View", time_axis: int | None, clock: np.ndarray | None, equation: str, path: Path,
    names: tuple[str, str],
) -> Content:  # fmt: skip
    """A state at the start, and later ones (with or without the first among them)."""
    state = "u" if equation == "burgers" else "w"

    def later(start: int, stop: int) -> np.ndarray:
        values = u.read(start, stop)
        return values[:, None] if time_axis is None else np.moveaxis(values, time_axis, 1)

    look = min(LOOK, a.count)
    first, begin = later(0, look)[:, 0].astype(np.float64), a.read(0, look).astype(np.float64)
    notes = []
    if time_axis is None:
        lead = "before"
    elif not first.any() and begin.any():
        lead = "zeros"
        notes.append(f"Frame 0 of {names[1]} was all zeros, a fault of the script that made it: it is {names[0]} here.")
    elif np.abs(first - begin).max() <= SAME * max(np.abs(begin).max(), 1e-30):
        lead = "same"
    else:
        lead = "before"
    frames = (1 if time_axis is None else u.shape[time_axis]) + (lead == "before")

    def path_of(start: int, stop: int) -> np.ndarray:
        initial, rest = a.read(start, stop)[:, None], later(start, stop)
        if lead == "zeros" and rest[:, 0].any():
            raise DataError(f"{path}: frame 0 of {names[1]} is zero in some samples and not in others.")
        if lead == "same" and np.abs(rest[:, :1] - initial).max() > SAME * max(float(np.abs(initial).max()), 1e-30):
            raise DataError(f"{path}: frame 0 of {names[1]} equals {names[0]} in some samples and not in others.")
        kind = np.result_type(initial.dtype, rest.dtype)
        return np.concatenate([initial, rest if lead == "before" else rest[:, 1:]], axis=1, dtype=kind)

    times, given = _times(clock, frames, lead, equation, path)
    later_frames = f"frames 1 to {frames - 1}" if frames > 2 else "frame 1"
    keys = {names[0]: f"{state}, frame 0", names[1]: f"{state}, {later_frames}"}
    return Content(
        equation, a.count, a.shape[1], {state: path_of}, keys, {"times": times} if given else {},
        {} if given else {"times": times}, {}, tuple(notes), _block(a, u),
    )  # fmt: skip


def _times(
    clock: np.ndarray | None, frames: int, lead: str, equation: str, path: Path
) -> tuple[tuple[float, ...], bool]:
    """Times of the frames, and whether the file gives them."""
    if clock is None:
        end = 1.0 if equation == "burgers" else float(frames - 1)
        return tuple(np.linspace(0, end, frames).tolist()), False
    given = clock.astype(np.float64).tolist()
    wanted = frames - (lead == "before")
    if len(given) == wanted + 1 and (lead != "before" or given[0] > 0):
        given = given[:-1]  # PDEBench lists one time more than there are frames
    if lead == "before":
        times = given if len(given) == frames and given[0] == 0 else [0.0, *given]
    else:
        times = [time - given[0] for time in given]
    if len(times) != frames or any(b <= a for a, b in itertools.pairwise(times)):
        raise DataError(
            f"{path}: its times ({len(given)}, {given[0]:g} to {given[-1]:g}) do not fit its {wanted} frames"
            f"{', the first of which is not the input' if lead == 'before' else ''}."
        )
    return tuple(times), True


def _viscosity(values: np.ndarray, count: int, scalars: dict[str, np.ndarray], path: Path, name: str) -> dict[str, Any]:
    values = values.astype(np.float64)
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise DataError(f"{path}: {name}, the viscosity, is not positive.")
    if (values == values[0]).all():
        return {"viscosity": float(values[0])}
    if len(values) != count:
        raise DataError(f"{path}: {name} has {len(values)} viscosities for {count} samples.")
    scalars["viscosity"] = values
    return {"viscosity": (float(values.min()), float(values.max()))}


def _length(x: np.ndarray, points: int, path: Path) -> dict[str, Any]:
    """The period, from positions: their spacing times their number, or their span where both ends are listed."""
    x = x.astype(np.float64)
    if len(x) != points:
        return {}
    gaps = np.diff(x)
    if not (gaps > 0).all() or np.ptp(gaps) > 1e-3 * gaps.mean():
        raise DataError(f"{path}: the positions of its points are not evenly spaced and increasing.")
    span = float(x[-1] - x[0])
    whole = next((edge for edge in (1.0, 2.0, 2 * math.pi) if abs(span / edge - 1) < 1e-6), None)
    return {"length": whole or _round(span * points / (points - 1))}


def _round(value: float) -> float:
    """A length without the rounding of single precision, where it is one of those in use."""
    return next((edge for edge in (1.0, 2.0, 2 * math.pi) if abs(value / edge - 1) < 1e-5), value)


def _pdebench(arrays: Arrays, columns: dict[str, Column], path: Path, equation: str | None) -> Content:
    tensor = columns["tensor"]
    attributes = {name.lower(): value for name, value in arrays.attributes.items()}
    if len(tensor.shape) == 4 and "nu" in columns:
        guessed = "darcy"
    elif len(tensor.shape) == 4 and tensor.shape[1] > 1:
        guessed = "navier_stokes"
    elif len(tensor.shape) == 3:
        guessed = "burgers"
        if "beta" in attributes and "nu" not in attributes and equation is None:
            raise DataError(
                f"{path} is PDEBench's advection data (attribute beta, no Nu): an equation opkit does not have."
            )
    else:
        raise DataError(f"{path}: tensor {tensor.shape} is not (N, T, X), nor (N, T, X, Y), nor (N, 1, X, Y) with nu.")
    if equation not in (None, guessed):
        raise DataError(f"{path}: tensor {tensor.shape} is laid out as {guessed}, not as {equation}.")
    if len(set(tensor.shape[2:])) != 1 or tensor.shape[2] < 5:
        raise DataError(f"{path}: tensor {tensor.shape}: the square must have equally many points each way, 5 or more.")
    if guessed == "darcy":
        return _pdebench_darcy(columns, attributes, path)
    state, notes = ("u" if guessed == "burgers" else "w"), []
    n, frames = tensor.shape[2], tensor.shape[1]
    scalars: dict[str, np.ndarray] = {}
    parameters: dict[str, Any] = {}
    if "x-coordinate" in columns:
        x = columns["x-coordinate"].all().ravel()
        parameters |= _length(x, n, path)
        if guessed == "burgers" and abs(float(x[0])) > 1e-6:
            notes.append(
                f"Positions began at {x[0]:g}; here they begin at 0, which a periodic problem does not notice."
            )
    clock = columns["t-coordinate"].all().ravel() if "t-coordinate" in columns else None
    times, given = _times(clock, frames, "same", guessed, path)
    assumed = {} if given else {"times": times}
    parameters |= {"times": times} if given else {}
    if "viscosity" in columns:
        parameters |= _viscosity(columns["viscosity"].all().ravel(), tensor.shape[0], scalars, path, "viscosity")
    elif _number(attributes.get("viscosity")):
        parameters["viscosity"] = float(attributes["viscosity"])
    elif guessed == "burgers" and _number(attributes.get("nu")):
        parameters["viscosity"] = float(attributes["nu"]) / math.pi
        notes.append(f"PDEBench's Nu = {attributes['nu']:g} stands for a viscosity of Nu / pi.")
    elif guessed == "burgers":
        notes.append("The file states no Nu: that it is Burgers, not another 1-D equation of PDEBench, is a guess.")
    parameters |= _written_by_opkit(attributes, guessed)
    keys = {"tensor": f"{state}, frames 0 to {frames - 1}"}
    view = _View(tensor.shape, tensor.dtype, tensor.read, tensor.together)
    return Content(
        guessed, tensor.shape[0], n, {state: tensor.read}, keys, parameters, assumed, scalars, tuple(notes),
        _block(view),
    )  # fmt: skip


def _pdebench_darcy(columns: dict[str, Column], attributes: dict[str, Any], path: Path) -> Content:
    a, u = _without_channel(columns["nu"]), _without_channel(columns["tensor"])
    if a.shape != u.shape:
        raise DataError(f"{path}: nu {a.shape} and tensor {columns['tensor'].shape} do not fit together.")
    parameters, notes, codes = _coefficient(a)
    parameters.pop("coefficient", None)  # thresholded at the mean of each sample: another law than opkit's
    if _number(attributes.get("beta")):
        parameters["forcing"] = float(attributes["beta"])
    n = a.shape[1]
    if "x-coordinate" in columns:
        x = columns["x-coordinate"].all().ravel().astype(np.float64)
        if len(x) == n and abs(x[0] - 0.5 / n) < 1e-4 and abs(x[-1] - 1 + 0.5 / n) < 1e-4:
            parameters["location"] = "cell"
        elif len(x) == n and abs(x[0]) < 1e-4 and abs(x[-1] - 1) < 1e-4:
            parameters["location"] = "node"
    parameters |= _written_by_opkit(attributes, "darcy")
    if "config_json" not in attributes:
        notes.append(
            "PDEBench marches to the steady state and stops at t = 2, short of it by up to a few per cent where the "
            "coefficient is low."
        )
    fields, keys = {"a": a.read, "u": u.read}, {"nu": "a", "tensor": "u"}
    return Content("darcy", a.count, n, fields, keys, parameters, {}, {}, tuple(notes), _block(a, u), codes)


def _written_by_opkit(attributes: dict[str, Any], equation: str) -> dict[str, Any]:
    """Parameters that opkit left in a file it wrote for others."""
    try:
        config = json.loads(attributes.get("config_json", "{}"))
        return dict(config["parameters"]) if config.get("equation") == equation else {}
    except (TypeError, ValueError, KeyError, AttributeError):
        return {}


class _View(Column):
    """A column whose rows are samples."""

    @property
    def count(self) -> int:
        return self.shape[0]


def _without_channel(column: Column) -> _View:
    """The column, without an axis of one channel after that of the samples."""
    if len(column.shape) >= 3 and column.shape[1] == 1:
        shape = (column.shape[0], *column.shape[2:])
        read: Read = lambda i, j: column.read(i, j)[:, 0]  # noqa: E731
        return _View(shape, column.dtype, read, column.together)
    return _View(column.shape, column.dtype, column.read, column.together)


def _block(*columns: Column) -> int:
    """Samples to read at once: as many as `BLOCK_BYTES` hold, in multiples of what is stored together."""
    rows = max(1, BLOCK_BYTES // max(1, sum(column.row_bytes for column in columns)))
    together = math.lcm(*(column.together for column in columns))
    return rows // together * together if together <= rows else rows


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
