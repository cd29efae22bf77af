"""U-Net: convolutions on ever coarser grids and back, each grid of the way up given what the way down had there.

Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015 (arXiv
1505.04597), with the residual blocks and group norms it has as a baseline for PDEs in Gupta and Brandstetter, "Towards
Multi-spatiotemporal-scale Generalized PDE Modeling", TMLR 2023 (arXiv 2209.15616). On levels l = 0 .. L of every other
point each, with learned stencils C and D of 3 points per axis, D at every other point only, and pointwise M, S and H:

    e_0 = B C v,  e_{l+1} = B D e_l                  down
    d_L = e_L,  d_l = B [I M d_{l+1}, e_l]           up, I linear interpolation, brackets stacking channels
    u = H d_0
    B w = S w + C_2 act(N C_1 act(N w))              N group norm; S the identity where channels stay as many

Notes on this implementation:

- Stencils live in units of the grid: on another grid the same weights are another operator. So the network runs on its
  training grid, and fields are brought there and back (`resolution = "project"`).
- n points become (n + 1) // 2, those of even number, and interpolation leads back to n: nothing is cropped, and nodes
  on walls stay on walls where n - 1 can be halved. Interpolation in place of a transposed convolution leaves no
  checkerboard (Odena, Dumoulin and Olah, Distill 2016).
- Every other point of an odd number on a circle is no uniform grid: its seam would be seen. So a periodic training grid
  that cannot be halved L times is replaced by the next that can, its Fourier series being the same. The network then
  commutes with shifts by whole cells of its coarsest level; between those it does not, as no network of strides does.
- The boundary condition decides what stencils see beyond the walls, as in `opkit.models.mgno`.
- Nothing stands between the last block and H, and blocks add to what they are given: a linear map passes from input to
  output.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from opkit.grid import Boundary, Location, Spec
from opkit.models.activations import activation as make_activation
from opkit.models.arguments import check_least, check_names
from opkit.models.base import Operator, projected, zero_walls
from opkit.models.kernels import interpolate
from opkit.models.positions import Coordinates, count_positions, with_positions
from opkit.models.stencils import Convolution, Padding, channels_last, padding_of


class UNet(Operator):
    """U-Net on a uniform grid in 1-D or 2-D.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        shape: Points per axis of the training grid; set from the data.
        boundary: Of the output; set from the data.
        location: Kind of grid; set from the data.
        width: Channels on the finest level.
        multipliers: Channels of every level, finest first, in units of `width`; as many levels as entries.
        n_blocks: Residual blocks per level, on the way down and again on the way up.
        groups: Groups of channels that are normalised together, over the points of one sample; 0 for no norms.
        padding: What stencils see beyond the walls. "auto" is "circular" on periodic grids, "reflect" where the
            boundary is "neumann" ("replicate" on cells), else "zeros".
        zero_walls: Whether outputs are set to zero on walls where they are known to be: `boundary` "dirichlet", nodes.
        activation: Of every block, twice: a name in `opkit.models.activations`, or an importable class.
        coordinates: Positions as further input channels, as in `opkit.models.FNO`. On a periodic grid the network
            cannot know where it is: an equation with a force that varies in space needs them.

    Raises:
        ValueError: An impossible argument; the message names it, its value and what is accepted.
    """

    resolution = "project"
    compile_pays = False  # no faster step for a minute of compiling: convolutions are library calls

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        shape: tuple[int, ...],
        boundary: Boundary = "open",
        location: Location = "node",
        width: int = 16,
        multipliers: tuple[int, ...] = (1, 2, 4, 8, 16),
        n_blocks: int = 1,
        groups: int = 1,
        padding: Padding = "auto",
        zero_walls: bool = True,
        activation: str = "gelu",
        coordinates: Coordinates = False,
    ):
        super().__init__()
        shape, multipliers = tuple(shape), tuple(multipliers)
        check_least(in_channels=in_channels, out_channels=out_channels, width=width, n_blocks=n_blocks)
        check_least(0, groups=groups)
        check_names(boundary=(boundary, Boundary), location=(location, Location), padding=(padding, Padding))
        if not multipliers or any(m < 1 for m in multipliers):
            raise ValueError(f"multipliers needs a positive number for each level, got {multipliers}.")
        channels = [width * m for m in multipliers]
        if groups and any(c % groups for c in channels):
            raise ValueError(
                f"groups must divide the channels of every level, {channels} (width times multipliers), got {groups}; "
                "0 is no norm."
            )
        if len(shape) not in (1, 2):
            raise ValueError(f"UNet takes 1 or 2 axes, got shape={shape}.")
        beyond = padding_of(boundary, location) if padding == "auto" else padding
        halvings = len(channels) - 1
        most = min(_most_halvings(n, 2 if beyond == "reflect" else 1) for n in shape)
        if halvings > most:
            raise ValueError(
                f"multipliers={multipliers} has {halvings + 1} levels, but a grid of {shape} points allows at most "
                f"{most + 1}. Leave some out, or use a finer training grid."
            )
        if location == "periodic":
            step = 2**halvings
            shape = tuple(-(-n // step) * step for n in shape)
        self.in_channels, self.ndim, self.shape, self.location = in_channels, len(shape), shape, location
        self.walls = zero_walls and boundary == "dirichlet" and location == "node"
        self.coordinates = coordinates
        ndim = self.ndim

        def convolution(given: int, wanted: int, stride: int = 1) -> Convolution:
            return Convolution(given, wanted, ndim, beyond, stride)

        def blocks(given: int, wanted: int) -> nn.Sequential:
            sizes = [given, *[wanted] * n_blocks]
            return nn.Sequential(*(Block(i, o, groups, activation, convolution) for i, o in pairwise(sizes)))

        finer = [width, *channels[:-1]]
        self.lift = convolution(in_channels + count_positions(coordinates, ndim), width)
        self.down = nn.ModuleList(blocks(i, o) for i, o in zip(finer, channels, strict=True))
        self.halve = nn.ModuleList(convolution(c, c, 2) for c in channels[:-1])
        self.narrow = nn.ModuleList(nn.Conv2d(i, o, 1) for o, i in pairwise(channels))
        self.up = nn.ModuleList(blocks(2 * c, c) for c in channels[:-1])
        self.head = nn.Conv2d(channels[0], out_channels, 1)

    @classmethod
    def check(cls, spec: Spec, arguments: dict[str, Any]) -> None:
        with torch.device("meta"):
            cls.build(spec, **arguments)

    def forward(self, u: Tensor) -> Tensor:
        """Map `(b, c_in, *x)` to `(b, c_out, *x)`; every axis needs at least 2 points."""
        self.check_input(u)
        return self.constrain(self.on_its_grid(u, lambda v: self.constrain(self._network(v))))

    def on_its_grid(self, u: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        return projected(u, self.shape, self.location, run)

    def constrain(self, outputs: Tensor) -> Tensor:
        return zero_walls(outputs) if self.walls else outputs

    def _network(self, u: Tensor) -> Tensor:
        u = with_positions(u, self.coordinates, self.location)
        u = self.lift(channels_last(u if self.ndim == 2 else u.unsqueeze(2)))
        seen = []
        for blocks, halve in zip(self.down, [*self.halve, None], strict=True):
            u = blocks(u)
            if halve is not None:
                seen.append(u)
                u = halve(u)
        for blocks, narrow, e in zip(reversed(self.up), reversed(self.narrow), reversed(seen), strict=True):
            u = blocks(torch.cat([doubled(narrow(u), e.shape[2:], self.location == "periodic"), e], 1))
        u = self.head(u)
        return (u if self.ndim == 2 else u.squeeze(2)).contiguous()


class Block(nn.Module):
    """S w + C_2 act(N C_1 act(N w)), `(b, i, h, w)` to `(b, o, h, w)`; S is a pointwise layer where i is not o.

    Args:
        given: i.
        wanted: o.
        groups: Of the group norms N; 0 for none.
        activation: A name in `opkit.models.activations`.
        convolution: Makes C_1 and C_2 of given and wanted channels.
    """

    def __init__(
        self, given: int, wanted: int, groups: int, activation: str, convolution: Callable[[int, int], nn.Module]
    ):
        super().__init__()
        sizes = [(given, wanted), (wanted, wanted)]
        self.norms = nn.ModuleList(nn.GroupNorm(groups, i) if groups else nn.Identity() for i, _ in sizes)
        self.activations = nn.ModuleList(make_activation(activation) for _ in sizes)
        self.convolutions = nn.ModuleList(convolution(i, o) for i, o in sizes)
        self.skip = nn.Conv2d(given, wanted, 1) if given != wanted else nn.Identity()

    def forward(self, w: Tensor) -> Tensor:
        v = w
        for norm, activation, convolution in zip(self.norms, self.activations, self.convolutions, strict=True):
            v = convolution(activation(norm(v)))
        return self.skip(w) + v


def doubled(u: Tensor, shape: Sequence[int], periodic: bool) -> Tensor:
    """Linear interpolation of `(b, c, h, w)` to points half as far apart; `shape` has 2 n or 2 n - 1 of them for n.

    The last of 2 n lies between the last of n and the first, where periodic; else it has the value of the last.
    """
    for axis, m in zip((2, 3), shape, strict=True):
        n = u.shape[axis]
        if m == 2 * n:
            u = torch.cat([u, u.narrow(axis, 0 if periodic else n - 1, 1)], axis)
    u = interpolate(u, [2 * n - 1 for n in u.shape[2:]], align_corners=True)
    return u[..., : shape[0], : shape[1]]


def _most_halvings(n: int, least: int) -> int:
    """How often n points can become (n + 1) // 2, two at least each time, if `least` are to stay."""
    halvings = 0
    while n >= 2 and (n + 1) // 2 >= least:
        n, halvings = (n + 1) // 2, halvings + 1
    return halvings
