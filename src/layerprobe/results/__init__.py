"""What probing leaves behind: the rows, the store on disk, and the sink to Weights & Biases."""

from layerprobe.results.record import SCHEMA_VERSION, SchemaError, read_frame, to_frame
from layerprobe.results.scalars import scalars
from layerprobe.results.store import ProbeStore, StoreError
from layerprobe.results.wandb_mode import default_mode
from layerprobe.results.wandb_sink import WandbSink, finish_run

__all__ = [
    "SCHEMA_VERSION",
    "ProbeStore",
    "SchemaError",
    "StoreError",
    "WandbSink",
    "default_mode",
    "finish_run",
    "read_frame",
    "scalars",
    "to_frame",
]
