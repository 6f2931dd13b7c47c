"""Data-parallel training under torchrun: which process this is, and what all processes agree on.

torch.distributed holds the state. In a process of its own each function here is the identity or does nothing, so that
the training reads the same with one process and with many.
"""

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from foldsmith.errors import EXIT_ENVIRONMENT, UserError

T = TypeVar("T")

# Process 0 may score for long while the others wait. Lost processes are torchrun's to find, not a time-out's.
PATIENCE = timedelta(hours=12)


def under_torchrun() -> bool:
    """Whether torchrun, or another launcher that sets its variables, started this as one of several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ and "MASTER_ADDR" in os.environ


def restarted() -> bool:
    """Whether torchrun started this process anew, after another one was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def several_hosts() -> bool:
    """Whether torchrun's processes run on more than one machine."""
    return under_torchrun() and os.environ.get("LOCAL_WORLD_SIZE") != os.environ["WORLD_SIZE"]


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
    dist.init_process_group(backend, timeout=PATIENCE, **_meeting_place())
    if not is_main():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        sys.stderr.isatty = lambda: False  # type: ignore[method-assign]  # no progress bars
    yield device
    dist.destroy_process_group()  # not after an error: the others may be lost, and torchrun ends them all


def _meeting_place() -> dict[str, Any]:
    """Where the processes of one machine tell each other their addresses; empty: where torch takes it to be.

    torchrun keeps its store over restarts, with the addresses of processes that are gone. Of
    several machines each counts restarts for itself, so that the count can't tell the processes apart there.
    """
    known = os.environ
    if known.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or several_hosts():
        return {}
    store = dist.TCPStore(known["MASTER_ADDR"], int(known["MASTER_PORT"]), is_master=False, timeout=PATIENCE)
    start = dist.PrefixStore(f"start {known.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    return {"store": start, "rank": int(known["RANK"]), "world_size": int(known["WORLD_SIZE"])}


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
        dist.all_reduce(torch.zeros(1))  # by gloo: a barrier of nccl gives up after ten minutes


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
    dist.broadcast_object_list(value, src=0, device=torch.device("cpu"))
    return value[0]  # type: ignore[return-value]


def check_same(value: Any, place: object) -> None:
    """Refuse to go on where the processes have found different files in a folder: they do not share it."""
    if value != on_main(lambda: value):
        raise UserError(
            f"process {rank()} does not find there what process 0 finds ({value} here)",
            file=place,
            hint="--output on a folder that all machines share",
            code=EXIT_ENVIRONMENT,
        )


def part_of(count: int, of_rank: int | None = None) -> slice:
    """A process's share of a row of `count` things: parts follow each other and differ by one at most."""
    number = rank() if of_rank is None else of_rank
    return slice(count * number // size(), count * (number + 1) // size())


def total(value: float | Tensor) -> float:
    """The sum over the processes, in float64."""
    if size() == 1:
        return float(value)
    number = torch.tensor(float(value), dtype=torch.float64)
    dist.all_reduce(number)
    return number.item()


def gather_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """In process 0 the rows (n, classes) of all processes, in their order; in the others nothing, (0, classes)."""
    if size() == 1:
        return rows
    counts = torch.zeros(size(), dtype=torch.int64)
    counts[rank()] = len(rows)
    dist.all_reduce(counts)
    padded = torch.zeros(int(counts.max()), rows.shape[1])
    padded[: len(rows)] = torch.from_numpy(rows)
    parts = [torch.empty_like(padded) for _ in range(size())] if is_main() else None
    dist.gather(padded, parts, dst=0)
    if parts is None:
        return rows[:0]
    return np.concatenate([part[:count].numpy() for part, count in zip(parts, counts.tolist(), strict=True)])


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


def same_weights(model: nn.Module) -> None:
    """Give every process the weights and buffers that process 0 has."""
    if size() > 1:
        for tensor in model.state_dict().values():
            sent = tensor.contiguous()
            dist.broadcast(sent, src=0)
            tensor.copy_(sent)


def average_statistics(model: nn.Module, *copies: nn.Module) -> None:
    """Replace the statistics of batch norms that train by their means over the processes.

    Args:
        copies: networks of the same layers, such as the moving average of the weights.
    """
    if size() == 1:
        return
    for name, layer in model.named_modules():
        if layer.training and getattr(layer, "running_mean", None) is not None:
            for network in dict.fromkeys((model, *copies)):
                for statistic in ("running_mean", "running_var"):
                    tensor = getattr(network.get_submodule(name), statistic)
                    dist.all_reduce(tensor)
                    tensor /= size()


def data_parallel(model: nn.Module, before: nn.Module | None) -> nn.Module | None:
    """The network within DistributedDataParallel; None for a process of its own.

    Args:
        before: what this gave earlier; it stays as long as the same parameters train.
    """
    if size() == 1:
        return None
    trained = _trained(model)
    if before is not None:
        if before.trained == trained:
            return before
        before.reducer._remove_autograd_hooks()  # type: ignore[union-attr, operator]  # they would average once more
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else None
    with warnings.catch_warnings():  # newer releases of torch have another name for broadcast_buffers
        warnings.simplefilter("ignore", FutureWarning)
        wrapped = DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)
    wrapped.trained = trained  # type: ignore[assignment]
    return wrapped


def _trained(model: nn.Module) -> Sequence[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def no_sync(wrapped: nn.Module | None, last: bool) -> AbstractContextManager[Any]:
    """Keep gradients to this process until the last batch of a step, where they are averaged once."""
    return nullcontext() if wrapped is None or last else wrapped.no_sync()  # type: ignore[operator]


def synchronised_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """The network with batch norms that see the batch of all processes (train.sync_batch_norm).

    Raises:
        UserError: on the CPU, where torch has no such layer.
    """
    from timm.layers import convert_sync_batchnorm

    if size() == 1:
        return model
    if device.type != "cuda":
        raise UserError(
            "torch synchronises batch norm on GPUs only",
            key="train.sync_batch_norm",
            hint="false, or a network without batch norm such as convnext",
        )
    return convert_sync_batchnorm(model)
