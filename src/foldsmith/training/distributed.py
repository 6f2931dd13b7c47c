"""Data-parallel training under torchrun: which process this is, and what all processes agree on.

torch.distributed holds the state. In a process of its own each function here is the identity or does nothing, so that
the training reads the same with one process and with many.
"""

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from foldsmith.errors import EXIT_ENVIRONMENT, UserError

T = TypeVar("T")

# A process that ends, however it ends, closes its connections: the others fail at once, and torchrun ends them. Only a
# machine that vanishes or hangs is found by time. Within a step nobody has to be waited for as long as STEP; where
# process 0 works alone (decoding into the cache, scoring, writing) the others wait for it in a group of their own.
STEP = timedelta(minutes=30)
ALONE = timedelta(hours=4)
JOIN = timedelta(minutes=10)  # in which all processes of a start have come to their first meeting
KNOCK = timedelta(seconds=5)  # in which a store that is there answers

# How gloo, torch's store and nccl tell that another process is gone or silent. Where nccl notices in the background
# only, torch ends the process by itself.
_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Timed out waiting",
    "timed out after",
    "wait timeout after",
    "NCCL communicator was aborted",
    "ncclRemoteError",
    "Connection closed by remote peer",
)

_device = torch.device("cpu")  # whose backend sums numbers: between GPUs nccl is many times as fast as gloo
_patient: dist.ProcessGroup | None = None  # gloo, with the patience of ALONE


def under_torchrun() -> bool:
    """Whether torchrun, or another launcher that sets its variables, started this as one of several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ and "MASTER_ADDR" in os.environ


def processes_here() -> int:
    """How many of torchrun's processes run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def restarted() -> bool:
    """Whether torchrun or SLURM started this process anew, after another one, or its machine, was lost."""
    return bool(starters(again=True))


def starters(*, again: bool = False) -> list[str]:
    """Names, which no others have, of the torchrun and the SLURM job that this process belongs to.

    Args:
        again: only of those that started it anew.
    """
    found, known = [], os.environ
    if "TORCHELASTIC_RESTART_COUNT" in known and int(known["TORCHELASTIC_RESTART_COUNT"]) >= again:
        # torchrun is the parent of its processes. Its own name is "none" unless it was given one.
        parent = os.getppid()
        began = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]  # ticks since the boot
        found.append(f"torchrun {known.get('TORCHELASTIC_RUN_ID')} {socket.gethostname()} {parent} {began}")
    if ("SLURM_JOB_ID" in known or "SLURM_RESTART_COUNT" in known) and int(
        known.get("SLURM_RESTART_COUNT", "0")
    ) >= again:
        found.append(f"SLURM {known.get('SLURM_CLUSTER_NAME')} {known.get('SLURM_JOB_ID')}")
    return found


def several_hosts() -> bool:
    """Whether torchrun's processes run on more than one machine."""
    return under_torchrun() and processes_here() != int(os.environ["WORLD_SIZE"])


@contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the other processes while the block lasts; gives the device of this one.

    Tensors on CUDA travel by nccl, those in memory by gloo. Only process 0 writes to the terminal, apart from errors.
    """
    if not under_torchrun():
        yield device
        return
    if device.type == "cuda":
        local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= count:
            raise UserError(
                f"process {local} of this machine has no GPU of its own: there are {count}",
                hint=f"torchrun --nproc-per-node {count}",
                code=EXIT_ENVIRONMENT,
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        _join(backend, device)
        if not is_main():
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            sys.stderr.isatty = lambda: False  # type: ignore[method-assign]  # no progress bars
        yield device
    except RuntimeError as error:
        how = [words for words in _LOST if words in str(error)]
        if not how:
            raise
        raise broken_off(f"process {rank()} lost another one, which may have said why: {how[0]}") from None
    dist.destroy_process_group()  # not after an error: the others may be lost, and torchrun ends them all


def broken_off(what: str) -> UserError:
    """The error of a process that can't go on: the others wait for it within a step, and have to start anew, too."""
    return UserError(
        what,
        hint="the same command goes on from last.ckpt; torchrun --max-restarts 3 calls it again by itself",
        code=EXIT_ENVIRONMENT,
    )


def _join(backend: str, device: torch.device) -> None:
    global _patient, _device
    _device = device
    dist.init_process_group(backend, timeout=STEP, **_meeting_place())
    group = dist.new_group(timeout=ALONE, backend="gloo")
    assert isinstance(group, dist.ProcessGroup)
    _patient = group


def _meeting_place() -> dict[str, Any]:
    """A store in which the processes tell each other their addresses; empty: where torch takes it to be.

    torchrun keeps its own store over restarts, with the addresses of processes that are gone, and torch's default is
    that one. So process 0 opens a store that ends with it, on the machine of torchrun's, which only tells its port; a
    port that nobody listens at was that of an earlier start.
    """
    known = os.environ
    if known.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    host, number, count = known["MASTER_ADDR"], int(known["RANK"]), int(known["WORLD_SIZE"])
    agents = dist.TCPStore(host, int(known["MASTER_PORT"]), is_master=False, timeout=JOIN)
    if number == 0:
        store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=JOIN)
        agents.set("foldsmith", str(store.port))
    else:
        store = _find_store(agents, host)
    store.set(f"came {number}", "")
    store.wait([f"came {each}" for each in range(count)], JOIN)
    return {"store": store, "rank": number, "world_size": count}


def _find_store(agents: dist.TCPStore, host: str) -> dist.TCPStore:
    """The store that process 0 of this start has opened or is about to open."""
    ends = time.monotonic() + JOIN.total_seconds()
    while True:
        try:
            port = int(agents.get("foldsmith"))
            socket.create_connection((host, port), timeout=KNOCK.total_seconds()).close()  # TCPStore would try again
            return dist.TCPStore(host, port, is_master=False, timeout=KNOCK)
        except (OSError, dist.DistNetworkError):
            if time.monotonic() > ends:
                raise
        time.sleep(0.1)


def size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def words() -> str:
    """How many there are, for the log."""
    return f"{size()} processes ({dist.get_backend()})"


def is_main() -> bool:
    """Whether this process writes files and says what happens."""
    return rank() == 0


def barrier() -> None:
    """Wait until all processes are here."""
    if size() > 1:
        dist.all_reduce(torch.zeros(1), group=_patient)


@contextmanager
def main_first() -> Iterator[None]:
    """Process 0 goes through the block before the others begin it: they find the files that it writes."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def on_main(function: Callable[[], T]) -> T:
    """What the function gives in process 0, which alone calls it; the same value, bit for bit, everywhere."""
    if size() == 1:
        return function()
    value = [function() if is_main() else None]
    dist.broadcast_object_list(value, src=0, group=_patient, device=torch.device("cpu"))
    return value[0]  # type: ignore[return-value]


def check_same(found: str, place: object, hint: str) -> None:
    """Refuse to go on where this process has found other files than process 0: they do not share the place."""
    theirs = on_main(lambda: found)
    if found != theirs:
        what = f"process {rank()} finds {found} there, process 0 {theirs}"
        raise UserError(what, file=place, hint=hint, code=EXIT_ENVIRONMENT)


def part_of(count: int, of_rank: int | None = None) -> slice:
    """A process's share of a row of `count` things: parts follow each other and differ by one at most."""
    number = rank() if of_rank is None else of_rank
    return slice(count * number // size(), count * (number + 1) // size())


def total(value: float | Tensor) -> float:
    """The sum over the processes, in float64."""
    if size() == 1:
        return float(value)
    number = torch.tensor(float(value), dtype=torch.float64, device=_device)
    dist.all_reduce(number)
    return number.item()


def smallest(count: int) -> int:
    """The smallest of the processes' counts."""
    if size() == 1:
        return count
    number = torch.tensor(count, device=_device)
    dist.all_reduce(number, op=dist.ReduceOp.MIN)
    return int(number.item())


def gather_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """In process 0 the rows (n, classes) of all processes, in their order; in the others nothing, (0, classes)."""
    if size() == 1:
        return rows
    counts = torch.zeros(size(), dtype=torch.int64)
    counts[rank()] = len(rows)
    dist.all_reduce(counts)
    if not is_main():
        if len(rows):
            dist.send(torch.from_numpy(rows), dst=0)
        return rows[:0]
    whole = np.empty((int(counts.sum()), rows.shape[1]), dtype=np.float32)
    whole[: len(rows)] = rows
    end = len(rows)
    for sender, count in enumerate(counts.tolist()[1:], start=1):
        if count:  # into its place: the rows of a large fold fill the memory, and are there once
            dist.recv(torch.from_numpy(whole[end : end + count]), src=sender)
        end += count
    return whole


def partners(permutation: NDArray[np.int64]) -> Callable[[Tensor], Tensor]:
    """A function that gives, for each of a tensor's rows, the row of its partner in the batch of all processes.

    Args:
        permutation: the partner of every row of that batch, of which each process holds its `part_of`.
    """
    own = permutation[part_of(len(permutation))]
    if size() == 1:
        index = torch.from_numpy(own)
        return lambda rows: rows[index.to(rows.device)]
    here = part_of(len(permutation))
    parts = [part_of(len(permutation), of_rank) for of_rank in range(size())]
    sent = [[row - here.start for row in permutation[part] if here.start <= row < here.stop] for part in parts]
    received = [np.flatnonzero((own >= part.start) & (own < part.stop)) for part in parts]

    def exchange(rows: Tensor) -> Tensor:
        send = rows[torch.tensor([row for of_rank in sent for row in of_rank], device=rows.device)].contiguous()
        result = torch.empty((len(own), *rows.shape[1:]), dtype=rows.dtype, device=rows.device)
        dist.all_to_all_single(result, send, [len(part) for part in received], [len(part) for part in sent])
        return result[torch.from_numpy(np.argsort(np.concatenate(received))).to(rows.device)]

    return exchange
