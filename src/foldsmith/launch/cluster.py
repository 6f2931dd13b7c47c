"""A Ray cluster: reaching it, what a task of it may use, and whether it has a node for such a task."""

import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from foldsmith.errors import EXIT_ENVIRONMENT, UserError
from foldsmith.inference.predict import pick_device
from foldsmith.malloc import keep_freed_memory

RETRIES = 5  # times that a task is run again after its worker was lost
KNOCK = 10.0  # seconds in which a cluster answers
PATIENCE = 30.0  # seconds without a node for the tasks, after which the user hears of it


@dataclass(frozen=True)
class Place:
    """Where a task works and what it may use. Tasks get it as their first argument."""

    folder: Path
    cpus: float
    gpus: float

    @property
    def cores(self) -> int:
        """Of a task: its threads and its data loading processes share them."""
        return max(1, int(self.cpus))

    def enter(self) -> torch.device:
        """Begin a task: the driver's working folder, a thread for each of its cores, its device."""
        if not self.folder.is_dir():
            raise UserError(
                f"node {socket.gethostname()} does not have this folder",
                file=self.folder,
                hint="share it between nodes",
            )
        os.chdir(self.folder)
        keep_freed_memory()
        torch.set_num_threads(self.cores)
        return pick_device("cuda" if self.gpus else "cpu")

    def options(self) -> dict[str, Any]:
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_retries": RETRIES}

    def fits(self, node: dict[str, Any]) -> bool:
        """Whether a task fits on an idle node, as ray.nodes() describes it."""
        has = node["Resources"]
        return node["Alive"] and has.get("CPU", 0) >= self.cpus and has.get("GPU", 0) >= self.gpus

    def check_fits(self) -> None:
        """Refuse tasks that no node can ever take: Ray would wait for one."""
        nodes = ray.nodes()
        if any(map(self.fits, nodes)):
            return
        sizes = [
            (node["Resources"].get("GPU", 0), node["Resources"].get("CPU", 0), node["NodeManagerHostname"])
            for node in nodes
            if node["Alive"]
        ]
        few_gpus = self.gpus > max((gpus for gpus, _, _ in sizes), default=0)
        largest = max(sizes, key=lambda size: size if few_gpus else (size[1], size[0]), default=(0, 0, "none"))
        raise UserError(
            f"no node has {_words(self.gpus, self.cpus)} for a task; the largest, {largest[2]}, has "
            f"{_words(*largest[:2])}",
            key="--gpus-per-job" if few_gpus else "--cpus-per-job",
            hint="ask for less, or add a node first",
            code=EXIT_ENVIRONMENT,
        )


def _words(gpus: float, cpus: float) -> str:
    return f"{gpus:g} GPU{'s' if gpus != 1 else ''} and {cpus:g} core{'s' if cpus != 1 else ''}"


class Nodes:
    """The cluster's nodes while tasks are waited for."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._seen = time.monotonic()  # when there was a node for the tasks
        self._said = False

    def look(self) -> set[str]:
        """Ids of the nodes that are there; says it once when none of them has been able to take a task for a while."""
        nodes, now = ray.nodes(), time.monotonic()
        if any(map(self.place.fits, nodes)):
            self._seen, self._said = now, False
        elif now - self._seen > PATIENCE and not self._said:
            self._said = True
            what = _words(self.place.gpus, self.place.cpus)
            print(f"for {now - self._seen:.0f} s no node has had {what} for a task: tasks wait for one", flush=True)
        return {node["NodeID"] for node in nodes if node["Alive"]}


@contextmanager
def cluster(address: str | None, gpus: float | None, cpus: float | None) -> Iterator[Place]:
    """Be connected to a Ray cluster while the block lasts; one of this machine alone where no address is given.

    Args:
        gpus, cpus: of each task; None: a GPU where the cluster has some, and one core.

    Raises:
        UserError: there is no cluster, or it has no node that can take a task.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a cluster that is started here
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    own: dict[str, Any] = {} if address else {"include_dashboard": False}
    told = signal.getsignal(signal.SIGTERM)
    try:
        _knock(address)
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    except (OSError, ValueError) as error:
        raise UserError(
            f"no Ray cluster can be reached: {error}",
            key="--address",
            hint="`ray start --head` makes one; without --address Ray is started here",
            code=EXIT_ENVIRONMENT,
        ) from None
    signal.signal(signal.SIGTERM, told)  # ray.init takes it to itself, and aborts the process where it comes
    try:
        gpus = float(ray.cluster_resources().get("GPU", 0) > 0) if gpus is None else gpus
        place = Place(Path.cwd(), 1.0 if cpus is None else cpus, gpus)
        place.check_fits()
        yield place
    finally:
        ray.shutdown()


def _knock(address: str | None) -> None:
    """Raise an OSError where nothing listens, or something else: Ray would try for minutes.

    Ray speaks gRPC, which is HTTP/2: each side begins with a SETTINGS frame (RFC 9113, section 3.4).
    """
    host, colon, port = (address or "").rpartition(":")
    if not (colon and port.isdecimal() and "/" not in host):
        return
    with socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK) as line:
        if os.environ.get("RAY_USE_TLS", "0") != "0":
            return
        line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        try:
            answer = line.recv(4)  # a frame's length and type
        except TimeoutError:
            answer = b""
        if answer[3:] != b"\x04":
            raise ConnectionError(f"what listens at {address} does not answer as Ray does")
