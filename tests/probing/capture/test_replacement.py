"""A layer that is a part of a tensor is replaced in that part alone."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from layerprobe.probing.capture.freeze import freeze
from layerprobe.probing.capture.replacement import replaced
from layerprobe.probing.capture.survey import survey


def test_the_rest_of_the_tensor_stays() -> None:
    network, x = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 2)).eval(), torch.rand(4, 3)
    with freeze(network) as frozen:
        layer = next(one for one in survey(frozen, x, granularity="modules").layers if one.name == "0")
    own = replace(layer.taps[0], rows=layer.rows._replace(part=(2, 4)), shape=(2,))
    head = replace(layer, taps=(own,))
    seen: list[tuple[int, ...]] = []

    def erase(part: torch.Tensor, given: object) -> torch.Tensor:
        seen.append(tuple(part.shape))
        return torch.zeros_like(part)

    with torch.no_grad():
        wanted = network[0](x)
        wanted[:, 2:4] = 0
        with replaced(network, head, erase):
            found = network(x)
        assert torch.equal(found, network[1](wanted))
        assert not torch.equal(network(x), found), "afterwards it is as it was"
    assert seen == [(4, 2)]
