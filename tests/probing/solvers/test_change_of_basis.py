from __future__ import annotations

import torch

from helpers.reference import made
from layerprobe.probing.solvers.change_of_basis import ChangedBasis
from layerprobe.probing.solvers.softmax_objective import SoftmaxObjective


def test_value_and_gradient_are_those_of_the_turned_heads():
    """For axes that are far from orthonormal as well: what is minimised must not depend on how well they are known."""
    features, targets = (torch.as_tensor(part).double() for part in made(300, 7, 3, 0.5))
    objective = SoftmaxObjective(features, targets.long(), 3, torch.float64)
    generator, l2 = torch.Generator().manual_seed(0), torch.tensor([0.3, 0.0]).double()
    axes = torch.randn(7, 7, generator=generator, dtype=torch.float64)
    heads = torch.randn(2, 2, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    whole = torch.cat([heads[..., :-1] @ axes.T, heads[..., -1:]], 2)
    expected = objective(whole.detach(), l2, True)
    found = ChangedBasis(objective, axes)(heads.detach(), l2, True)
    torch.testing.assert_close(found.objective, expected.objective)
    torch.testing.assert_close(found.curvature, expected.curvature)
    (whole * expected.gradient).sum().backward()
    torch.testing.assert_close(found.gradient, heads.grad)
