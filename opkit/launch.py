"""Where shards are made: in a pool on this machine, on Dask, or by one of several ranks under SLURM or torchrun.

Ranks need not know of each other: rank r of w takes every w-th shard of the plan, minus those present, and a shard made
twice is the same shard. A rank that fails leaves its shards to the next run, with any launcher.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from opkit.errors import ConfigError, DataError, OpkitError
from opkit.generate import Job, LocalPool, Meter, Pool, available_cores, make, make_shard
from opkit.signals import check_preempted, held
from opkit.store import Dataset

if TYPE_CHECKING:
    from distributed import Client

Launcher = Literal["auto", "local", "dask", "slurm", "torchrun"]

DASK_RETRIES = 3
"""Times Dask tries a shard again; as often it forgives the death of the worker that made it."""
DASK_TIMEOUT = 20.0
"""Seconds to wait for a Dask scheduler to answer."""


@dataclass(frozen=True)
class Rank:
    """One of several processes that share a plan.

    Args:
        number: Which, from 0.
        count: Of how many.
    """

    number: int = 0
    count: int = 1

    def share(self, data: Dataset, jobs: list[Job]) -> list[Job]:
        """Every `count`-th shard of the plan, those of `jobs` among them. Which shard is whose depends on its start
        alone, not on what is missing when a rank looks."""
        return [job for job in jobs if job[0] // data.shard_size % self.count == self.number]


@dataclass(frozen=True)
class Launch:
    """How one run of the generate command makes shards.

    Args:
        pool: What makes them.
        rank: Which part of them.
    """

    pool: Pool
    rank: Rank

    def make(self, data: Dataset, count: int) -> int:
        """Make this rank's part of what is missing of the first `count` samples; how many are then still missing."""
        make(data, self.rank.share(data, data.missing(count)), self.pool)
        return sum(stop - start for start, stop in data.missing(count))


@contextmanager
def launch(launcher: str, scheduler: str | None, workers: int | None, device: str) -> Iterator[Launch]:
    """What the generate command's settings ask for.

    Args:
        launcher: "local", "dask", "slurm" (array tasks, or tasks of a step), "torchrun" (RANK and WORLD_SIZE), or
            "auto": what the environment shows, else local.
        scheduler: Address of a Dask scheduler; None starts a cluster on this machine.
        workers: Processes on this machine; None means one per core, shared with other ranks on it.
        device: Where to solve.

    Raises:
        ConfigError: The environment does not show what `launcher` needs.
    """
    if launcher == "auto":
        launcher = "dask" if scheduler else detect(os.environ)
    if scheduler and launcher != "dask":
        raise ConfigError(
            f"scheduler={scheduler} is for launcher=dask, not launcher={launcher}. Leave one of them out."
        )
    if launcher == "dask":
        with _dask_client(scheduler, workers, device) as client:
            yield Launch(DaskPool(client, device), Rank())
        return
    rank = Rank()
    if launcher == "slurm":
        rank = slurm_rank(os.environ)
        workers = workers or min(_number(os.environ, "SLURM_CPUS_PER_TASK", available_cores()), available_cores())
    elif launcher == "torchrun":
        rank = torchrun_rank(os.environ)
        neighbours = _number(os.environ, "LOCAL_WORLD_SIZE", 1)
        workers = workers or max(1, available_cores() // neighbours)
        if device == "cuda" and neighbours > 1:
            device = f"cuda:{_number(os.environ, 'LOCAL_RANK', 0) % max(1, torch.cuda.device_count())}"
    yield Launch(LocalPool(workers, device), rank)


def detect(environment: Mapping[str, str]) -> str:
    """The launcher that started this process."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return "torchrun"
    if "SLURM_ARRAY_TASK_ID" in environment or _step_tasks(environment) > 1:
        return "slurm"
    return "local"


def torchrun_rank(environment: Mapping[str, str]) -> Rank:
    """This process under torchrun.

    Raises:
        ConfigError: It is not.
    """
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        raise ConfigError(
            "launcher=torchrun needs RANK and WORLD_SIZE in the environment. Start the command with torchrun, as in "
            "`torchrun --nproc-per-node=2 datasets/generate.py --pde darcy`, or leave launcher out."
        )
    return _checked(_number(environment, "RANK"), _number(environment, "WORLD_SIZE"), "RANK of WORLD_SIZE")


def slurm_rank(environment: Mapping[str, str]) -> Rank:
    """This process in a SLURM job: its array task, times its task of the step.

    Raises:
        ConfigError: There is no array and no step, or array indices are not evenly spaced.
    """
    array = "SLURM_ARRAY_TASK_ID" in environment
    tasks = _step_tasks(environment)
    if not array and "SLURM_PROCID" not in environment:
        raise ConfigError(
            "launcher=slurm needs an array job (SLURM_ARRAY_TASK_ID) or a task started by srun (SLURM_PROCID). Submit "
            "cluster/generate.slurm, or leave launcher out."
        )
    number, count = 0, 1
    if array:
        least, step = _number(environment, "SLURM_ARRAY_TASK_MIN", 0), _number(environment, "SLURM_ARRAY_TASK_STEP", 1)
        count = _number(environment, "SLURM_ARRAY_TASK_COUNT")
        number, off = divmod(_number(environment, "SLURM_ARRAY_TASK_ID") - least, max(1, step))
        if off or not 0 <= number < count:
            raise ConfigError(
                f"SLURM_ARRAY_TASK_ID={environment['SLURM_ARRAY_TASK_ID']} is not one of {count} evenly spaced array "
                "indices. Submit with --array=0-15, or another range without gaps."
            )
    process = _number(environment, "SLURM_PROCID", 0) if tasks > 1 else 0
    return _checked(number * tasks + process, count * tasks, "SLURM task")


def _step_tasks(environment: Mapping[str, str]) -> int:
    """Processes that srun started together with this one. In the batch script itself SLURM_NTASKS counts tasks that
    nobody has started yet."""
    if "SLURM_PROCID" not in environment or ("SLURM_JOB_ID" in environment and "SLURM_STEP_ID" not in environment):
        return 1
    return _number(environment, "SLURM_STEP_NUM_TASKS", _number(environment, "SLURM_NTASKS", 1))


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    value = environment.get(name, default)
    try:
        return int(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        given = f"is {value!r}" if name in environment else "is missing"
        raise ConfigError(f"The environment variable {name} {given}; a whole number is expected there.") from None


def _checked(number: int, count: int, what: str) -> Rank:
    if not 0 <= number < count:
        raise ConfigError(f"{what}: {number} of {count} is not a rank; they count from 0 to {count - 1}.")
    return Rank(number, count)


class DaskPool(Pool):
    """Workers of a Dask cluster.

    Args:
        client: Connected to its scheduler.
        device: Where to solve.
    """

    def __init__(self, client: "Client", device: str):
        self.client, self.device = client, device

    def width(self, jobs: list[Job]) -> int:
        return max(1, min(len(jobs), sum(self.client.nthreads().values())))

    def run(self, data: Dataset, jobs: list[Job], meter: Meter) -> None:
        from distributed import wait
        from distributed.comm import CommClosedError
        from distributed.scheduler import KilledWorker

        topic = f"opkit-{os.urandom(8).hex()}"
        data = Dataset(data.pde, data.split, data.seed, data.root.absolute())

        def note(event: tuple[float, Any]) -> None:
            slot, *values = event[1]
            meter.slots[slot] = values

        self.client.subscribe_topic(topic, note)
        futures = [
            self.client.submit(_work, data, slot, job, self.device, topic, retries=DASK_RETRIES, pure=False)
            for slot, job in enumerate(jobs)
        ]
        pending = set(futures)
        try:
            while pending:
                try:
                    done, pending = wait(pending, timeout=0.25, return_when="FIRST_COMPLETED")
                except TimeoutError:
                    done = set()
                meter.show()
                check_preempted()
                for future in done:
                    if problem := future.result():
                        raise problem
        except KilledWorker as problem:
            raise DataError(
                f"Dask workers died again and again while making data for {data.folder} (out of memory?): {problem}. "
                "Finished shards are kept; run the same command again, with fewer workers on a machine."
            ) from None
        except (CancelledError, CommClosedError) as problem:
            reason = str(problem).partition("\n")[0]
            raise DataError(
                f"The Dask scheduler went away ({reason}). Finished shards are kept in {data.folder}; start it again "
                "and repeat the command."
            ) from None
        finally:
            with contextlib.suppress(CommClosedError):
                self.client.cancel(futures)
                self.client.unsubscribe_topic(topic)
        if any(not data.path(*job).exists() for job in jobs):
            raise DataError(
                f"The Dask workers say they are done, but {data.folder} lacks shards. Set OPKIT_DATA to a folder that "
                "all workers and this process see."
            )
        meter.slots[:, 0] = [stop - start for start, stop in jobs]  # the last events may not have arrived
        meter.show()


def _work(data: Dataset, slot: int, job: Job, device: str, topic: str) -> OpkitError | None:
    """Make a shard in a Dask worker. What the user must mend is returned: raised, it would be tried again."""
    from distributed import get_worker

    worker = get_worker()
    torch.set_num_threads(1)
    if device == "cuda" and isinstance(worker.name, int):  # workers of a LocalCluster are numbered
        device = f"cuda:{worker.name % torch.cuda.device_count()}"
    try:
        make_shard(data, *job, device, lambda done, seconds: worker.log_event(topic, (slot, done, seconds)))
    except OpkitError as problem:
        return problem
    return None


@contextmanager
def _dask_client(scheduler: str | None, workers: int | None, device: str) -> "Iterator[Client]":
    try:
        from distributed import Client, LocalCluster
        from distributed.utils import silence_logging_cmgr
    except ImportError:
        raise ConfigError(
            "launcher=dask needs the package distributed. Install it: pip install 'opkit[dask]'"
        ) from None

    with silence_logging_cmgr(logging.CRITICAL):  # what matters is said in our own words
        if scheduler:
            try:
                client = Client(scheduler, timeout=DASK_TIMEOUT)
            except (OSError, ValueError) as problem:
                raise ConfigError(
                    f"scheduler={scheduler}: no Dask scheduler answers there ({problem}). Write for example "
                    "scheduler=tcp://host:8786, the address that `dask scheduler` prints."
                ) from None
            with client:
                yield client
            return
        with held():
            cluster = LocalCluster(
                n_workers=LocalPool(workers, device).workers, threads_per_worker=1, processes=True, host="127.0.0.1",
                dashboard_address=None, silence_logs=logging.CRITICAL,
            )  # fmt: skip
        with cluster, Client(cluster, timeout=DASK_TIMEOUT) as client:
            yield client
