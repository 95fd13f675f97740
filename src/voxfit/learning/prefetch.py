"""Batches for the network, made ahead of it: cut in background threads, augmented on the training device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import torch
from torch.nn import functional

from voxfit.core.errors import VoxfitError, first_line
from voxfit.imaging.geometry import Box
from voxfit.learning.engine import is_out_of_memory
from voxfit.learning.sampling import PatchError, PatchSampler, Sample
from voxfit.preprocessing.case import OUTSIDE
from voxfit.preprocessing.store import Store

_PREFETCHED = 3
_RESIDENT_SHARE = 1 / 3
"""Of the free memory of a device: the most that prepared cases may take; the rest is for the network."""


@dataclass(frozen=True)
class Batch:
    """What one step sees.

    Attributes:
        image: (batch, channel, *patch) float32, on the training device.
        label: (batch, *patch) class indices, there too.
        cases: the name of each sample's case.
    """

    image: torch.Tensor
    label: torch.Tensor
    cases: tuple[str, ...]


class BatchError(Exception):
    """A batch could not be made.

    Attributes:
        stream, step: which one of its epoch.
        cases: of which patches could not be made; none where that is not known.
        reason: why, in whole sentences.
    """

    def __init__(self, stream: int, step: int, error: PatchError) -> None:
        self.stream, self.step = stream, step
        self.cases = tuple(sorted(set(error.cases)))
        what = error.reason
        self.reason = str(what) if isinstance(what, VoxfitError) else f"{type(what).__name__}: {first_line(what)}."
        super().__init__(self.reason)


class ResidentStore:
    """Prepared cases in the memory of a device; each comes there when it is first drawn.

    Args:
        store: where they are on disk.
        device: where they are kept.
    """

    def __init__(self, store: Store, device: torch.device) -> None:
        self.store = store
        self.device = device
        self._cases: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def cut(self, name: str, box: Box) -> tuple[torch.Tensor, torch.Tensor]:
        """A box of a case: (channel, *box) image, zeros beyond it, and (*box) int16 label, `OUTSIDE` beyond it."""
        if name not in self._cases:
            image, label = torch.tensor(self.store.image(name)), torch.tensor(self.store.label(name))
            self._cases[name] = image.to(self.device), label.to(self.device)
        image, label = self._cases[name]
        return _cut(image, box, 0), _cut(label, box, OUTSIDE).to(torch.int16)


def _cut(values: torch.Tensor, box: Box, fill: float) -> torch.Tensor:
    """Copy a box out of the last three axes; what lies outside becomes `fill`. Negative padding cuts off."""
    edges = zip(box.start, box.stop, values.shape[-3:], strict=True)
    padding = [(-start, stop - size) for start, stop, size in edges]
    return functional.pad(values, [width for both in reversed(padding) for width in both], value=fill)


def stored_bytes(store: Store, cases: Sequence[str], channels: int) -> int:
    """The memory that cases take; none of their files is opened."""
    return sum(store.manifest.voxels[name] for name in cases) * (4 * channels + 2)


def resident(store: Store, cases: Sequence[str], channels: int, device: torch.device) -> ResidentStore | None:
    """Cases kept on a GPU, where they fit into a third of its free memory; a CPU's own memory is the system's cache."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return ResidentStore(store, device) if stored_bytes(store, cases, channels) < free * _RESIDENT_SHARE else None


class Prefetcher:
    """Makes the batches of an epoch ahead of the network, in order.

    Threads cut patches. On a GPU they augment them too, in a stream of their own, so that the network's stream never
    stands still. On a CPU the training's thread augments: there is no other core that the network leaves free.

    Args:
        sampler: draws the patches.
        device: where the network is.
        threads: that cut.
        retried: hears of each batch that could not be made at the first attempt.

    Attributes:
        waited: seconds for which the network had no batch: waiting for threads, and augmenting on a CPU.
    """

    def __init__(
        self,
        sampler: PatchSampler,
        device: torch.device | str = "cpu",
        threads: int | None = None,
        retried: Callable[[BatchError], None] = lambda error: None,
    ) -> None:
        self.sampler = sampler
        self.device = torch.device(device)
        self.waited = 0.0
        self.retried = retried
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._begun: tuple[tuple[int, int, int], deque[Future[list[Sample] | Batch]]] | None = None
        self._pool = ThreadPoolExecutor(threads or (2 if self._stream else 1), thread_name_prefix="voxfit-loader")

    def batches(
        self, stream: int, epoch: int, steps: int, first: int = 0, then: Callable[[], None] = lambda: None
    ) -> Iterator[Batch]:
        """The batches of steps `first` .. `steps` - 1 of an epoch.

        Args:
            stream, epoch: of random numbers.
            steps: the end.
            first: the beginning.
            then: called when all are being made: the threads are free for what comes next.

        Raises:
            BatchError: a batch could not be made in two attempts.
            MemoryError, RuntimeError: memory does not suffice.
        """
        ahead = self._take_begun((stream, epoch, first))
        following = first + len(ahead)  # the first step that no thread has yet
        try:
            for step in range(first, steps):
                begun = perf_counter()
                made = ahead.popleft() if ahead else self._pool.submit(self._make, stream, epoch, step)
                batch = self._result(made, stream, epoch, step)
                if self._stream:
                    self._hand_over(batch)
                self.waited += perf_counter() - begun
                # Only now, while the network is busy: cutting holds Python's lock, which augmenting would wait for.
                following = max(following, step + 1)
                while following < min(step + 1 + _PREFETCHED, steps):
                    ahead.append(self._pool.submit(self._make, stream, epoch, following))
                    following += 1
                if step == max(steps - 1 - _PREFETCHED, first):
                    then()
                yield batch
        finally:
            for future in ahead:
                future.cancel()

    def begin(self, stream: int, epoch: int, steps: int, first: int = 0) -> None:
        """Make the first batches of what `batches` will be asked for next."""
        last = min(first + _PREFETCHED, steps)
        made = deque(self._pool.submit(self._make, stream, epoch, step) for step in range(first, last))
        self._begun = (stream, epoch, first), made

    def _take_begun(self, wanted: tuple[int, int, int]) -> deque[Future[list[Sample] | Batch]]:
        """What was begun, if it is what is wanted."""
        found, self._begun = self._begun, None
        if found and found[0] == wanted:
            return found[1]
        for future in found[1] if found else ():
            future.cancel()
        return deque()

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _result(self, made: Future[list[Sample] | Batch], stream: int, epoch: int, step: int) -> Batch:
        """A batch that threads make. It follows from counters, so where that fails it can be made again, once."""
        try:
            return self._whole(made.result())
        except Exception as error:
            failure = _failure(stream, step, error)
        try:
            batch = self._whole(self._make(stream, epoch, step))
        except Exception as error:
            raise _failure(stream, step, error) from error
        self.retried(failure)
        return batch

    def _make(self, stream: int, epoch: int, step: int) -> list[Sample] | Batch:
        if self._stream is None:
            return self.sampler.batch(stream, epoch, step)
        with torch.cuda.stream(self._stream):
            batch = self._finish(self.sampler.batch(stream, epoch, step))
            # The host waits here, in the background, so that the batch is whole when it is handed over.
            self._stream.synchronize()
        return batch

    def _whole(self, made: list[Sample] | Batch) -> Batch:
        return made if isinstance(made, Batch) else self._finish(made)

    def _finish(self, samples: list[Sample]) -> Batch:
        cases = tuple(sample.case for sample in samples)
        try:
            image, label = self.sampler.finish(samples, self.device)
        except Exception as error:
            raise PatchError(cases, error) from error
        return Batch(image, label, cases)

    def _hand_over(self, batch: Batch) -> None:
        """Keep the memory of a batch until the network's stream has used it."""
        for tensor in (batch.image, batch.label):
            tensor.record_stream(torch.cuda.current_stream(self.device))


def _failure(stream: int, step: int, error: Exception) -> BatchError:
    """An exception with its batch; a lack of memory is raised as it is: there is another remedy for it."""
    known = error if isinstance(error, PatchError) else PatchError((), error)
    if is_out_of_memory(known.reason):
        raise known.reason
    return BatchError(stream, step, known)
