"""-div(a grad u) = f on the unit square with values of u given on its boundary: discretisation and linear solvers.

Discretisation: five-point flux form on nodes or on cell centres,

    sum over the four faces of  a_face (u_i - u_neighbour) / h^2  =  f_i,

the coefficient on a face being the harmonic mean of its two points: the flux through two layers in series. (An
arithmetic mean is first-order wrong at a jump.) On nodes the boundary values are unknowns already known; on cells the
wall is half a cell away, a_face = 2 a_i.

Solvers. Conjugate gradients (Hestenes and Stiefel 1952) in double precision, preconditioned in single precision by

    sine        the constant-coefficient Laplacian, inverted exactly by sine transforms; the condition number is
                max a / min a on every grid (Concus and Golub, SIAM J. Numer. Anal. 10, 1973);
    multigrid   one V-cycle of black-box multigrid, for which neither the grid nor the contrast matters much;

or `direct`, sparse LU factors.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from opkit.errors import SolverError
from opkit.pdes.multigrid import VCycle
from opkit.transforms import dst1, dst2, dst3

Solver = Literal["auto", "sine", "multigrid", "direct"]
SOLVERS = ("sine", "multigrid", "direct")
"""What the diagnostic `solver` counts: 0, 1, 2."""
FaceMean = Literal["harmonic", "arithmetic"]
WallLocation = Literal["node", "cell"]
WORST_RESIDUAL = 1e-2
"""Relative residual from which on an answer is refused, whichever solver gave it."""


def solve_dirichlet(
    a: Float[Tensor, "n x y"],
    f: Float[Tensor, "n x y"],
    boundary: Float[Tensor, "n x y"] | None = None,
    location: WallLocation = "node",
    face_mean: FaceMean = "harmonic",
    solver: Solver = "auto",
    tolerance: float = 1e-9,
) -> tuple[Float[Tensor, "n x y"], dict[str, Tensor]]:
    """Solve -div(a grad u) = f on the unit square, u given on its boundary.

    Args:
        a: Positive coefficient, float64, at all points of the grid.
        f: Source at all points; on nodes those of the boundary are not used.
        boundary: Values of u on the boundary as the trace of a field given at all points; None is zero. On nodes the
            trace are the boundary nodes; on cells it is extrapolated quadratically from the three next to the wall.
        location: "node" (boundary included) or "cell".
        face_mean: "harmonic" or "arithmetic".
        solver: One of `SOLVERS`, or "auto": see `choose`, and sparse LU where that does not converge.
        tolerance: Relative error aimed at. Iterations stop when the residual's norm in the preconditioner has fallen by
            tolerance / sqrt(c), c = max a / min a (tolerance / c for "sine"). With multigrid that norm is the error's
            energy norm, but for a few percent, which weighs regions by a; the division makes up for it.

    Returns:
        u at all points, and per sample `solver` (index into `SOLVERS`), `iterations` (0 for direct) and `residual` =
        |b - A u| / |b| of the linear system, recomputed from the result.

    Raises:
        SolverError: The solver asked for did not reach the tolerance.
    """
    if a.device.type == "cpu":  # one sample at a time fits the cache, and no sample sees its neighbours
        rows = [slice(i, i + 1) for i in range(len(a))]
        parts = [
            _solve(a[i], f[i], None if boundary is None else boundary[i], location, face_mean, solver, tolerance)
            for i in rows
        ]
        return torch.cat([p[0] for p in parts]), {k: torch.cat([p[1][k] for p in parts]) for k in parts[0][1]}
    return _solve(a, f, boundary, location, face_mean, solver, tolerance)


def choose(contrast: float, points: int, location: WallLocation = "node") -> Literal["sine", "multigrid"]:
    """The iteration that takes less time, as measured on one CPU thread: sine transforms on coarse grids and for low
    contrast, multigrid for all else. Transforms take twice as long on cells.

    Args:
        contrast: max a / min a.
        points: Points per side.
        location: "node" or "cell".
    """
    highest = (900 if location == "node" else 300) / points
    return "sine" if contrast <= max(1.1, min(10.0, highest)) else "multigrid"


def _solve(
    a: Tensor,
    f: Tensor,
    boundary: Tensor | None,
    location: WallLocation,
    face_mean: FaceMean,
    solver: Solver,
    tolerance: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    contrast = a.amax((1, 2)) / a.amin((1, 2))
    scale = a.amax((1, 2), keepdim=True)  # single precision has a range too
    operator, walls = discretise(a / scale, location, face_mean)
    inner = slice(1, -1) if location == "node" else slice(None)
    b = f[:, inner, inner] / (scale * operator.points_across(location) ** 2)
    if boundary is not None:
        b = b.clone()
        for edge, coupling, trace in zip(_EDGES, walls, _traces(boundary, location), strict=True):
            b[edge] += coupling * trace
    height = b.abs().amax((1, 2), keepdim=True)
    height = torch.where(height > 0, height, 1.0)
    b = (b / height).contiguous()

    chosen = [solver if solver != "auto" else choose(c, a.shape[-1], location) for c in contrast.tolist()]
    u = torch.zeros_like(b)
    iterations = torch.zeros(len(a), dtype=torch.int64, device=a.device)
    used = torch.tensor([SOLVERS.index(name) for name in chosen], device=a.device)
    for name in ("sine", "multigrid"):
        mine = used == SOLVERS.index(name)
        if not mine.any():
            continue
        precondition: Callable[[Tensor, Tensor], None]
        if name == "sine":
            precondition = SineSolver(b, location)
            fall = tolerance / contrast
            limit = 10 + (contrast.sqrt() * torch.log(2 / fall)).ceil().clamp_max(2000).to(torch.int64)
        else:
            # Where single precision cannot tell a weak coupling from rounding, the cycle is set up in double.
            steep = contrast.max().item() > 1e4
            precondition = VCycle(*operator.stencil(torch.float64 if steep else torch.float32))
            fall = tolerance / contrast.sqrt()
            limit = torch.full_like(iterations, 60)
        found, count, done = conjugate_gradients(operator, precondition, b, fall, limit, mine)
        failed = mine & ~done
        if failed.any() and solver != "auto":
            raise SolverError(
                f"The {name} solver did not reach tolerance {tolerance:g} in {int(limit[failed].min())} iterations "
                f"(contrast max a / min a = {contrast[failed].max().item():.3g}). Use pde.solver=auto or "
                "pde.solver=direct, or raise pde.tolerance."
            )
        u = torch.where((mine & done)[:, None, None], found, u)
        iterations = torch.where(mine & done, count, iterations)
        used[failed] = SOLVERS.index("direct")
    for i in (used == SOLVERS.index("direct")).nonzero().flatten().tolist():
        u[i] = operator.direct(i, b[i])
    size = torch.linalg.vector_norm(b, dim=(1, 2))
    out = torch.empty_like(b)
    operator.bind(u, out)()
    residual = torch.linalg.vector_norm(b - out, dim=(1, 2)) / torch.where(size > 0, size, 1.0)
    if not (residual < WORST_RESIDUAL).all():
        raise SolverError(
            f"The linear system of -div(a grad u) = f cannot be solved in double precision: relative residual "
            f"{residual.max().item():.1e}, contrast max a / min a = {contrast.max().item():.3g}. "
            "Give a coefficient with less contrast."
        )
    solution = torch.zeros_like(a) if boundary is None else boundary.clone()
    solution[:, inner, inner] = height * u
    return solution, {"residual": residual, "iterations": iterations, "solver": used}


def residual_square(
    a: Float[Tensor, "n x y"],
    u: Float[Tensor, "n x y"],
    f: Float[Tensor, "n x y"],
    boundary: Float[Tensor, "n x y"] | None = None,
    location: WallLocation = "node",
    face_mean: FaceMean = "harmonic",
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """How far any u is from solving the discrete equation, without its solution: squared norms of b - A u and of b.

    The norm is the inverse discrete Laplacian's, (r, L^-1 r), in which the residual is about as large as a grad e, with
    e the error: within the contrast of a, it is the error's energy. In the plain norm, rough errors would count most.
    What u differs from its boundary values counts as the gradient it makes across one cell.

    Arguments are those of `solve_dirichlet`, and u at all points; differentiable, in the precision given.
    """
    operator, walls, b, given = _equations(a, f, boundary, location, face_mean)
    inner = slice(1, -1) if location == "node" else slice(None)
    edges = torch.zeros(len(a), dtype=u.dtype, device=u.device)
    if location == "node":
        for edge, coupling, trace in zip(_EDGES, walls, _traces(given, location), strict=True):
            own = u[:, :, 1:-1][edge] if len(edge) == 2 else u[:, 1:-1][edge]
            edges = edges + (coupling * (own - trace)).square().sum(1)
    inverse = SineSolver(b, location)
    r = b - operator.of(u[:, inner, inner])
    squares = [(inverse.inverse.to(v) * inverse.forward(v, 2).square()).sum((1, 2)) for v in (r, b)]
    return squares[0] + edges, squares[1]


def imbalance(
    a: Float[Tensor, "n x y"],
    u: Float[Tensor, "n x y"],
    f: Float[Tensor, "n x y"],
    boundary: Float[Tensor, "n x y"] | None = None,
    location: WallLocation = "node",
    face_mean: FaceMean = "harmonic",
) -> Float[Tensor, " n"]:
    """|what the source gives - what leaves through the walls| over what the source gives and takes, of any u: zero for
    solutions of the five-point equations on this grid. Arguments are those of `residual_square`."""
    operator, _, b, _ = _equations(a, f, boundary, location, face_mean)
    inner = slice(1, -1) if location == "node" else slice(None)
    given = f[:, inner, inner].abs().sum((1, 2)) / operator.points_across(location) ** 2
    return (b - operator.of(u[:, inner, inner])).sum((1, 2)).abs() / given


def _equations(
    a: Tensor, f: Tensor, boundary: Tensor | None, location: WallLocation, face_mean: FaceMean
) -> tuple[Any, Any, Tensor, Tensor]:
    """A, its couplings to the walls, b, and the boundary values at all points."""
    operator, walls = discretise(a, location, face_mean)
    inner = slice(1, -1) if location == "node" else slice(None)
    b = f[:, inner, inner] / operator.points_across(location) ** 2
    given = torch.zeros_like(a) if boundary is None else boundary
    for edge, coupling, trace in zip(_EDGES, walls, _traces(given, location), strict=True):
        row = torch.zeros_like(b)
        row[edge] = coupling * trace
        b = b + row
    return operator, walls, b, given


_ALL = slice(None)
_EDGES = ((_ALL, 0), (_ALL, -1), (_ALL, _ALL, 0), (_ALL, _ALL, -1))
"""Index of the unknowns next to each wall: x = 0, x = 1, y = 0, y = 1."""


def _traces(boundary: Tensor, location: WallLocation) -> list[Tensor]:
    """Boundary values beside the unknowns next to each wall, ordered as `_EDGES`."""
    if location == "node":
        return [boundary[:, 0, 1:-1], boundary[:, -1, 1:-1], boundary[:, 1:-1, 0], boundary[:, 1:-1, -1]]
    lines = [[boundary.movedim(axis, 0)[i] for i in rows] for axis in (1, 2) for rows in ((0, 1, 2), (-1, -2, -3))]
    return [(15 * first - 10 * second + 3 * third) / 8 for first, second, third in lines]


@dataclass(frozen=True)
class FivePoint:
    """The matrix of the discrete equation times h^2, matrix-free.

    Args:
        centre: Diagonal, `(n, m, m)`.
        x_faces: Couplings of the points (i, j) and (i + 1, j), `(n, m - 1, m)`.
        y_faces: Couplings of the points (i, j) and (i, j + 1), `(n, m, m - 1)`.
    """

    centre: Tensor
    x_faces: Tensor
    y_faces: Tensor

    def points_across(self, location: WallLocation) -> int:
        """1 / h."""
        return self.centre.shape[-1] + (1 if location == "node" else 0)

    def bind(self, u: Tensor, out: Tensor) -> Callable[[], None]:
        """A function that writes A u to `out`; views are made once."""
        x, y = self.x_faces, self.y_faces
        terms = (
            (out[:, 1:], x, u[:, :-1]),
            (out[:, :-1], x, u[:, 1:]),
            (out[:, :, 1:], y, u[:, :, :-1]),
            (out[:, :, :-1], y, u[:, :, 1:]),
        )

        def apply() -> None:
            torch.mul(self.centre, u, out=out)
            for target, coupling, neighbour in terms:
                target.addcmul_(coupling, neighbour, value=-1)

        return apply

    def of(self, u: Tensor) -> Tensor:
        """A u, differentiable."""
        x, y = self.x_faces, self.y_faces
        return (
            self.centre * u - pad(x * u[:, :-1], (0, 0, 1, 0)) - pad(x * u[:, 1:], (0, 0, 0, 1))
            - pad(y * u[:, :, :-1], (1, 0)) - pad(y * u[:, :, 1:], (0, 1))
        )  # fmt: skip

    def stencil(self, dtype: torch.dtype) -> tuple[Tensor, dict[tuple[int, int], Tensor]]:
        """The arguments of `VCycle`."""
        x, y = (torch.zeros_like(self.centre, dtype=dtype) for _ in range(2))
        x[:, :-1] = self.x_faces
        y[:, :, :-1] = self.y_faces
        return self.centre.to(dtype), {(1, 0): x, (0, 1): y}

    def direct(self, i: int, b: Tensor) -> Tensor:
        """Solution of sample i's system by sparse LU factors."""
        from scipy.sparse import csc_array, diags
        from scipy.sparse.linalg import splu

        m = self.centre.shape[-1]
        y = torch.zeros(m, m, dtype=torch.float64)
        y[:, :-1] = self.y_faces[i].cpu()
        centre, across, along = (t.flatten().numpy() for t in (self.centre[i].cpu(), -self.x_faces[i].cpu(), -y))
        along = along[:-1]
        matrix = csc_array(diags([centre, across, across, along, along], [0, m, -m, 1, -1]))  # type: ignore[arg-type]
        try:
            factors = splu(matrix, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
        except RuntimeError as problem:
            raise SolverError(
                f"The linear system of -div(a grad u) = f has no LU factors in double precision ({problem}). "
                "Give a coefficient with less contrast max a / min a."
            ) from None
        return torch.from_numpy(factors.solve(b.cpu().flatten().numpy())).view(m, m).to(b.device)


def discretise(a: Tensor, location: WallLocation, face_mean: FaceMean) -> tuple[FivePoint, list[Tensor]]:
    """The operator for a coefficient `(n, x, y)`, and the couplings to each wall, ordered as `_EDGES`."""
    if location == "node":
        x = _face(a[:, :-1, 1:-1], a[:, 1:, 1:-1], face_mean)
        y = _face(a[:, 1:-1, :-1], a[:, 1:-1, 1:], face_mean)
    else:
        x = torch.cat([2 * a[:, :1], _face(a[:, :-1], a[:, 1:], face_mean), 2 * a[:, -1:]], 1)
        y = torch.cat([2 * a[:, :, :1], _face(a[:, :, :-1], a[:, :, 1:], face_mean), 2 * a[:, :, -1:]], 2)
    centre = (x[:, :-1] + x[:, 1:]).add_(y[:, :, :-1]).add_(y[:, :, 1:])
    walls = [x[:, 0], x[:, -1], y[:, :, 0], y[:, :, -1]]
    return FivePoint(centre, x[:, 1:-1], y[:, :, 1:-1]), walls


def _face(left: Tensor, right: Tensor, mean: FaceMean) -> Tensor:
    if mean == "arithmetic":
        return (left + right).div_(2)
    return (left / (left + right)).mul_(right).mul_(2)  # no product of two small numbers


class SineSolver:
    """The inverse of the discrete Laplacian times h^2, in single precision, by sine transforms.

    Args:
        like: Tensor of the shape and on the device of the unknowns.
        location: "node" or "cell".
    """

    def __init__(self, like: Tensor, location: WallLocation):
        m = like.shape[-1]
        across = m + 1 if location == "node" else m
        k = torch.arange(1, m + 1, dtype=torch.float64, device=like.device)
        line = (2 * torch.sin(math.pi * k / (2 * across))) ** 2
        weight = torch.full_like(line, 2 / across)
        if location == "cell":
            weight[-1] /= 2
        self.inverse = (weight[:, None] * weight / (line[:, None] + line)).to(torch.float32)
        self.forward, self.backward = (dst1, dst1) if location == "node" else (dst2, dst3)

    def __call__(self, residual: Tensor, out: Tensor) -> None:
        out.copy_(self.backward(self.inverse * self.forward(residual.to(torch.float32), 2), 2))


def conjugate_gradients(
    operator: FivePoint,
    precondition: Callable[[Tensor, Tensor], None],
    b: Tensor,
    fall: Tensor,
    limit: Tensor,
    wanted: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Preconditioned conjugate gradients from zero, sample by sample in one batch.

    Args:
        operator: The matrix A.
        precondition: Writes an approximation of A^-1 of its first argument to its second.
        b: Right sides, `(n, m, m)`.
        fall: A sample is done when its residual's norm in the preconditioner has fallen by this factor, `(n,)`.
        limit: Iterations after which a sample is given up, `(n,)`.
        wanted: Samples to solve, `(n,)` bool. The others cost time: they keep every sample at its place in the batch.

    Returns:
        Solutions, iterations, and which samples are done.
    """
    u, r, z, q = torch.zeros_like(b), b.clone(), torch.empty_like(b), torch.empty_like(b)
    precondition(r, z)
    p = z.clone()
    apply = operator.bind(p, q)
    rz = _dot(r, z)
    target = fall.view(-1, 1, 1) ** 2 * rz
    iterations = torch.zeros(len(b), dtype=torch.int64, device=b.device)
    done = (rz == 0).flatten()  # nothing to do: b is zero
    active = wanted.view(-1, 1, 1) & (rz > 0)
    while active.any():
        apply()
        step = torch.where(active, rz / _dot(p, q), 0.0)
        u.addcmul_(step, p)
        r.addcmul_(step, q, value=-1)
        precondition(r, z)
        rz, previous = _dot(r, z), rz
        torch.addcmul(z, torch.where(active, rz / previous, 0.0), p, out=p)
        iterations += active.flatten()
        done |= (active & (rz <= target)).flatten()
        active = active & (rz > target) & (iterations < limit).view(-1, 1, 1)
    return u, iterations, done


def _dot(v: Tensor, w: Tensor) -> Tensor:
    """Scalar products sample by sample, `(n, 1, 1)`; as matrix products they need no memory for the terms."""
    n = len(v)
    return torch.bmm(v.view(n, 1, -1), w.view(n, -1, 1))
