"""Time steps for semi-linear equations v_t = L v + N(v), L diagonal, in Fourier space.

    etdrk4    exponential time differencing, fourth order: L is exact, and so is a constant part of N
              Cox and Matthews, J. Comput. Phys. 176 (2002); phi functions by contour means, Kassam and Trefethen, SIAM
              J. Sci. Comput. 26 (2005)
    imex      low-storage Runge-Kutta of order four for N (Carpenter and Kennedy, NASA TM-109112, 1994) with
              Crank-Nicolson for L: second order in all; state and one register instead of five stages and six weights
    euler     forward Euler for N with Crank-Nicolson for L: first order, what published generators use

States are real: complex coefficients are pairs along a last axis of length 2, and L is real.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Nonlinear = Callable[[Tensor], Tensor]
CONTOUR_POINTS = 32


def etdrk4_coefficients(linear: Tensor, dt: float) -> tuple[Tensor, ...]:
    """exp(z), exp(z/2), and the weights Q, f1, f2, f3 of Kassam and Trefethen, for z = dt * linear, float64.

    The closed forms lose all digits where z is small; their mean over a circle around z does not. For real z half the
    circle suffices. Equal entries of `linear`, of which a square of wavenumbers has many, are computed once.
    """
    distinct, places = torch.unique(linear.to(torch.float64), return_inverse=True)
    z = dt * distinct
    angle = torch.pi * (torch.arange(CONTOUR_POINTS, dtype=torch.float64, device=z.device) + 0.5) / CONTOUR_POINTS
    r = z[..., None] + torch.exp(1j * angle)
    e = torch.exp(r)
    cube = r**3

    def mean(values: Tensor) -> Tensor:
        return dt * values.mean(-1).real

    q = mean((torch.exp(r / 2) - 1) / r)
    f1 = mean((-4 - r + e * (4 - 3 * r + r**2)) / cube)
    f2 = mean(2 * (2 + r + e * (r - 2)) / cube)
    f3 = mean((-4 - 3 * r - r**2 + e * (4 - r)) / cube)
    return tuple(c[places] for c in (torch.exp(z), torch.exp(z / 2), q, f1, f2, f3))


def etdrk4_step(v: Tensor, nonlinear: Nonlinear, coefficients: tuple[Tensor, ...]) -> Tensor:
    """One step; coefficients broadcast against v."""
    e, e_half, q, f1, f2, f3 = coefficients
    n_v = nonlinear(v)
    decayed = e_half * v
    a = torch.addcmul(decayed, q, n_v)
    n_a = nonlinear(a)
    n_b = nonlinear(torch.addcmul(decayed, q, n_a))
    c = torch.addcmul(e_half * a, q, torch.sub(2 * n_b, n_v))
    n_c = nonlinear(c)
    out = torch.addcmul(e * v, f1, n_v)
    return out.addcmul_(f2, n_a.add_(n_b)).addcmul_(f3, n_c)


RK_A = (
    0.0, -567301805773 / 1357537059087, -2404267990393 / 2016746695238, -3550918686646 / 2091501179385,
    -1275806237668 / 842570457699,
)  # fmt: skip
RK_B = (
    1432997174477 / 9575080441755, 5161836677717 / 13612068292357, 1720146321549 / 2090206949498,
    3134564353537 / 4481467310338, 2277821191437 / 14882151754819,
)  # fmt: skip
RK_C = (
    0.0, 1432997174477 / 9575080441755, 2526269341429 / 6820363962896, 2006345519317 / 3224310063776,
    2802321613138 / 2924317926251, 1.0,
)  # fmt: skip


def imex_step(v: Tensor, nonlinear: Nonlinear, linear: Tensor, dt: float) -> Tensor:
    """One step of five stages; from one to the next only the state and one register are kept."""
    register = torch.zeros_like(v)
    for a, b, start, end in zip(RK_A, RK_B, RK_C, RK_C[1:], strict=False):
        register.mul_(a).add_(nonlinear(v))
        half = (0.5 * dt * (end - start)) * linear
        v = torch.addcmul(v, half, v).add_(register, alpha=b * dt).div_(half.neg_().add_(1))
    return v


def euler_step(v: Tensor, nonlinear: Nonlinear, linear: Tensor, dt: float) -> Tensor:
    """One step of forward Euler with Crank-Nicolson."""
    return ((1 + 0.5 * dt * linear) * v + dt * nonlinear(v)) / (1 - 0.5 * dt * linear)
