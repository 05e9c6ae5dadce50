"""Schedule: when a training run freezes a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """The moments of a training run at which the network is frozen.

    Attributes:
        before_training: Freeze the untrained network, as `initial`.
        every_n_epochs: Freeze after every so many epochs, as `epoch_<n>`.
        every_n_steps: Freeze after every so many optimizer steps, as `step_<n>`.
        steps: Freeze after these optimizer steps, as `step_<n>`; 0 means before training.
        at_end: Freeze the network that training ends with, as `final`.
    """

    before_training: bool = True
    every_n_epochs: int | None = None
    every_n_steps: int | None = None
    steps: Sequence[int] = ()
    at_end: bool = True

    def __post_init__(self) -> None:
        for name in ("every_n_epochs", "every_n_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, found {value}. Leave it out to switch it off.")
        if any(step < 0 for step in self.steps):
            raise ValueError(f"`steps` must not be negative, found {min(self.steps)}.")

    @property
    def starts(self) -> bool:
        """Whether the untrained network is frozen."""
        return self.before_training or 0 in self.steps

    def after_step(self, step: int) -> bool:
        """Tell whether the network is frozen after this optimizer step."""
        return step in self.steps or (self.every_n_steps is not None and step % self.every_n_steps == 0)

    def after_epoch(self, epoch: int) -> bool:
        """Tell whether the network is frozen after this many whole epochs."""
        return self.every_n_epochs is not None and epoch % self.every_n_epochs == 0
