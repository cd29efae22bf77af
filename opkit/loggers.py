"""Where a run's figures go beside metrics.csv, and what is told of the machine and the code that made them.

Weights & Biases works without a key or a network: then it keeps its files in the run directory, and `wandb sync` sends
them later. Nothing that goes wrong with it ends a run.
"""

import contextlib
import os
import platform
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

import opkit
from opkit.errors import ConfigError
from opkit.files import read_json, write_json

NAMES = ("wandb", "tensorboard")
IDENTITY = "wandb.json"
"""Keeps the id of the run at Weights & Biases, so that resuming continues it."""
PATIENCE = 30.0
"""Seconds that Weights & Biases may take to answer."""


def parse(text: str) -> tuple[str, ...]:
    """The loggers that "wandb,tensorboard" names; none for "csv", which is always written.

    Raises:
        ConfigError: A name is unknown, or its package is missing.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if word not in (*NAMES, "csv"):
            raise ConfigError(f"logger={text}: {word!r} is unknown; there are: csv, {', '.join(NAMES)}.")
    if "tensorboard" in words:
        try:
            import tensorboard  # noqa: F401
        except ImportError:
            raise ConfigError(
                "logger=tensorboard needs the package tensorboard. Install it: pip install 'opkit[tensorboard]'"
            ) from None
    return tuple(word for word in NAMES if word in words)


def make(names: tuple[str, ...], folder: Path, config: dict[str, Any]) -> list[Logger]:
    """The loggers of a run.

    Args:
        names: Of `NAMES`.
        folder: The run directory.
        config: The resolved settings, with what `environment` found.
    """
    made: list[Logger] = []
    if "wandb" in names:
        made += _wandb(folder, config)
    if "tensorboard" in names:
        made.append(TensorBoardLogger(folder, name="tensorboard", version=""))
    return made


def _wandb(folder: Path, config: dict[str, Any]) -> list[Logger]:
    """In a list, which is empty where even an offline run cannot be begun."""
    import wandb

    known = folder / IDENTITY
    identity = read_json(known, ConfigError).get("id") if known.exists() else os.environ.get("WANDB_RUN_ID")
    identity = identity or secrets.token_hex(4)
    given: dict[str, Any] = {
        "project": os.environ.get("WANDB_PROJECT", "opkit"), "dir": str(folder), "id": identity, "resume": "allow",
        "name": f"{config['model']['name']}-{config['pde']['name']}-s{config['seed']}", "job_type": "train",
        "group": os.environ.get("WANDB_RUN_GROUP", f"{config['model']['name']}-{config['pde']['name']}"),
        "config": config,
    }  # fmt: skip
    wanted = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
    for mode in dict.fromkeys([wanted, "offline"]):
        given["mode"] = mode
        try:
            run = wandb.init(**given, settings=wandb.Settings(init_timeout=PATIENCE, silent=True))
        except Exception as problem:  # whatever it is, training goes on
            reason = (str(problem).splitlines() or [type(problem).__name__])[0]
            print(f"wandb: no {mode} run ({reason})", file=sys.stderr)
            with contextlib.suppress(Exception):
                wandb.teardown()  # it would hold the id
            continue
        write_json(known, {"id": identity})
        if mode == "offline":
            print(f"wandb: offline; send it later with: wandb sync {Path(run.dir).parent}", file=sys.stderr)
        return [WandbLogger(experiment=run)]
    return []


def _has_key() -> bool:
    import wandb

    try:
        return bool(os.environ.get("WANDB_API_KEY") or wandb.login(prompt=False))
    except Exception:  # it reads files of the user's
        return False


def finish(loggers: list[Logger], metrics: dict[str, Any], pictures: dict[str, Path]) -> None:
    """Send what is known at the end: final metrics by name, and pictures.

    A run at Weights & Biases ends here, so that another one can begin in this process.
    """
    for logger in loggers:
        try:
            logger.log_metrics(metrics)
            if isinstance(logger, WandbLogger):
                logger.experiment.summary.update(metrics)
                for name, path in pictures.items():
                    logger.log_image(name, [str(path)])
                logger.experiment.finish()
            if isinstance(logger, TensorBoardLogger):
                import matplotlib.image

                for name, path in pictures.items():
                    logger.experiment.add_image(name, matplotlib.image.imread(path)[..., :3], dataformats="HWC")
                logger.finalize("success")
        except Exception as problem:
            print(f"{type(logger).__name__}: the end was not recorded ({problem})", file=sys.stderr)


def environment(data_key: str) -> dict[str, Any]:
    """Data, code, packages and hardware of a run, as JSON values.

    Args:
        data_key: Hash of the training data's settings.
    """
    return {
        "data": data_key,
        "opkit": opkit.__version__,
        "git": _git("rev-parse", "HEAD"),
        "git_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.platform(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _git(*arguments: str) -> str | None:
    """What git says of the checkout opkit runs from; None for an installed one."""
    root = Path(opkit.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
