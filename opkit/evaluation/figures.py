"""Pictures of an evaluation. Truth and prediction share a colour scale; errors are centred on zero."""

import io
from typing import Any

import numpy as np

from opkit.evaluation.protocol import Measured, Sample
from opkit.evaluation.verdicts import percent, size
from opkit.grid import Grid

INK = {
    "surrogate": "#0b6e99", "interpolation": "#c8553d", "oracle": "#7a7a7a", "truth": "#222222", "mean": "#8d6a9f",
    "persistence": "#b08900", "climate": "#8d6a9f",
}  # fmt: skip
LABEL = {
    "surrogate": "surrogate",
    "interpolation": "coarse prediction, interpolated",
    "oracle": "true coarse solution, interpolated",
    "truth": "truth",
    "mean": "training mean",
    "climate": "mean of all training frames",
    "persistence": "initial state kept",
}


class Picture:
    """A finished figure, as pixels and, when asked for, as drawing."""

    def __init__(self, figure: Any):
        self._figure = figure
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", facecolor="white", metadata={"Software": None})
        figure.set_layout_engine("none")  # it is laid out
        self.png = buffer.getvalue()

    def svg(self) -> str:
        """The same figure always gives the same text."""
        import matplotlib

        buffer = io.StringIO()
        with matplotlib.rc_context({"svg.hashsalt": "opkit"}):
            self._figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None})
        return buffer.getvalue()


def render(draw: Any, width: float, height: float, dpi: int = 110) -> Picture:
    """Draw on a fresh figure without any global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure)
    return Picture(figure)


def legend(axis: Any, columns: int) -> None:
    """Above the axes, where it hides no curve."""
    axis.legend(
        frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, columnspacing=1.2,
        borderaxespad=0.2,
    )  # fmt: skip


def percent_axis(axis: Any, unit: float = 1.0) -> None:
    """Ticks of a logarithmic y axis in percent: decades, or 1, 2 and 5 of each where there are few, or
    whatever fits between.

    Args:
        axis: Its limits are final.
        unit: What 100% are on it.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    low, high = axis.get_ylim()
    locator: Any = LogLocator(subs=(1.0, 2.0, 5.0) if high < 300 * low else (1.0,), numticks=12)
    if sum(low <= tick <= high for tick in locator.tick_values(low, high)) < 2:
        locator = MaxNLocator(5)
    axis.yaxis.set_major_locator(locator)
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(
        lambda v, _: np.format_float_positional(float(f"{100 * v / unit:.4g}"), trim="-") + "%"
    )


def samples(
    measured: Measured, inputs: tuple[str, ...], outputs: tuple[str, ...], grid: Grid, horizon: int | None
) -> Picture:
    """Best, median and worst test sample: input, truth, prediction, error; of a trajectory, the last frame."""
    when = "" if horizon is None else f" after {horizon} step{'s' if horizon > 1 else ''}"
    draw = _lines if grid.ndim == 1 else _images
    return draw(measured.samples, inputs, outputs[0], grid, when)


def _fields_and_numbers(rows: list[Sample], inputs: tuple[str, ...]) -> tuple[list[int], list[int]]:
    """Which input channels are fields, and which are parameters drawn per sample: constant in space in every row."""
    flat = [all(bool((s.input[i] == s.input[i].flatten()[0]).all()) for s in rows) for i in range(len(inputs))]
    return [i for i, f in enumerate(flat) if not f or i == 0], [i for i, f in enumerate(flat) if f and i]


def _caption(sample: Sample, inputs: tuple[str, ...], numbers: list[int]) -> str:
    error = percent(sample.error) if np.isfinite(sample.error) else "not finite"
    parameters = "".join(f"\n{inputs[i]} {float(sample.input[i].flatten()[0]):.3g}" for i in numbers)
    return f"{sample.role}\nsample {sample.index}\nrel. L2 {error}{parameters}"


def _lines(rows: list[Sample], inputs: tuple[str, ...], target: str, grid: Grid, when: str) -> Picture:
    _, numbers = _fields_and_numbers(rows, inputs)

    def draw(figure: Any) -> None:
        axes = figure.subplots(len(rows), 2, squeeze=False, sharex=True, sharey="col")
        x = grid.axis(0).numpy()
        for row, sample in enumerate(rows):
            left, right = axes[row]
            left.plot(x, sample.input[0], color="#bbbbbb", lw=1.2, label=f"input {inputs[0]}")
            left.plot(x, sample.truth[0], color=INK["truth"], lw=1.6, label=f"truth {target}{when}")
            left.plot(x, sample.prediction[0], color=INK["surrogate"], lw=1.6, ls="--", label="prediction")
            right.plot(x, sample.prediction[0] - sample.truth[0], color=INK["interpolation"], lw=1.2)
            right.axhline(0, color="#bbbbbb", lw=1, zorder=0)
            left.set_ylabel(_caption(sample, inputs, numbers), fontsize=10, rotation=0, ha="right", va="center")
        legend(axes[0, 0], 3)
        axes[0, 1].set_title("error (one scale for all rows)", fontsize=10)
        for axis in axes[-1]:
            axis.set_xlabel("x")

    return render(draw, 12, 2.2 * len(rows))


def _images(rows: list[Sample], inputs: tuple[str, ...], target: str, grid: Grid, when: str) -> Picture:
    """All input fields; each shares one scale over the rows, as errors do."""
    shown, numbers = _fields_and_numbers(rows, inputs)

    def draw(figure: Any) -> None:
        axes = figure.subplots(len(rows), 3 + len(shown), squeeze=False)
        errors = [(s.prediction[0] - s.truth[0]).numpy() for s in rows]
        limit = max((float(np.abs(e[np.isfinite(e)]).max(initial=0.0)) for e in errors), default=0.0) or 1.0
        spans = {
            i: {"vmin": min(float(s.input[i].min()) for s in rows), "vmax": max(float(s.input[i].max()) for s in rows)}
            for i in shown
        }
        extent = (0, grid.lengths[0], 0, grid.lengths[1])
        for row, (sample, error) in enumerate(zip(rows, errors, strict=True)):
            low, high = float(sample.truth[0].min()), float(sample.truth[0].max())
            panels: list[tuple[str, Any, dict[str, Any]]] = [
                *((f"input {inputs[i]}", sample.input[i], {"cmap": "cividis", **spans[i]}) for i in shown),
                (f"truth {target}{when}", sample.truth[0], {"cmap": "viridis", "vmin": low, "vmax": high}),
                ("prediction", sample.prediction[0], {"cmap": "viridis", "vmin": low, "vmax": high}),
                ("error (one scale for all rows)", error, {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}),
            ]
            for axis, (title, values, style) in zip(axes[row], panels, strict=True):
                # The first spatial axis is x and runs to the right, y upwards.
                image = axis.imshow(np.asarray(values).T, origin="lower", extent=extent, **style)
                axis.set_xticks([])
                axis.set_yticks([])
                figure.colorbar(image, ax=axis, shrink=0.85, format="%.2g")
                if row == 0:
                    axis.set_title(title, fontsize=10)
            axes[row, 0].set_ylabel(_caption(sample, inputs, numbers), fontsize=10, rotation=0, ha="right", va="center")

    return render(draw, 3 * (3 + len(shown)), 2.6 * len(rows))


def error_by_resolution(rows: list[dict[str, Any]], training: dict[str, Any]) -> Picture:
    """Relative L2 error against grid size, for the surrogate and its baselines."""

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        for name in ("surrogate", "interpolation", "oracle"):
            points = ([training] if name == "surrogate" else []) + [r[name] for r in rows]
            points = [p for p in points if p["value"]]
            if not points:
                continue
            x = [p["resolution"] for p in points]
            y = [100 * p["value"] for p in points]
            bars = [
                [100 * (p["value"] - (p["ci_low"] if p["ci_low"] is not None else p["value"])) for p in points],
                [100 * ((p["ci_high"] if p["ci_high"] is not None else p["value"]) - p["value"]) for p in points],
            ]
            style = "--" if name == "oracle" else "-"
            axis.errorbar(x, y, bars, label=LABEL[name], color=INK[name], marker="o", ls=style, capsize=3)
        axis.axvline(training["resolution"], color="#bbbbbb", lw=1, zorder=0)
        axis.set_xscale("log")
        axis.set_yscale("log")
        ticks = [training["resolution"], *(r["resolution"] for r in rows)]
        axis.set_xticks(ticks, [str(t) for t in ticks])
        axis.minorticks_off()
        percent_axis(axis, 100.0)
        axis.set_xlabel("points per side (training grid marked)")
        axis.set_ylabel("relative L2 error")
        axis.grid(alpha=0.25)
        legend(axis, 1)

    return render(draw, 6.4, 4.2)


def spectra(measured: Measured, training: Grid) -> Picture:
    """Energy of the truth and of the errors by wavenumber, on the finest grid."""

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        grid = measured.fine[-1]
        for name in ("truth", "surrogate", "interpolation", "oracle"):
            energy = grid.spectra[name].numpy()
            label = LABEL[name] if name == "truth" else f"error: {LABEL[name]}"
            axis.loglog(np.arange(1, len(energy) + 1), energy, color=INK[name], label=label, lw=1.6)
        n = measured.coarse.resolution
        highest = {"node": n - 2, "cell": n, "periodic": (n - 1) / 2}[training.location]
        axis.axvline(highest, color="#bbbbbb", lw=1, zorder=0)
        top = float(grid.spectra["truth"].max())
        axis.set_ylim(bottom=max(top * 1e-14, 1e-30))
        waves = "Fourier" if training.location == "periodic" else "sine"
        axis.set_xlabel(f"{waves} wavenumber (beyond the line: not resolved by the training grid)")
        axis.set_ylabel(f"mean energy per shell, {size(grid.resolution, training.ndim)}")
        axis.grid(alpha=0.25)
        legend(axis, 1)

    return render(draw, 6.4, 4.8)


def distribution(measured: Measured) -> Picture:
    """Relative L2 error of every test sample on the training grid, sorted."""

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        errors = 100 * measured.coarse.errors["surrogate"]["rel_l2"].numpy()
        errors = np.sort(errors[np.isfinite(errors)])
        axis.plot(np.arange(1, len(errors) + 1), errors, color=INK["surrogate"], marker=".", ms=4, lw=1)
        if len(errors):
            axis.axhline(errors.mean(), color="#bbbbbb", lw=1, zorder=0)
            axis.annotate("mean", (1, errors.mean()), va="bottom", color="#666666", fontsize=9)
        axis.set_ylim(bottom=0)
        missing = len(measured.coarse.errors["surrogate"]["rel_l2"]) - len(errors)
        axis.set_xlabel("test samples, sorted" + (f"; {missing} more have none" if missing else ""))
        axis.set_ylabel("relative L2 error, %")
        axis.grid(alpha=0.25)

    return render(draw, 6.4, 3.4)
