import dataclasses

import numpy as np
import pytest
import torch

from opkit.batches import EpochBatches, Request, apply_symmetry
from opkit.datamodule import FieldData, MemoryFields, MemoryTrajectories, StoredFields
from opkit.generate import ensure
from opkit.pdes import Burgers, Darcy
from opkit.settings import Data, Stepping

PDE = Darcy(resolution=9, label_resolution=9, modes=8)


def epoch(batches: EpochBatches, number: int) -> list:
    batches.set_epoch(number)
    return [request.indices for request in batches]


def test_an_epoch_visits_every_sample_once():
    batches = EpochBatches(23, 5, seed=0)
    assert len(batches) == 5
    visited = [i for batch in epoch(batches, 0) for i in batch]
    assert sorted(visited) == list(range(23))
    assert visited != list(range(23))


def test_the_order_is_a_function_of_seed_and_epoch():
    first, again = (epoch(EpochBatches(20, 4, seed=0), 3) for _ in range(2))
    assert first == again
    assert epoch(EpochBatches(20, 4, seed=0), 4) != first
    assert epoch(EpochBatches(20, 4, seed=1), 3) != first


def test_ranks_share_every_global_batch():
    whole = epoch(EpochBatches(20, 8, seed=0), 1)
    parts = [epoch(EpochBatches(20, 8, seed=0, rank=r, world=2), 1) for r in range(2)]
    assert [sorted(a + b) for a, b in zip(*parts, strict=True)] == [sorted(b) for b in whole]


def test_without_a_seed_the_order_is_natural_and_nothing_moves():
    batches = EpochBatches(5, 2)
    assert list(batches) == [([0, 1], None, 1), ([2, 3], None, 1), ([4], None, 1)]


def test_a_batch_is_never_larger_than_the_data():
    assert list(EpochBatches(3, 10)) == [([0, 1, 2], None, 1)]


def test_ranks_draw_the_same_grid_for_a_batch_and_all_are_drawn():
    parts = [list(EpochBatches(80, 4, seed=0, rank=r, world=2, strides=(1, 2, 4))) for r in range(2)]
    assert [a.stride for a in parts[0]] == [b.stride for b in parts[1]]
    assert {a.stride for a in parts[0]} == {1, 2, 4}
    plain = list(EpochBatches(80, 4, seed=0, rank=0, world=2))
    assert [a.indices for a in parts[0]] == [a.indices for a in plain]


def test_a_batch_on_a_coarser_grid_holds_the_points_the_grids_share():
    """Nodes of 9 and 5 points; symmetries act on the coarser square as they do on the finer one."""
    a = PDE.sample(2)
    fields = MemoryFields(a, PDE.solve(a))
    moves = np.array([[1, 0, 1], [0, 1, 0]], dtype=bool)
    fine, coarse = fields[Request([0, 1], moves)], fields[Request([0, 1], moves, 2)]
    shared = PDE.on(5).grid.coordinates
    assert torch.equal(shared, PDE.grid.coordinates[..., ::2, ::2])
    for one, other in zip(fine, coarse, strict=True):
        assert torch.equal(one[..., ::2, ::2], other)


def test_symmetries_move_input_and_target_together():
    """Each move is checked against the operation itself; samples without a move stay as they are."""
    a, u = torch.randn(5, 1, 4, 4), torch.randn(5, 2, 4, 4)
    moves = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], dtype=bool)
    for before, after in zip((a, u), apply_symmetry((a, u), moves), strict=True):
        expected = [
            before[0], before[1].flip(-2), before[2].flip(-1), before[3].transpose(-1, -2),
            before[4].flip(-1, -2).transpose(-1, -2),
        ]  # fmt: skip
        assert (after == torch.stack(expected)).all()


def test_a_moved_sample_still_solves_the_equation():
    a = PDE.sample(4)
    moves = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 0], [0, 0, 1]], dtype=bool)
    moved, solution = apply_symmetry((a, PDE.solve(a)), moves)
    torch.testing.assert_close(PDE.solve(moved), solution, rtol=0, atol=1e-11)


def test_memory_and_disk_give_the_same_samples(tmp_path, monkeypatch):
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path))
    settings = {kind: Data(train=60, val=4, in_memory=kind == "memory", batch_size=7) for kind in ("memory", "disk")}
    train, val = ensure(PDE, "train", 60, workers=1), ensure(PDE, "val", 4, workers=1)
    modules = {kind: FieldData(train, val, s, seed=3) for kind, s in settings.items()}
    for module in modules.values():
        module.setup()
    assert isinstance(modules["memory"].fields["train"], MemoryFields)
    assert isinstance(modules["disk"].fields["train"], StoredFields)
    batches = EpochBatches(60, 7, seed=3, symmetries=3)
    for request in batches:
        for one, other in zip(*(m.fields["train"][request] for m in modules.values()), strict=True):
            assert (one == other).all()


@pytest.mark.slow
def test_loader_processes_read_what_one_process_reads(tmp_path, monkeypatch):
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path))
    train, val = ensure(PDE, "train", 60, workers=1), ensure(PDE, "val", 4, workers=1)
    loaded = []
    for workers in (0, 2):
        module = FieldData(train, val, Data(train=60, val=4, in_memory=False, loader_workers=workers), seed=3)
        module.setup()
        loaded.append(list(module.train_dataloader()))
    for one, other in zip(*loaded, strict=True):
        assert all((a == b).all() for a, b in zip(one, other, strict=True))


def test_splits_are_disjoint(tmp_path, monkeypatch):
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path))
    pde = dataclasses.replace(PDE, coefficient="lognormal")  # no two alike; thresholded ones can be constant
    fields = {s: ensure(pde, s, 20, workers=1).load(20)["u"] for s in ("train", "val", "test")}
    for split, u in fields.items():
        for other, v in fields.items():
            distance = (u[:, None] - v[None]).abs().amax((2, 3))
            if split == other:
                distance.fill_diagonal_(1)
            assert distance.min() > 1e-6, (split, other)


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_trajectories_are_learned_step_by_step(kind, tmp_path, monkeypatch):
    """Item i is step i % t of sample i // t, with its own constant channels."""
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path))
    pde = Burgers(resolution=32, label_resolution=32, times=(0, 0.1, 0.2, 0.3), viscosity=(0.5, 1.0), modes=4, tail=1.0)
    train, val = ensure(pde, "train", 5, workers=1), ensure(pde, "val", 2, workers=1)
    module = FieldData(train, val, Data(train=5, val=2, in_memory=kind == "memory"), seed=0)
    module.setup()
    fields = module.fields["train"]
    assert len(fields) == 15 and len(module.fields["val"]) == 6
    assert isinstance(fields, MemoryTrajectories if kind == "memory" else StoredFields)
    inputs, targets = fields[Request([0, 7, 14, 2])]
    a = pde.sample(5)
    u = pde.solve(a).float()
    nu = a[:, 1:].float()
    for row, (i, step) in enumerate([(0, 0), (2, 1), (4, 2), (0, 2)]):
        torch.testing.assert_close(inputs[row], torch.cat([u[i, step], nu[i]]), rtol=0, atol=1e-6)
        torch.testing.assert_close(targets[row], u[i, step + 1], rtol=0, atol=1e-6)
    assert [len(part) for part in fields[Request([])]] == [0, 0]


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_windows_of_several_frames(kind, tmp_path, monkeypatch):
    """Two frames in, two out: trajectories of five frames hold two windows; constant channels come last."""
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path))
    times = (0, 0.1, 0.2, 0.3, 0.4)
    pde = Burgers(resolution=32, label_resolution=32, times=times, viscosity=(0.5, 1.0), modes=4, tail=1.0)
    train, val = ensure(pde, "train", 3, workers=1), ensure(pde, "val", 2, workers=1)
    settings = Data(train=3, val=2, in_memory=kind == "memory")
    module = FieldData(train, val, settings, 0, Stepping(history=2, bundle=2))
    module.setup()
    fields = module.fields["train"]
    assert len(fields) == 6
    inputs, targets = fields[Request([1, 4])]
    a = pde.sample(3)
    u, nu = pde.solve(a).float()[:, :, 0], a[:, 1].float()
    for row, (i, start) in enumerate([(0, 1), (2, 0)]):
        torch.testing.assert_close(inputs[row], torch.stack([u[i, start], u[i, start + 1], nu[i]]), rtol=0, atol=1e-6)
        torch.testing.assert_close(targets[row], u[i, start + 2 : start + 4], rtol=0, atol=1e-6)
    assert [part.shape[1] for part in fields[Request([])]] == [3, 2]
