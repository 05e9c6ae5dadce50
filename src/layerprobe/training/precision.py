"""Call a network as the trainer's precision would call it."""

from __future__ import annotations

from dataclasses import replace

from pytorch_lightning.plugins.precision import Precision

from layerprobe.probing.protocol import ProbeProtocol


def with_converted_inputs(protocol: ProbeProtocol, precision: Precision) -> ProbeProtocol:
    """Turn the network's inputs into the number format of a precision, as training does.

    Args:
        protocol: The sweep.
        precision: The trainer's precision; its `forward_context` belongs around the network's passes.

    Returns:
        The same sweep.
    """
    inputs = protocol.inputs
    return replace(protocol, inputs=lambda batch: precision.convert_input(inputs(batch)))
