"""Exact linear classifier probes on every layer of a neural network."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerprobe.api.charts import angle_map as angle_map
    from layerprobe.api.charts import angles as angles
    from layerprobe.api.charts import beyond_linear as beyond_linear
    from layerprobe.api.charts import compare as compare
    from layerprobe.api.charts import depth_curve as depth_curve
    from layerprobe.api.charts import direction_curve as direction_curve
    from layerprobe.api.charts import erasure_curve as erasure_curve
    from layerprobe.api.charts import few_shot_map as few_shot_map
    from layerprobe.api.charts import heat_map as heat_map
    from layerprobe.api.charts import information_curve as information_curve
    from layerprobe.api.charts import position_map as position_map
    from layerprobe.api.charts import site_map as site_map
    from layerprobe.api.charts import transfer as transfer
    from layerprobe.api.charts import transfer_map as transfer_map
    from layerprobe.api.erasure import erasure as erasure
    from layerprobe.api.head import ProbeHead as ProbeHead
    from layerprobe.api.layer_list import layers as layers
    from layerprobe.api.probe import probe as probe
    from layerprobe.api.results import ProbeResults as ProbeResults
    from layerprobe.api.results import load as load
    from layerprobe.probing.analyses.attention import Attention as Attention
    from layerprobe.probing.analyses.description_length import DescriptionLength as DescriptionLength
    from layerprobe.probing.analyses.erased import Erased as Erased
    from layerprobe.probing.analyses.few_shot import FewShot as FewShot
    from layerprobe.probing.analyses.mean_difference import MeanDifference as MeanDifference
    from layerprobe.probing.analyses.mlp import MLP as MLP
    from layerprobe.probing.analyses.nearest_mean import NearestMean as NearestMean
    from layerprobe.probing.analyses.nearest_neighbours import NearestNeighbours as NearestNeighbours
    from layerprobe.probing.analyses.stability import Stability as Stability
    from layerprobe.probing.analyses.v_information import VInformation as VInformation
    from layerprobe.probing.capture.activations import activations as activations
    from layerprobe.probing.features.reducers import AveragePool as AveragePool
    from layerprobe.probing.features.reducers import ChannelMean as ChannelMean
    from layerprobe.probing.features.reducers import Flatten as Flatten
    from layerprobe.probing.features.reducers import RandomSubset as RandomSubset
    from layerprobe.probing.protocol import ProbeProtocol as ProbeProtocol
    from layerprobe.probing.resources import Resources as Resources
    from layerprobe.probing.solvers.logistic import Logistic as Logistic
    from layerprobe.probing.solvers.ridge import Ridge as Ridge
    from layerprobe.probing.tasks.classification import Classification as Classification
    from layerprobe.probing.tasks.multi_label import MultiLabel as MultiLabel
    from layerprobe.probing.tasks.regression import Regression as Regression
    from layerprobe.training.callback import ProbeCallback as ProbeCallback

_PUBLIC = {
    "api.probe": "probe",
    "api.layer_list": "layers",
    "api.erasure": "erasure",
    "api.head": "ProbeHead",
    "api.results": "ProbeResults load",
    "api.charts": "angle_map angles beyond_linear compare depth_curve direction_curve erasure_curve few_shot_map "
    "heat_map information_curve position_map site_map transfer transfer_map",
    "probing.analyses.attention": "Attention",
    "probing.analyses.description_length": "DescriptionLength",
    "probing.analyses.erased": "Erased",
    "probing.analyses.few_shot": "FewShot",
    "probing.analyses.mean_difference": "MeanDifference",
    "probing.analyses.mlp": "MLP",
    "probing.analyses.nearest_mean": "NearestMean",
    "probing.analyses.nearest_neighbours": "NearestNeighbours",
    "probing.analyses.stability": "Stability",
    "probing.analyses.v_information": "VInformation",
    "probing.capture.activations": "activations",
    "probing.protocol": "ProbeProtocol",
    "probing.resources": "Resources",
    "probing.batches": "inputs_of targets_of",
    "probing.getters": "Column Item Items Lookup Parity Tokens",
    "probing.features.reducers": "AveragePool ChannelMean Flatten RandomSubset",
    "probing.features.token_reducers": "FirstToken LastToken MeanToken SpanToken TokenIndex token_positions",
    "probing.solvers.scikit_learn_c": "ScikitLearnC",
    "probing.solvers.logistic": "Logistic",
    "probing.solvers.ridge": "Ridge",
    "probing.tasks.classification": "Classification",
    "probing.tasks.multi_label": "MultiLabel",
    "probing.tasks.regression": "Regression",
    "training.callback": "ProbeCallback",
    "training.resume": "Guard",
    "training.decision_surface": "PlaneCallback",
    "training.continued_loggers": "ContinuedCsvLogger SteadyWandbLogger",
    "models.classifier": "Classifier",
    "models.deep_convnet": "deep_convnet",
    "models.deep_mlp": "deep_mlp",
    "models.digits_convnet": "DigitsConvNet",
    "models.inception": "InceptionWithAuxiliary",
    "models.mnist_convnet": "MnistConvNet",
    "models.parameter_groups": "decay_only",
    "models.pretrained_text": "encoder language_model",
    "models.pretrained_vision": "vision_model",
    "models.timm_network": "timm_network",
    "models.xor": "xor_linear xor_mlp",
    "data.corrupted": "CorruptedDataModule CorruptedDataset",
    "data.corruptions": "Blur Clean Noise Rotation Translation",
    "data.digits": "DigitsDataModule",
    "data.image_folder": "ImageFolderDataModule",
    "data.prescribed_transform": "prescribed_transform",
    "data.torchvision_dataset": "TorchvisionDataModule",
    "data.text": "TextDataModule",
    "data.text_table": "HubDataset LabelledLines TextFile",
    "data.pretrained_tokenizer": "PretrainedTokenizer",
    "data.mnist": "MnistDataModule",
    "data.xor": "XorDataModule",
    "report.depth_curve_options": "DepthView",
    "results.objectives": "area_under_depth_curve best_validation_error",
    "jobs.output_directories": "Directories",
    "jobs.sweep_callbacks": "SweepCurves SweepTable",
    "jobs.concept_callback": "ConceptDepthReport",
}
"""By module, the names that programs and configurations use: `_target_: layerprobe.Logistic`."""

HOMES = {name: f"layerprobe.{module}" for module, names in _PUBLIC.items() for name in names.split()}
"""By public name, the module that has it."""

__all__ = [*HOMES, "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: Lightning takes seconds, and not every use needs it."""
    if name not in HOMES:
        raise AttributeError(f"module 'layerprobe' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return list(__all__)
