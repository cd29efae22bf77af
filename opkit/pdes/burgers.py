"""Viscous Burgers equation on a periodic interval: learn u(., t) -> u(., t + dt), by default u(., 0) -> u(., 1).

    u_t + (u^2 / 2)_x = nu u_xx

Li et al., "Fourier Neural Operator" (ICLR 2021), print the interval (0, 1) with nu = 0.1, on which every sample has
nearly decayed by t = 1 and no front forms; Kovachki et al. (JMLR 2023), section 6.3, print (0, 2 pi), which is the
default here. The other definitions in circulation are the variants configs/pde/burgers-*.yaml.

Two solvers. ETDRK4 in Fourier space (`opkit.pdes.etdrk`) with the conservative product u^2 / 2 and wavenumbers
|k| < N / 3 alone in the state, so that the product carries no aliases. And the exact solution of Hopf (1950) and Cole
(1951),

    u(x, t) = sum_y (x - y) / t w(y) / sum_y w(y),    w(y) = exp(-(U(y) + (x - y)^2 / 2 t) / 2 nu),    U' = u(., 0),

with exponents shifted by their maximum, because they exceed what a float can hold for small nu; the sums are trapezoid
rules on nodes fine enough to be exact to round-off. A mean flow c is taken out by u(x, t) = c + v(x - c t, t).
"""

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from opkit.errors import SolverError, UnresolvedError
from opkit.fields import GRF, same_size
from opkit.grid import Grid
from opkit.pdes.base import GPU_POINTS, PDE, Evolution, Shift, check_range
from opkit.pdes.etdrk import etdrk4_coefficients, etdrk4_step
from opkit.pdes.periodic import derivative, product

CACHED_POINTS = 2**15
"""Grid points of samples stepped together on a CPU: what stays in a core's cache."""
FINEST = 2**17
"""Points beyond which `unresolved=refine` gives up."""
CHECK_EVERY = 20
"""Steps between two looks at the tail of the spectrum."""
NODES = 5.0
"""Quadrature nodes of the exact solution per width of the narrowest peak of its weight."""
LONGER_STEPS = (64, 16, 4)
"""Times the step of the labels, for `cheaper`."""
SMOOTH = 4
"""Times the step of the labels, for `with_fixed_steps`."""
HOPF_COLE_BLOCK = 2**22
"""Exponents held at once by the exact solution."""


@dataclass(frozen=True, eq=False)
class Burgers(Evolution):
    """Burgers equation on (0, L), periodic.

    Args:
        resolution: Points N.
        viscosity: nu, in length^2 / time; a range [low, high] draws it log-uniformly for every sample and makes it an
            input channel.
        length: Period L.
        times: Times of the frames, starting at 0.
        alpha: Exponent of the initial field's covariance sigma^2 (-Laplacian + tau^2)^-alpha.
        tau: Inverse correlation length.
        sigma: Amplitude.
        mean: "drop" or "keep" the constant mode.
        modes: Highest wavenumber of the initial field. Part of the law, not of the grid: with at most a third of the
            points of the label grid the whole field is resolved.
        scheme: "etdrk4" steps through time; "cole-hopf" evaluates the exact solution, good for few frames.
        dt: Time step of ETDRK4, shortened so that frames are met.
        unresolved: What to do where the spectrum's tail says that the grid is too coarse: "refuse", "refine" (solve
            on twice the points, until it is fine enough) or "accept".
        tail: The tail that is still accepted: largest coefficient in the outermost tenth of the kept wavenumbers over
            the largest of all, at any time. The solution's relative error is about a hundredth of it.
        precision: "float64", or "float32" for the state.
        label_resolution: Points of the grid labels are solved on, rounded up to a refinement of the grid.
    """

    equation: ClassVar[str] = "burgers"
    formula: ClassVar[str] = "u_t + (u^2 / 2)_x = nu u_xx, periodic"
    outputs: ClassVar[tuple[str, ...]] = ("u",)
    ranged: ClassVar[tuple[str, ...]] = ("viscosity",)
    citation: ClassVar[str] = "Kovachki et al., Neural Operator: Learning Maps Between Function Spaces, JMLR 24 (2023)"

    resolution: int = 512
    viscosity: float | tuple[float, float] = 0.1
    length: float = 2 * math.pi
    times: Any = (0.0, 1.0)
    alpha: float = 2.0
    tau: float = 5.0
    sigma: float = 25.0
    mean: Literal["drop", "keep"] = "drop"
    modes: int = 341
    scheme: Literal["etdrk4", "cole-hopf"] = "etdrk4"
    dt: float = 2e-3
    unresolved: Literal["refuse", "refine", "accept"] = "refuse"
    tail: float = 1e-5
    precision: Literal["float64", "float32"] = "float64"
    label_resolution: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resolution < 8:
            raise ValueError(f"resolution must be at least 8 points, got {self.resolution}.")
        if self.label_resolution < 1:
            raise ValueError(f"label_resolution must be positive, got {self.label_resolution}.")
        check_range("viscosity", self.viscosity)
        for name in ("length", "dt", "tail"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        self._field  # noqa: B018  (raises where alpha, tau or modes are impossible)

    @property
    def grid(self) -> Grid:
        return Grid((self.resolution,), "periodic", self.length)

    @property
    def order(self) -> float:
        return 2.8  # of a strongly damped wave; 4 where the solution is not stiff

    @property
    def _field(self) -> GRF:
        return GRF(1, "periodic", self.alpha, self.tau, self.sigma, self.modes, self.mean, self.length)

    @property
    def input_law(self) -> str:
        return (
            f"u(., 0) ~ N(0, {self.sigma:g}^2 (-d^2/dx^2 + {self.tau:g}^2)^-{self.alpha:g}) on (0, {self.length:g}), "
            f"k <= {self.modes}{', no mean' if self.mean == 'drop' else ''}"
        )

    def shifts(self) -> list[Shift]:
        """Other viscosities; initial fields larger or smaller, and of the same size but shorter or longer waves."""

        def longer(factor: float) -> dict[str, Any]:
            field = dataclasses.replace(self._field, tau=self.tau / factor)
            return {"tau": field.tau, "sigma": self.sigma * same_size(self._field, field)}

        return [
            *self._parameter_shifts(),
            *self._shifted("initial amplitude", (0.5, 2.0), lambda f: {"sigma": self.sigma * f}),
            *self._shifted("correlation length", (0.5, 2.0), longer),
        ]

    def quantities(self, states: Tensor) -> dict[str, Tensor]:
        """Energy 1/2 <u^2>, which only falls, and the mean, which stays; see `PDE.quantities`."""
        u = states[:, 0].double()
        return {"energy": u.square().mean(-1) / 2, "mean": u.mean(-1)}

    @property
    def falling(self) -> tuple[str, ...]:
        return ("energy",)

    def balance(self, before: Tensor, inputs: Tensor, after: Tensor, dt: float) -> tuple[Tensor, Tensor]:
        """R = nu u_xx - u_t - (u^2 / 2)_x, and (dE/dt + nu <u_x^2>) / (nu <u_x^2>) with E = <u^2> / 2; see
        `Evolution.balance`."""
        u, grid = inputs[:, 0].double(), self.grid
        nu = self._parameter("viscosity", inputs).double()
        slope = derivative(u, grid)
        flux = nu[:, None] * slope - product(grid, (u, u)) / 2
        rate = (after[:, 0].double() - before[:, 0].double()) / (2 * dt)
        energy = (self.quantities(after)["energy"] - self.quantities(before)["energy"]) / (2 * dt)
        dissipated = nu * slope.square().mean(-1)
        return (derivative(flux, grid) - rate)[:, None], (energy + dissipated) / dissipated

    def refined(self) -> PDE:
        finer = self.label_grid.refine(2).shape[0]
        return dataclasses.replace(self, label_resolution=finer, dt=self.dt / 2)

    def cheaper(self) -> list[PDE]:
        """See `PDE.cheaper`: longer steps, single precision, the exact solution, and whatever the spectrum's tail."""
        found: list[PDE] = []
        for n in self._ladder(least=8):
            for longer in LONGER_STEPS:
                changes = {"scheme": "etdrk4", "dt": longer * self.dt, "precision": "float32"}
                found.append(self._solved_on(n, unresolved="accept", **changes))
            found.append(self._solved_on(n, unresolved="accept", scheme="cole-hopf"))
        own = self._solved_on(self.label_grid.shape[0], unresolved="accept")
        return [*(s for s in found if s != own), own]

    def with_fixed_steps(self, inputs: Tensor) -> PDE:
        """See `PDE.with_fixed_steps`: `SMOOTH` times as long, and whatever the spectrum's tail."""
        if self.scheme == "cole-hopf":
            return self
        return dataclasses.replace(self, dt=SMOOTH * self.dt, unresolved="accept")

    def tile(self, device: str = "cpu") -> int:
        if device != "cpu":
            return super().tile(device)
        points = self.label_grid.shape[0]
        return max(t for t in (25, 10, 5, 2, 1) if t == 1 or t * points <= CACHED_POINTS)

    def sample(self, n: int, seed: int = 0, first: int = 0) -> Float[Tensor, "n c x"]:
        """Random initial fields, and a constant channel for every parameter drawn per sample; see `PDE.sample`."""
        field = self._field.sample(self.grid, n, seed, first, stream=self.equation)[:, None]
        return self._with_parameters(field, seed, first)

    def _solve(self, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if self.scheme == "cole-hopf":
            return self._exact(inputs)
        points = CACHED_POINTS if inputs.device.type == "cpu" else GPU_POINTS
        parts = [self._march(part) for part in inputs.split(max(1, points // self.resolution))]
        solution = torch.cat([p[0] for p in parts])
        diagnostics = {k: torch.cat([p[1][k] for p in parts]) for k in parts[0][1]}
        if not torch.isfinite(solution).all():
            raise SolverError(f"The Burgers solution blew up with dt={self.dt:g}. Lower pde.dt.")
        coarse = ~(diagnostics["spectral_tail"] <= self.tail)
        if coarse.any() and self.unresolved == "refuse":
            raise UnresolvedError(self._complaint(diagnostics["spectral_tail"]))
        if coarse.any() and self.unresolved == "refine":
            self._refine(inputs, coarse, solution, diagnostics)
        return solution, diagnostics

    def _complaint(self, tail: Tensor) -> str:
        worst = float(tail.max())
        return (
            f"{self.resolution} points are too few for Burgers with viscosity {self.viscosity}: where it is cut off, "
            f"the spectrum has fallen to {worst:.1e} of its largest value, and {self.tail:g} is accepted. Raise "
            "pde.label_resolution (or pde.resolution, where you call solve) or the viscosity, or set "
            "pde.unresolved=refine to have the solver refine by itself."
        )

    def _refine(self, inputs: Tensor, rows: Tensor, solution: Tensor, diagnostics: dict[str, Tensor]) -> None:
        """Solve some samples again on twice the points, in place."""
        if 2 * self.resolution > FINEST:
            raise UnresolvedError(self._complaint(diagnostics["spectral_tail"]))
        finer = dataclasses.replace(self, resolution=2 * self.resolution)
        fine, figures = finer._solve(self.grid.resample(inputs[rows], finer.grid, "spectral"))
        solution[rows, 1:] = finer.grid.resample(fine, self.grid, "strided")[:, 1:]
        for name, values in figures.items():
            diagnostics[name][rows] = values

    def _march(self, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        n, top = self.resolution, -(-self.resolution // 3) - 1
        dtype = torch.float32 if self.precision == "float32" else torch.float64
        k = (2 * math.pi / self.length) * torch.arange(top + 1, dtype=torch.float64, device=inputs.device)
        viscosity = self._parameter("viscosity", inputs)
        linear = -(viscosity if "viscosity" in self.varying else viscosity[:1])[:, None] * k**2
        # -d/dx of half the square: multiply by -i k / 2, in real arithmetic on exchanged parts, because a complex
        # product's last bit depends on where in memory it stands, and with it on the batch.
        slope = (torch.stack([k, -k], -1) / 2).to(dtype)

        def nonlinear(v: Tensor) -> Tensor:
            u = torch.fft.irfft(torch.view_as_complex(v), n=n, norm="forward")
            square = torch.fft.rfft(u * u, norm="forward")[..., : top + 1]
            return torch.view_as_real(square).flip(-1) * slope

        def tail_of(v: Tensor) -> Tensor:
            size = torch.linalg.vector_norm(v.double(), dim=-1)
            return size[:, top - top // 10 :].amax(1) / size.amax(1).clamp_min(1e-300)

        spectrum = torch.fft.rfft(inputs[:, 0], norm="forward")[:, : top + 1]
        v = torch.view_as_real(spectrum.contiguous()).to(dtype).contiguous()
        frames, tail, steps = [inputs[:, 0]], torch.zeros(len(inputs), dtype=torch.float64, device=inputs.device), 0
        weights: tuple[float, tuple[Tensor, ...]] = (0.0, ())
        for interval in self.intervals:
            count = math.ceil(interval / self.dt * (1 - 1e-12))
            if weights[0] != interval / count:
                weights = (interval / count, self._weights(linear, interval / count, dtype))
            for i in range(count):
                v = etdrk4_step(v, nonlinear, weights[1])
                if i % CHECK_EVERY == CHECK_EVERY - 1 or i == count - 1:
                    tail = torch.maximum(tail, tail_of(v))
            steps += count
            frames.append(torch.fft.irfft(torch.view_as_complex(v.double()), n=n, norm="forward"))
        once = etdrk4_step(v, nonlinear, weights[1])
        half = self._weights(linear, weights[0] / 2, dtype)
        twice = etdrk4_step(etdrk4_step(v, nonlinear, half), nonlinear, half)
        scale = twice.double().flatten(1).norm(dim=1).clamp_min(1e-300)
        residual = (once - twice).double().flatten(1).norm(dim=1) / scale  # time error made by a step
        diagnostics = {"residual": residual, "steps": torch.full_like(residual, steps).long(), "spectral_tail": tail}
        return torch.stack(frames, 1)[:, :, None], diagnostics

    @staticmethod
    def _weights(linear: Tensor, dt: float, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return tuple(c[..., None].expand(*c.shape, 2).to(dtype).contiguous() for c in etdrk4_coefficients(linear, dt))

    def _exact(self, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        viscosity = self._parameter("viscosity", inputs)
        samples = list(zip(inputs[:, 0], viscosity.tolist(), strict=True))
        frames = [inputs[:, 0]]
        for time in itertools.accumulate(self.intervals):
            frames.append(torch.stack([cole_hopf(row, nu, self.length, time) for row, nu in samples]))
        sparse = torch.stack([cole_hopf(row, nu, self.length, time, nodes=NODES / 2) for row, nu in samples])
        change = (frames[-1] - sparse).norm(dim=1) / frames[-1].norm(dim=1).clamp_min(1e-300)  # of the quadrature
        return torch.stack(frames, 1)[:, :, None], {"residual": change}


def cole_hopf(
    initial: Float[Tensor, " x"], viscosity: float, length: float, time: float, nodes: float = NODES
) -> Float[Tensor, " x"]:
    """The exact solution at one time, at the points of the initial values, whose trigonometric interpolant is taken.

    Args:
        initial: Values at n periodic points, float64.
        viscosity: nu.
        length: Period.
        time: Positive.
        nodes: Quadrature nodes per width of the narrowest peak of the weight; at 5 the rule is exact to round-off.
    """
    n = len(initial)
    spectrum = torch.fft.rfft(initial, norm="forward")
    if n % 2 == 0:
        spectrum[-1] = 0.5 * spectrum[-1].real  # a cosine: half of it belongs to -k
    k = (2 * math.pi / length) * torch.arange(len(spectrum), dtype=torch.float64, device=initial.device)
    mean = float(spectrum[0].real)
    spectrum = spectrum * torch.exp(-1j * k * mean * time)
    spectrum[0] = 0
    slope = torch.fft.irfft(1j * k * spectrum, n=4 * n, norm="forward").max().clamp_min(0.0)
    width = math.sqrt(2 * viscosity / (float(slope) + 1 / time))  # of the narrowest peak that w can have
    factor = max(1, math.ceil(length / n * nodes / width))
    m = n * factor
    step = length / m
    antiderivative = torch.where(k > 0, spectrum / (1j * k.clamp_min(1e-300)), 0)
    potential = torch.fft.irfft(antiderivative, n=m, norm="forward")
    reach = math.sqrt(2 * time * (float(potential.max() - potential.min()) + 80 * viscosity))
    offset = torch.arange(-math.ceil(reach / step), math.ceil(reach / step) + 1, device=initial.device)
    distance = offset.double() * step
    parabola = distance**2 / (2 * time)
    rows = max(1, HOPF_COLE_BLOCK // len(offset))
    out = torch.empty_like(initial)
    for start in range(0, n, rows):
        here = factor * torch.arange(start, min(start + rows, n), device=initial.device)
        exponent = -(potential[(here[:, None] + offset) % m] + parabola) / (2 * viscosity)
        weight = torch.exp(exponent - exponent.amax(1, keepdim=True))
        out[start : start + rows] = mean - (weight @ distance) / (time * weight.sum(1))
    return out
