"""The original GNOT, imported from a checkout of its repository without dgl and einops."""

import contextlib
import importlib
import io
import sys
from collections.abc import Callable, Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from torch import Tensor, nn

REPOSITORY = "https://github.com/HaoZhongkai/GNOT"
COMMIT = "5ee2e6925a43f9a340a6016bad4da2c82a452cbe"
CLASSES = {"gnot.GNOT": ("models.mmgpt", "GNOT"), "gnot.CGPTNO": ("models.cgpt", "CGPTNO")}


class _Stand(MetaPathFinder, Loader):
    """The two functions of dgl and einops that the networks call: a batch of graphs is a tensor `(b, n, columns)`."""

    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name in ("dgl", "einops") else None

    def create_module(self, spec):
        return ModuleType(spec.name)

    def exec_module(self, module):
        if module.__name__ == "dgl":
            module.unbatch = lambda graph: [SimpleNamespace(ndata={"x": x}) for x in graph.points]
        else:
            module.repeat = None
            module.rearrange = lambda x, pattern: x.transpose(1, 2).flatten(2)  # (b, h, n, d) to (b, n, h d)


@contextlib.contextmanager
def _importable(directory: Path) -> Iterator[None]:
    """The checkout's `models` and `utils`, which are no package's, and the stand-ins; nothing of them stays behind."""
    stand, mine = _Stand(), ("dgl", "einops", "models", "utils")
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in mine}
    sys.meta_path.insert(0, stand)
    sys.path.insert(0, str(directory))
    try:
        yield
    finally:
        sys.path.remove(str(directory))
        sys.meta_path.remove(stand)
        for name in [name for name in sys.modules if name.partition(".")[0] in mine]:
            del sys.modules[name]
        sys.modules.update(kept)


def build(directory: Path, source: str, config: dict) -> nn.Module:
    module, name = CLASSES[source]
    with _importable(directory), contextlib.redirect_stdout(io.StringIO()):
        return getattr(importlib.import_module(module), name)(**config).eval()


def run(model: nn.Module, source: str, config: dict, inputs: dict[str, Tensor]) -> Tensor:
    query, *functions = _in_order(inputs)
    b, n, _ = query.shape
    graph = SimpleNamespace(points=query, batch_num_nodes=lambda: [n] * b)
    return model(graph, query.new_zeros(b, 0), functions).unflatten(0, (b, n))


def call(model: nn.Module, source: str, inputs: dict[str, Tensor]) -> Tensor:
    query, *functions = _in_order(inputs)
    return model.forward_points(query, functions)


def compile(model: nn.Module) -> None:
    model.forward_points = torch.compile(model.forward_points, dynamic=False)


def _in_order(inputs: dict[str, Tensor]) -> list[Tensor]:
    return [inputs["query"], *(inputs[name] for name in sorted(inputs) if name != "query")]


def _points(query: tuple[int, int], *functions: tuple[int, int]) -> Callable[[], dict[str, Tensor]]:
    """Two samples, given the number of points and of columns of the queries and of every input function."""
    shapes = {"query": query} | {f"function{i}": shape for i, shape in enumerate(functions)}
    return lambda: {name: torch.randn(2, *shape).double() for name, shape in shapes.items()}


CASES: dict[str, tuple[str, dict, Callable[[], dict[str, Tensor]]]] = {
    "one_expert": (
        "gnot.GNOT",
        dict(trunk_size=3, branch_sizes=[3], output_size=1, n_hidden=8, n_experts=1, n_inner=2, mlp_layers=3),
        _points((13, 3), (13, 3)),
    ),
    "three_experts": (
        "gnot.GNOT",
        dict(trunk_size=2, branch_sizes=[3], output_size=2, n_layers=1, n_hidden=8, n_head=4, n_experts=3),
        _points((16, 2), (11, 3)),
    ),
    "two_inputs": (
        "gnot.GNOT",
        dict(trunk_size=5, branch_sizes=[4, 2], space_dim=3, n_hidden=6, n_head=2, n_inner=2, ffn_dropout=0.1),
        _points((9, 5), (12, 4), (5, 2)),
    ),
    "no_inputs": (
        "gnot.GNOT",
        dict(trunk_size=2, branch_sizes=[], output_size=1, n_layers=1, n_hidden=8, n_inner=2, mlp_layers=0),
        _points((10, 2)),
    ),
    "line_tanh": (
        "gnot.GNOT",
        dict(trunk_size=1, branch_sizes=[2], space_dim=1, n_layers=1, n_hidden=8, n_head=2, n_inner=1, act="tanh"),
        _points((17, 1), (8, 2)),
    ),
    "sigmoid": (
        "gnot.GNOT",
        dict(trunk_size=2, branch_sizes=[3], n_layers=1, n_hidden=8, n_inner=1, mlp_layers=1, act="sigmoid"),
        _points((7, 2), (7, 3)),
    ),
    "cgpt": (
        "gnot.CGPTNO",
        dict(trunk_size=3, branch_sizes=[3, 2], output_size=2, n_layers=1, n_hidden=8, n_head=4, n_inner=7),
        _points((15, 3), (10, 3), (7, 2)),
    ),
    "cgpt_no_inputs": ("gnot.CGPTNO", dict(n_layers=1, n_hidden=8, attn_dropout=0.1), _points((12, 2))),
    "cgpt_fourier": (
        "gnot.CGPTNO",
        dict(branch_sizes=[3], output_size=1, n_hidden=6, n_head=2, act="relu", horiz_fourier_dim=2),
        _points((14, 2), (9, 3)),
    ),
    "cgpt_fourier_tanh": (
        "gnot.CGPTNO",
        dict(trunk_size=3, branch_sizes=[4], n_layers=1, n_hidden=6, mlp_layers=1, act="tanh", horiz_fourier_dim=1),
        _points((9, 3), (6, 4)),
    ),
}

PAPER: dict[str, tuple[str, dict, Callable[[], dict[str, Tensor]], float]] = {
    "gnot": (
        "gnot.GNOT",
        dict(trunk_size=2, branch_sizes=[3], output_size=1, n_layers=3, n_hidden=96, n_head=8, n_experts=3),
        lambda: {"query": _mesh(43), "function0": torch.cat([_mesh(43), torch.randn(4, 1849, 1)], -1)},
        2.5,
    ),
}


def _mesh(n: int) -> Tensor:
    """The points of an n x n grid for each of four samples, as a loader of grids would pass them."""
    line = torch.linspace(0, 1, n)
    return torch.cartesian_prod(line, line).expand(4, -1, -1)
