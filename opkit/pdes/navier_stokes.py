"""Incompressible Navier-Stokes in two dimensions, vorticity form, on a torus: learn w(., t) -> w(., t + dt).

    w_t + u . grad w = nu Laplacian w - mu w + f,    u = (psi_y, -psi_x),    -Laplacian psi = w

The forced problem on the unit torus follows Li et al., "Fourier Neural Operator" (ICLR 2021), section 5.3; Kolmogorov
flow with drag follows Kochkov et al., PNAS 118 (2021).

Discretisation: Fourier-Galerkin. The state holds wavenumbers |k_x|, |k_y| < N / 3 and nothing else, so that products
of two fields formed on N x N points carry no aliases (Orszag's two-thirds rule, applied to the state and not to the
product alone). The advection term costs four transforms, after Basdevant, J. Comput. Phys. 50 (1983):

    u . grad w = (d_xx - d_yy) (u v) + d_xy (v^2 - u^2)

Time steps: `opkit.pdes.etdrk`; by default ETDRK4, which is exact for viscosity, drag and a constant forcing. The step
follows the Courant number, divides the time between frames by 2^m or 3 * 2^m, and is every sample's own.
"""

import copy
import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from opkit.errors import SolverError
from opkit.fields import GRF, same_size
from opkit.grid import Grid, Method
from opkit.pdes.base import GPU_POINTS, PDE, Evolution, Shift, check_range
from opkit.pdes.etdrk import etdrk4_coefficients, etdrk4_step, euler_step, imex_step
from opkit.pdes.periodic import derivative, multiplied, product, waves

REFERENCE_DT = 1e-4
"""Step of the published generators; `scheme=reference` uses it unless told otherwise."""
CACHED_POINTS = 45_000
"""Grid points of samples stepped together on a CPU: what stays in a core's cache."""
LARGE_CFL = 2.4
"""Courant number of `cheaper`; reports measure what error that gives."""
SMOOTH_CFL = 1.6
"""Courant number of `with_fixed_steps`."""
MOST_STEPS = 2**20
"""Steps between two frames beyond which a solution has blown up rather than needs them."""


@dataclass(frozen=True, eq=False)
class NavierStokes(Evolution):
    """Vorticity on a square torus.

    Args:
        resolution: Points per side N.
        viscosity: nu, in length^2 / time; a range [low, high] draws it log-uniformly for every sample and makes it an
            input channel.
        times: Times of the frames, starting at 0.
        length: Edge L of the torus.
        forcing: "fno" is A (sin 2 pi (x + y) / L + cos 2 pi (x + y) / L); "kolmogorov" is -A kappa cos(kappa y) with
            kappa = 2 pi `forcing_wavenumber` / L, the curl of a force A sin(kappa y) along x; "none" lets it decay.
        forcing_amplitude: A; a range [low, high] draws it log-uniformly for every sample, as an input channel.
        forcing_wavenumber: Waves of the Kolmogorov forcing across the torus.
        drag: mu, in 1 / time.
        mean_velocity: Velocity of the frame, (U, V): carries the flow along.
        initial: Variance of the initial vorticity g(x / L), g ~ N(0, s^2 (-Laplacian + tau^2)^-alpha) on the unit torus
            without its mean: "code2020" s^2 = 2 tau^(2 alpha - 2), which the published files appear to have been made
            with; "code2022" s^2 = tau^(2 alpha - 2), the generator since June 2022; "paper" s^2 = tau^(alpha - 1), as
            printed. Standard deviations with alpha 2.5, tau 7: 0.262, 0.185, 0.043.
        initial_amplitude: Factor on the initial vorticity.
        alpha: Exponent of the covariance.
        tau: Inverse correlation length, in units of 1 / L.
        modes: Highest wavenumber of the initial vorticity along each axis. Part of the law, not of the grid: with at
            most a third of the points of the label grid the whole field is resolved.
        scheme: "etdrk4"; "imex", second order, for grids whose ETDRK4 weights and stages do not fit in memory;
            "reference", Euler and Crank-Nicolson with the product alone dealiased, as published data were made: for
            comparison.
        cfl: Courant number dt max(|u| + |v|) 2 pi (N / 3) / L that steps stay below; stable up to 2.8.
        dt: A fixed step instead; `reference` takes 1e-4 if null.
        precision: "float64", or "float32" for the state: round-off then rules, errors are near 1e-6 (see the card), and
            cfl=1 costs no accuracy.
        label_resolution: Points per side of the grid labels are solved on, rounded up to a refinement of the grid.
        label_restriction: How labels move to a coarser grid: "strided" keeps the values at its points (finer scales
            alias), "spectral" the waves it can hold.
    """

    equation: ClassVar[str] = "navier_stokes"
    formula: ClassVar[str] = "w_t + u . grad w = nu Laplacian w - mu w + f, u = (psi_y, -psi_x), -Laplacian psi = w"
    outputs: ClassVar[tuple[str, ...]] = ("w",)
    ranged: ClassVar[tuple[str, ...]] = ("viscosity", "forcing_amplitude")
    citation: ClassVar[str] = "Li et al., Fourier Neural Operator for Parametric PDEs, ICLR 2021"

    resolution: int = 64
    viscosity: float | tuple[float, float] = 1e-3
    times: Any = tuple(float(t) for t in range(21))
    length: float = 1.0
    forcing: Literal["fno", "kolmogorov", "none"] = "fno"
    forcing_amplitude: float | tuple[float, float] = 0.1
    forcing_wavenumber: int = 4
    drag: float = 0.0
    mean_velocity: tuple[float, float] = (0.0, 0.0)
    initial: Literal["code2020", "code2022", "paper"] = "code2020"
    initial_amplitude: float = 1.0
    alpha: float = 2.5
    tau: float = 7.0
    modes: int = 21
    scheme: Literal["etdrk4", "imex", "reference"] = "etdrk4"
    cfl: float = 0.6
    dt: float | None = None
    precision: Literal["float64", "float32"] = "float64"
    label_resolution: int = 64
    label_restriction: Literal["strided", "spectral"] = "strided"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resolution < 8:
            raise ValueError(f"resolution must be at least 8 points per side, got {self.resolution}.")
        if self.label_resolution < 1:
            raise ValueError(f"label_resolution must be positive, got {self.label_resolution}.")
        check_range("viscosity", self.viscosity)
        check_range("forcing_amplitude", self.forcing_amplitude)
        for name in ("length", "cfl", "initial_amplitude"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        if self.cfl > 2.8:
            raise ValueError(f"cfl={self.cfl} is beyond the stability of four-stage steps; take at most 2.8.")
        if not (math.isfinite(self.drag) and self.drag >= 0):
            raise ValueError(f"drag must not be negative, got {self.drag}.")
        if self.forcing_wavenumber < 1:
            raise ValueError(f"forcing_wavenumber must be at least 1, got {self.forcing_wavenumber}.")
        if self.dt is not None and not (math.isfinite(self.dt) and self.dt > 0):
            raise ValueError(f"dt must be positive, or null for a step that follows the Courant number, got {self.dt}.")
        self._field  # noqa: B018  (raises where alpha, tau or modes are impossible)

    @property
    def grid(self) -> Grid:
        return Grid((self.resolution, self.resolution), "periodic", self.length)

    @property
    def varying(self) -> tuple[str, ...]:
        return tuple(n for n in super().varying if not (n == "forcing_amplitude" and self.forcing == "none"))

    @property
    def restriction(self) -> Method:
        return self.label_restriction

    @property
    def order(self) -> float:
        return {"etdrk4": 4.0, "imex": 2.0, "reference": 1.0}[self.scheme]

    @property
    def _field(self) -> GRF:
        exponent = {"code2020": 2 * self.alpha - 2, "code2022": 2 * self.alpha - 2, "paper": self.alpha - 1}
        variance = self.tau ** exponent[self.initial] * (2 if self.initial == "code2020" else 1)
        return GRF(2, "periodic", self.alpha, self.tau, math.sqrt(variance), self.modes, "drop")

    @property
    def input_law(self) -> str:
        field = self._field
        return (
            f"w(., 0) = {self.initial_amplitude:g} g(x / {self.length:g}), g ~ N(0, {field.sigma**2:g} (-Laplacian + "
            f"{self.tau:g}^2)^-{self.alpha:g}) on the unit torus, |k| <= {self.modes}, no mean ({self.initial})"
        )

    def refined(self) -> PDE:
        changes: dict[str, Any] = {"label_resolution": self.label_grid.refine(2).shape[0]}
        if self.dt or self.scheme == "reference":  # else the Courant number halves the step by itself
            changes["dt"] = (self.dt or REFERENCE_DT) / 2
        return dataclasses.replace(self, **changes)

    def cheaper(self) -> list[PDE]:
        """See `PDE.cheaper`: ETDRK4 in single precision with steps close to the limit of stability."""
        quick = {"scheme": "etdrk4", "precision": "float32", "dt": None, "cfl": LARGE_CFL}
        found = [self._solved_on(n, **quick) for n in self._ladder(least=8)]
        own = self._solved_on(self.label_grid.shape[0])
        return [*(s for s in found if s != own), own]

    def with_fixed_steps(self, inputs: Tensor) -> PDE:
        """See `PDE.with_fixed_steps`: as many for every interval as the inputs need on average, with a Courant number
        of `SMOOTH_CFL` if the problem's own is smaller."""
        if self.dt is not None or self.scheme == "reference":
            return self
        _, figures = dataclasses.replace(self, cfl=max(self.cfl, SMOOTH_CFL))._solve(inputs.to(torch.float64))
        intervals = self.intervals
        count = math.ceil(int(figures["steps"].max()) / len(intervals))
        return dataclasses.replace(self, dt=max(intervals) / count)

    def tile(self, device: str = "cpu") -> int:
        if device != "cpu":
            return super().tile(device)
        points = self.label_grid.weights.numel()
        return max(t for t in (25, 10, 5, 2, 1) if t == 1 or t * points <= CACHED_POINTS)

    def shifts(self) -> list[Shift]:
        """Other viscosities and forces; initial fields larger or smaller, and of the same size but shorter or longer
        waves."""

        def longer(factor: float) -> dict[str, Any]:
            other = dataclasses.replace(self, tau=self.tau / factor)
            size = same_size(self._field, other._field)
            return {"tau": other.tau, "initial_amplitude": self.initial_amplitude * size}

        return [
            *self._parameter_shifts(),
            *self._shifted(
                "initial amplitude", (0.5, 2.0), lambda f: {"initial_amplitude": self.initial_amplitude * f}
            ),
            *self._shifted("correlation length", (0.5, 2.0), longer),
        ]

    def quantities(self, states: Tensor) -> dict[str, Tensor]:
        """Energy 1/2 <u.u>, enstrophy 1/2 <w^2> and palinstrophy 1/2 <grad w.grad w>, <.> the mean over the torus, and
        the mean vorticity, which stays zero; see `PDE.quantities`."""
        spectrum = torch.view_as_real(torch.fft.fft2(states[:, 0].double(), norm="forward")).square().sum(-1)
        unit = 2 * math.pi / self.length
        k = unit * torch.fft.fftfreq(self.resolution, 1 / self.resolution, dtype=torch.float64, device=states.device)
        square = k[:, None] ** 2 + k**2
        weights = {"energy": torch.where(square > 0, 1 / square.clamp_min(1e-300), 0.0)}
        weights |= {"enstrophy": torch.ones_like(square), "palinstrophy": square}
        found = {name: (spectrum * w).sum((-2, -1)) / 2 for name, w in weights.items()}
        return found | {"mean": states[:, 0].double().mean((-2, -1))}

    @property
    def falling(self) -> tuple[str, ...]:
        return ("energy", "enstrophy") if self.forcing == "none" else ()

    def balance(self, before: Tensor, inputs: Tensor, after: Tensor, dt: float) -> tuple[Tensor, Tensor]:
        """R = f - w_t - u . grad w + nu Laplacian w - mu w, and (dE/dt + 2 nu Z + 2 mu E - <f psi>) / (2 nu Z) with
        energy E and enstrophy Z as in `quantities`; <f psi> is the work of the force whose curl is f. See
        `Evolution.balance`."""
        w, grid = inputs[:, 0].double(), self.grid
        nu = self._parameter("viscosity", inputs).double()
        f = self.forcing_field(inputs).double()
        kx, ky = waves(grid, w.device)
        square = kx**2 + ky**2
        psi = multiplied(w, grid, torch.where(square > 0, 1 / square, 0.0))
        u = derivative(psi, grid, 1) + self.mean_velocity[0]
        v = -derivative(psi, grid, 0) + self.mean_velocity[1]
        advection = product(grid, (u, derivative(w, grid, 0)), (v, derivative(w, grid, 1)))
        rate = (after[:, 0].double() - before[:, 0].double()) / (2 * dt)
        viscous = nu[:, None, None] * multiplied(w, grid, square)
        residual = f - rate - advection - viscous - self.drag * w

        now, later, earlier = (self.quantities(states) for states in (inputs, after, before))
        gained = (later["energy"] - earlier["energy"]) / (2 * dt) + 2 * self.drag * now["energy"]
        dissipated = 2 * nu * now["enstrophy"]
        return residual[:, None], (gained + dissipated - (f * psi).mean((-2, -1))) / dissipated

    def forcing_field(self, inputs: Tensor) -> Tensor:
        """f at the points, `(n, x, y)`, or `(1, x, y)` where it is the same for all."""
        unit = 2 * math.pi / self.length
        x, y = self.grid.coordinates.to(inputs.device)
        if self.forcing == "fno":
            shape = torch.sin(unit * (x + y)) + torch.cos(unit * (x + y))
        elif self.forcing == "kolmogorov":
            kappa = unit * self.forcing_wavenumber
            shape = -kappa * torch.cos(kappa * y)
        else:
            shape = torch.zeros_like(x)
        amplitude = self._parameter("forcing_amplitude", inputs).to(inputs.device)
        if "forcing_amplitude" not in self.varying:
            amplitude = amplitude[:1]
        return amplitude[:, None, None] * shape

    def sample(self, n: int, seed: int = 0, first: int = 0) -> Float[Tensor, "n c x y"]:
        """Random initial vorticity, and a constant channel for every parameter drawn per sample; see `PDE.sample`."""
        unit = Grid((self.resolution, self.resolution), "periodic")
        field = self._field.sample(unit, n, seed, first, stream=self.equation)[:, None]
        return self._with_parameters(self.initial_amplitude * field, seed, first)

    def _solve(self, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        points = CACHED_POINTS if inputs.device.type == "cpu" else GPU_POINTS
        parts = [self._solve_tile(part) for part in inputs.split(max(1, points // self.resolution**2))]
        return torch.cat([p[0] for p in parts]), {k: torch.cat([p[1][k] for p in parts]) for k in parts[0][1]}

    def _solve_tile(self, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        flow = _Flow(self, inputs)
        state = flow.analyse(inputs[:, :1])
        frames = [inputs[:, 0].to(torch.float64)]
        steps = torch.zeros(len(inputs), dtype=torch.int64, device=inputs.device)
        courant = torch.zeros(len(inputs), dtype=torch.float64, device=inputs.device)
        tail = torch.zeros_like(courant)
        last = torch.zeros_like(courant)
        for interval in self.intervals:
            state, count = flow.advance(state, interval)
            last = interval / count
            steps += count
            courant = torch.maximum(courant, last * flow.speed(state))
            tail = torch.maximum(tail, flow.tail(state))
            frames.append(flow.synthesise(state))
        if not all(torch.isfinite(frame).all() for frame in frames):
            raise SolverError(
                f"The Navier-Stokes solution blew up with dt={self.dt or REFERENCE_DT:g}. Lower pde.dt, or leave it "
                "null."
            )
        residual = flow.residual(state, last)
        diagnostics = {"residual": residual, "steps": steps, "courant": courant, "spectral_tail": tail}
        return torch.stack(frames, 1)[:, :, None], diagnostics


class _Flow:
    """The semi-discrete equation for a batch of samples: wavenumbers, parameters, work space.

    Spectra are `(n, k_x, k_y, 2)`: rows k_x = 0 .. K, -K .. -1, columns k_y = 0 .. K, real and imaginary part.
    `scheme=reference` keeps every wavenumber of the grid, as the published code does.
    """

    def __init__(self, pde: NavierStokes, inputs: Tensor):
        self.pde, self.n, self.samples = pde, pde.resolution, len(inputs)
        self.reference = pde.scheme == "reference"
        self.dtype = torch.float32 if pde.precision == "float32" else torch.float64
        device = inputs.device
        self.top = self.n // 2 if self.reference else -(-self.n // 3) - 1
        low = (self.n - 1) // 2 if self.reference else self.top  # rows of negative wavenumber
        k = torch.cat([torch.arange(self.n - low), torch.arange(-low, 0)]) if self.reference else (
            torch.cat([torch.arange(self.top + 1), torch.arange(-low, 0)])
        )  # fmt: skip
        if self.reference and self.n % 2 == 0:
            k[self.n // 2] = -(self.n // 2)
        self.rows = self.n - low if self.reference else self.top + 1
        unit = 2 * math.pi / pde.length
        kx = (unit * k.double()).to(device)[:, None]
        ky = (unit * torch.arange(self.top + 1, dtype=torch.float64, device=device))[None]
        square = kx**2 + ky**2
        viscosity = pde._parameter("viscosity", inputs).to(device)
        if "viscosity" not in pde.varying:
            viscosity = viscosity[:1]  # one set of coefficients serves the whole batch
        self.linear = -viscosity[:, None, None] * square - pde.drag
        self.linear_pairs = self.linear[..., None].to(self.dtype)
        self.coefficients: dict[float, tuple[Tensor, ...]] = {}
        inverse = torch.where(square > 0, 1 / square.clamp_min(1e-300), 0.0)
        self.velocity = self._imaginary(ky * inverse, -kx * inverse)
        self.gradient = self._imaginary(kx.expand_as(square), ky.expand_as(square))
        scale = 1 / self.n**2  # of the forward transform
        self.weights = [self._pairs(scale * w) for w in (kx**2 - ky**2, kx * ky)]
        mask = (kx.abs() <= 2 / 3 * unit * (self.n // 2)) & (ky <= 2 / 3 * unit * (self.n // 2))
        self.mask = self._pairs(-scale * mask.double())
        self.drift = any(pde.mean_velocity)
        self.forcing = self.analyse(pde.forcing_field(inputs)[:, None])
        rest = len(k) - self.rows
        self.empty = torch.zeros(1, 1, self.n - self.rows - rest, self.top + 1, 2, dtype=self.dtype, device=device)

    def _pairs(self, values: Tensor) -> Tensor:
        return values[..., None].expand(*values.shape, 2).to(self.dtype).contiguous()

    def _imaginary(self, *factors: Tensor) -> Tensor:
        """Multipliers i g as `(len(factors), k_x, k_y, 2)`, to be applied to a state with its parts exchanged.

        In real arithmetic, because a complex product's last bit depends on where in memory it stands, and with it on
        the batch.
        """
        return torch.stack([self._pairs(g) for g in factors]) * torch.tensor([-1.0, 1.0], device=factors[0].device).to(
            self.dtype
        )

    def analyse(self, values: Tensor) -> Tensor:
        """Spectrum of `(n, 1, x, y)`, cut to the kept wavenumbers."""
        spectrum = torch.fft.fft(torch.fft.rfft(values[:, 0].double(), norm="forward"), dim=-2, norm="forward")
        spectrum = spectrum[..., : self.top + 1]
        if not self.reference:
            spectrum = torch.cat([spectrum[:, : self.rows], spectrum[:, -self.top :]], 1)
        return torch.view_as_real(spectrum.contiguous()).to(self.dtype).contiguous()

    def synthesise(self, state: Tensor) -> Tensor:
        """Values `(n, x, y)` on the grid, float64."""
        spectrum = torch.view_as_complex(state.double())
        full = spectrum.new_zeros(len(state), self.n, self.n // 2 + 1)
        full[:, : self.rows, : self.top + 1] = spectrum[:, : self.rows]
        full[:, self.n - self._rest(state) :, : self.top + 1] = spectrum[:, self.rows :]
        # Axis by axis: the last bits of a transform over two axes at once depend on the batch.
        return torch.fft.irfft(torch.fft.ifft(full, dim=-2, norm="forward"), n=self.n, norm="forward")

    def _rest(self, state: Tensor) -> int:
        return state.shape[1] - self.rows

    def velocities(self, state: Tensor, factor: Tensor | None = None) -> Tensor:
        """Velocity `(n, 2, x, y)` on the grid; or the gradient of the vorticity, with its factor."""
        factor = self.velocity if factor is None else factor
        pairs = state.flip(-1)[:, None] * factor
        empty = self.empty.expand(len(state), 2, *self.empty.shape[2:])
        padded = torch.cat([pairs[:, :, : self.rows], empty, pairs[:, :, self.rows :]], 2)
        columns = torch.fft.ifft(torch.view_as_complex(padded), dim=-2, norm="forward")
        values = torch.fft.irfft(columns, n=self.n, norm="forward")
        if self.drift and factor is self.velocity:
            values[:, 0] += self.pde.mean_velocity[0]
            values[:, 1] += self.pde.mean_velocity[1]
        return values

    def nonlinear(self, state: Tensor) -> Tensor:
        """Spectrum of f - u . grad w."""
        u, v = self.velocities(state).unbind(1)
        products = torch.stack([u * v, torch.addcmul(v * v, u, u, value=-1)], 1)
        columns = torch.fft.rfft(products)[..., : self.top + 1]
        spectrum = torch.view_as_real(torch.fft.fft(columns, dim=-2))
        rest = self._rest(state)
        spectrum = torch.cat([spectrum[:, :, : self.rows], spectrum[:, :, self.n - rest :]], 2)
        out = torch.addcmul(self.forcing, self.weights[0], spectrum[:, 0])
        return torch.addcmul(out, self.weights[1], spectrum[:, 1])

    def convective(self, state: Tensor) -> Tensor:
        """The same as published: u . grad w from its factors, the product masked at two thirds of the Nyquist wave."""
        u, v = self.velocities(state).unbind(1)
        w_x, w_y = self.velocities(state, self.gradient).unbind(1)
        spectrum = torch.view_as_real(torch.fft.rfft2(u * w_x + v * w_y))
        return torch.addcmul(self.forcing, self.mask, spectrum)

    def speed(self, state: Tensor) -> Tensor:
        """Courant number per unit of time step, `(n,)`."""
        u, v = self.velocities(state).unbind(1)
        top = 2 * math.pi * (self.n / 3) / self.pde.length
        return top * (u.abs() + v.abs()).flatten(1).amax(1).double()

    def tail(self, state: Tensor) -> Tensor:
        """Largest coefficient in the outermost tenth of the kept wavenumbers over the largest of all."""
        size = torch.linalg.vector_norm(state.double(), dim=-1)
        edge = max(1, self.top - self.top // 10)
        column = torch.arange(self.top + 1, device=state.device) >= edge
        k = torch.arange(state.shape[1], device=state.device)
        row = torch.minimum(k, state.shape[1] - k) >= edge
        outer = torch.where(row[:, None] | column, size, 0.0).flatten(1).amax(1)
        return outer / size.flatten(1).amax(1).clamp_min(1e-300)

    def step(self, state: Tensor, dt: float) -> Tensor:
        if self.pde.scheme == "etdrk4":
            if dt not in self.coefficients:
                if len(self.coefficients) > 4:
                    self.coefficients.clear()  # sets of six arrays; few are in use at a time
                self.coefficients[dt] = tuple(self._pairs(c) for c in etdrk4_coefficients(self.linear, dt))
            return etdrk4_step(state, self.nonlinear, self.coefficients[dt])
        if self.pde.scheme == "imex":
            return imex_step(state, self.nonlinear, self.linear_pairs, dt)
        return euler_step(state, self.convective, self.linear_pairs, dt)

    def _run(self, state: Tensor, interval: float, count: int) -> Tensor:
        for _ in range(count):
            state = self.step(state, interval / count)
        return state

    def advance(self, state: Tensor, interval: float) -> tuple[Tensor, Tensor]:
        """The state one interval later, and the number of steps each sample took, `(n,)`."""
        fixed = self.pde.dt or (REFERENCE_DT if self.reference else None)
        if fixed is not None:
            count = math.ceil(interval / fixed * (1 - 1e-12))
            return self._run(state, interval, count), torch.full((len(state),), count, device=state.device)
        out = torch.full_like(state, torch.nan)
        counts = self._count(state, interval)
        todo = torch.ones(len(state), dtype=torch.bool, device=state.device)
        while todo.any():
            count = int(counts[todo].min())
            if count > MOST_STEPS:
                raise SolverError(
                    f"The Navier-Stokes solution blew up: {count} steps would not do for a time of {interval:g} "
                    f"(resolution {self.n}, viscosity {self.pde.viscosity}). Raise pde.label_resolution or the "
                    "viscosity, or lower pde.cfl."
                )
            mine = todo & (counts == count)
            rows = mine.nonzero()[:, 0]
            flow = self._subset(rows)
            result = flow._run(state[rows], interval, count)
            # Where the flow sped up on the way the interval is repeated with shorter steps.
            needed = flow._count(result, interval, slack=1.25)
            passed = needed <= count
            out[rows[passed]] = result[passed]
            todo[rows[passed]] = False
            counts[rows[~passed]] = needed[~passed]
        return out, counts

    def _subset(self, rows: Tensor) -> "_Flow":
        """The equation for some of the samples."""
        if len(rows) == self.samples:
            return self
        part = copy.copy(self)
        if len(self.linear) > 1:
            part.linear, part.linear_pairs = self.linear[rows], self.linear_pairs[rows]
        part.forcing = self.forcing[rows] if len(self.forcing) > 1 else self.forcing
        part.coefficients = {} if len(self.linear) > 1 else self.coefficients
        return part

    def _count(self, state: Tensor, interval: float, slack: float = 1.0) -> Tensor:
        """Steps for `interval`, of the form 2^m or 3 * 2^m, that keep the Courant number; few values, so that samples
        share them and their coefficients. A state that blew up needs more than there are."""
        number = self.speed(state) * interval / (self.pde.cfl * slack)
        number = torch.where(torch.isfinite(number), number, float(4 * MOST_STEPS)).clamp(1.0, 4.0 * MOST_STEPS)
        power = 2.0 ** torch.floor(torch.log2(number))
        return (
            torch.where(number <= power, power, torch.where(number <= 1.5 * power, 1.5 * power, 2 * power))
            .ceil()
            .long()
        )

    def residual(self, state: Tensor, dt: Tensor) -> Tensor:
        """Relative change of one more step when it is halved, `(n,)`: the time error made per step."""
        out = torch.zeros(len(state), dtype=torch.float64, device=state.device)
        for value in torch.unique(dt).tolist():
            rows = (dt == value).nonzero()[:, 0]
            flow = self._subset(rows)
            once = flow.step(state[rows], value)
            twice = flow.step(flow.step(state[rows], value / 2), value / 2)
            change = (once - twice).double().flatten(1).norm(dim=1)
            out[rows] = change / twice.double().flatten(1).norm(dim=1).clamp_min(1e-300)
        return out
