"""Baselines of a run: what was probed of the data without any network, such as the words of a text."""

from __future__ import annotations

import pandas as pd


def of_baselines(results: pd.DataFrame) -> pd.Series:
    """Tell which rows are of features that need no network.

    Returns:
        True for the checkpoints without a training step of which the input is all that was probed, where others have
        layers behind theirs.
    """
    deeper = results.loc[results["depth"] > 0, "checkpoint"].unique()
    return ~results["checkpoint"].isin(deeper) & (results["step"] == 0) & (len(deeper) > 0)


def without_baselines(results: pd.DataFrame) -> pd.DataFrame:
    """Take the rows of networks alone."""
    return results[~of_baselines(results)]


def constant_answer(results: pd.DataFrame) -> str:
    """Return what the best constant answer is called, whose test error is `majority_error`."""
    return "mean of train" if results["task"].eq("regression").any() else "majority class"


def baseline_errors(results: pd.DataFrame) -> dict[str, list[float]]:
    """Find the test errors that a layer's is compared with, whichever layer it is.

    Returns:
        By name, as a reader is told it: that of `constant_answer`, and those of the data, such as `bag of words`. Each
        has one value, or several in ascending order where checkpoints brought data of their own along.
    """
    network, features = without_baselines(results), results[of_baselines(results)]
    of_numbers = network["task"].eq("regression")
    found = {constant_answer(part): part["majority_error"] for _, part in network.groupby(of_numbers)}
    found |= {str(name).replace("_", " "): rows["test_error"] for name, rows in features.groupby("checkpoint")}
    return {name: values for name, errors in found.items() if (values := sorted(errors.dropna().unique().tolist()))}


def baselines_above_majority(results: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Find the baselines that err more than the majority class does, by more than the luck of the test samples.

    A head that validation has chosen seldom does on samples of the same distribution. It does where test samples are
    like training samples of another class, as where pairs are divided between train and test.

    Returns:
        By name, as a reader is told it: the test error, and that of the majority class.
    """
    features = results[of_baselines(results) & (results["test_error_low"] > results["majority_error"])]
    names = features["checkpoint"].str.replace("_", " ")
    errors = zip(features["test_error"].tolist(), features["majority_error"].tolist(), strict=True)
    return dict(zip(names, errors, strict=True))
