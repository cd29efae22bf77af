"""Steady Darcy flow -div(a grad u) = f on the unit square, u given on its boundary: learn a -> u.

The default follows Li et al., "Fourier Neural Operator" (ICLR 2021) and Kovachki et al. (JMLR 2023), section 6.2:
a = 12 where w >= 0 and 3 elsewhere, w ~ N(0, (-Laplacian + 9)^-2) with Neumann walls, f = 1, u = 0 on the boundary.

A source or boundary values drawn at random are input channels too, (a, f) or (a, f, g) or (a, g), so that the solution
stays a function of the inputs. Discretisation and solvers are those of `opkit.pdes.elliptic`.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from opkit.fields import GRF, same_size, seed_key
from opkit.grid import Boundary, Grid
from opkit.pdes.base import PDE, Shift
from opkit.pdes.elliptic import FaceMean, Solver, WallLocation, imbalance, residual_square, solve_dirichlet

WAVES = 6
"""Pairs of factors of the multiscale coefficient."""
LOOSE = 1e-3
"""Tolerance of `cheaper`; reports measure what error each of its settings has."""
LU_UP_TO = 33
"""Points per side up to which `cheaper` tries sparse LU beside iterations."""


@dataclass(frozen=True, eq=False)
class Darcy(PDE):
    """Darcy flow on the unit square.

    Args:
        resolution: Points per side n.
        coefficient: "threshold" takes two values by the sign of w; "lognormal" is exp(w); "multiscale" is the product
            over k = 1..6 of (1 + cos(c_k pi (x + y)) / 2) (1 + sin(c_k pi (y - 3 x)) / 2) with c_k uniform on
            [2^(k-1), 1.5 2^(k-1)]; "checkerboard" gives each of `cells` x `cells` squares one of two values by a fair
            coin.
        values: a where w < 0 and where w >= 0, for "threshold"; the two values of "checkerboard".
        forcing: Source f if it is constant, the amplitude of "sine", the standard deviation of "random".
        alpha: Exponent of the Gaussian field w's covariance (-Laplacian + tau^2)^-alpha.
        tau: Inverse correlation length of w.
        sigma: Amplitude of w; without effect on "threshold".
        mean: "keep" or "drop" the constant mode of w. Li et al. state the law with it; their generator drops it.
        modes: Highest wavenumber of w, and of random sources and boundary values, along each axis.
        face_mean: "harmonic", or "arithmetic" for comparison with data made that way.
        label_resolution: Points per side of the grid that labels of a dataset are solved on, before every r-th point is
            kept; rounded up to a refinement of the grid. 421 with resolution 85 is the FNO paper's setting.
        tolerance: Relative error of the linear solver aimed at; see `opkit.pdes.elliptic.solve_dirichlet`.
        location: "node": spacing 1 / (n - 1), boundary included. "cell": centres of n x n cells, walls half a
            cell away.
        cells: Squares per side of "checkerboard".
        source: "constant"; "sine", forcing sin(k pi x) sin(k pi y) with k = `source_wavenumber`; or "random", forcing
            times a Gaussian field of covariance (-Laplacian + source_tau^2)^-source_alpha with Neumann walls, scaled to
            variance one far from walls.
        source_wavenumber: Half waves of the "sine" source along each axis.
        source_alpha: Exponent of the random source's covariance; above 1.
        source_tau: Inverse correlation length of the random source; positive.
        boundary_values: u on the boundary. "zero"; "linear", boundary_amplitude (1 - x), a pressure drop from left to
            right; or "random", boundary_amplitude times a Gaussian field as for the source. The whole field is then the
            input channel g; its trace is what counts. Cells extrapolate the trace from the three next to the wall.
        boundary_amplitude: See `boundary_values`.
        boundary_alpha: Exponent of the random boundary field's covariance; above 1, from 2 on the trace is continuous.
        boundary_tau: Inverse correlation length of the random boundary field; positive.
        solver: "sine", "multigrid", "direct", or "auto" for whichever is fastest at the contrast and size of each
            sample. The one used is stored per sample as its place in `opkit.pdes.elliptic.SOLVERS`.
    """

    equation: ClassVar[str] = "darcy"
    formula: ClassVar[str] = "-div(a grad u) = f on (0, 1)^2, u given on the boundary"
    outputs: ClassVar[tuple[str, ...]] = ("u",)

    resolution: int = 85
    coefficient: Literal["threshold", "lognormal", "multiscale", "checkerboard"] = "threshold"
    values: tuple[float, float] = (3.0, 12.0)
    forcing: float = 1.0
    alpha: float = 2.0
    tau: float = 3.0
    sigma: float = 1.0
    mean: Literal["keep", "drop"] = "keep"
    modes: int = 420
    face_mean: FaceMean = "harmonic"
    label_resolution: int = 421
    tolerance: float = 1e-9
    location: WallLocation = "node"
    cells: int = 8
    source: Literal["constant", "sine", "random"] = "constant"
    source_wavenumber: int = 1
    source_alpha: float = 2.0
    source_tau: float = 3.0
    boundary_values: Literal["zero", "linear", "random"] = "zero"
    boundary_amplitude: float = 1.0
    boundary_alpha: float = 3.0
    boundary_tau: float = 3.0
    solver: Solver = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resolution < 5:
            raise ValueError(f"resolution must be at least 5 points per side, got {self.resolution}.")
        if self.label_resolution < 1:
            raise ValueError(f"label_resolution must be positive, got {self.label_resolution}.")
        signed = ("forcing", "boundary_amplitude")
        laws = ("alpha", "tau", "sigma", "source_alpha", "source_tau", "boundary_alpha", "boundary_tau")
        for name in (*signed, *laws):
            value = getattr(self, name)
            if not math.isfinite(value) or (name in laws and value < 0):
                raise ValueError(f"{name} must be finite{' and not negative' if name in laws else ''}, got {value}.")
        for name in ("cells", "source_wavenumber"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("source", "boundary"):
            if not (getattr(self, f"{name}_alpha") > 1 and getattr(self, f"{name}_tau") > 0):
                raise ValueError(
                    f"{name}_alpha must exceed 1 and {name}_tau 0, else the field has no finite variance; got "
                    f"{name}_alpha={getattr(self, f'{name}_alpha')}, {name}_tau={getattr(self, f'{name}_tau')}."
                )
        if self.forcing == 0 and (self.boundary_values == "zero" or self.boundary_amplitude == 0):
            raise ValueError(
                "forcing=0 makes every solution zero: there is nothing to learn. Give boundary_values too."
            )
        if self.forcing == 0 and self.source == "random":
            raise ValueError("forcing=0 leaves nothing random in source=random; use source=constant.")
        if not all(math.isfinite(v) and v > 0 for v in self.values):
            raise ValueError(f"values must be positive (the equation is elliptic), got {self.values}.")
        if not 1e-14 <= self.tolerance < 1:
            raise ValueError(f"tolerance must lie between 1e-14 and 1, got {self.tolerance}.")
        self._field  # noqa: B018  (raises where alpha, tau or modes are impossible)

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("a", *(symbol for symbol, _, _ in self._random_inputs))

    @property
    def _random_inputs(self) -> list[tuple[str, str, float]]:
        """Channel, prefix of the arguments, and amplitude of source and boundary values where these are random."""
        found = [("f", "source", self.forcing)] if self.source == "random" else []
        return found + ([("g", "boundary", self.boundary_amplitude)] if self.boundary_values == "random" else [])

    @property
    def grid(self) -> Grid:
        return Grid((self.resolution, self.resolution), self.location)

    @property
    def boundary(self) -> str:
        return {
            "zero": "u = 0 on all walls",
            "linear": f"u = {self.boundary_amplitude:g} (1 - x) on all walls",
            "random": "u = g on all walls",
        }[self.boundary_values]

    @property
    def walls(self) -> Boundary:
        return "dirichlet" if self.boundary_values == "zero" else "open"

    @property
    def symmetries(self) -> int:
        if self.coefficient == "multiscale" or self.boundary_values == "linear":
            return 0
        return 0 if self.source == "sine" and self.source_wavenumber % 2 == 0 else 3

    def filtered(self, inputs: Tensor, target: Grid) -> Tensor:
        """See `PDE.filtered`; of the coefficient the harmonic mean over a cell, which is the flux through layers in
        series, the lower bound of what a cell conducts, and what the solver takes on faces: Renard and de Marsily, Adv.
        Water Resour. 20 (1997). Boundary values stay those at the points of the wall."""
        channels = []
        for name, values in zip(self.inputs, inputs.unbind(1), strict=True):
            if name == "a":
                channels.append(1 / self.grid.resample(1 / values, target, "average"))
            else:
                channels.append(self.grid.resample(values, target, "average" if name == "f" else "auto"))
        return torch.stack(channels, 1)

    @property
    def order(self) -> float:
        """Measured between 53 and 1025 points a side, by distances of solutions on successive grids. Two-valued
        coefficients: 1.0 to 1.3 with harmonic faces and about 1 with arithmetic ones, as an interface is only located
        to within a spacing (where it runs along faces, 1.3 on the checkerboard: its corners are singular). Log-normal:
        1.9 to 2.0. Multiscale: 1.7 to 1.9 from 257 points on, with arithmetic faces 1.0 to 1.7."""
        if self.coefficient in ("threshold", "checkerboard"):
            return 1.0
        if self.coefficient == "multiscale":
            return 1.7 if self.face_mean == "harmonic" else 1.0
        return 1.9

    def shifts(self) -> list[Shift]:
        """Coefficients of other contrast, and of shorter or longer correlation."""
        found = []
        if self.coefficient in ("threshold", "checkerboard"):
            low, high = self.values
            found += self._shifted("contrast", (0.5, 2.0, 4.0), lambda f: {"values": (low, high * f)})
        elif self.coefficient == "lognormal":
            found += self._shifted("amplitude of log a", (0.5, 2.0), lambda f: {"sigma": self.sigma * f})
        if self.coefficient == "checkerboard":
            counts = {max(1, round(self.cells * f)) for f in (0.5, 2.0)} - {self.cells}
            exact = tuple(count / self.cells for count in sorted(counts))  # of an odd number there is no half
            found += self._shifted("cells per side", exact, lambda f: {"cells": round(self.cells * f)})
        elif self.coefficient != "multiscale":

            def longer(factor: float) -> dict[str, Any]:
                field = dataclasses.replace(self._field, tau=self.tau / factor)
                return {"tau": field.tau, "sigma": self.sigma * same_size(self._field, field)}

            found += self._shifted("correlation length", (0.5, 2.0), longer)
        return found

    @property
    def input_law(self) -> str:
        law = f"w ~ N(0, {self.sigma:g}^2 (-Laplacian + {self.tau:g}^2)^-{self.alpha:g}), Neumann walls"
        low, high = self.values
        text = {
            "threshold": f"a = {high:g} where w >= 0, else {low:g}, {law}",
            "lognormal": f"a = exp(w), {law}",
            "multiscale": "a = product of 6 pairs of waves of random length",
            "checkerboard": f"a = {low:g} or {high:g} by a fair coin on each of {self.cells} x {self.cells} squares",
        }[self.coefficient]
        for symbol, name, amplitude in self._random_inputs:
            alpha, tau = getattr(self, f"{name}_alpha"), getattr(self, f"{name}_tau")
            text += f"; {symbol} ~ N(0, c (-Laplacian + {tau:g}^2)^-{alpha:g}), standard deviation {amplitude:g}"
        return text

    @property
    def _field(self) -> GRF:
        return GRF(2, "neumann", self.alpha, self.tau, self.sigma, self.modes, self.mean)

    def _unit_field(self, name: str) -> GRF:
        """The law of random sources and boundary values; sigma makes the variance 1 on the unbounded plane."""
        alpha, tau = getattr(self, f"{name}_alpha"), getattr(self, f"{name}_tau")
        return GRF(2, "neumann", alpha, tau, math.sqrt(4 * math.pi * (alpha - 1)) * tau ** (alpha - 1), self.modes)

    def cheaper(self) -> list[PDE]:
        """See `PDE.cheaper`: a looser tolerance, and sparse LU factors on small grids."""
        found: list[PDE] = []
        for n in self._ladder():
            if n <= LU_UP_TO:
                found.append(self._solved_on(n, solver="direct"))
            found.append(self._solved_on(n, solver="auto", tolerance=max(LOOSE, self.tolerance)))
        own = self._solved_on(self.label_grid.shape[0])
        return [*(s for s in found if s != own), own]

    def sample(self, n: int, seed: int = 0, first: int = 0) -> Float[Tensor, "n c x y"]:
        """Random inputs; see `PDE.sample`."""
        channels = [self._coefficients(n, seed, first)]
        for _, name, amplitude in self._random_inputs:
            law = self._unit_field(name)
            channels.append(amplitude * law.sample(self.grid, n, seed, first, f"{self.equation} {name}"))
        return torch.stack(channels, 1)

    def _coefficients(self, n: int, seed: int, first: int) -> Float[Tensor, "n x y"]:
        low, high = torch.tensor(self.values, dtype=torch.float64)
        if self.coefficient in ("threshold", "lognormal"):
            w = self._field.sample(self.grid, n, seed, first, stream=self.equation)
            return torch.exp(w) if self.coefficient == "lognormal" else torch.where(w >= 0, high, low)
        a = torch.empty(n, *self.grid.shape, dtype=torch.float64)
        x, y = self.grid.coordinates
        for i in range(n):
            key = seed_key(f"{self.equation} {self.coefficient}", seed, first + i)
            generator = np.random.Generator(np.random.Philox(key))
            if self.coefficient == "checkerboard":
                square = torch.from_numpy(generator.random((self.cells, self.cells)) < 0.5)
                # A hair to the right: a node on the line between two squares is in the right one, on every grid.
                index = ((self.grid.axis(0) + 1e-9) * self.cells).long().clamp_max(self.cells - 1)
                a[i] = torch.where(square[index[:, None], index], high, low)
            else:
                wavenumbers = 2.0 ** np.arange(WAVES) * generator.uniform(1.0, 1.5, WAVES) * math.pi
                a[i] = 1.0
                for k in wavenumbers.tolist():
                    a[i] *= (1 + torch.cos(k * (x + y)) / 2) * (1 + torch.sin(k * (y - 3 * x)) / 2)
        return a

    def _solve(self, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        a, f, boundary = self._system(inputs)
        if not (a > 0).all():
            raise ValueError(f"Darcy.solve needs a positive coefficient a everywhere, got min a = {a.min():g}.")
        solution, diagnostics = solve_dirichlet(
            a, f, boundary, self.location, self.face_mean, self.solver, self.tolerance
        )
        return solution[:, None], diagnostics

    def residual(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """See `PDE.residual`; of the five-point equations on the grid of the fields."""
        problem = dataclasses.replace(self, resolution=inputs.shape[-1])
        a, f, boundary = problem._system(inputs)
        above, below = residual_square(a, outputs[:, 0], f, boundary, self.location, self.face_mean)
        return (above.clamp_min(torch.finfo(above.dtype).tiny) / below).sqrt()

    def energy_coefficient(self, inputs: Tensor) -> Tensor | None:
        """a, the first channel."""
        return inputs[:, :1]

    def checks(self, inputs: Tensor, outputs: Tensor) -> dict[str, Tensor]:
        """The residual; the imbalance of source and outflow; and, where the source is not negative and the walls are at
        zero, how far below zero u is, over its largest value: the maximum principle forbids it. See `PDE.checks`.

        A solution on a finer grid, kept at these points, has a residual and an imbalance of its own.
        """
        problem = dataclasses.replace(self, resolution=inputs.shape[-1])
        a, f, boundary = problem._system(inputs.double())
        u = outputs[:, 0].double()
        found = {
            "residual": self.residual(inputs.double(), outputs.double()),
            "imbalance": imbalance(a, u, f, boundary, self.location, self.face_mean),
        }
        if self.boundary_values == "zero" and bool((f >= 0).all()):
            found["below zero"] = u.flatten(1).amin(1).clamp_max(0).abs() / u.flatten(1).abs().amax(1)
        return found

    def _system(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Coefficient, source, and boundary values that are not zero, at all points."""
        channels = dict(zip(self.inputs, inputs.unbind(1), strict=True))
        a = channels["a"]
        x, y = self.grid.coordinates.to(a)
        if self.source == "random":
            f = channels["f"]
        elif self.source == "sine":
            k = self.source_wavenumber * math.pi
            f = (self.forcing * torch.sin(k * x) * torch.sin(k * y)).expand_as(a)
        else:
            f = torch.full_like(a, self.forcing)
        boundary = None
        if self.boundary_values == "random":
            boundary = channels["g"]
        elif self.boundary_values == "linear":
            boundary = (self.boundary_amplitude * (1 - x)).expand_as(a)
        return a, f, boundary
