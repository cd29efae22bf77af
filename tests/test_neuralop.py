"""FNO, TFNO and U-NO of the package neuraloperator, and its weights in opkit's own FNO, against that package where it
is right, and against what is known where it is not."""

import copy
import io
import itertools
import math
import subprocess
import sys
from contextlib import redirect_stdout
from functools import partial

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.originals import neuraloperator as originals
from opkit.grid import Grid, Spec
from opkit.interop import from_reference
from opkit.models.neuralop import UNO, Convolution, NeuralopFNO, SpectralConv, _scaled, neuralop, resample
from opkit.models.spectral import from_factors
from opkit.normalize import Normalizer
from opkit.settings import Optim
from opkit.surrogate import PhysicalOperator
from opkit.task import SupervisedTask

FACTORIZATIONS = ["none", "tucker", "cp", "tt"]
small = partial(NeuralopFNO, 1, 1, (6, 6), n_layers=2, width=6, lifting_width=8, projection_width=8)
small_uno = partial(
    UNO, 1, 1, 2, 6, (6, 8, 6), (6, 4, 6), (1.0, 0.5, 2.0), lifting_width=8, projection_width=8
)  # fmt: skip


def wave(shape, location="periodic") -> torch.Tensor:
    """A field of low modes, negative wavenumbers among them, `(1, 1, *x)`."""
    x, y = Grid(shape, location).coordinates
    return (torch.cos(2 * math.pi * (2 * x - y)) + torch.sin(2 * math.pi * (x + 3 * y)) + 0.3)[None, None]


def every_mode_kept(shape, target=None, package: bool = False):
    """What a convolution whose matrices are all one makes of `wave`."""
    conv = SpectralConv(1, 1, (8, 8)) if package else Convolution(1, 1, (8, 8), "periodic", 0.0)
    with torch.no_grad():
        for name, parameter in conv.named_parameters():
            parameter.zero_()
            if name != "bias":
                real = torch.view_as_real(parameter) if parameter.is_complex() else parameter
                real[..., 0] = 1
    return conv(wave(shape).float(), target)


class TestWhereThePackageIsWrong:
    """Release 2.0.0; when one of its halves fails, a newer release is right, and `Convolution` may shrink."""

    @pytest.mark.parametrize("n", [64, 65, 85])
    def test_odd_grids(self, n):
        expected = wave((n, n)).float()
        torch.testing.assert_close(every_mode_kept((n, n)), expected, rtol=0, atol=1e-5)
        theirs = every_mode_kept((n, n), package=True)
        error = (theirs - expected).norm() / expected.norm()
        assert error < 1e-5 if n == 64 else error > 1

    @pytest.mark.parametrize("target", [(16, 16), (64, 64), (33, 48), (31, 15)])
    def test_output_grids_of_another_size(self, target):
        expected = wave(target).float()
        torch.testing.assert_close(every_mode_kept((32, 32), target), expected, rtol=0, atol=1e-5)
        theirs = every_mode_kept((32, 32), target, package=True)
        assert (theirs - expected).norm() > 0.5 * expected.norm()


def copy_weights(theirs: nn.Module, ours: nn.Module) -> None:
    """The package's weights in the adapter: the same names but for factors, which are real pairs."""
    given = {
        k.replace("fno_blocks", "blocks"): v for k, v in theirs.state_dict().items() if isinstance(v, torch.Tensor)
    }
    state = {}
    for name in ours.state_dict():
        before, _, number = name.rpartition(".factors.")
        parts = [v for k, v in given.items() if before and k.startswith(f"{before}.weight.")]
        state[name] = torch.view_as_real(parts[int(number)]) if parts else given[name]
    ours.load_state_dict(state)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (dict(factorization=None), {}),
        (dict(factorization="tucker", rank=0.3), dict(factorization="tucker", rank=0.3)),
        (dict(factorization="cp", rank=0.3), dict(factorization="cp", rank=0.3)),
        (dict(factorization="tt", rank=0.3), dict(factorization="tt", rank=0.3)),
        (dict(norm="group_norm", fno_skip="soft-gating"), dict(norm="group", skip="gate")),
        (dict(norm="instance_norm", channel_mlp_skip=None), dict(norm="instance", mlp_skip="none")),
        (dict(use_channel_mlp=False, fno_skip="identity"), dict(mlp_expansion=0.0, skip="identity")),
    ],
)
def test_on_even_grids_the_adapter_is_the_package(theirs, ours):
    """In float32, which the package casts to."""
    package = neuralop.models.FNO((6, 4), 1, 2, 7, positional_embedding="grid", non_linearity=F.silu, **theirs)
    model = NeuralopFNO(
        1, 2, (6, 4), 7, lifting_width=14, projection_width=14, location="periodic", activation="silu", **ours
    )
    copy_weights(package, model)
    for shape in ((16, 12), (10, 14)):
        u = torch.randn(2, 1, *shape)
        expected = package(u)
        torch.testing.assert_close(model(u), expected, rtol=0, atol=3e-6 * expected.abs().max().item())


def test_on_even_grids_without_levels_the_u_shaped_one_is_the_packages():
    with redirect_stdout(io.StringIO()):
        package = neuralop.models.UNO(
            1, 2, 6, 8, 9, n_layers=3, uno_out_channels=[6, 8, 6], uno_n_modes=[[6, 6], [4, 4], [6, 6]],
            uno_scalings=[[1.0, 1.0]] * 3, channel_mlp_skip="linear",
        )  # fmt: skip
    model = UNO(
        1, 2, 2, 6, (6, 8, 6), (6, 4, 6), (1.0, 1.0, 1.0), lifting_width=8, projection_width=9, location="periodic"
    )
    copy_weights(package, model)
    u = torch.randn(2, 1, 12, 16)
    torch.testing.assert_close(model(u), package(u), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 4, 5), (4, 4, 6, 3), (3, 2, 4, 3, 2)])
@pytest.mark.parametrize("factorization", ["tucker", "cp", "tt"])
def test_factors_multiply_to_the_tensor_the_library_makes_of_them(factorization, shape):
    from tltorch.factorized_tensors.core import FactorizedTensor

    tensor = FactorizedTensor.new(shape, rank=0.5, factorization=factorization, dtype=torch.complex128)
    parts = [parameter.data.normal_() for parameter in tensor.parameters()]
    product = from_factors(factorization, [torch.view_as_real(part) for part in parts])
    torch.testing.assert_close(torch.view_as_complex(product), tensor.to_tensor().detach(), rtol=1e-12, atol=1e-12)


def test_between_grids_fields_are_interpolated():
    u = torch.randn(1, 2, 12, 9, dtype=torch.float64)
    for shape in ((24, 9), (7, 8), (6, 18)):
        expected = Grid((12, 9), "periodic").resample(u, Grid(shape, "periodic"), "spectral")
        torch.testing.assert_close(resample(u, shape, "periodic"), expected, rtol=0, atol=1e-13)
    for location in ("node", "cell"):
        line = u[0, 0, :, 0].numpy()
        for n in (5, 23):
            x, y = (Grid((m,), location).coordinates[0].numpy() for m in (12, n))
            ours = resample(u, (n, 9), location)[0, 0, :, 0].numpy()
            np.testing.assert_allclose(ours, np.interp(y, x, line), rtol=0, atol=1e-13)


@pytest.mark.parametrize("build", [partial(small, factorization="tucker", rank=0.3), small_uno])
@pytest.mark.parametrize("coordinates", [False, "waves"])
def test_refining_a_periodic_grid_does_not_change_the_output(build, coordinates):
    torch.manual_seed(0)
    model = build(coordinates=coordinates, location="periodic").double()
    outputs = [model(wave((n, n)))[..., :: n // 24, :: n // 24] for n in (24, 48, 96)]
    scale = (outputs[-1] - outputs[-1].mean()).norm()
    coarse, fine = ((out - outputs[-1]).norm() / scale for out in outputs[:2])
    assert coarse < 0.15 and fine < coarse / 20  # the coarsest level of the U-shaped one has 12 points


@pytest.mark.parametrize("build", [partial(small, factorization="cp", rank=0.3), small_uno])
def test_refining_a_grid_with_walls_converges_at_second_order(build):
    torch.manual_seed(0)
    model = build(padding=1 / 7).double()
    outputs = []
    for n in (29, 57, 113, 225):
        x, y = Grid((n, n)).coordinates
        outputs.append(model((torch.exp(x) * torch.cos(2 * y))[None, None])[..., :: (n - 1) // 28, :: (n - 1) // 28])
    changes = [(a - b).norm().item() for a, b in itertools.pairwise(outputs)]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(changes)]
    assert all(1.7 < order < 2.5 for order in orders), orders


@pytest.mark.parametrize("factorization", FACTORIZATIONS)
def test_shift_equivariance_on_odd_grids(factorization):
    model = small(factorization=factorization, rank=0.5, coordinates=False, location="periodic").double()
    u = torch.randn(1, 1, 15, 13, dtype=torch.float64)
    torch.testing.assert_close(model(u.roll((4, 7), (2, 3))), model(u).roll((4, 7), (2, 3)), rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(61, 40), (40, 61)])
@pytest.mark.parametrize("padding", [0.0, 0.25])
@pytest.mark.parametrize("location", ["node", "cell", "periodic"])
def test_both_transforms_agree(shape, padding, location):
    model = small_uno(location=location, padding=padding).double()
    u, outputs = torch.randn(1, 1, *shape, dtype=torch.float64), []
    for spectral in ("fft", "dft"):
        for module in model.modules():
            if isinstance(module, Convolution):
                module.spectral = spectral
        outputs.append(model(u))
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)


MODELS = [*(partial(small, factorization=f, rank=0.4) for f in FACTORIZATIONS), small_uno]


@pytest.mark.parametrize("build", MODELS)
def test_parameters_are_real_and_all_have_gradients(build):
    model = build(norm="group")
    assert all(isinstance(v, torch.Tensor) and v.dtype == torch.float32 for v in model.state_dict().values())
    model(torch.randn(2, 1, 21, 20)).square().sum().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@pytest.mark.parametrize("build", MODELS)
def test_copies_and_saved_weights_give_the_same_output_to_the_bit(build, tmp_path):
    model, u = build(), torch.randn(2, 1, 21, 20)
    expected = model(u)
    twin = copy.deepcopy(model)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    with torch.device("meta"):
        other = build()
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True), assign=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert (twin(u) == expected).all() and (other(u) == expected).all()


def test_levels_of_nested_grids_nest():
    """Every second and every fourth point: the walls are on all levels."""
    for n in (57, 85, 141):
        assert [_scaled(n, level, "node") for level in (1.0, 0.5, 0.25, 2.0)] == [n, n // 2 + 1, n // 4 + 1, 2 * n - 1]
    for n in (64, 84):
        assert [_scaled(n, level, "cell") for level in (1.0, 0.5, 0.25, 2.0)] == [n, n // 2, n // 4, 2 * n]


@pytest.mark.parametrize(("width", "hidden"), [(49, 1), (7, 14), (55, 7), (64, 0)])
def test_hidden_layers_have_the_width_asked_for(width, hidden):
    """The package takes ratios, and cuts their products with the width to integers."""
    model = small(width=width, lifting_width=hidden, projection_width=hidden or 1)
    assert model.lifting.fcs[0].out_channels == (hidden or width)
    assert model.projection.fcs[0].out_channels == (hidden or 1)


def test_a_call_in_another_precision_makes_its_own_positions():
    """The package keeps the first ones of a size."""
    model = small()
    model(torch.randn(1, 1, 12, 12))
    assert model.double()(torch.randn(1, 1, 12, 12).double()).dtype == torch.float64


class SaveHalfway(L.Callback):
    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, task):
        if trainer.current_epoch == 1 and not self.path.exists():
            trainer.save_checkpoint(self.path)


@pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec.*:FutureWarning")
@pytest.mark.parametrize("build", [partial(small, factorization="tucker", rank=0.4), small_uno])
def test_training_continued_from_a_checkpoint_ends_where_it_ended(build, tmp_path):
    u = torch.randn(8, 1, 16, 16)
    data, half = DataLoader(TensorDataset(u, u.flip(0)), batch_size=4), tmp_path / "half.ckpt"

    def train(checkpoint=None) -> nn.Module:
        torch.manual_seed(0 if checkpoint is None else 1)
        model = PhysicalOperator(build(), *(Normalizer(torch.zeros(1), torch.ones(1)) for _ in range(2)))
        trainer = L.Trainer(
            max_epochs=4, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, num_sanity_val_steps=0, callbacks=[SaveHalfway(half)],
        )  # fmt: skip
        task = SupervisedTask(model, Spec(("a",), ("u",), Grid((16, 16))), Optim(), batch_size=4)
        trainer.fit(task, data, data, ckpt_path=checkpoint, weights_only=True if checkpoint else None)
        return model.operator

    whole = train()
    resumed = train(half)
    torch.manual_seed(0)
    names = dict(build().named_parameters())
    for name, parameter in whole.named_parameters():
        assert (parameter != names[name]).any(), name
        assert (parameter == dict(resumed.named_parameters())[name]).all(), name


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (small, dict(width=0), "width must be at least 1, got 0"),
        (small, dict(n_modes=(8, 0)), "n_modes"),
        (small, dict(padding=-0.1), "padding"),
        (small, dict(location="nodes"), "location"),
        (small, dict(factorization="svd"), "factorization is one of none, tucker, cp, tt, got 'svd'"),
        (small, dict(rank=0), "rank"),
        (small, dict(skip="conv"), "skip is one of"),
        (small, dict(norm="batch"), "norm is one of"),
        (small, dict(mlp_expansion=-1), "mlp_expansion"),
        (small, dict(dropout=1.0), "dropout"),
        (small, dict(spectral="wavelet"), "spectral is one of"),
        (small, dict(activation="prelu"), "prelu.*parameters of its own"),
        (small_uno, dict(uno_scalings=(1.0, 0.5, 1.0)), "multiply to 1"),
        (small_uno, dict(uno_scalings=(1.0, 1.0)), "one entry per layer, got 3, 3 and 2"),
        (small_uno, dict(uno_out_channels=(6, 0, 6)), "uno_out_channels"),
        (small_uno, dict(mlp_expansion=0.0), "mlp_expansion"),
    ],
)
def test_impossible_arguments_are_refused(build, arguments, message):
    full = build.keywords | dict(zip(NAMES[build], build.args, strict=False)) | arguments
    with pytest.raises(ValueError, match=message):
        build.func(**full)


NAMES = {
    small: ["in_channels", "out_channels", "n_modes"],
    small_uno: ["in_channels", "out_channels", "ndim", "width", "uno_out_channels", "uno_n_modes", "uno_scalings"],
}


def test_modes_beyond_the_training_grid_are_refused_before_training():
    spec = Spec(("a",), ("u",), Grid((21, 21)))
    with pytest.raises(ValueError, match="at most"):
        NeuralopFNO.check(spec, {"n_modes": [24, 24]})
    with pytest.raises(ValueError, match="12 modes in layer 1, whose grid has 11 points"):
        UNO.check(spec, {})
    UNO.check(spec, {"uno_n_modes": [11, 11, 11, 11, 11]})
    with pytest.raises(ValueError, match="at least 4 points"):
        small_uno()(torch.zeros(1, 1, 3, 8))


def test_the_package_is_imported_by_its_adapter_alone_and_changes_no_warnings():
    program = (
        "import sys, warnings, opkit, opkit.models, opkit.interop\n"
        "assert not {'neuralop', 'wandb', 'tensorly'} & set(sys.modules)\n"
        "import opkit.models.neuralop\n"
        "assert not [f for f in warnings.filters if f[0] == 'once' and f[2] is UserWarning]\n"
    )
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", program], check=True)


def test_building_prints_nothing(capsys):
    small_uno(), small()
    assert capsys.readouterr() == ("", "")


# Its weights in opkit's FNO, where the recorded cases of test_interop.py do not reach.


def published(*shape: int, single: bool = False, **config):
    """(config, state dict, input, output) of the package's FNO: in double precision, odd grids mended; or as it is."""
    _, config, _ = originals._case(*shape, **({"n_modes": [6, 4]} | config))
    if config["factorization"] == "ComplexDense":
        del config["factorization"]
    u = torch.randn(2, 2, *shape, dtype=torch.float32 if single else torch.float64)
    if single:
        model = neuralop.models.FNO(**config).eval()
        return config, model.state_dict(), u, model(u)
    model = originals.build(None, originals.SOURCE, config)
    return config, model.state_dict(), u, originals.run(model, originals.SOURCE, config, {"u": u})


@pytest.mark.parametrize(
    "config",
    [
        {},
        dict(factorization="Tucker", rank=0.3),
        dict(factorization="CP", rank=0.3),
        dict(factorization="TT", rank=0.3, implementation="reconstructed"),
        dict(factorization="tucker", rank=0.4, fixed_rank_modes=True),
        dict(factorization="ComplexTucker", rank=0.3),
        dict(separable=True),
        dict(separable=True, factorization="cp", rank=0.5),
        dict(max_n_modes=[10, 7]),
        dict(n_modes=[5, 4], max_n_modes=[8, 5]),
        dict(n_modes=[5, 4], preactivation=True, norm="instance_norm"),
        dict(preactivation=True, use_channel_mlp=False, fno_skip=None),
        dict(norm="instance_norm", use_channel_mlp=False),
        dict(norm="group_norm", use_channel_mlp=False, fno_skip="soft-gating"),
    ],
)
def test_complex_weights_as_published(config):
    made, state, u, expected = published(13, 12, **config)
    assert "_metadata" in state
    model = from_reference("neuraloperator.FNO", state, **made)
    assert next(model.parameters()).dtype == torch.float64
    torch.testing.assert_close(model(u), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("config", [{}, dict(n_modes=(6,)), dict(factorization="tucker", rank=0.3)])
def test_single_precision_weights_as_published_and_functions_for_names(config):
    shape = (12, 14)[: len(config.get("n_modes", (6, 4)))]
    made, state, u, expected = published(*shape, single=True, non_linearity=F.silu, **config)
    model = from_reference("neuraloperator.FNO", state, **made)
    assert next(model.parameters()).dtype == torch.float32
    torch.testing.assert_close(model(u), expected, rtol=0, atol=1e-6)
    model = from_reference("neuraloperator.FNO", state, **made | {"non_linearity": "silu"})
    torch.testing.assert_close(model(u), expected, rtol=0, atol=1e-6)


def test_a_converted_tfno_is_the_adapters():
    """Two ways into opkit, on an odd grid."""
    package = neuralop.models.TFNO((6, 6), 1, 1, 6, n_layers=2, rank=0.4)
    model = small(factorization="tucker", rank=0.4, lifting_width=12, projection_width=12, location="periodic")
    copy_weights(package, model)
    converted = from_reference(
        "neuraloperator.FNO", package.state_dict(), n_modes=(6, 6), in_channels=1, out_channels=1, hidden_channels=6,
        n_layers=2, factorization="Tucker", rank=0.4,
    )  # fmt: skip
    u = torch.randn(2, 1, 17, 15)
    torch.testing.assert_close(model(u), converted(u), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(complex_data=True), "complex_data=True cannot be converted"),
        (dict(resolution_scaling_factor=2), "resolution_scaling_factor"),
        (dict(fno_block_precision="mixed"), "fno_block_precision='mixed'"),
        (dict(conv_module=nn.Conv2d), "conv_module='Conv2d'"),
        (dict(norm="ada_in"), "norm='ada_in'"),
        (dict(norm="batch_norm"), "norm='batch_norm'"),
        (dict(fno_skip="conv"), "fno_skip='conv'"),
        (dict(stabilizer="relu"), "stabilizer='relu'"),
        (dict(factorization="block"), "factorization='block'"),
        (dict(domain_padding=(0.1, 0.1)), "because it is a tuple"),
        (dict(domain_padding=[0.1]), "domain_padding"),
        (dict(non_linearity=nn.LeakyReLU(0.2)), "LeakyReLU"),
        (dict(non_linearity="prelu"), "prelu"),
        (dict(positional_embedding=neuralop.layers.embeddings.GridEmbeddingND(2, 2, [[0, 1], [0, 2]])), "embedding"),
        (dict(max_n_modes=[6, 2]), "max_n_modes"),
        (dict(n_modes=6), "n_modes=6"),
        (dict(hidden_channels=None), "needs the argument hidden_channels"),
        (dict(hidden_channels=8), "has shape"),
    ],
)
def test_what_opkit_has_no_counterpart_of_is_refused(change, message):
    config, state, _, _ = published(8, 8, single=True)
    with pytest.raises(ValueError, match=message):
        from_reference("neuraloperator.FNO", state, **config | change)


def test_weights_of_the_wrong_kind_are_named():
    config, state, _, _ = published(8, 8, single=True, factorization="tucker", rank=0.3)
    for name, wrong in (("core", lambda t: t[..., :1]), ("factors.factor_2", lambda t: t.real)):
        key = f"fno_blocks.convs.1.weight.{name}"
        with pytest.raises(ValueError, match=key.replace(".", r"\.")):
            from_reference("neuraloperator.FNO", state | {key: wrong(state[key])}, **config)
    grid = neuralop.layers.embeddings.GridEmbeddingND(2, 2, [[0, 1], [0, 1]])
    from_reference("neuraloperator.FNO", state, **config | {"positional_embedding": grid})
