from layerprobe.data.samplers import RepeatedOrder, ShuffledOrder


def _epoch(seed: int, epoch: int) -> list[int]:
    order = ShuffledOrder(50, seed)
    order.set_epoch(epoch)
    return list(order)


def test_every_epoch_is_a_permutation_of_its_own():
    epochs = [_epoch(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_going_through_it_leaves_it_as_it_was():
    order = ShuffledOrder(50, seed=3)
    assert list(order) == list(order) == _epoch(3, 0)
    assert len(order) == 50


def test_repeats_lie_within_one_epoch():
    order = RepeatedOrder(3, repeats=2)
    assert list(order) == [0, 1, 2, 0, 1, 2]
    assert len(order) == 6
