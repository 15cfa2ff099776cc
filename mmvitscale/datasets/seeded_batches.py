"""Batches whose samples are drawn equally in every run: what a sample's random transforms draw follows from its place in the
training, not from what was drawn before it, in whichever process it is loaded."""

import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader


def seed_everything(*numbers: int) -> None:
    """Seed the generators of Python, NumPy and PyTorch (CUDA's, too) from numbers that together name a place, none
    negative. Neighbouring places are unrelated."""
    words = np.random.SeedSequence(numbers).generate_state(3, np.uint64)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]) % 2**32)
    torch.manual_seed(int(words[2]) % 2**63)


class SeededBatch(list[Any]):
    """Indices of the samples of a batch. Whoever goes through them finds the random generators seeded for each sample.

    A DataLoader does so in the process that loads: ``[dataset[index] for index in batch]``.
    """

    def __init__(self, indices: Iterable[Any], place: tuple[int, ...]):
        super().__init__(indices)
        self.place = place

    def __iter__(self) -> Iterator[Any]:
        for number, index in enumerate(super().__iter__(), 1):
            seed_everything(*self.place, number)
            yield index

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self[:], self.place)  # a slice goes through nothing


class SeededBatches:
    """Batch sampler around another: its batches, numbered through the whole training, each a ``SeededBatch``.

    Args:
        batch_sampler: what gives the batches.
        seed: of the training.
        rank: of the process.
    """

    def __init__(self, batch_sampler: Any, seed: int, rank: int):
        self.batch_sampler, self.seed, self.rank = batch_sampler, seed, rank
        self.begin(0)

    def begin(self, first: int, done: int = 0, endless: bool = False) -> None:
        """Say where the next pass stands.

        Args:
            first: number of its first batch in the training.
            done: how many of its batches are behind already, and left out without being loaded.
            endless: passes follow each other without another word, each shuffled again (``IterBasedTrainLoop``); ``done``
                counts through all of them.
        """
        self._number, self._done, self._endless, self._passes, self._begun = first, done, endless, 0, False

    def __iter__(self) -> Iterator[SeededBatch]:
        if not self._begun:
            _rewind(self.batch_sampler.sampler)
            self._begun = True
        batches = self._pass()
        while self._done:
            if next(batches, None) is None:
                if not self._endless:
                    return
                self._passes += 1
                batches = self._pass()
                continue
            self._done -= 1
            self._number += 1
        for batch in batches:
            number = self._number
            self._number += 1
            yield SeededBatch(batch, (self.seed, self.rank, number))
        self._passes += 1

    def _pass(self) -> Iterator[Any]:
        if self._endless and self._passes and hasattr(self.batch_sampler.sampler, 'set_epoch'):
            self.batch_sampler.sampler.set_epoch(self._passes)
        return iter(self.batch_sampler)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __getattr__(self, name: str) -> Any:
        if name == 'batch_sampler':  # before it is there
            raise AttributeError(name)
        return getattr(self.batch_sampler, name)


def _rewind(sampler: Any) -> None:
    """MMEngine's InfiniteSampler goes through one stream of indices, once."""
    if hasattr(sampler, 'indices') and hasattr(sampler, '_indices_of_rank'):
        sampler.indices = sampler._indices_of_rank()


def sampler_of(loader: DataLoader) -> Any:
    """What gives the order of a loader's data: behind a batch sampler of one's own, PyTorch has another one in its place."""
    inner = getattr(loader.batch_sampler, 'sampler', None)
    return loader.sampler if inner is None else inner


def seed_batches(loader: DataLoader, seed: int, rank: int) -> SeededBatches | None:
    """Let a loader give ``SeededBatches``, and return them; None for one that has no batches of indices. Iterators that it has
    given already stay as they are."""
    if isinstance(loader.batch_sampler, SeededBatches):
        loader.batch_sampler.seed, loader.batch_sampler.rank = seed, rank
        return loader.batch_sampler
    if loader.batch_sampler is None or not hasattr(loader.batch_sampler, 'sampler'):
        return None
    batches = SeededBatches(loader.batch_sampler, seed, rank)
    # PyTorch forbids it because of the iterators that there may be.
    object.__setattr__(loader, 'batch_sampler', batches)
    return batches
