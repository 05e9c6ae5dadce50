"""The metrics that any logger gets: the test error of each layer."""

from __future__ import annotations

import math

import pandas as pd


def layer_metrics(frame: pd.DataFrame) -> dict[str, float]:
    """Name each layer's test error as it is logged.

    Args:
        frame: Results of one checkpoint, in the columns of `ProbeRecord`.

    Returns:
        `probe/<layer>/test_error` as a share in [0, 1], in order of depth; failed layers are left out.

    Raises:
        ValueError: If the frame holds several checkpoints.
    """
    checkpoints = frame["checkpoint"].unique()
    if len(checkpoints) > 1:
        raise ValueError(
            f"the errors of one checkpoint are logged together; found {', '.join(checkpoints)}. "
            f"Next step: call it for each group of frame.groupby('checkpoint')."
        )
    rows = frame.sort_values("depth", kind="stable")
    errors = zip(rows["layer"], rows["test_error"], strict=True)
    return {f"probe/{layer}/test_error": float(error) for layer, error in errors if math.isfinite(error)}
