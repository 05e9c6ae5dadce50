"""Migration of configurations: run directories and checkpoints of earlier versions name classes by their modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_FORMER = {
    "concept_sweep": "ConceptDepthReport",
    "data.digits": "DigitsDataModule",
    "data.image_folder": "ImageFolderDataModule prescribed_transform",
    "data.text": "TextDataModule",
    "data.text_table": "HubDataset LabelledLines TextFile",
    "data.text_tokenizer": "PretrainedTokenizer",
    "data.vision": "MnistDataModule",
    "data.xor": "XorDataModule",
    "directories": "Directories",
    "models.classifier": "Classifier",
    "models.deep_convnet": "deep_convnet",
    "models.deep_mlp": "deep_mlp",
    "models.digits_convnet": "DigitsConvNet",
    "models.inception": "InceptionWithAuxiliary",
    "models.linear": "xor_linear",
    "models.mnist_convnet": "MnistConvNet",
    "models.optimizers": "decay_only",
    "models.text": "encoder language_model",
    "models.xor": "xor_mlp",
    "probing.batches": "inputs_of targets_of",
    "probing.features": "AveragePool ChannelMean Flatten RandomSubset",
    "probing.penalty": "ScikitLearnC",
    "probing.protocol": "ProbeProtocol",
    "probing.solvers.logistic": "Logistic",
    "probing.solvers.ridge": "Ridge",
    "probing.take": "Column Item Items Lookup Parity",
    "probing.tasks.classification": "Classification",
    "probing.tasks.multi_label": "MultiLabel",
    "probing.tasks.regression": "Regression",
    "probing.tokens": "FirstToken LastToken MeanToken TokenIndex",
    "report.depth_view": "DepthView",
    "results.objectives": "area_under_depth_curve best_validation_error",
    "sweep": "SweepCurves SweepTable",
    "training.callback": "ProbeCallback",
    "training.csv_log": "ContinuedCsvLogger",
    "training.guard": "Guard",
    "training.plane": "PlaneCallback",
    "training.wandb_logger": "SteadyWandbLogger",
}
"""The modules of 0.1 whose names configurations held; a class that gets another name is put in `PUBLIC_NAMES`."""

PUBLIC_NAMES: Mapping[str, str] = {
    f"layerprobe.{module}.{name}": f"layerprobe.{name}" for module, names in _FORMER.items() for name in names.split()
}
"""By the former name of a class or function, the public one."""

_UNNAMED: Mapping[str, Mapping[str, Any]] = {
    "layerprobe.ProbeProtocol": {
        "stream": False,
        "refit": False,
        "population": False,
        "selection": "error",
        "metrics": [],
        "scores": False,
        "sample_ids": None,
        "analyses": [],
        "each_reducer": False,
    },
    "layerprobe.TextDataModule": {"spans": None},
    "layerprobe.Classification": {"class_weight": None},
    "layerprobe.MultiLabel": {"class_weight": None},
    "layerprobe.Ridge": {"tolerance": 1e-5, "largest": 6144, "max_iterations": 500},
    "pytorch_lightning.Trainer": {"max_steps": -1, "strategy": "auto", "num_nodes": 1},
}
"""By class, arguments that not every configuration of 0.1 named, with the values that they had there."""


GONE: Mapping[str, str] = {
    "layerprobe.probing.solvers.sgd.SGD": "stochastic gradients ended without a certificate. Choose solver=[logistic] "
    "with probe.stream=false: features that do not fit into `max_memory` are kept on disk, and every head ends with "
    "its certificate. Or stream with solver=[ridge], in one pass."
}
"""By the former name of a class that is no more, what to use instead."""


def migrated(config: Any) -> Any:
    """Put public names in place of former ones.

    Args:
        config: A configuration or a part of one, of plain values.

    Returns:
        The same with the public name wherever a value is a former one.
    """
    if isinstance(config, Mapping):
        return {key: migrated(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(migrated(value) for value in config)
    return PUBLIC_NAMES.get(config, config) if isinstance(config, str) else config


def without_unnamed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out arguments that have the value that they had where 0.1 did not name them.

    Args:
        config: A configuration with public names; its keys may be dotted.

    Returns:
        The same without these keys, at any depth.
    """
    unnamed = {
        f"{key.removesuffix('_target_')}{name}": value
        for key, target in config.items()
        if key == "_target_" or key.endswith("._target_")
        for name, value in _UNNAMED.get(str(target), {}).items()
    }
    return {key: _without(value) for key, value in config.items() if key not in unnamed or unnamed[key] != value}


def _without(value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_unnamed(value)
    return [_without(item) for item in value] if isinstance(value, list) else value
