"""What opkit finds on this machine: versions, devices, compiler, room for data."""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator

import opkit
from opkit.files import human_bytes
from opkit.store import data_root

PACKAGES = ("torch", "lightning", "numpy", "scipy", "h5py", "safetensors", "jsonargparse")


def findings() -> Iterator[tuple[str, str]]:
    """(name, value) pairs, in the order a bug report wants them."""
    import torch

    yield "opkit", f"{opkit.__version__} in {os.path.dirname(opkit.__file__)}"
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    for package in PACKAGES:
        try:
            yield package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            yield package, "MISSING: pip install opkit again"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "cores, threads", f"{cores}, {torch.get_num_threads()}"
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(i)
            yield f"gpu {i}", f"{torch.cuda.get_device_name(i)}, {human_bytes(free)} of {human_bytes(total)} free"
    else:
        yield "gpu", "none usable; training runs on the CPU"
    compiler = shutil.which(os.environ.get("CXX", "")) or shutil.which("g++") or shutil.which("clang++")
    yield "c++ compiler", compiler or "none; compile=auto will train without torch.compile"
    root = data_root().absolute()
    present = next(p for p in [root, *root.parents] if p.exists())
    writable = "writable" if os.access(present, os.W_OK) else "NOT WRITABLE: set OPKIT_DATA"
    yield "data", f"{root}, {human_bytes(shutil.disk_usage(present).free)} free, {writable}"
