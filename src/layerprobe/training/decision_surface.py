"""Decision surface of a network with two inputs, written down during training for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor

from layerprobe.files.atomic import atomic
from layerprobe.probing.batches import in_order, inputs_of, targets_of
from layerprobe.probing.capture.activations import record
from layerprobe.probing.capture.freeze import Frozen, freeze
from layerprobe.probing.capture.layers import Layer, first_names
from layerprobe.probing.capture.survey import survey
from layerprobe.results.plane_frames import read_plane_frames
from layerprobe.training.callback_order import LateCallback
from layerprobe.training.lightning_splits import splits_of_trainer
from layerprobe.training.schedule import Schedule


class PlaneCallback(LateCallback):
    """Writes the output over a grid of the input, and the samples at the output and at layers of two or three units.

    The frames are `surface.parquet`, `points.parquet` and `hidden.parquet`; `report.toy.decision_surface` says what
    their columns are. The run is not changed.

    Args:
        directory: Where the frames are written.
        resolution: Points of the grid along each axis.
        margin: How far the grid reaches beyond the samples, in units of the input.
        every_n_steps: Look after every so many optimizer steps, as `step_<n>`, the probes' name for it.
        steps: Look after these optimizer steps.
    """

    def __init__(
        self,
        directory: str | Path,
        resolution: int = 61,
        margin: float = 0.5,
        every_n_steps: int | None = None,
        steps: Sequence[int] = (),
    ) -> None:
        self.directory = Path(directory)
        self.resolution = resolution
        self.margin = margin
        self._schedule = Schedule(every_n_steps=every_n_steps, steps=tuple(steps))
        self._seen = 0
        self._points = torch.empty(0, 2)
        self._labels = torch.empty(0)
        self._frames: dict[str, list[pd.DataFrame]] = {"surface": [], "points": [], "hidden": []}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the untrained network."""
        with freeze(pl_module):
            batches = list(in_order(splits_of_trainer(trainer, pl_module)["test"]))
            self._points = torch.cat([inputs_of(batch) for batch in batches])
            self._labels = torch.cat([targets_of(batch) for batch in batches])
        if self._points.shape[1:] != (2,):
            raise ValueError(
                f"A picture of the plane needs inputs of two features, found {tuple(self._points.shape[1:])}. "
                "Leave this callback out: '~callbacks.plane'."
            )
        if trainer.global_step == 0:
            self._look(trainer, pl_module, "initial")
        else:
            self._seen = trainer.global_step
            self._read_back()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look after the optimizer steps that were chosen."""
        step = trainer.global_step
        if step > self._seen and self._schedule.after_step(step):
            self._seen = step
            self._look(trainer, pl_module, f"step_{step}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the final network, and write the frames."""
        self._look(trainer, pl_module, "final")

    def _read_back(self) -> None:
        """Take up what the run had seen before it was stopped."""
        for name, frame in read_plane_frames(self.directory).items():
            self._frames[name] = [frame[(frame["step"] <= self._seen) & (frame["checkpoint"] != "final")]]

    def _write(self) -> None:
        for name, frames in self._frames.items():
            if frames:
                with atomic(self.directory / f"{name}.parquet") as temporary:
                    pd.concat(frames, ignore_index=True).to_parquet(temporary)

    def _look(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: str) -> None:
        with freeze(pl_module) as frozen:
            layers = first_names(survey(frozen, self._points).choose())
            grid = self._grid()
            common = {"checkpoint": checkpoint, "step": trainer.global_step, "layer": layers[-1].name}
            shown = {"label": self._labels.numpy(), **_axes(self._points)}
            output = _record(frozen, self._points, [layers[-1]])[layers[-1]].reshape(len(self._points), -1)
            if output.shape[1] == 1:
                over_grid = _record(frozen, grid, [layers[-1]])[layers[-1]].reshape(len(grid))
                self._keep("surface", **common, **_axes(grid), output=over_grid.cpu().numpy())
                self._keep("points", **common, **shown, output=output[:, 0].cpu().numpy())
            few_units = [layer for layer in layers[1:] if layer.shape in ((2,), (3,))]
            for layer, states in _record(frozen, self._points, few_units).items():
                units = {f"h{i + 1}": unit for i, unit in enumerate(states.cpu().numpy().T)}
                self._keep("hidden", **common | {"layer": layer.name}, **shown, **units)
        if trainer.is_global_zero:
            self._write()

    def _keep(self, name: str, **columns: object) -> None:
        self._frames[name].append(pd.DataFrame(columns))

    def _grid(self) -> Tensor:
        low, high = self._points.min(0).values - self.margin, self._points.max(0).values + self.margin
        axes = [torch.linspace(float(a), float(b), self.resolution) for a, b in zip(low, high, strict=True)]
        return torch.cartesian_prod(*axes)


def _axes(points: Tensor) -> dict[str, object]:
    return {"x1": points[:, 0].numpy(), "x2": points[:, 1].numpy()}


def _record(frozen: Frozen, points: Tensor, layers: list[Layer]) -> dict[Layer, Tensor]:
    found: dict[Layer, Tensor] = {}

    def copy(layer: Layer, activation: Tensor) -> None:
        found[layer] = activation.clone()

    if layers:
        record(frozen, points, layers, copy)
    return found
