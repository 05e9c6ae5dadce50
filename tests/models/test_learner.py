from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from layerprobe.models.classifier import Classifier
from layerprobe.models.regressor import Regressor

SGD = partial(torch.optim.SGD, lr=0.1)


def _trainer(**arguments) -> pl.Trainer:
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(accelerator="cpu", logger=False, **quiet, **arguments)


def _loader(n: int, batch_size: int) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(n, 4, generator=generator)
    return DataLoader(TensorDataset(inputs, torch.randint(3, (n,), generator=generator)), batch_size=batch_size)


def test_a_classifier_logs_the_figures_of_the_whole_split():
    learner = Classifier(nn.Linear(4, 3), SGD, None, nn.CrossEntropyLoss())
    loader = _loader(25, batch_size=8)
    (figures,) = _trainer().test(learner, loader, verbose=False)
    inputs, targets = loader.dataset.tensors
    scores = learner.network(inputs)
    assert figures == {
        "test/loss": pytest.approx(nn.functional.cross_entropy(scores, targets).item(), rel=1e-5),
        "test/error": pytest.approx((scores.argmax(1) != targets).double().mean().item(), rel=1e-5),
    }


def test_a_classifier_logs_while_it_trains():
    learner = Classifier(nn.Linear(4, 3), SGD, None, nn.CrossEntropyLoss())
    trainer = _trainer(max_epochs=2, log_every_n_steps=1)
    trainer.fit(learner, _loader(24, batch_size=8), _loader(10, batch_size=4))
    assert {"train/loss", "val/loss", "val/error"} <= set(trainer.callback_metrics)


def test_the_training_loss_is_logged_where_lightning_passes_it_on():
    steps = []

    class Logger(pl.loggers.logger.DummyLogger):
        def log_metrics(self, metrics, step=None):
            if "train/loss" in metrics:
                steps.append(step)

    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", max_epochs=3, log_every_n_steps=2, logger=Logger(), **quiet)
    learner = Classifier(nn.Linear(4, 3), SGD, None, nn.CrossEntropyLoss())
    trainer.fit(learner, _loader(24, batch_size=8), _loader(10, batch_size=4))
    assert steps == [1, 3, 5, 7]


def test_forward_is_the_network():
    network = nn.Linear(4, 3)
    inputs = torch.randn(2, 4)
    assert torch.equal(Classifier(network, SGD, None, nn.CrossEntropyLoss())(inputs), network(inputs))


@pytest.mark.parametrize(("solved_below", "solved"), [(0.01, 0.0), (1e6, 1.0)])
def test_a_regressor_logs_the_loss_and_whether_it_is_small(solved_below, solved):
    learner = Regressor(nn.Linear(4, 1), SGD, None, nn.MSELoss(), solved_below)
    loader = _loader(25, batch_size=8)
    (figures,) = _trainer().test(learner, loader, verbose=False)
    inputs, targets = loader.dataset.tensors
    loss = (learner.network(inputs).squeeze(1) - targets).square().mean().item()
    assert figures == {"test/loss": pytest.approx(loss, rel=1e-5), "test/solved": solved}


def test_the_staircase_goes_down_once_an_epoch():
    rates = []

    class Recorder(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    staircase = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.95)
    learner = Classifier(nn.Linear(4, 3), SGD, staircase, nn.CrossEntropyLoss())
    _trainer(max_epochs=3, callbacks=[Recorder()]).fit(learner, _loader(16, batch_size=8), _loader(8, batch_size=8))
    assert rates == pytest.approx([0.1, 0.1, 0.095, 0.095, 0.09025, 0.09025])


def test_the_optimizer_knows_the_networks_names():
    optimizer = Classifier(nn.Linear(4, 3), SGD, None, nn.CrossEntropyLoss()).configure_optimizers()
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
