from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from layerprobe.data.xor import XorDataModule
from layerprobe.models.xor import XorNetwork, xor_linear, xor_mlp

POINTS = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
TARGETS = torch.tensor([0.0, 1.0, 1.0, 0.0])
GRADIENT_DESCENT = partial(torch.optim.SGD, lr=0.1)


def _test_figures(learner: pl.LightningModule, steps: int) -> dict[str, float]:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = XorDataModule(repeats=steps)
    trainer.fit(learner, datamodule=data)
    return dict(trainer.test(learner, datamodule=data, verbose=False)[0])


def _trained_starts(width: int, starts: int, steps: int) -> torch.Tensor:
    """Losses of many networks, trained side by side by full-batch gradient descent, each from PyTorch's own start."""
    torch.manual_seed(0)
    networks = [XorNetwork(width, bias=False, activation=nn.ReLU()) for _ in range(starts)]
    first = torch.stack([network.hidden_preact.weight.detach() for network in networks]).requires_grad_()
    second = torch.stack([network.output.weight.detach() for network in networks]).requires_grad_()
    for _ in range(steps):
        outputs = (torch.relu(POINTS @ first.mT) @ second.mT).squeeze(2)
        losses = (outputs - TARGETS).square().mean(dim=1)
        gradients = torch.autograd.grad(losses.sum(), (first, second))
        with torch.no_grad():
            first -= 0.1 * gradients[0]
            second -= 0.1 * gradients[1]
    return losses.detach()


@pytest.mark.parametrize(("bias", "loss"), [(True, 1 / 4), (False, 1 / 3)])
def test_linear_regression_reaches_its_optimum_and_does_not_solve_it(bias, loss):
    pl.seed_everything(0, verbose=False)
    learner = xor_linear(bias, GRADIENT_DESCENT, None, nn.MSELoss())
    assert _test_figures(learner, steps=500) == {"test/loss": pytest.approx(loss, abs=1e-6), "test/solved": 0.0}
    answers = learner(POINTS).squeeze(1)
    wanted = torch.full((4,), 0.5) if bias else torch.tensor([0.0, 1 / 3, 1 / 3, 2 / 3])
    torch.testing.assert_close(answers, wanted, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("seed", "solved"), [(5, 1.0), (0, 0.0)])
def test_two_units_solve_it_from_some_starts(seed, solved):
    pl.seed_everything(seed, verbose=False)
    learner = xor_mlp(
        2, bias=False, activation=nn.ReLU(), optimizer=GRADIENT_DESCENT, scheduler=None, loss=nn.MSELoss()
    )
    figures = _test_figures(learner, steps=1000)
    assert figures["test/solved"] == solved
    assert (figures["test/loss"] < 0.01) == bool(solved)


@pytest.mark.parametrize(("width", "low", "high"), [(2, 0.20, 0.23), (3, 0.45, 0.51), (4, 0.63, 0.73), (8, 0.93, 0.98)])
def test_the_rate_of_success_by_width(width, low, high):
    rate = (_trained_starts(width, starts=400, steps=1500) < 0.01).double().mean().item()
    noise = 2 * (rate * (1 - rate) / 400) ** 0.5
    assert low - noise <= rate <= high + noise


def test_the_exact_solution():
    network = XorNetwork(2, bias=False, activation=nn.ReLU())
    with torch.no_grad():
        network.hidden_preact.weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
        network.output.weight.copy_(torch.tensor([[1.0, 1.0]]))
    assert torch.equal(network(POINTS).squeeze(1), TARGETS)


def test_without_activation_it_is_a_linear_function():
    network = XorNetwork(5, bias=False, activation=nn.Identity())
    x, y = torch.rand(2, 10, 2)
    torch.testing.assert_close(network(x + y), network(x) + network(y))
    assert [name for name, _ in network.named_children()] == ["hidden_preact", "hidden", "output"]


def test_no_hidden_unit_is_refused():
    with pytest.raises(ValueError, match=r"at least one unit \(model\.width=2\)"):
        XorNetwork(0, bias=False, activation=nn.ReLU())
