"""Frames of the plane, kept at the probes' own checkpoints."""

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch

from layerprobe.data.xor import XorDataModule
from layerprobe.models.xor import xor_mlp
from layerprobe.training.decision_surface import PlaneCallback


@pytest.mark.parametrize("width", [2, 3, 4])
def test_frames_are_kept_when_asked_and_layers_of_two_or_three_units(tmp_path, width):
    pl.seed_everything(0, verbose=False)
    optimizer = lambda parameters: torch.optim.SGD([p for _, p in parameters], lr=0.1)  # noqa: E731
    module = xor_mlp(
        width=width, bias=False, activation=torch.nn.ReLU(), optimizer=optimizer, scheduler=None,
        loss=torch.nn.MSELoss(), solved_below=0.01,
    )  # fmt: skip
    callback = PlaneCallback(tmp_path, resolution=5, every_n_steps=4, steps=[2])
    trainer = pl.Trainer(
        max_epochs=1, callbacks=[callback], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(module, datamodule=XorDataModule(repeats=10, batch_size=4))
    surface = pd.read_parquet(tmp_path / "surface.parquet")
    expected = ["initial", "step_2", "step_4", "step_8", "final"]
    assert surface["checkpoint"].unique().tolist() == expected
    assert (surface.groupby("checkpoint").size() == 25).all()
    hidden = tmp_path / "hidden.parquet"
    assert hidden.exists() == (width < 4)
    if width < 4:
        assert {f"h{i + 1}" for i in range(width)} <= set(pd.read_parquet(hidden))
