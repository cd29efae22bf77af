"""Steady Darcy flow -div(a grad u) = f on the unit square, u = 0 on its boundary: learn a -> u.

The coefficient follows Li et al., "Fourier Neural Operator" (ICLR 2021) and Kovachki et al. (JMLR 2023), section 6.2:
a = 12 where g >= 0 and 3 elsewhere, g ~ N(0, (-Laplacian + 9)^-2) with Neumann walls, f = 1.

Discretisation: five-point flux form on nodes, coefficient on a face = harmonic mean of its two nodes (the flux through
two layers in series; an arithmetic mean is first-order wrong at a jump). Solver: conjugate gradients preconditioned by
the constant-coefficient Laplacian, which two sine transforms invert exactly. Its condition number is max a / min a on
every grid, so the number of iterations does not grow with resolution (Concus and Golub, SIAM J. Numer. Anal. 10, 1973).
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from opkit.fields import GRF
from opkit.grid import Grid
from opkit.pdes.base import PDE
from opkit.transforms import dst1


@dataclass(frozen=True, eq=False)
class Darcy(PDE):
    """Darcy flow on the unit square, nodes including the boundary.

    Args:
        resolution: Nodes per side n; spacing h = 1 / (n - 1).
        coefficient: "threshold" takes two values by the sign of g; "lognormal" is exp(g).
        values: a where g < 0 and where g >= 0, for "threshold".
        forcing: Constant source f.
        alpha: Exponent of g's covariance (-Laplacian + tau^2)^-alpha.
        tau: Inverse correlation length of g.
        sigma: Amplitude of g; without effect on "threshold".
        mean: "keep" or "drop" the constant mode of g. Li et al. state the law with it; their generator drops it.
        modes: Highest wavenumber of g along each axis.
        face_mean: "harmonic", or "arithmetic" for comparison with data made that way.
        label_resolution: Nodes per side of the grid that labels of a dataset are solved on, before every r-th node is
            kept; rounded up to a refinement of the grid. 421 with resolution 85 is the FNO paper's setting.
        tolerance: Conjugate gradients stop when the energy norm of the preconditioned residual has fallen by this
            factor.
    """

    equation: ClassVar[str] = "darcy"
    formula: ClassVar[str] = "-div(a grad u) = f on (0, 1)^2, u = 0 on the boundary"
    inputs: ClassVar[tuple[str, ...]] = ("a",)
    outputs: ClassVar[tuple[str, ...]] = ("u",)

    resolution: int = 85
    coefficient: Literal["threshold", "lognormal"] = "threshold"
    values: tuple[float, float] = (3.0, 12.0)
    forcing: float = 1.0
    alpha: float = 2.0
    tau: float = 3.0
    sigma: float = 1.0
    mean: Literal["keep", "drop"] = "keep"
    modes: int = 420
    face_mean: Literal["harmonic", "arithmetic"] = "harmonic"
    label_resolution: int = 421
    tolerance: float = 1e-9

    def __post_init__(self) -> None:
        if self.resolution < 5:
            raise ValueError(f"resolution must be at least 5 nodes per side, got {self.resolution}.")
        if self.label_resolution < 1:
            raise ValueError(f"label_resolution must be positive, got {self.label_resolution}.")
        for name in ("forcing", "alpha", "tau", "sigma"):
            value = getattr(self, name)
            if not math.isfinite(value) or (name != "forcing" and value < 0):
                raise ValueError(
                    f"{name} must be finite{'' if name == 'forcing' else ' and not negative'}, got {value}."
                )
        if self.forcing == 0:
            raise ValueError("forcing=0 makes every solution zero: there is nothing to learn.")
        if not all(math.isfinite(v) and v > 0 for v in self.values):
            raise ValueError(f"values must be positive (the equation is elliptic), got {self.values}.")
        if not 1e-14 <= self.tolerance < 1:
            raise ValueError(f"tolerance must lie between 1e-14 and 1, got {self.tolerance}.")
        self._field  # noqa: B018  (raises where alpha, tau or modes are impossible)

    @property
    def grid(self) -> Grid:
        return Grid((self.resolution, self.resolution), "node")

    @property
    def boundary(self) -> str:
        return "u = 0 on all walls"

    @property
    def symmetries(self) -> int:
        return 3

    @property
    def input_law(self) -> str:
        law = f"g ~ N(0, {self.sigma:g}^2 (-Laplacian + {self.tau:g}^2)^-{self.alpha:g}), Neumann walls"
        if self.coefficient == "lognormal":
            return f"a = exp(g), {law}"
        return f"a = {self.values[1]:g} where g >= 0, else {self.values[0]:g}, {law}"

    @property
    def _field(self) -> GRF:
        return GRF(2, "neumann", self.alpha, self.tau, self.sigma, self.modes, self.mean)

    def sample(self, n: int, seed: int = 0, first: int = 0) -> Float[Tensor, "n 1 x y"]:
        """Random coefficients; see `PDE.sample`."""
        g = self._field.sample(self.grid, n, seed, first, stream=self.equation)[:, None]
        if self.coefficient == "lognormal":
            return torch.exp(g)
        low, high = self.values
        return torch.where(g >= 0, high, low).to(torch.float64)

    def _solve(self, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if not (inputs > 0).all():
            raise ValueError(f"Darcy.solve needs a positive coefficient a everywhere, got min a = {inputs.min():g}.")
        forcing = torch.full_like(inputs[:, 0, 1:-1, 1:-1], self.forcing)
        solution, diagnostics = solve_dirichlet(inputs[:, 0], forcing, self.face_mean, self.tolerance)
        return solution[:, None], diagnostics


def solve_dirichlet(
    a: Float[Tensor, "n x y"], f: Float[Tensor, "n i j"], face_mean: str = "harmonic", tolerance: float = 1e-9
) -> tuple[Float[Tensor, "n x y"], dict[str, Tensor]]:
    """Solve -div(a grad u) = f with u = 0 on the boundary of the unit square.

    Args:
        a: Positive coefficient at the nodes, boundary included, float64.
        f: Source at the interior nodes.
        face_mean: "harmonic" or "arithmetic".
        tolerance: Relative fall of the preconditioned residual's energy norm.

    Returns:
        u at the nodes, and per sample `iterations` and `residual` = |f - A u| / |f|, recomputed from the result.
    """
    if a.device.type == "cpu":  # one sample at a time fits the cache, and no sample sees its neighbours
        parts = [_conjugate_gradients(a[i : i + 1], f[i : i + 1], face_mean, tolerance) for i in range(len(a))]
        return torch.cat([p[0] for p in parts]), {k: torch.cat([p[1][k] for p in parts]) for k in parts[0][1]}
    return _conjugate_gradients(a, f, face_mean, tolerance)


def _conjugate_gradients(a: Tensor, f: Tensor, face_mean: str, tolerance: float) -> tuple[Tensor, dict[str, Tensor]]:
    n, m = len(a), a.shape[-1] - 2
    h = 1 / (m + 1)
    x_faces = _face(a[:, :-1, 1:-1], a[:, 1:, 1:-1], face_mean) / h**2
    y_faces = _face(a[:, 1:-1, :-1], a[:, 1:-1, 1:], face_mean) / h**2
    diagonal = x_faces[:, :-1] + x_faces[:, 1:] + y_faces[:, :, :-1] + y_faces[:, :, 1:]

    def apply(u: Tensor) -> Tensor:
        out = diagonal * u
        out[:, 1:].addcmul_(x_faces[:, 1:-1], u[:, :-1], value=-1)
        out[:, :-1].addcmul_(x_faces[:, 1:-1], u[:, 1:], value=-1)
        out[:, :, 1:].addcmul_(y_faces[:, :, 1:-1], u[:, :, :-1], value=-1)
        out[:, :, :-1].addcmul_(y_faces[:, :, 1:-1], u[:, :, 1:], value=-1)
        return out

    # Single precision is enough for the preconditioner: it shapes the path, not the answer, and costs half.
    k = torch.arange(1, m + 1, dtype=torch.float64, device=a.device)
    line = (2 / h * torch.sin(math.pi * k * h / 2)) ** 2
    inverse = ((2 * h) ** 2 / (line[:, None] + line)).to(torch.float32)

    scale = f.abs().amax((1, 2), keepdim=True).clamp_min(torch.finfo(f.dtype).tiny)
    f = f / scale  # keeps float32 in range; undone at the end

    def precondition(r: Tensor) -> Tensor:
        return dst1(inverse * dst1(r.to(torch.float32), 2), 2).to(r.dtype)

    def dot(v: Tensor, w: Tensor) -> Tensor:
        return torch.linalg.vecdot(v.flatten(1), w.flatten(1)).view(-1, 1, 1)

    u, r = torch.zeros_like(f), f.clone()
    z = precondition(r)
    p, rz = z, dot(r, z)
    target = tolerance**2 * rz
    active = rz > 0
    iterations = torch.zeros(n, dtype=torch.int64, device=a.device)
    bound = 10 + 20 * math.ceil(math.sqrt((a.max() / a.min()).item()) * math.log(2 / tolerance) / 2)
    for _ in range(bound):
        if not active.any():
            break
        ap = apply(p)
        step = torch.where(active, rz / dot(p, ap), 0.0)
        u.addcmul_(step, p)
        r.addcmul_(step, ap, value=-1)
        z = precondition(r)
        rz, previous = dot(r, z), rz
        p = torch.addcmul(z, torch.where(active, rz / previous, 0.0), p)
        iterations += active.view(n)
        active = active & (rz > target)
    residual = torch.linalg.vector_norm(f - apply(u), dim=(1, 2)) / torch.linalg.vector_norm(f, dim=(1, 2))
    if active.any():
        raise ArithmeticError(
            f"Conjugate gradients did not reach tolerance {tolerance:g} in {bound} iterations (residual "
            f"{residual.max():.1e}, contrast max a / min a = {(a.max() / a.min()).item():.3g}). Raise pde.tolerance."
        )
    solution = torch.zeros_like(a)
    solution[:, 1:-1, 1:-1] = scale * u
    return solution, {"residual": residual, "iterations": iterations}


def _face(left: Tensor, right: Tensor, mean: str) -> Tensor:
    return 2 * left * right / (left + right) if mean == "harmonic" else (left + right) / 2
