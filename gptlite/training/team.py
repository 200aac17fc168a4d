"""Several processes that train one model, each on its share of every batch, by `torch.distributed`.

Whatever starts the processes (torchrun, or launch.py) tells each of them its rank by environment variables. The first
one leads: it alone reads the text, looks at the clock, writes and reports, and it tells the others what it decides. A
`Team` is a process's view of the others; that of one process does nothing, and the model does not know of it.

    Team       one process
    Replicas   each holds the whole model, and gradients are averaged (DistributedDataParallel)
    Shards     each holds a part of every matrix, of its gradient and of its optimizer state (FSDP2)

Processes exchange tensors and JSON, never a pickle.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gptlite.errors import ProcessError, UsageError
from gptlite.randomness import derive
from gptlite.training.launch import end_with_launcher, processes

RENDEZVOUS_TIMEOUT = timedelta(minutes=5)  # until all processes have found each other
COLLECTIVE_TIMEOUT = timedelta(minutes=30)  # for a process that does not answer: the first one may be saving
LEAVING_SECONDS = 5.0  # in which the first process says that it has ended, if it still can
POLL_SECONDS = 0.05
KEYS = "gptlite/"  # in the store, which torch uses too

Item = TypeVar("Item")
Loss = Callable[[Any, Tensor], Tensor]  # of a model on windows
Work = Callable[[Tensor], Tensor]  # on matrices (N, R, C)
Stop = Callable[[], int | None]  # the number of a signal that asks for the end


class Team:
    """A process that trains alone."""

    rank, size = 0, 1
    sharded = False

    @property
    def leads(self) -> bool:
        return self.rank == 0

    # What only the first process knows

    def first(self, *numbers: float) -> tuple[float, ...]:
        """The `numbers` of the first process."""
        return numbers

    def broadcast(self, facts: Any) -> Any:
        """What JSON can say, as the first process has it."""
        return facts

    def scatter(
        self, tensors: Mapping[str, Tensor] | None, shapes: Mapping[str, tuple[int, ...]]
    ) -> Iterator[tuple[str, Tensor]]:
        """One by one the `tensors` of the first process; the others know their `shapes` only. All are float32."""
        assert tensors is not None
        yield from ((name, tensors[name]) for name in shapes)

    # What all have in common

    def sums(self, *numbers: float) -> tuple[float, ...]:
        """Each number, summed over all processes."""
        return numbers

    def mean(self, x: Tensor) -> Tensor:
        """Mean of `x` over all processes."""
        return x

    def agree(self, progress: float, last: bool, signal: int | None) -> tuple[float, bool, int | None]:
        """After a step: how far the first process sees the run, and the signal to stop that any of them got."""
        return progress, last, signal

    def share(self, items: Sequence[Item], idle: Callable[[Item], Item]) -> Sequence[Item]:
        """This process's share of `items`; where one is missing, what `idle` makes of another: all have equally many.

        Passes through a sharded model need every process, also those that have nothing to ask of it.
        """
        return items

    # The model and its optimizers

    def distribute(self, model: nn.Module, blocks: Sequence[nn.Module]) -> None:
        """Give every process the weights of the first one, and no more of them than it is to hold."""

    def prepare(self, model: nn.Module, loss_of: Loss) -> None:
        """Get ready to exchange the gradients of `loss_of` on `model`."""

    def sharing(self, shard: str) -> Team:
        """These processes as they train with `shard`."""
        return self

    def loss(self, loss_of: Loss, model: nn.Module, windows: Tensor, last: bool) -> Tensor:
        """`loss_of`; the backward pass of the `last` part of a batch leaves gradients averaged over all processes."""
        return loss_of(model, windows)

    def seed(self, seed: int, step: int) -> None:
        """Give each process random numbers of its own, which depend on nothing but seed, step and process."""

    def part(self, tensor: Tensor) -> Tensor:
        """What this process holds of a parameter, or of a tensor like one."""
        return tensor

    def place(self, full: Tensor, parameter: Tensor) -> Tensor:
        """`full` as a tensor like `parameter`, of which it has the shape."""
        return full.to(parameter.device)

    def by_matrix(self, work: Work, matrices: Tensor, rows: int) -> Tensor:
        """`work` on matrices (N, R, C), each done by one process; given and returned are the parts that this one holds.

        - `rows`: R of the whole matrices.
        """
        return work(matrices)

    def gather(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Whole `tensors` in the first process, nothing in the others."""
        return tensors

    def load(self, model: nn.Module, tensors: Mapping[str, Tensor] | None) -> None:
        """Give the model the state that the first process has in `tensors`."""
        assert tensors is not None
        model.load_state_dict(tensors)

    def whole(self, x: Tensor) -> Tensor:
        """A number that was computed from parameters, the same in all processes."""
        return x

    # Beginning and end

    def announce(self, facts: Mapping[str, Any]) -> None:
        """Say what is needed to train, to those that wait in `listen`."""

    def listen(self, should_stop: Stop) -> Any:
        """What the first process announces; None when it ends before it trains."""
        raise AssertionError("the first process waits for nobody")

    def reports_loss(self) -> bool:
        """After a process was lost: is it this one that reports it?"""
        return True


ALONE = Team()


class Replicas(Team):
    """Processes that hold the whole model each."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self.store, self.rank, self.size = store, rank, size
        self.exchange: nn.parallel.DistributedDataParallel | None = None

    def sharing(self, shard: str) -> Team:
        return Shards(self.store, self.rank, self.size) if shard == "fsdp" else self

    def first(self, *numbers: float) -> tuple[float, ...]:
        told = torch.tensor(numbers, dtype=torch.float64)
        dist.broadcast(told, 0)
        return tuple(told.tolist())

    def broadcast(self, facts: Any) -> Any:
        raw = bytearray(json.dumps(facts).encode()) if self.leads else bytearray()
        length = torch.tensor([len(raw)])
        dist.broadcast(length, 0)
        content = (
            torch.frombuffer(raw, dtype=torch.uint8) if self.leads else torch.empty(int(length), dtype=torch.uint8)
        )
        dist.broadcast(content, 0)
        return json.loads(content.numpy().tobytes())

    def scatter(
        self, tensors: Mapping[str, Tensor] | None, shapes: Mapping[str, tuple[int, ...]]
    ) -> Iterator[tuple[str, Tensor]]:
        for name, shape in shapes.items():
            tensor = torch.empty(shape) if tensors is None else tensors[name].float().contiguous()
            dist.broadcast(tensor, 0)
            yield name, tensor

    def sums(self, *numbers: float) -> tuple[float, ...]:
        summed = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(summed)
        return tuple(summed.tolist())

    def mean(self, x: Tensor) -> Tensor:
        dist.all_reduce(x)
        return x / self.size

    def agree(self, progress: float, last: bool, signal: int | None) -> tuple[float, bool, int | None]:
        own = torch.tensor([progress, float(last), float(signal or 0)], dtype=torch.float64)
        every = torch.empty(self.size, 3, dtype=torch.float64)
        dist.all_gather(list(every), own)
        return every[0, 0].item(), bool(every[0, 1]), int(every[:, 2].max()) or None

    def share(self, items: Sequence[Item], idle: Callable[[Item], Item]) -> Sequence[Item]:
        own = [items[i] for i in range(self.rank, len(items), self.size)]
        return own if len(own) == -(-len(items) // self.size) else [*own, idle(items[0])]

    def distribute(self, model: nn.Module, blocks: Sequence[nn.Module]) -> None:
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(tensor, 0)

    def prepare(self, model: nn.Module, loss_of: Loss) -> None:
        with warnings.catch_warnings():  # torch 2.13 wants another name for broadcast_buffers, which 2.12 does not know
            warnings.simplefilter("ignore", FutureWarning)
            self.exchange = nn.parallel.DistributedDataParallel(
                _Loss(model, loss_of), init_sync=False, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def loss(self, loss_of: Loss, model: nn.Module, windows: Tensor, last: bool) -> Tensor:
        assert self.exchange is not None
        with contextlib.nullcontext() if last else self.exchange.no_sync():
            return self.exchange(windows)

    def seed(self, seed: int, step: int) -> None:
        torch.manual_seed(derive(seed, step, self.rank) >> 1)

    def by_matrix(self, work: Work, matrices: Tensor, rows: int) -> Tensor:
        share = -(-len(matrices) // self.size)
        padded = _padded(matrices, share * self.size)
        done = torch.empty_like(padded)
        own = padded[self.rank * share : (self.rank + 1) * share]
        dist.all_gather(list(done.chunk(self.size)), work(own).contiguous())
        return done[: len(matrices)]

    def gather(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return tensors if self.leads else {}

    @torch.no_grad()
    def load(self, model: nn.Module, tensors: Mapping[str, Tensor] | None) -> None:
        for name, own in model.state_dict().items():
            full = torch.empty(own.shape, dtype=own.dtype, device=own.device)
            if tensors is not None:
                full.copy_(tensors[name])
            dist.broadcast(full, 0)
            self._keep(full, own)

    def _keep(self, full: Tensor, own: Tensor) -> None:
        """Copy to `own` what this process holds of `full`."""
        own.copy_(full)

    # The store is a small table that all processes see, kept by torchrun or by the first of them. Its answer takes no
    # part in what the processes do together, so it can be asked when that fails.

    def announce(self, facts: Mapping[str, Any]) -> None:
        self.store.set(KEYS + "announced", "1")
        self.broadcast(facts)

    def listen(self, should_stop: Stop) -> Any:
        return self.broadcast(None) if self._heard(("announced", "over"), should_stop) == "announced" else None

    def reports_loss(self) -> bool:
        if self.leads:
            return True
        try:
            lost = self._heard(("over",), seconds=LEAVING_SECONDS) is None
            return lost and self.store.add(KEYS + "told", 1) == 1
        except RuntimeError:  # the store went with the process or the machine that kept it
            return True

    def leave(self, should_stop: Stop, failed: bool) -> None:
        """The first process says that it ends; the others wait for that, for to end sooner may look like a failure."""
        with contextlib.suppress(RuntimeError):
            if self.leads:
                self.store.set(KEYS + "over", "1")
            elif not failed:
                self._heard(("over",), should_stop)

    def _heard(
        self, words: Sequence[str], should_stop: Stop = lambda: None, seconds: float | None = None
    ) -> str | None:
        """The first of `words` that is in the store; None after so many `seconds`, or some after a signal to stop."""
        until = None if seconds is None else time.monotonic() + seconds
        while until is None or time.monotonic() < until:
            if word := next((word for word in words if self.store.check([KEYS + word])), None):
                return word
            if until is None and should_stop() is not None:
                until = time.monotonic() + LEAVING_SECONDS
            time.sleep(POLL_SECONDS)
        return None


class Shards(Replicas):
    """Processes that hold a part of each parameter: some of its first dimension, as `fully_shard` cuts it."""

    sharded = True

    def distribute(self, model: nn.Module, blocks: Sequence[nn.Module]) -> None:
        try:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard
        except ImportError as error:
            raise UsageError(f"`shard='fsdp'` needs torch 2.6 or newer, and this is {torch.__version__}.") from error
        super().distribute(model, blocks)
        mesh = init_device_mesh(next(model.parameters()).device.type, (self.size,))
        for module in (*blocks, model):
            fully_shard(module, mesh=mesh, reshard_after_forward=True)

    def prepare(self, model: nn.Module, loss_of: Loss) -> None:
        """Nothing: what `distribute` did to the model exchanges weights and gradients by itself."""

    def loss(self, loss_of: Loss, model: nn.Module, windows: Tensor, last: bool) -> Tensor:
        return loss_of(model, windows)  # each part is exchanged, for to wait for the last would take whole gradients

    def part(self, tensor: Tensor) -> Tensor:
        return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[attr-defined]

    @torch.no_grad()
    def place(self, full: Tensor, parameter: Tensor) -> Tensor:
        like = torch.zeros_like(parameter, requires_grad=False)
        self._keep(full.to(parameter.device), like)
        return like

    def by_matrix(self, work: Work, matrices: Tensor, rows: int) -> Tensor:
        """Each process sends its rows of every matrix to the one that works on it, and gets their update back."""
        n, held, columns = matrices.shape
        share, tallest = -(-n // self.size), -(-rows // self.size)
        sent = matrices.new_zeros(self.size * share, tallest, columns)
        sent[:n, :held] = matrices
        received = _to_all(sent).unflatten(0, (self.size, share))  # (process, N', r, C): its rows of my matrices
        done = work(received.transpose(0, 1).flatten(1, 2)[:, :rows])  # (N', R, C)
        back = matrices.new_zeros(share, self.size * tallest, columns)
        back[:, :rows] = done
        return _to_all(back.unflatten(1, (self.size, tallest)).transpose(0, 1).flatten(0, 1))[:n, :held]

    def gather(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        whole = ((name, self.whole(tensor)) for name, tensor in tensors.items())  # every process takes part
        return {name: tensor.cpu() for name, tensor in whole if self.leads}

    def whole(self, x: Tensor) -> Tensor:
        return x.full_tensor() if hasattr(x, "full_tensor") else x  # type: ignore[attr-defined]

    def _keep(self, full: Tensor, own: Tensor) -> None:
        if not hasattr(own, "to_local"):  # a buffer
            own.copy_(full)
            return
        parts = full.chunk(self.size)
        if self.rank < len(parts):  # of few rows, the last processes hold none
            self.part(own).copy_(parts[self.rank])


class _Loss(nn.Module):
    """A loss as a module, for `DistributedDataParallel`, which so stands outside of what may be compiled."""

    def __init__(self, model: nn.Module, loss_of: Loss) -> None:
        super().__init__()
        self.model, self.loss_of = model, loss_of

    def forward(self, windows: Tensor) -> Tensor:
        return self.loss_of(self.model, windows)


def _padded(matrices: Tensor, n: int) -> Tensor:
    """Matrices (N, R, C) and zeros, (n, R, C)."""
    return torch.cat((matrices, matrices.new_zeros(n - len(matrices), *matrices.shape[1:])))


def _to_all(tensor: Tensor) -> Tensor:
    """The i-th part of what each process has, in the i-th process."""
    received = torch.empty_like(tensor)
    dist.all_to_all_single(received, tensor.contiguous())
    return received


# Finding each other


@contextlib.contextmanager
def together(n_gpus: int, should_stop: Stop) -> Iterator[Team]:
    """The processes that were started together, until the first one ends.

    - `n_gpus`: those of this machine; the process takes the one that has its number here.
    Raises `ProcessError` when the processes do not find each other.
    """
    if processes() < 2:
        yield ALONE
        return
    end_with_launcher()
    replicas = _rendezvous(n_gpus)
    failed = True
    try:
        yield replicas
        failed = False
    except RuntimeError as error:
        if not lost_contact(error):
            raise
        first = "another process of this run ended, or was killed, before its first step."
        raise ProcessError(first if replicas.reports_loss() else "") from error
    finally:
        replicas.leave(should_stop, failed)
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


def _rendezvous(n_gpus: int) -> Replicas:
    if not dist.is_available():
        raise UsageError("this torch was built without torch.distributed, which several processes need.")
    from torch.distributed.rendezvous import rendezvous

    place = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
    try:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local < n_gpus:
            torch.cuda.set_device(local)
        store, rank, size = next(rendezvous("env://", timeout=RENDEZVOUS_TIMEOUT))
        backend = "cpu:gloo,cuda:nccl" if n_gpus else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=COLLECTIVE_TIMEOUT)
        replicas = Replicas(store, rank, size)
        replicas.sums(1.0)  # connects them
    except (RuntimeError, ValueError) as error:
        raise ProcessError(
            f"the {processes()} processes of this run did not find each other at {place}: {str(error).splitlines()[0]}"
        ) from error
    return replicas


def lost_contact(error: BaseException) -> bool:
    """Is this how torch says that another process does not answer any more?"""
    words = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "socket", "process group")
    text = str(error).lower()
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in text for word in words)
    )


def check_shares(batch_size: int, accumulate: int, n: int) -> None:
    """Raises `UsageError` unless each of `n` processes gets a window for each part of its batch."""
    if batch_size // n < accumulate:
        parts = f" in {accumulate} parts" if accumulate > 1 else ""
        raise UsageError(
            f"batches of {batch_size} do not give each of {n} processes a window{parts}; "
            f"use `batch_size={n * accumulate}` or more, or fewer processes."
        )
