"""Several devices learn one PyTorch module together: ``DistributedDataParallel`` within one job.

This process is rank 0 and has the first device. Each other rank is a process of its own, which runs the
user's file again, takes its share of every batch from memory that all of them share, and ends with this
process, whatever ends it.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import multiprocessing
import os
import re
import shutil
import signal
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import connection
from pathlib import Path
from typing import Any

from mlaas_condor.errors import ModelFault, OutOfMemory, StageError
from mlaas_condor.training import models
from mlaas_condor.training.frameworks import Setup
from mlaas_condor.training.models import ModelFile
from mlaas_condor.training.torch import network as torch_network
from mlaas_condor.training.torch.network import Arrays, Network

TIMEOUT = 600.0
"""Seconds that a rank lets the others wait at most, for a batch."""

START = 600.0
"""Seconds for a process to start and to make the module."""

GRACE = 5.0
"""Seconds for a process to say what went wrong, or to end when it is told to."""

HOST = "127.0.0.1"
SHARED_MEMORY = Path("/dev/shm")

# PyTorch has no class of errors for it.
_OTHERS = re.compile(r"gloo|NCCL|pair closure|connection (closed|reset)|timed out waiting|broken pipe", re.I)


@dataclass(frozen=True)
class Rank:
    """What a process is told when it starts.

    Parameters
    ----------
    rank, devices
        Its number; the device of each rank.
    port
        Of this machine, where they find each other.
    model_file, setup
        The user's file; what the module is made for.
    timeout
        Seconds to wait for the others.
    """

    rank: int
    devices: tuple[str, ...]
    port: int
    model_file: ModelFile
    setup: Setup
    timeout: float


class Ranks:
    """The processes that learn together with this one; they start with the first pass.

    Parameters
    ----------
    network
        The module of this process, rank 0.
    model_file, setup
        The user's file; what the module is made for.
    devices
        One a rank: ``cuda:0``, ….
    """

    def __init__(self, network: Network, model_file: ModelFile, setup: Setup, devices: Sequence[str]) -> None:
        self.devices = tuple(devices)
        self._network = network
        threads = max(1, setup.threads // len(devices))
        self._told = Rank(0, self.devices, 0, model_file, replace(setup, threads=threads), TIMEOUT)
        self._shared: dict[str, Any] = {}
        self._processes: list[Any] = []
        self._pipes: list[Any] = []
        self._forward: Any = None
        self._end: Any = None

    def one_pass(self, arrays: Arrays, order: Any, bounds: list[tuple[int, int]], seed: int | None) -> float:
        """Learn by one pass over events, all ranks together; parameters as of ``Network.one_pass``.

        Raises
        ------
        ModelFault
            A process fails, ends, or does not answer in time.
        OutOfMemory
            The memory of a process, or what they share, does not suffice.
        """
        network = self._network
        shared = Arrays(*(self._share(name, each) for name, each in arrays._asdict().items()))
        try:
            if self._forward is None:
                self._start()
            rates = [float(group["lr"]) for group in network.groups()]
            for pipe in self._pipes:
                pipe.send((shared, self._share("order", order), bounds, seed, rates))
            with self._watched():
                mine = network.one_pass(arrays, order, bounds, seed, 0, len(self.devices), self._forward)
            return mine + float(sum(self._answers(self._told.timeout)))
        except BaseException as error:
            fault = self._fault(error)
            for process in self._processes:
                process.kill()
            self.close()
            if fault is None:
                raise
            raise fault from error

    def close(self) -> None:
        """End the other processes; the next pass starts them again, with the state of this one."""
        if self._end is not None:
            self._end()
        self._processes, self._pipes, self._forward, self._end = [], [], None, None

    def _start(self) -> None:
        """Start the processes, and give them the state of this one."""
        torch, told = self._network.torch, self._told
        wait = datetime.timedelta(seconds=told.timeout)
        store = torch.distributed.TCPStore(
            HOST, 0, len(self.devices), is_master=True, timeout=wait, wait_for_workers=False
        )
        # A process that has used threads, or a GPU, cannot be forked.
        context = multiprocessing.get_context("spawn")
        self._end = weakref.finalize(self, _end, torch, self._processes, self._pipes)
        for rank in range(1, len(self.devices)):
            pipe, theirs = context.Pipe()
            process = context.Process(
                target=work, args=(replace(told, rank=rank, port=store.port), theirs), daemon=True
            )
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(pipe)
        self._answers(START)
        # As bytes: as tensors the optimizers of all ranks would come to share their states.
        state = io.BytesIO()
        torch.save(self._network.state(), state)
        for pipe in self._pipes:
            pipe.send_bytes(state.getbuffer())
        self._forward = _join(self._network, store, told)

    def _share(self, name: str, values: Any | None) -> Any | None:
        """Copy values to where the other ranks see them too; the place is used again for the next ones."""
        if values is None:
            return None
        place = self._shared.get(name)
        if (
            place is None
            or place.dtype != values.dtype
            or place.shape[1:] != values.shape[1:]
            or len(place) < len(values)
        ):
            self._shared.pop(name, None)
            free = shutil.disk_usage(SHARED_MEMORY).free
            if values.nbytes > free:  # written to all the same, it would end this process with a bus error
                raise OutOfMemory(
                    f"{self._network.name}: {len(self.devices)} devices share "
                    f"{values.nbytes / 2**20:.0f} MiB of events, {SHARED_MEMORY} has "
                    f"{free / 2**20:.0f} MiB left: use smaller chunks (chunk_size)"
                )
            place = self._network.torch.empty_like(values).share_memory_()
            self._shared[name] = place
        place[: len(values)].copy_(values)
        return place[: len(values)]

    def _answers(self, timeout: float) -> list[Any]:
        """Return what each of the other processes answers; raise what one of them says went wrong."""
        answers = []
        for rank, pipe in enumerate(self._pipes, 1):
            if not pipe.poll(timeout):
                raise ModelFault(
                    f"{self._network.name}: rank {rank} ({self.devices[rank]}) does not answer for "
                    f"{timeout:g} s"
                )
            answer = pipe.recv()
            if isinstance(answer, StageError):
                raise answer
            answers.append(answer)
        return answers

    def _fault(self, error: BaseException) -> StageError | None:
        """Return what really went wrong; None where it is ``error`` itself.

        One rank that fails makes the others fail too: they lose their connection with it.
        """
        if isinstance(error, StageError) or not isinstance(error, Exception):
            return None
        name, found = self._network.name, None
        connection.wait([*self._pipes, *(process.sentinel for process in self._processes)], GRACE)
        for rank, (pipe, process) in enumerate(zip(self._pipes, self._processes, strict=True), 1):
            with contextlib.suppress(EOFError, OSError):
                while pipe.poll():
                    answer = pipe.recv()
                    if isinstance(answer, StageError):
                        return answer
            process.join(0.1)
            if process.exitcode == -signal.SIGKILL:
                return OutOfMemory(f"{name}: rank {rank} was killed, most likely for want of memory")
            if process.exitcode is not None and found is None:
                found = ModelFault(f"{name}: rank {rank} ended with exit code {process.exitcode}")
        if found is None and _is_of_others(error):
            found = ModelFault(
                f"{name}: a rank let the others wait for more than {self._told.timeout:g} s, or lost them: "
                f"{models.brief(error)}"
            )
        return found

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Meanwhile, give up waiting for a process that has ended; NCCL by itself would not notice."""
        if not self.devices[0].startswith("cuda"):
            yield
            return
        over = threading.Event()
        sentinels = [process.sentinel for process in self._processes]

        def watch() -> None:
            while not over.is_set():
                if connection.wait(sentinels, 1.0) and not over.is_set():
                    self._network.torch.distributed.group.WORLD.abort()
                    return

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _end(torch: Any, processes: list[Any], pipes: list[Any]) -> None:
    """End processes, by force where they do not go by themselves."""
    for pipe in pipes:
        with contextlib.suppress(OSError):
            pipe.send(None)
            pipe.close()
    for process in processes:
        process.join(GRACE)
        if process.is_alive():
            process.kill()
            process.join()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def work(told: Rank, pipe: Any) -> None:
    """Be one of the other ranks: the main function of its process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    code = 1
    try:
        network = torch_network.build(told.model_file, told.setup, told.devices[told.rank])
        pipe.send("ready")
        torch = network.torch
        state = torch.load(io.BytesIO(pipe.recv_bytes()), map_location="cpu", weights_only=False)
        network.take_state(state, told.model_file.path)
        wait = datetime.timedelta(seconds=told.timeout)
        store = torch.distributed.TCPStore(HOST, told.port, len(told.devices), is_master=False, timeout=wait)
        forward = _join(network, store, told)
        while (task := pipe.recv()) is not None:
            pipe.send(_one_pass(network, told, forward, *task))
            del task
        code = 0
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass  # rank 0 has gone
    except BaseException as error:
        if not _is_of_others(error):
            with contextlib.suppress(OSError):
                pipe.send(_told_of(error, told))
    finally:
        os._exit(code)  # an orderly end would wait for the others


def _one_pass(
    network: Network,
    told: Rank,
    forward: Any,
    arrays: Arrays,
    order: Any,
    bounds: list[tuple[int, int]],
    seed: int | None,
    rates: list[float],
) -> float:
    for group, rate in zip(network.groups(), rates, strict=True):
        group["lr"] = rate
    try:
        return network.one_pass(arrays, order, bounds, seed, told.rank, len(told.devices), forward)
    except Exception as error:
        if _is_of_others(error):
            raise
        with network.faults(arrays.x.numpy()):
            raise


def _join(network: Network, store: Any, told: Rank) -> Any:
    """Meet the other ranks, and return what to call instead of the module; it averages their gradients."""
    torch, cuda = network.torch, network.device.startswith("cuda")
    if cuda:
        torch.cuda.set_device(network.device)
        # NCCL gives up a collective that took too long, and the process lives to say so.
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "2")
        # Statistics of the whole batch, as with one device; on the CPU PyTorch has none such.
        network.module = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network.module)
    else:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group(
        "nccl" if cuda else "gloo",
        store=store,
        rank=told.rank,
        world_size=len(told.devices),
        timeout=datetime.timedelta(seconds=told.timeout),
    )
    return torch.nn.parallel.DistributedDataParallel(
        network.module,
        device_ids=[network.device] if cuda else None,
        find_unused_parameters=_has_unused(network),
    )


def _has_unused(network: Network) -> bool:
    """Tell whether some parameters have no part in what the module gives; nobody must wait for those."""
    torch = network.torch
    network.rest()
    found = network.module(torch.zeros(2, network.idim, device=network.device))
    parameters = [each for each in network.module.parameters() if each.requires_grad]
    if not found.requires_grad:  # nothing is learnt in evaluation mode; so it cannot be told
        return True
    return None in torch.autograd.grad(found.sum(), parameters, allow_unused=True)


def _is_of_others(error: BaseException) -> bool:
    """Tell whether an error is only the loss of the connection with another rank, or a vain wait for it."""
    return type(error).__name__.startswith("Dist") or _OTHERS.search(str(error)) is not None


def _told_of(error: BaseException, told: Rank) -> StageError:
    """Return an error as rank 0 is to raise it."""
    where = f"(rank {told.rank}, {told.devices[told.rank]})"
    if isinstance(error, StageError):
        return type(error)(f"{error} {where}")
    name = told.model_file.path.name
    return ModelFault(f"{name}: {type(error).__name__}: {models.brief(error)} {where}")


def _end_with_parent() -> None:
    """End this process as soon as rank 0 has ended, whatever this one waits for."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
