"""Confusion of classes: the test samples of each, by what the selected head of a layer answers."""

from __future__ import annotations

import numpy as np
import pandas as pd


def confusion(scores: pd.DataFrame, test_set: str | None = None) -> pd.DataFrame:
    """Count the samples of each class by what a head answers.

    Args:
        scores: The head's scores, as `score_frame` lays them out.
        test_set: Name of the test set; by default the first.

    Returns:
        True classes by predicted ones: those of the scores in their order, then those that only the test set has.

    Raises:
        KeyError: Where there is no such test set.
        ValueError: Where it is not classes that are predicted.
    """
    from sklearn.metrics import confusion_matrix

    if "target" not in scores:
        raise ValueError(
            "A confusion matrix is one of classes; these are several labels or numbers. Next step: take the scores."
        )
    sets = scores.index.get_level_values("test_set")
    known = sets.unique().tolist()
    name = known[0] if test_set is None else test_set
    if name not in known:
        raise KeyError(f"there is no test set '{name}'; its scores are kept of: {', '.join(known)}")
    rows = scores[sets == name]
    kind = rows["target"].dtype.type if rows["target"].dtype.kind in "iu" else str
    columns = [str(column) for column in scores]
    classes = [kind(column.removeprefix("score_")) for column in columns if column.startswith("score_")]
    classes += sorted(set(rows["target"]) - set(classes))
    counts = confusion_matrix(rows["target"], rows["predicted"], labels=np.array(classes))
    return pd.DataFrame(counts, index=pd.Index(classes, name="target"), columns=pd.Index(classes, name="predicted"))
