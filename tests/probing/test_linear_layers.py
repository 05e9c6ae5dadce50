"""What a linear layer can and cannot do for a linear head, on real data.

Let a layer be u = M z of the input z, both standardised, M of full column rank with singular values between σ₁ and σ₂.
A head V on u is the head VM on z, and a head W on z is the head WM⁺ on u, with the same scores and biases. Norms obey
‖VM‖ ≤ σ₂‖V‖ and ‖WM⁺‖ ≤ ‖W‖/σ₁. So for f(λ), the optimum of mean cross-entropy + ½λ‖·‖²,

    f_input(λ/σ₂²) ≤ f_layer(λ) ≤ f_input(λ/σ₁²),

and as λ goes to 0, where both ends are the same, so is the layer: equal in what a head can reach, at every depth.
"""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.init import kaiming_normal_

from layerprobe.models.deep_mlp import DeepMLP
from layerprobe.probing.capture.activations import activations
from layerprobe.probing.features.scaler import Standardiser
from layerprobe.probing.solvers.logistic import Logistic


def standardised(features: Tensor) -> Tensor:
    return Standardiser.fit(features).apply_(features.clone())


def optimum(features: Tensor, targets: Tensor, l2: list[float]) -> Tensor:
    solution = Logistic(tolerance=1e-6).solve(features, targets, 10, torch.tensor(l2, dtype=torch.float64))
    assert all(status.name == "CONVERGED" for status in solution.status)
    return solution.objective


@pytest.mark.parametrize("layer", [0, 2])
def test_a_linear_layer_lies_between_two_penalties_of_the_input(layer: int) -> None:
    digits = load_digits()
    x, y = torch.as_tensor(digits.data[:600]).double(), torch.as_tensor(digits.target[:600])
    z = standardised(x)[:, x.std(0) > 0]
    torch.manual_seed(0)
    network = DeepMLP((z.shape[1],), 10, 3, 80, nn.Identity(), None, kaiming_normal_).double()
    u = standardised(activations(network, z, granularity="blocks")[f"layers.{layer}"])
    m = torch.linalg.lstsq(z, u).solution.T
    torch.testing.assert_close(z @ m.T, u)
    singular = torch.linalg.svdvals(m)
    small, large, l2 = float(singular[-1]), float(singular[0]), [1e-3, 1e-1]
    lower, upper = (optimum(z, y, [value / s**2 for value in l2]) for s in (large, small))
    found = optimum(u, y, l2)
    assert (lower <= found * (1 + 1e-5)).all()
    assert (found <= upper * (1 + 1e-5)).all()


def test_exclusive_or_stays_out_of_reach_of_every_linear_layer_and_of_no_other() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 2, generator=generator, dtype=torch.float64)
    y = (x[:, 0] * x[:, 1] > 0).long()
    reached = {}
    for name, activation in (("identity", nn.Identity()), ("relu", nn.ReLU())):
        torch.manual_seed(0)
        network = DeepMLP((2,), 2, 3, 32, activation, None, kaiming_normal_).double()
        found = activations(network, x, granularity="blocks")
        for k in range(3):
            features = standardised(found[f"layers.{k}"])
            solution = Logistic().solve(features, y, 2, torch.tensor([1e-6], dtype=torch.float64))
            reached[name, k] = float(solution.objective[0])
    log2 = 0.6931
    assert all(reached["identity", k] > 0.99 * log2 for k in range(3))
    assert all(reached["relu", k] < 0.5 * log2 for k in range(3))
