"""Black-box multigrid: one V-cycle as a preconditioner for five- and nine-point operators on a square grid,

    (A u)_i = centre_i u_i - sum over the neighbours i + d of coupling_(i, i+d) u_(i+d),

symmetric, of any size and with jumps of any height in its coefficients. Every second point of each axis is kept;
interpolation between them follows the operator itself, so that it bends where the coefficient jumps; coarse operators
are the Galerkin products P^T A P (Alcouffe, Brandt, Dendy and Painter, SIAM J. Sci. Stat. Comput. 2, 1981; Dendy, J.
Comput. Phys. 48, 1982). The smoother is Gauss-Seidel in four colours, in one order before the coarse correction and in
the reverse order after it, which keeps the cycle symmetric.

A colour is a parity of both indices, and each is stored as its own plane: all work is on contiguous arrays. Cycles run
in single precision: a preconditioner shapes the path to the solution, not the solution.
"""

import itertools

import torch
from torch import Tensor

Offset = tuple[int, int]

COLOURS: tuple[Offset, ...] = ((0, 0), (1, 1), (0, 1), (1, 0))
"""Parities of (row, column), in the order of smoothing. (1, 1) are the points of the coarse grid."""
FORWARD: tuple[Offset, ...] = ((0, 1), (1, -1), (1, 0), (1, 1))
"""Half of the eight neighbours. The operator is symmetric: the other half is known from the other side."""
NEIGHBOURS: tuple[Offset, ...] = tuple((i, j) for i, j in itertools.product((-1, 0, 1), repeat=2) if (i, j) != (0, 0))
BOTTOM = 16
"""Points per side from which on the problem is inverted as a dense matrix."""


class VCycle:
    """One symmetric V(1, 1) cycle for the operator given by its stencil.

    Args:
        centre: `(n, m, m)`, positive.
        couplings: By offset in `FORWARD`, `(n, m, m)` each: entry i couples points i and i + d; zero where i + d lies
            outside.
    """

    def __init__(self, centre: Tensor, couplings: dict[Offset, Tensor]):
        self.levels: list[_Level] = []
        while centre.shape[-1] > BOTTOM:
            level = _Level(centre, couplings)
            self.levels.append(level)
            centre, couplings = level.coarse_operator()
            level.bind()
        self.bottom = _inverse(centre, couplings)

    def __call__(self, residual: Tensor, out: Tensor) -> None:
        """Write the approximate solution of A out = residual, both `(n, m, m)`."""
        self._descend(0, residual, out)

    def _descend(self, depth: int, residual: Tensor, out: Tensor) -> None:
        if depth == len(self.levels):
            out.copy_((self.bottom @ residual.to(torch.float32).flatten(1)[..., None]).view(out.shape))
            return
        level = self.levels[depth]
        level.load(residual)
        level.smooth_from_zero()
        level.restrict()
        self._descend(depth + 1, level.coarse_residual, level.coarse_correction)
        level.prolong()
        level.smooth()
        level.unload(out)


class _Level:
    """Operator, interpolation and buffers of one grid. Views are made once: on coarse grids making them costs more than
    the arithmetic."""

    def __init__(self, centre: Tensor, couplings: dict[Offset, Tensor]):
        n, self.size = len(centre), centre.shape[-1]
        self.half = (self.size + 1) // 2  # points per side of a plane; on odd grids the last odd ones are dummies
        self.shape = (n, self.half, self.half)
        self.centre = self._planes(centre, 1.0)
        self.couplings = {d: self._planes(values, 0.0) for d, values in couplings.items()}
        self.inverse = {colour: 1 / plane for colour, plane in self.centre.items()}
        self.edges = {colour: self._edges(colour) for colour in COLOURS}
        self.interpolation = self._interpolation()

    def _planes(self, values: Tensor, dummy: float) -> dict[Offset, Tensor]:
        planes = {}
        for p, q in COLOURS:
            part = values[:, p::2, q::2]
            plane = values.new_full(self.shape, dummy)
            plane[:, : part.shape[1], : part.shape[2]] = part
            planes[p, q] = plane
        return planes

    def _edges(self, colour: Offset) -> list[tuple[Offset, Offset, Tensor]]:
        """(offset d, shift between planes, coupling where both points exist) for every neighbour of a colour."""
        edges = []
        for d in NEIGHBOURS:
            other, shift = _neighbour(colour, d)
            if d in self.couplings:
                edges.append((d, shift, _here(self.couplings[d][colour], shift)))
            elif (-d[0], -d[1]) in self.couplings:
                edges.append((d, shift, _there(self.couplings[-d[0], -d[1]][other], shift)))
        return edges

    def _interpolation(self) -> dict[Offset, dict[Offset, Tensor]]:
        """Weights by colour, then by shift to the coarse point. (1, 1), where the weight is 1, has no entry."""
        weights: dict[Offset, dict[Offset, Tensor]] = {}
        for colour, axis in (((1, 0), 1), ((0, 1), 0)):  # between two coarse points: lump the operator across the line
            to_low, to_high, total = (torch.zeros_like(self.centre[colour]) for _ in range(3))
            total += self.centre[colour]
            for d, shift, coupling in self.edges[colour]:
                if d[axis] == 0:
                    _here(total, shift).sub_(coupling)
                else:
                    _here(to_low if d[axis] < 0 else to_high, shift).add_(coupling)
            low = (0, -1) if axis == 1 else (-1, 0)
            weights[colour] = {low: to_low.div_(total), (0, 0): to_high.div_(total)}
        corners = {o: torch.zeros_like(self.centre[0, 0]) for o in ((-1, -1), (-1, 0), (0, -1), (0, 0))}
        for d, shift, coupling in self.edges[0, 0]:  # amid four: solve its own equation
            other, _ = _neighbour((0, 0), d)
            if other == (1, 1):
                _here(corners[shift], shift).add_(coupling)
            else:
                for o, weight in weights[other].items():
                    corner = corners[shift[0] + o[0], shift[1] + o[1]]
                    _here(corner, shift).addcmul_(coupling, _there(weight, shift))
        weights[0, 0] = {o: weight.mul_(self.inverse[0, 0]) for o, weight in corners.items()}
        return weights

    def coarse_operator(self) -> tuple[Tensor, dict[Offset, Tensor]]:
        """P^T A P on the points of colour (1, 1). A P vanishes on colour (0, 0), whose weights solve its equation."""
        wanted = {(0, 0): torch.zeros_like(self.centre[1, 1])}
        wanted |= {d: torch.zeros_like(self.centre[1, 1]) for d in FORWARD}
        for colour in ((1, 1), (1, 0), (0, 1)):
            own = self.interpolation.get(colour, {(0, 0): None})
            product: dict[Offset, Tensor] = {}  # A P at this colour, by shift to the coarse point
            for o in own:
                for d in wanted:
                    product.setdefault((o[0] + d[0], o[1] + d[1]), torch.zeros_like(self.centre[colour]))
            for o, weight in own.items():
                product[o].add_(self.centre[colour] if weight is None else self.centre[colour] * weight)
            for d, shift, coupling in self.edges[colour]:
                for o, weight in self.interpolation.get(_neighbour(colour, d)[0], {(0, 0): None}).items():
                    target = product.get((shift[0] + o[0], shift[1] + o[1]))
                    if target is None:
                        continue
                    if weight is None:
                        _here(target, shift).sub_(coupling)
                    else:
                        _here(target, shift).addcmul_(coupling, _there(weight, shift), value=-1)
            for o, weight in own.items():
                for d, total in wanted.items():
                    values = product[o[0] + d[0], o[1] + d[1]]
                    if weight is None:
                        total.add_(values)
                    else:
                        _there(total, o).addcmul_(_here(weight, o), _here(values, o))
        kept = self.size // 2
        centre, *others = (values[:, :kept, :kept] for values in wanted.values())
        return centre, {d: values.neg() for d, values in zip(FORWARD, others, strict=True)}

    def bind(self) -> None:
        """Make ready for cycles: round the operator to single precision, allocate buffers, list what is to be done."""
        single = lambda planes: {key: plane.to(torch.float32) for key, plane in planes.items()}  # noqa: E731
        self.couplings = {d: single(planes) for d, planes in self.couplings.items()}
        self.interpolation = {colour: single(weights) for colour, weights in self.interpolation.items()}
        self.inverse = single(self.inverse)
        self.edges = {colour: self._edges(colour) for colour in COLOURS}
        new = lambda: torch.zeros_like(self.inverse[0, 0])  # noqa: E731
        u, f, r = ({colour: new() for colour in COLOURS} for _ in range(3))
        self.u, self.f, self.r = u, f, r
        kept = self.size // 2
        self._coarse_f, self._coarse_u = new(), new()
        self.coarse_residual = self._coarse_f[:, :kept, :kept]
        self.coarse_correction = self._coarse_u[:, :kept, :kept]

        def terms(target: dict[Offset, Tensor], colour: Offset, among: tuple[Offset, ...]) -> list[tuple[Tensor, ...]]:
            found: list[tuple[Tensor, ...]] = []
            for d, shift, coupling in self.edges[colour]:
                other, _ = _neighbour(colour, d)
                if other in among:
                    found.append((_here(target[colour], shift), coupling, _there(u[other], shift)))
            return found

        update = lambda c, among: (u[c], f[c], self.inverse[c], terms(u, c, among))  # noqa: E731
        self._forward = [update(c, COLOURS[:i]) for i, c in enumerate(COLOURS)]
        self._backward = [update(c, COLOURS) for c in reversed(COLOURS)]
        # Just smoothed from zero, a point's residual is what later colours have added to its equation since.
        later = {c: terms(r, c, COLOURS[i + 1 :]) for i, c in enumerate(COLOURS)}
        self._residual = [(r[c], t) for c, t in later.items() if t]
        self._restriction, self._prolongation = [], []
        overwritten: set[Offset] = set()  # smoothed next, from colours not in this set alone: no correction is needed
        for c in reversed(COLOURS):
            if not terms(u, c, tuple(overwritten)):
                overwritten.add(c)
            else:
                break
        for c, weights in self.interpolation.items():
            for o, weight in weights.items():
                if later[c]:
                    self._restriction.append((_there(self._coarse_f, o), _here(weight, o), _here(r[c], o)))
                if c not in overwritten:
                    self._prolongation.append((_here(u[c], o), _here(weight, o), _there(self._coarse_u, o)))

    def load(self, residual: Tensor) -> None:
        for (p, q), plane in self.f.items():
            part = residual[:, p::2, q::2]
            plane[:, : part.shape[1], : part.shape[2]].copy_(part)

    def unload(self, out: Tensor) -> None:
        for (p, q), plane in self.u.items():
            part = out[:, p::2, q::2]
            part.copy_(plane[:, : part.shape[1], : part.shape[2]])

    def smooth_from_zero(self) -> None:
        for u, f, inverse, terms in self._forward:
            if terms:
                _update(u, f, inverse, terms)
            else:
                torch.mul(f, inverse, out=u)

    def restrict(self) -> None:
        for r, terms in self._residual:
            r.zero_()
            for out, coupling, u in terms:
                out.addcmul_(coupling, u)
        self._coarse_f.copy_(self.r[1, 1])
        for out, weight, r in self._restriction:
            out.addcmul_(weight, r)

    def prolong(self) -> None:
        self.u[1, 1].add_(self._coarse_u)
        for out, weight, e in self._prolongation:
            out.addcmul_(weight, e)

    def smooth(self) -> None:
        for u, f, inverse, terms in self._backward:
            _update(u, f, inverse, terms)


def _update(u: Tensor, f: Tensor, inverse: Tensor, terms: list[tuple[Tensor, ...]]) -> None:
    u.copy_(f)
    for out, coupling, other in terms:
        out.addcmul_(coupling, other)
    u.mul_(inverse)


def _neighbour(colour: Offset, d: Offset) -> tuple[Offset, Offset]:
    """Colour of the point at offset `d`, and its shift within that colour's plane."""
    row, column = colour[0] + d[0], colour[1] + d[1]
    return (row % 2, column % 2), (row // 2, column // 2)


def _here(values: Tensor, shift: Offset) -> Tensor:
    """The entries i of a plane whose i + shift exists. A view; made by `narrow`, which costs less than indexing."""
    for axis, s in zip((-2, -1), shift, strict=True):
        if s:
            values = values.narrow(axis, max(0, -s), values.shape[axis] - abs(s))
    return values


def _there(values: Tensor, shift: Offset) -> Tensor:
    """The entries i + shift that go with `_here`."""
    return _here(values, (-shift[0], -shift[1]))


def _inverse(centre: Tensor, couplings: dict[Offset, Tensor]) -> Tensor:
    """Inverse of the operator as a dense matrix, `(n, m * m, m * m)`."""
    n, m, _ = centre.shape
    matrix = torch.zeros(n, m, m, m, m, dtype=torch.float64, device=centre.device)
    row, column = torch.meshgrid(*[torch.arange(m, device=centre.device)] * 2, indexing="ij")
    matrix[:, row, column, row, column] = centre.to(torch.float64)
    for d, values in couplings.items():
        to_row, to_column = row + d[0], column + d[1]
        inside = (to_row < m) & (to_column >= 0) & (to_column < m)
        here, there = (row[inside], column[inside]), (to_row[inside], to_column[inside])
        entries = -values[:, *here].to(torch.float64)
        matrix[:, *here, *there] = entries
        matrix[:, *there, *here] = entries
    factor, failed = torch.linalg.cholesky_ex(matrix.view(n, m * m, m * m))
    failed = (failed > 0)[:, None, None]
    inverse = torch.cholesky_inverse(torch.where(failed, torch.eye(m * m).to(factor), factor)).to(torch.float32)
    return torch.where(failed, torch.nan, inverse)  # whoever iterates with it will not converge
