"""Deep operator network: a sum of learned functions of the point, weighed by learned functionals of the input field.

Lu, Jin, Pang, Zhang and Karniadakis, "Learning nonlinear operators via DeepONet based on the universal approximation
theorem of operators", Nature Machine Intelligence 3 (2021) 218-229 (arXiv 1910.03193):

    u(y) = sum_k b_k(v(x_1), ..., v(x_m)) t_k(y) + b_0

with a branch network b of the field at m fixed sensors and a trunk network t of the point. Convolutional branches,
waves as the trunk's input on periodic domains and separate b and t for each output channel are those of Lu et al., "A
comprehensive and fair comparison of two neural operators", CMAME 393 (2022) 114778 (arXiv 2111.05512).

Notes on this implementation:

- The sensors are the points of the training grid, where the field on any other grid is interpolated linearly; the trunk
  is evaluated at the points of the grid given. So the network runs on every grid, and sees what its sensors see
  (`resolution = "latent"`).
- Sensors on a coarser grid would not know where a coefficient jumps, and a dense layer from all of 85 x 85 points has
  a million parameters for every 140 of its outputs. So the branch begins with convolutions of stride 2, down to a few
  points per axis; `branch_channels=()` is the dense branch of the paper.
- The output lies in the span of `n_basis` functions, whatever the input: a sharp feature that moves needs many.
- The trunk sees points, not fields: it is evaluated once for all samples of a batch.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from opkit.grid import Boundary, Location, Spec
from opkit.models.activations import activation as make_activation
from opkit.models.arguments import check_least, check_names
from opkit.models.base import Operator, zero_walls
from opkit.models.layers import Linear
from opkit.models.positions import positions
from opkit.models.stencils import Convolution, padding_of, resize


class DeepONet(Operator):
    """Deep operator network with sensors on a uniform grid in 1-D or 2-D.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        shape: Points per axis of the training grid, the sensors; set from the data.
        boundary: Of the output; set from the data. It decides what the branch's convolutions see beyond the walls.
        location: Kind of grid; set from the data.
        n_basis: Products in the sum, for each output channel.
        branch_channels: Channels of the branch's convolutions, each of which leaves every other point; () for none.
        branch_hidden: Width of the branch's dense layers.
        branch_layers: How many of them there are between what the convolutions leave and the b_k.
        trunk_width: Width of the trunk's layers.
        trunk_layers: How many of them there are between the point and the t_k.
        harmonics: Waves per axis that the trunk is given: cosines and sines of 2 pi k x, k = 1 .. harmonics, on
            periodic grids; on others of pi k x, beside x itself.
        zero_walls: Whether outputs are set to zero on walls where they are known to be: `boundary` "dirichlet", nodes.
        activation: After every layer but the branch's last: a name in `opkit.models.activations`, or an importable
            class.

    Raises:
        ValueError: An impossible argument; the message names it, its value and what is accepted.
    """

    resolution = "latent"
    compile_pays = False  # its step is no faster for it

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        shape: tuple[int, ...],
        boundary: Boundary = "open",
        location: Location = "node",
        n_basis: int = 128,
        branch_channels: tuple[int, ...] = (32, 64, 128, 128),
        branch_hidden: int = 256,
        branch_layers: int = 1,
        trunk_width: int = 128,
        trunk_layers: int = 3,
        harmonics: int = 8,
        zero_walls: bool = True,
        activation: str = "gelu",
    ):
        super().__init__()
        shape, branch_channels = tuple(shape), tuple(branch_channels)
        periodic = location == "periodic"
        check_least(
            in_channels=in_channels, out_channels=out_channels, n_basis=n_basis, branch_hidden=branch_hidden,
            trunk_width=trunk_width,
        )  # fmt: skip
        check_least(0, branch_layers=branch_layers, trunk_layers=trunk_layers)
        check_names(boundary=(boundary, Boundary), location=(location, Location))
        if len(shape) not in (1, 2) or any(n < 2 for n in shape):
            raise ValueError(f"DeepONet takes 1 or 2 axes of at least 2 points, got shape={shape}.")
        if any(c < 1 for c in branch_channels):
            raise ValueError(f"branch_channels needs a positive number for each convolution, got {branch_channels}.")
        if harmonics < int(periodic):
            raise ValueError(f"harmonics must be at least {int(periodic)} on a {location} grid, got {harmonics}.")
        self.in_channels, self.out_channels, self.ndim, self.shape = in_channels, out_channels, len(shape), shape
        self.location, self.harmonics = location, harmonics
        self.walls = zero_walls and boundary == "dirichlet" and location == "node"
        beyond = padding_of(boundary, location)
        left, layers, given = shape, [], in_channels
        for wanted in branch_channels:
            if beyond == "reflect" and min(left) < 2:
                raise ValueError(
                    f"branch_channels={branch_channels} has more convolutions than {shape} points can be halved, where "
                    "walls are mirrors. Leave some out."
                )
            layers += [Convolution(given, wanted, self.ndim, beyond, 2), make_activation(activation)]
            left, given = tuple((n + 1) // 2 for n in left), wanted
        outputs = n_basis * out_channels
        dense = _dense([given * math.prod(left), *[branch_hidden] * branch_layers, outputs], activation)
        self.branch = nn.Sequential(*layers, nn.Flatten(), *dense)
        features = self.ndim * (2 * harmonics + int(not periodic))
        trunk = _dense([features, *[trunk_width] * trunk_layers, outputs], activation)
        self.trunk = nn.Sequential(*trunk, make_activation(activation))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    @classmethod
    def check(cls, spec: Spec, arguments: dict[str, Any]) -> None:
        with torch.device("meta"):
            cls.build(spec, **arguments)

    def forward(self, u: Tensor) -> Tensor:
        """Map `(b, c_in, *x)` to `(b, c_out, *x)`; every axis needs at least 2 points."""
        self.check_input(u)
        points = u.shape[2:]
        sensed = resize(u if self.ndim == 2 else u.unsqueeze(2), (1, *self.shape)[-2:], self.location)
        b = self.branch(sensed).unflatten(1, (self.out_channels, -1))
        t = self.trunk(self._features(points, u)).unflatten(1, (self.out_channels, -1))
        out = torch.einsum("bck,nck->bcn", b, t) + self.bias[:, None]
        return self.constrain(out.unflatten(2, points))

    def constrain(self, outputs: Tensor) -> Tensor:
        return zero_walls(outputs) if self.walls else outputs

    def _features(self, points: Sequence[int], like: Tensor) -> Tensor:
        """What the trunk is given of the points of a grid, `(n, features)`."""
        x = positions(points, True, self.location, like).flatten(1)
        periodic = self.location == "periodic"
        k = torch.arange(1, self.harmonics + 1, dtype=x.dtype, device=x.device)
        phase = ((2 if periodic else 1) * math.pi * k[:, None, None] * x).flatten(0, 1)
        waves = torch.cat([torch.cos(phase), torch.sin(phase)])
        return (waves if periodic else torch.cat([x, waves])).mT


def _dense(sizes: Sequence[int], activation: str) -> list[nn.Module]:
    """Linear layers of these widths, activations between them."""
    layers: list[nn.Module] = []
    for given, wanted in pairwise(sizes):
        layers += [Linear(given, wanted), make_activation(activation)]
    return layers[:-1]
