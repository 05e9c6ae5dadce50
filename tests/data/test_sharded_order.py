"""Several processes draw the order of one between them."""

from __future__ import annotations

import pytest

from layerprobe.data.samplers import RepeatedOrder, ShardedOrder, ShuffledOrder


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 5])
def test_together_they_draw_the_order(n_ranks: int) -> None:
    for n in (1, 6, 7):
        whole = ShuffledOrder(n, seed=3)
        shards = [ShardedOrder(ShuffledOrder(n, seed=3), rank, n_ranks) for rank in range(n_ranks)]
        for epoch in (0, 4):
            whole.set_epoch(epoch)
            for shard in shards:
                shard.set_epoch(epoch)
            drawn = [list(shard) for shard in shards]
            assert {len(part) for part in drawn} == {len(shards[0])}
            interleaved = [index for step in zip(*drawn, strict=True) for index in step]
            order = list(whole)
            assert interleaved[:n] == order
            assert interleaved[n:] == (order * n_ranks)[: len(interleaved) - n]


def test_repetitions_are_kept() -> None:
    assert list(ShardedOrder(RepeatedOrder(4, 2), 1, 2)) == [1, 3, 1, 3]
