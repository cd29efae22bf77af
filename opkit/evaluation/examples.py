"""samples.h5: a few test samples with what the surrogate makes of them, to look at or to draw again.

    /                    @equation @units @time_step @seed
    /grid/x, y           positions
    /sample/index        of the test set, by error: the smallest first, the largest last
    /sample/rel_l2       of each
    /inputs/<name>       (n, h, *x): the h frames a surrogate starts from; one where the equation is steady
    /parameters/<name>   (n,): parameters of the equation drawn per sample
    /truth/<name>        (n, t, *x): frames after those; one where the equation is steady
    /prediction/<name>   likewise
    /rollout/index       of the test set: a median trajectory of the long rollout, and the worst
    /rollout/step        counted from the last frame given
    /rollout/truth, surrogate    (m, s, *x): the first channel at those steps

Fields are float32, in physical units. A prediction that left the bounds of the training data is infinite from there on.
"""

from pathlib import Path

import numpy as np
from torch import Tensor

from opkit.evaluation.protocol import Measured
from opkit.files import whole_file
from opkit.pdes import PDE
from opkit.surrogate import Surrogate

SAMPLES = 8
"""Samples kept, evenly spread by rank of error."""


def write_examples(path: Path, measured: Measured, surrogate: Surrogate, pde: PDE, seed: int) -> None:
    """Write samples.h5, whole or not at all."""
    import h5py

    errors = np.nan_to_num(measured.coarse.errors["surrogate"]["rel_l2"].numpy(), nan=np.inf)
    order = np.argsort(errors, kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, SAMPLES).round().astype(int))]
    names = pde.inputs if pde.times is None else pde.outputs
    given = (1 if pde.times is None else surrogate.stepping.history) * len(names)
    inputs = measured.inputs[chosen]
    with whole_file(path) as temporary, h5py.File(temporary, "w") as file:

        def store(name: str, values: Tensor | np.ndarray) -> None:
            file.create_dataset(name, data=np.asarray(values), compression="gzip", compression_opts=1, shuffle=True)

        file.attrs["equation"] = surrogate.physics["pde"]
        file.attrs["units"] = surrogate.physics.get("units", "")
        file.attrs["seed"] = seed
        if (step := surrogate.physics.get("time_step")) is not None:
            file.attrs["time_step"] = step
        for axis in range(pde.grid.ndim):
            file[f"grid/{'xyz'[axis]}"] = pde.grid.axis(axis).numpy()
        file["sample/index"] = chosen
        file["sample/rel_l2"] = errors[chosen]
        for i, name in enumerate(names):
            store(f"inputs/{name}", inputs[:, i : given : len(names)])
        for i in range(given, inputs.shape[1]):  # the same number at every point
            file[f"parameters/{pde.varying[i - given]}"] = inputs[:, i].flatten(1)[:, 0].numpy()
        for i, name in enumerate(pde.outputs):
            for kind, values in (("truth", measured.truth), ("prediction", measured.prediction)):
                store(f"{kind}/{name}", values[chosen][:, i :: len(pde.outputs)])
        if (rollout := measured.rollout) is not None and rollout.shown_steps:
            file["rollout/index"] = rollout.shown_samples
            file["rollout/step"] = rollout.shown_steps
            for model, frames in rollout.shown.items():
                store(f"rollout/{model}", frames)
