from __future__ import annotations

import torch
import torch.nn.functional as F

from layerprobe.probing.heads import Heads


def cross_entropy(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(scores, targets, reduction="none")


def test_equals_a_loop_over_heads() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(4, 3, 5, generator=generator), torch.randn(4, 3, generator=generator)
    x, y = torch.randn(37, 5, generator=generator), torch.randint(3, (37,), generator=generator)
    correct, loss = Heads(weight, bias).evaluate(x, y, cross_entropy, elements=100)
    for i in range(4):
        scores = x @ weight[i].T + bias[i]
        assert torch.equal(correct[i], scores.argmax(1) == y)
        torch.testing.assert_close(loss[i], F.cross_entropy(scores, y).double(), rtol=1e-5, atol=1e-6)


def test_an_unknown_class_is_wrong_with_infinite_loss() -> None:
    correct, loss = Heads(torch.zeros(1, 2, 1), torch.zeros(1, 2)).evaluate(
        torch.zeros(2, 1), torch.tensor([0, -1]), cross_entropy
    )
    assert correct.tolist() == [[True, False]]
    assert loss.isinf().all()
