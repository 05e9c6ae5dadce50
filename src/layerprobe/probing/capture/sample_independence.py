"""Independence of samples: whether each row of activations is its own sample's, whatever else is in the batch."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from layerprobe.probing.capture.batch_axis import LARGEST, agree, drawn_elements
from layerprobe.probing.capture.call_arguments import Arguments
from layerprobe.probing.capture.freeze import Frozen
from layerprobe.probing.capture.hooks import INPUT, Site, SiteReader, Ways, same_way
from layerprobe.probing.capture.random_generators import random_states_kept

SamplesFirst: TypeAlias = Callable[[Tensor, int], Tensor | None]
"""Turns what is found at a site, and a number of samples, into a view with the samples first; None if it cannot."""

Fault: TypeAlias = Literal["reordered", "mixed", "moved"]
"""Why a row is not its sample's: it holds another one's values, or those of none, or does not follow the sample."""

REASONS: Mapping[Fault, str] = {
    "reordered": "its rows are in another order than the samples, by the data: batch_size=1 keeps them apart",
    "moved": "reorders or mixes samples: its rows do not follow those of a batch that is put into another order",
    "mixed": "mixes samples: its values for a sample depend on the others in the batch",
}

_CHECK_EVERY = 256
"""One sample in so many, and at most one of a batch, is compared with what it is alone."""

_COMPARED = 256
_SAMPLES = 32
_ALONE = 3
_OTHERS = 3
_PATIENCE = 3
_ROUNDING = 1e-6
"""Share of a layer's typical size that float32 kernels differ by from one batch size to another."""


@dataclass
class Alone:
    """What one sample's values are when it is the only one.

    Attributes:
        readers: How the samples lie at each site.
        values: `(1, *shape)` for each site that it reaches.
        ways: The way that it takes.
    """

    readers: Mapping[Site, SamplesFirst] = field(default_factory=dict)
    values: dict[Site, Tensor] = field(default_factory=dict)
    ways: Ways = field(default_factory=dict)

    def keep(self, site: Site, tensor: Tensor) -> None:
        """Copy what it is at a site."""
        if (values := self.readers[site](tensor, 1)) is not None:
            self.values[site] = values.detach().clone()


@dataclass(frozen=True)
class RowFindings:
    """What a few samples of a batch, alone and in other orders, show of a network.

    Attributes:
        faults: The sites whose rows cannot be taken for the samples'.
        random: The sites whose values differ between two passes over the same sample.
        stateful: Whether a batch leaves something behind that changes the values of the next one.
        samples: How many were looked at.
    """

    faults: Mapping[Site, Fault]
    random: frozenset[Site]
    stateful: bool
    samples: int


def check_rows(frozen: Frozen, arguments: Arguments, readers: Mapping[Site, SamplesFirst]) -> RowFindings:
    """Compare up to 32 samples of a batch with the same samples in another order, and with some of them alone.

    A layer passes if its rows follow the samples to their places in the permuted batch, and if the row of a sample is
    close to what it is alone, measured by how far apart samples are. Rounding, which differs between batch sizes, does
    not count, and neither do differences at sites whose values are random, unless another row fits far better.

    Returns:
        The findings. A batch of one sample shows nothing.
    """
    n = min(arguments.batch_size, _SAMPLES)
    readers = {site: reader for site, reader in readers.items() if site.function != INPUT}
    if n < 2 or not readers:
        return RowFindings({}, frozenset(), False, n)
    read = SiteReader(frozen.hooks, readers)
    chosen = [i * arguments.batch_size // n for i in range(n)]
    generator = torch.Generator().manual_seed(n)
    order = torch.randperm(n, generator=generator)
    batch = arguments.take(chosen)

    def alone(row: int, seed: int = 0) -> Alone:
        with frozen.fresh(seed):
            return one_sample(read, arguments, chosen[row], readers)

    at_first, again = alone(0), alone(0, seed=1)
    random = _differing(again.values, at_first.values)
    placed, stateful = _Rows(readers, n), False
    with frozen.fresh(seed=0):
        placed.read(read, batch)
        with random_states_kept(seed=0):
            after = one_sample(read, arguments, chosen[0], readers)  # nothing, where a state does not fit it
        stateful = bool(_differing(at_first.values, after.values) - random)
    if not at_first.values:
        other = _Rows(readers, n)
        with frozen.fresh(seed=1):
            other.read(read, batch)
        random = _differing(placed.found, other.found)
    permuted = _Rows(readers, n)
    with frozen.fresh(seed=0):
        permuted.read(read, arguments.take([chosen[i] for i in order.tolist()]))
    apart = {
        site: _apart(rows[order], permuted.found[site], order)
        for site, rows in placed.found.items()
        if site not in random and placed.shapes[site] == permuted.shapes.get(site)
    }
    moved = sorted({row for found in apart.values() for row in found[:1]})
    tested = {0: at_first}
    for row in [*moved[:_ALONE], *torch.randperm(n, generator=generator).tolist()[:_ALONE]]:
        if row not in tested:
            tested[row] = alone(row)

    places: dict[int, dict[Site, int | None]] = {}
    for row, sample in tested.items():
        places[row] = found = placed.places(row, sample, random)
        others = {site: readers[site] for site, v in sample.values.items() if v.shape[1:] != placed.shapes.get(site)}
        if others:
            found |= _places(frozen, batch, row, sample, others, random)
    faults: dict[Site, Fault] = {site: "moved" for site, rows in apart.items() if rows}
    return RowFindings(faults | _misplaced(places), random, stateful, n)


def _misplaced(places: Mapping[int, Mapping[Site, int | None]]) -> dict[Site, Fault]:
    """Find the sites at which a sample is elsewhere than in its row, by where each sample was found."""
    rows: dict[Site, list[int | None]] = defaultdict(list)
    faulty: set[Site] = set()
    for row, found in places.items():
        for site, place in found.items():
            rows[site].append(place)
            if place != row:
                faulty.add(site)
    # A row that every sample is like alone, such as that of a first sample taken from all, is no sample's place.
    clear = {site for site in faulty if None not in rows[site] and len(set(rows[site])) == len(rows[site])}
    return {site: "reordered" if site in clear else "mixed" for site in faulty}


class _Rows:
    """Some elements of every row at every site, from one pass."""

    def __init__(self, readers: Mapping[Site, SamplesFirst], n: int) -> None:
        self._readers, self._n = readers, n
        self._ways: Ways = {}
        self.found: dict[Site, Tensor] = {}
        self.shapes: dict[Site, torch.Size] = {}
        self.dtypes: dict[Site, torch.dtype] = {}

    def read(self, read: SiteReader, batch: Arguments) -> None:
        """Run a batch."""
        self._ways = read(batch.copy_to(None), self._keep)

    def places(self, row: int, alone: Alone, random: frozenset[Site]) -> dict[Site, int | None]:
        """Find the row at each site that holds what a sample is alone, None if none does; of sites of one shape."""
        return {
            site: _place(self.found[site], _sketch(values)[0].cpu(), row, self.dtypes[site], random=site in random)
            for site, values in alone.values.items()
            if values.shape[1:] == self.shapes.get(site)
            and same_way(site, self._ways, alone.ways)
            and not (site in random and values.numel() < _COMPARED)
        }

    def _keep(self, site: Site, tensor: Tensor) -> None:
        values = self._readers[site](tensor, self._n)
        if values is not None:
            self.found[site] = _sketch(values).cpu()
            self.shapes[site], self.dtypes[site] = values.shape[1:], values.dtype


def one_sample(read: SiteReader, arguments: Arguments, row: int, readers: Mapping[Site, SamplesFirst]) -> Alone:
    """Run one sample of a batch alone, and copy its values; none if the network fails on it."""
    alone = Alone(readers)
    try:
        alone.ways = read(arguments.take([row]), alone.keep)
    except Exception:  # some networks take no batch of one
        return Alone()
    return alone


class RowCheck:
    """Sees to it that every row of every layer holds the values of its own sample, whatever came before.

    A few samples of the first batch are looked at thoroughly (see `check_rows`); of the batches after it, one sample
    in so many is compared with what it is alone, at about the cost of that sample.
    """

    def __init__(self, frozen: Frozen, readers: Mapping[Site, SamplesFirst]) -> None:
        self._frozen, self._readers = frozen, readers
        self._read = SiteReader(frozen.hooks, readers)
        self._first: RowFindings | None = None
        self._unchecked = math.inf
        self._generator = torch.Generator().manual_seed(0)
        self._blurred: Counter[Site] = Counter()
        self._rows = torch.empty(0, dtype=torch.int64)
        self._alone = Alone()
        self._picked: dict[Site, Tensor] = {}
        self._seen: dict[Site, Tensor] = {}

    @contextmanager
    def batch(self, given: Arguments) -> Iterator[dict[Site, Fault]]:
        """Check the batch that is recorded inside, and put the network's state back after it if it has one.

        Yields:
            The sites whose rows are not the samples', to be read afterwards.
        """
        faults: dict[Site, Fault] = {}
        first, self._unchecked = self._first is None, self._unchecked + given.batch_size
        due = given.batch_size > 1 and self._unchecked >= _CHECK_EVERY
        arguments = given.copy_to(self._frozen.device) if first or due else given
        if self._first is None:
            with self._frozen.from_here() as here:
                self._first = check_rows(here, arguments, self._readers)
            faults.update(self._first.faults)
        with self._frozen.from_here() if self._first.stateful else nullcontext() as here:
            try:
                if due:
                    self._unchecked = 0
                    self._rows = torch.randint(given.batch_size, (1 + _OTHERS,), generator=self._generator)
                    with random_states_kept():
                        self._alone = one_sample(self._read, arguments, int(self._rows[0]), self._readers)
                    self._picked = {site: _pick(values) for site, values in self._alone.values.items()}
                    if here is not None:
                        here.reset()
                yield faults
                if due:
                    if here is not None:
                        here.reset()
                    for site, fault in self._found(arguments, self._first.random).items():
                        faults.setdefault(site, fault)
            finally:
                self._alone, self._picked, self._seen = Alone(), {}, {}

    def unsteady(self, site: Site) -> str:
        """Return why a site may have other values in another pass or in other batches; empty where it has the same."""
        if site.function == INPUT:
            return ""
        if self._first is None or site not in self._readers or self._first.samples < 2:
            return "nothing shows whether its values are random"
        if self._first.stateful:
            return "the network keeps a state from one batch to the next"
        return "its values are random" if site in self._first.random else ""

    def see(self, site: Site, activation: Tensor) -> None:
        """Look at a site's values in the batch, samples first, at the moment that they are made."""
        if (alone := self._alone.values.get(site)) is None:
            return
        self._rows = self._rows.to(activation.device)
        rows = activation.detach().index_select(0, self._rows)
        if rows.shape[1:] == alone.shape[1:]:
            self._seen[site] = torch.cat([_pick(rows), self._picked[site]])
        elif (pair := _overlap(rows, alone)) is not None:
            self._seen[site] = torch.cat([_pick(part) for part in pair])

    def _found(self, arguments: Arguments, random: frozenset[Site]) -> Mapping[Site, Fault]:
        """Find the sites at which the sample's row does not hold its values; in doubt, the batch is run again."""
        if not self._seen:
            return {}
        # A sample that is not clearly closer to itself alone than others are.
        rows = _plain(torch.stack([values.float() for values in self._seen.values()]).cpu())
        distance = (rows[:, :-1] - rows[:, -1:]).abs().mean(2)
        scale = rows[:, -1].abs().mean(1)
        suspicious = (distance[:, 0] > 0.1 * distance.amax(1)) & (distance[:, 0] > _ROUNDING * scale)
        doubtful = [
            site
            for site, suspected in zip(self._seen, suspicious.tolist(), strict=True)
            if suspected and self._blurred[site] < _PATIENCE
        ]
        if not doubtful:
            return {}
        readers = {site: self._readers[site] for site in doubtful}
        row = int(self._rows[0])
        with self._frozen.from_here() as here:
            places = _places(here, arguments, row, self._alone, readers, random)
            found: dict[Site, Fault] = {
                site: "mixed" if place is None else "reordered" for site, place in places.items() if place != row
            }
            # Alone, the sample takes another way: only batches can be compared.
            if unsure := {
                site: reader for site, reader in readers.items() if site not in places and site not in random
            }:
                found |= dict.fromkeys(self._moved(here, arguments, unsure), "moved")
        self._blurred.update(site for site in doubtful if site not in found)
        return found

    def _moved(self, frozen: Frozen, arguments: Arguments, readers: Mapping[Site, SamplesFirst]) -> list[Site]:
        order = torch.randperm(arguments.batch_size, generator=self._generator)
        read, here, there = SiteReader(frozen.hooks, readers), _Rows(readers, len(order)), _Rows(readers, len(order))
        for rows, batch in ((here, arguments), (there, arguments.take(order.tolist()))):
            with frozen.fresh(seed=0):
                rows.read(read, batch)
        return [
            site
            for site, values in here.found.items()
            if here.shapes[site] == there.shapes.get(site) and _apart(values[order], there.found[site], order)
        ]


def _places(
    frozen: Frozen,
    arguments: Arguments,
    row: int,
    alone: Alone,
    readers: Mapping[Site, SamplesFirst],
    random: frozenset[Site],
) -> dict[Site, int | None]:
    """Run a batch, and find at each site the row that holds what one of its samples is alone; None if none does."""
    places: dict[Site, int | None] = {}

    def compare(site: Site, tensor: Tensor) -> None:
        values = readers[site](tensor, arguments.batch_size)
        if values is None:
            return
        place, own_values = None, alone.values[site]
        # Padded to its longest sample, perhaps in front, a batch has more places than a sample alone.
        for at_end in (False, True) if values.shape[1:] != own_values.shape[1:] else (False,):
            if (pair := _overlap(values, own_values, at_end=at_end)) is None:
                return
            rows, own = (_sketch(part).cpu() for part in pair)
            noisy = site in random
            if noisy and values[0].numel() < _COMPARED:
                return
            place = _place(rows, own[0], row, values.dtype, random=noisy)
            if place is not None:
                break
        if place is not None or values.shape[1:] == own_values.shape[1:]:
            places[site] = place

    with frozen.fresh(seed=0):
        ways = SiteReader(frozen.hooks, readers.keys() & alone.values.keys())(arguments.copy_to(None), compare)
    return {site: place for site, place in places.items() if same_way(site, ways, alone.ways)}


def _place(
    rows: Float[Tensor, "n k"], own: Float[Tensor, " k"], row: int, dtype: torch.dtype, *, random: bool
) -> int | None:
    distance = (rows - own).abs().mean(1)
    here = float(distance[row])
    # In low precision, rounding is larger, but much smaller than what tells samples apart.
    if here <= _ROUNDING * float(own.abs().mean()) or here < 0.1 * float(distance.median()):
        return row
    # Far better, not just better: rows that rounding or noise have moved lie about as far away as this one.
    if float(distance.min()) < 0.25 * here:
        return int(distance.argmin())
    return row if random or agree(own.to(dtype), rows[row].to(dtype)) else None


def _apart(left: Float[Tensor, "n k"], right: Float[Tensor, "n k"], order: Tensor) -> list[int]:
    """Find the samples whose rows differ between a batch and the permuted one by more than rounding."""
    scale = left.abs().mean()
    distance = (left - right).abs().mean(1)
    typical = (left - left.roll(1, 0)).abs().mean(1).median()
    return order[(distance > 0.1 * typical) & (distance > 10 * _ROUNDING * scale)].tolist()


def _differing(one: Mapping[Site, Tensor], other: Mapping[Site, Tensor]) -> frozenset[Site]:
    """Find the sites of one pass whose values another pass does not have."""
    return frozenset(site for site, values in one.items() if site not in other or not _same(values, other[site]))


def _same(left: Tensor, right: Tensor) -> bool:
    """Tell whether two passes over the same sample gave the same values, but for what atomic sums may change."""
    if left.shape != right.shape:
        return False
    if left.dtype == right.dtype and torch.equal(left, right):  # as nearly always, at a third of the time
        return True
    return torch.allclose(left.double(), right.double(), rtol=1e-4, equal_nan=True)


def _overlap(rows: Tensor, alone: Tensor, *, at_end: bool = False) -> tuple[Tensor, Tensor] | None:
    """Return the places that both have."""
    if rows.ndim != alone.ndim:
        return None
    for axis in range(1, rows.ndim):
        size = min(rows.shape[axis], alone.shape[axis])
        rows, alone = (part.narrow(axis, part.shape[axis] - size if at_end else 0, size) for part in (rows, alone))
    return rows, alone


def _sketch(rows: Tensor) -> Float[Tensor, "n k"]:
    """Take some elements of every row, the same ones of every row, as they can be compared."""
    return _plain(_pick(rows).float())


def _pick(rows: Tensor) -> Float[Tensor, "n k"]:
    flat = (rows if rows.ndim > 1 else rows[:, None]).detach().flatten(1)
    return flat.index_select(1, drawn_elements(flat.shape[1], _COMPARED, str(flat.device)))


def _plain(values: Tensor) -> Tensor:
    return torch.where(values.abs() < LARGEST, values, 0)
