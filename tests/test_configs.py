"""Every shipped configuration parses, and every model trains on every PDE."""

import pytest
import yaml

from opkit import registry
from opkit.cli import main
from opkit.models import count_parameters
from opkit.settings import Stepping
from opkit.stepping import stepped

TINY = [
    "data.train=4", "data.val=2", "data.test=3", "data.test_fine=2",
    "data.batch_size=2", "trainer.max_epochs=1", "trainer.accelerator=cpu", "evaluation.resamples=100",
    "evaluation.timing=0",
    "evaluation.suite=quick",
    "compile=false", "workers=1",
]  # fmt: skip

SMALL_GRID = {
    "burgers": ["pde.resolution=64", "pde.label_resolution=128", "pde.times=[0,0.1,0.2]", "pde.unresolved=accept"],
    "navier_stokes": [
        "pde.resolution=32", "pde.label_resolution=32", "pde.modes=10", "pde.times=[0,0.1,0.2]",
        "evaluation.resolutions=[48,64]",
    ],
}  # fmt: skip
QUICK = {"burgers", "darcy", "navier_stokes", "darcy-boundary", "darcy-cell", "navier_stokes-conditional"}
"""One of each shape of problem; the other variants differ in numbers."""
FAMILIES = ("burgers", "darcy", "navier_stokes")
TRAINED = {"fno": QUICK, "mgno": ("darcy", "burgers")}
"""What each model is trained on in the quick suite, the others on Darcy."""
OTHER_GRIDS = ["pde.resolution=33", "pde.label_resolution=33"]


COMBINATIONS = [(pde, model, None) for pde in registry.names("pde") for model in registry.names("model")]
COMBINATIONS += [
    (pde, model, preset)
    for preset in registry.names("preset")
    for model in registry.names("model")
    for pde in (registry.names("pde") if model == "fno" else FAMILIES)
]


@pytest.mark.parametrize(
    ("pde", "model", "preset"),
    [pytest.param(*c, marks=() if c[1] == "fno" or c[0] in QUICK else pytest.mark.slow) for c in COMBINATIONS],
)
def test_every_combination_resolves_and_its_model_fits_its_grid(pde, model, preset, capsys):
    chosen = ["--pde", pde, "--model", model] + (["--preset", preset] if preset else [])
    assert main(["train", *chosen, "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    arguments = {k: v for k, v in config["pde"].items() if k != "name"}
    spec = registry.pde_class(pde)(**registry.tuples(arguments)).spec
    architecture = registry.Architecture(model, {k: v for k, v in config["model"].items() if k != "name"})
    architecture.check(spec)
    assert config["trainer"]["max_epochs"] > 0


@pytest.mark.parametrize(
    ("pde", "model"),
    [
        pytest.param(p, m, marks=() if p in TRAINED.get(m, ("darcy",)) else pytest.mark.slow)
        for p in registry.names("pde")
        for m in registry.names("model")
    ],
)
def test_every_model_trains_on_every_pde(pde, model, tmp_path, monkeypatch):
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path / "data"))
    settings = TINY + SMALL_GRID.get(registry.family(pde), OTHER_GRIDS)
    assert main(["train", "--pde", pde, "--model", model, *settings, f"run_dir={tmp_path / 'run'}"]) == 0
    assert (tmp_path / "run" / "evaluation" / "report.html").is_file()


def test_the_papers_preset_is_the_papers(capsys):
    """Li et al. 2021: 1000 training samples, 500 epochs, batches of 20, 12 modes, width 32, 85 x 85."""
    assert main(["train", "--pde", "darcy", "--model", "fno", "--preset", "paper", "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["pde"]["resolution"] == 85
    assert config["pde"]["label_resolution"] == 421
    assert config["data"]["train"] == 1000
    assert config["data"]["batch_size"] == 20
    assert config["trainer"]["max_epochs"] == 500
    assert (config["model"]["n_modes"], config["model"]["width"]) == ([24, 22], 32)


@pytest.mark.parametrize(
    ("model", "pde", "parameters"),
    [
        ("fno", "darcy", 2_368_001),
        ("fno", "burgers", 549_569),
        ("fno", "navier_stokes", 926_357),
        ("galerkin", "burgers", 530_305),
        ("galerkin", "darcy", 2_220_829),
        ("galerkin", "navier_stokes", 862_049),
        ("mgno", "darcy", 678_093),
        ("mgno", "darcy-rough", 492_021),  # 572 661 on the even grid it was published on
    ],
)
def test_the_papers_presets_have_as_many_parameters_as_the_originals(model, pde, parameters, capsys):
    """Counted in the original code, of networks for the papers' grids."""
    assert main(["train", "--pde", pde, "--model", model, "--preset", "paper", "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    equation = registry.pde_class(pde)(**registry.tuples({k: v for k, v in config["pde"].items() if k != "name"}))
    spec = stepped(equation.spec, Stepping(**config["stepping"]), equation.times)
    architecture = registry.Architecture(model, {k: v for k, v in config["model"].items() if k != "name"})
    assert count_parameters(architecture.build(spec)) == parameters


@pytest.mark.parametrize(
    ("model", "settings", "idle"),
    [
        ("fno", ["dropout=0.5"], "dropout=0.5"),
        ("fno", ["skip=none", "spectral_norm=true"], "spectral_norm=True"),
        ("neuralop_fno", ["rank=0.5"], "rank=0.5"),
        ("neuralop_fno", ["mlp_expansion=0", "dropout=0.5"], "dropout=0.5"),
        ("uno", ["rank=0.5"], "rank=0.5"),
        ("galerkin", ["scalers=false", "latent_shape=[9,9]"], "latent_shape=[9, 9]"),
        ("galerkin", ["scalers=false", "up_activation=gelu"], "up_activation=gelu"),
        ("galerkin", ["decoder=pointwise", "padding=0.1"], "padding=0.1"),
        ("galerkin", ["ffn=glu", "activation=gelu"], "activation=gelu"),
        ("galerkin", ["initial_gain=0", "initial_diagonal=1"], "initial_diagonal=1.0"),
        ("mgno", ["norm_at=layers"], "norm_at=layers"),
        ("mgno", ["projection_activation=nope"], "projection_activation=nope"),
    ],
)
def test_a_setting_without_effect_is_refused(model, settings, idle, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path / "data"))
    chosen = ["--pde", "darcy", "--model", model, *(f"model.{s}" for s in settings), f"run_dir={tmp_path / 'run'}"]
    assert main(["train", *chosen]) == 2
    assert f"{idle} has no effect" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("pde", FAMILIES)
def test_the_papers_preset_of_gnot_has_nothing_of_the_laptop_configuration(pde, capsys):
    """Hao et al. 2023: queries are positions, frames are predicted as such, 500 epochs in batches of 4."""
    assert main(["train", "--pde", pde, "--model", "gnot", "--preset", "paper", "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    model, trajectories = config["model"], pde == "navier_stokes"
    assert not model["query_fields"] and (model["width"], model["n_experts"], model["expansion"]) == (128, 3, 4)
    assert config["stepping"]["target"] == "absolute" and config["stepping"]["history"] == (10 if trajectories else 1)
    assert config["trainer"]["max_epochs"] == 500 and config["data"]["batch_size"] == (40 if trajectories else 4)


def test_trainer_arguments_opkit_keeps_to_itself_exist():
    """A renamed argument of Lightning's Trainer must not slip past the list."""
    import inspect

    from lightning import Trainer

    from opkit.cli.settings import OWN_TRAINER_ARGUMENTS

    assert set(inspect.signature(Trainer).parameters) >= OWN_TRAINER_ARGUMENTS


@pytest.mark.parametrize(
    ("pde", "expected"),
    [
        ("darcy", "darcy"),
        ("darcy-rough", "darcy"),
        ("navier_stokes", "navier_stokes"),
        ("navier_stokes_1e-4", "navier_stokes"),
        ("navier_stokes-decaying", "navier_stokes"),
    ],
)
def test_a_variant_belongs_to_its_family(pde, expected):
    assert registry.family(pde) == expected
