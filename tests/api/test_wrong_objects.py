"""Objects of a wrong kind, given in Python without a type checker: one message each."""

from __future__ import annotations

import sys
from pathlib import Path

from helpers import forked

CALLS = """
import torch
from torch import nn

import layerprobe

x, y = torch.randn(30, 4), torch.arange(30) % 3
calls = {
    "probe": lambda: layerprobe.probe("net.pt", (x, y)),
    "layers": lambda: layerprobe.layers(nn.Linear, x),
    "activations": lambda: layerprobe.activations({}, x),
    "protocol": lambda: layerprobe.ProbeCallback({"l2": [1.0]}),
    "resources": lambda: layerprobe.ProbeCallback(resources="8GiB"),
    "chart": lambda: layerprobe.depth_curve({"before": 3}),
    "right": lambda: layerprobe.layers(nn.Linear(4, 2), x),
}
for name, call in calls.items():
    try:
        call()
    except TypeError as error:
        print(f"{name}: {error}")
    else:
        print(f"{name}: is taken")
"""


def test_each_says_what_was_found_and_what_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "calls.py").write_text(CALLS)
    done = forked.run([sys.executable, "calls.py"], cwd=tmp_path)
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    assert said["probe"].startswith("the network is a str, expected an object of torch.nn.Module. Build it"), done
    assert said["layers"].startswith("the network is the class Linear, expected an object of torch.nn.Module.")
    assert said["activations"].startswith("the network is a dict, expected an object of torch.nn.Module.")
    assert said["protocol"].startswith("`protocol` is a dict, expected layerprobe.ProbeProtocol(…).")
    assert said["resources"].startswith("`resources` is a str, expected layerprobe.Resources(…).")
    assert said["chart"].startswith("Results are of the type int. Give what `layerprobe.probe` or `layerprobe.load`")
    assert said["right"] == "is taken"
