"""Pictures of a long rollout, from its section of report.json, and frames to scrub through."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from opkit.evaluation.figures import INK, LABEL, Picture, legend, percent_axis, render
from opkit.evaluation.rollout import Rollout
from opkit.grid import Grid
from opkit.metrics import CORRELATED

WIDEST = 128
"""Most points per side of an animated field; finer ones are thinned out."""
COLOURS = ("#0b6e99", "#c8553d", "#3a7d44", "#8d6a9f")


def _values(curve: list[float | None]) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in curve], dtype=float)


def _trained(axis: Any, section: dict[str, Any], dt: float) -> None:
    """Where the training trajectories end."""
    axis.axvline(section["trained_steps"] * dt, color="#777777", lw=1.2, ls=":", zorder=0, label="trained up to here")


def error_fan(section: dict[str, Any]) -> Picture:
    """Relative L2 error against time: median and the middle four fifths, beside its baselines."""
    dt = section["time_step"]

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        t = dt * np.array(section["curves"]["step"])
        for name, fan in section["curves"]["rel_l2"].items():
            axis.plot(
                t, _values(fan["median"]), color=INK[name], label=LABEL[name], lw=1.8 if name == "surrogate" else 1.2
            )
            if name == "surrogate":
                high = np.nan_to_num(_values(fan["high"]), nan=1e3)
                axis.fill_between(
                    t, np.nan_to_num(_values(fan["low"]), nan=1e3), high, color=INK[name], alpha=0.2, lw=0
                )
        shown = np.concatenate([_values(f["median"]) for f in section["curves"]["rel_l2"].values()])
        shown = shown[np.isfinite(shown) & (shown > 0)]
        axis.set_yscale("log")
        if len(shown):
            axis.set_ylim(shown.min() / 3, min(shown.max() * 3, 1e3))
        percent_axis(axis)
        _trained(axis, section, dt)
        axis.set_xlabel("time")
        axis.set_ylabel("relative L2 error of the frame")
        axis.grid(alpha=0.25)
        legend(axis, 3)

    return render(draw, 6.4, 4.2)


def correlation_and_survival(section: dict[str, Any]) -> Picture:
    """Correlation with the truth against time, and the share of trajectories that are still right, and still alive."""
    dt = section["time_step"]

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        t = dt * np.array(section["curves"]["step"])
        for name, fan in section["curves"]["correlation"].items():
            left.plot(
                t, _values(fan["median"]), color=INK[name], label=LABEL[name], lw=1.8 if name == "surrogate" else 1.2
            )
            if name == "surrogate":
                low, high = (np.nan_to_num(_values(fan[k]), nan=-1.0) for k in ("low", "high"))
                left.fill_between(t, low, high, color=INK[name], alpha=0.2, lw=0)
        left.axhline(CORRELATED, color="#999999", lw=1, ls="--", zorder=0)
        left.set_ylim(min(-0.05, left.get_ylim()[0]), 1.03)
        left.set_xlabel("time")
        left.set_ylabel("correlation with the truth")
        _trained(left, section, dt)
        legend(left, 2)
        names = {
            "correlation_time": (f"correlation above {CORRELATED:g}", COLOURS[0], section["reference_steps"]),
            "valid_time": ("error below 0.4 of the flow's size", COLOURS[1], section["reference_steps"]),
            "divergence_time": ("within bounds", COLOURS[2], section["steps"]),
        }
        for name, (label, colour, steps) in names.items():
            curve = section["survival"][name]
            end = steps * dt
            x = np.array([*curve["times"], max(end, curve["times"][-1])])
            share, low, high = (np.array([*curve[k], curve[k][-1]]) for k in ("share", "low", "high"))
            right.step(x, share, where="post", color=colour, label=label, lw=1.8)
            right.fill_between(x, low, high, step="post", color=colour, alpha=0.12, lw=0)
        right.set_ylim(-0.03, 1.03)
        right.set_xlabel("time")
        right.set_ylabel("share of trajectories (Kaplan-Meier)")
        _trained(right, section, dt)
        legend(right, 2)
        for axis in (left, right):
            axis.grid(alpha=0.25)

    return render(draw, 11, 4.2)


def spectra_over_time(section: dict[str, Any]) -> Picture:
    """Energy by wavenumber of truth and rollout at a few times."""

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        spectra = section["spectra"]
        top = 0.0
        for i, step in enumerate(spectra["step"]):
            colour = COLOURS[i % len(COLOURS)]
            for model, style in (("truth", "-"), ("surrogate", "--")):
                energy = _values(spectra[model][i])
                k = np.arange(1, len(energy) + 1)
                label = f"step {step}" if model == "truth" else None
                axis.loglog(k, np.where(energy > 0, energy, np.nan), style, color=colour, lw=1.5, label=label)
                top = max(top, float(np.nanmax(energy, initial=0.0)) if model == "truth" else top)
        axis.plot([], [], "--", color="#555555", label="surrogate")
        axis.set_ylim(bottom=max(top * 1e-14, 1e-30))
        axis.set_xlabel("wavenumber")
        axis.set_ylabel("mean energy per shell")
        axis.grid(alpha=0.25)
        legend(axis, 5)

    return render(draw, 6.4, 4.2)


def drift(section: dict[str, Any]) -> Picture:
    """The equation's quantities over time, truth and rollout: medians and the middle four fifths."""
    names, dt = list(section["quantities"]), section["time_step"]
    columns = 2 if len(names) > 3 else len(names)
    rows = -(-len(names) // columns)

    def draw(figure: Any) -> None:
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for axis in axes[len(names) :]:
            axis.remove()
        for axis, name in zip(axes, names, strict=False):
            quantity = section["quantities"][name]
            t = dt * np.array(quantity["step"])
            for model in ("truth", "surrogate"):
                fan = {k: _values(quantity[model][k]) for k in ("low", "median", "high")}
                axis.plot(t, fan["median"], color=INK[model], label=LABEL[model], lw=1.6)
                axis.fill_between(t, fan["low"], fan["high"], color=INK[model], alpha=0.15, lw=0)
            _trained(axis, section, dt)
            axis.set_title(name, fontsize=10)
            axis.set_xlabel("time")
            axis.grid(alpha=0.25)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, fontsize=9, loc="outside upper left", ncols=3)

    return render(draw, 11, 3.2 * rows)


@dataclass
class Animation:
    """All shown frames of one trajectory in one PNG, below each other: truth, prediction and error side by side.

    Args:
        png: The picture.
        width: Of one frame in pixels.
        height: Likewise.
        low: Least value of the truth, where colours begin.
        high: Its largest, where they end.
        most: Error at which its colours or axes end.
    """

    png: bytes
    width: int
    height: int
    low: float
    high: float
    most: float


def animation(rollout: Rollout, grid: Grid, row: int) -> Animation:
    """Of one of the trajectories shown."""
    truth, own = (rollout.shown[m][row].numpy() for m in ("truth", "surrogate"))
    from PIL import Image

    lines = grid.ndim == 1
    error = np.abs(own - truth)
    most = min(float(error[np.isfinite(error)].max(initial=0.0)), float(np.ptp(truth))) or 1.0
    frames = _line_frames(truth, own, grid, most) if lines else _image_frames(truth, own, most)
    image = Image.fromarray(np.concatenate(frames))
    if lines:
        image = image.quantize(64)
    else:
        image.putpalette(_palette().tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "png", optimize=True)
    height, width = frames[0].shape[:2]
    return Animation(buffer.getvalue(), width, height, float(truth.min()), float(truth.max()), most)


def colour_bars() -> tuple[bytes, bytes]:
    """The colours of fields and of errors, from least to largest, as PNG."""
    from PIL import Image

    bars = []
    for colours in (_palette()[:128], _palette()[128:255]):
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(np.broadcast_to(colours, (8, *colours.shape)))).save(buffer, "png")
        bars.append(buffer.getvalue())
    return bars[0], bars[1]


def _palette() -> np.ndarray:
    """128 colours for fields, 127 for errors, white."""
    from matplotlib import colormaps

    fields, errors = (colormaps[name](np.linspace(0, 1, n))[:, :3] for name, n in (("viridis", 128), ("RdBu_r", 127)))
    return np.rint(255 * np.concatenate([fields, errors, [[1, 1, 1]]])).astype(np.uint8)


def _image_frames(truth: np.ndarray, own: np.ndarray, most: float) -> list[np.ndarray]:
    """Frames as indices into the palette; what is not finite is white."""
    thin = -(-max(truth.shape[1:]) // WIDEST)
    truth, own = truth[:, ::thin, ::thin], own[:, ::thin, ::thin]
    low, high = float(truth.min()), float(truth.max())
    span = (high - low) or 1.0
    gap = np.full((truth.shape[2], 2), 255, np.uint8)

    def coloured(field: np.ndarray, least: float, top: float, first: int, count: int) -> np.ndarray:
        share = np.clip((field - least) / (top - least), 0, 1)
        index = np.where(np.isfinite(share), first + np.rint((count - 1) * np.nan_to_num(share)), 255)
        return index.astype(np.uint8).T[::-1]  # x to the right, y upwards

    return [
        np.concatenate(
            [
                coloured(u, low, low + span, 0, 128),
                gap,
                coloured(p, low, low + span, 0, 128),
                gap,
                coloured(p - u, -most, most, 128, 127),
            ],
            1,
        )
        for u, p in zip(truth, own, strict=True)
    ]


def _line_frames(truth: np.ndarray, own: np.ndarray, grid: Grid, most: float) -> list[np.ndarray]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 2.6), dpi=90, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    x = grid.axis(0).numpy()
    span = float(np.abs(truth).max()) * 1.15 or 1.0
    (line,) = left.plot(x, truth[0], color=INK["truth"], lw=1.6, label="truth")
    (dashed,) = left.plot(x, own[0], color=INK["surrogate"], lw=1.6, ls="--", label="prediction")
    (error,) = right.plot(x, own[0] - truth[0], color=INK["interpolation"], lw=1.2, label="error")
    left.set_ylim(-span, span)
    right.set_ylim(-1.05 * most, 1.05 * most)
    legend(left, 2)
    legend(right, 1)
    frames = []
    for u, p in zip(truth, own, strict=True):
        line.set_ydata(u)
        dashed.set_ydata(p)
        error.set_ydata(p - u)
        canvas.draw()
        frames.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    return frames
