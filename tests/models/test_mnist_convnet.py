import pytest
import torch
from torch.nn import functional as F

from layerprobe.models.mnist_convnet import MnistConvNet

PROBE_POINTS = {
    "conv1_preact": (32, 28, 28),
    "conv1_postact": (32, 28, 28),
    "conv1_postpool": (32, 14, 14),
    "conv2_preact": (64, 14, 14),
    "conv2_postact": (64, 14, 14),
    "conv2_postpool": (64, 7, 7),
    "fc1_preact": (512,),
    "fc1_postact": (512,),
    "logits": (10,),
}


@pytest.fixture(scope="module")
def network() -> MnistConvNet:
    torch.manual_seed(0)
    return MnistConvNet().eval()


def test_the_papers_probe_points_in_order(network):
    shapes = {}
    value = torch.zeros(2, 1, 28, 28)
    for name, module in network.named_children():
        value = module(value)
        shapes[name] = tuple(value.shape[1:])
    assert {name: shape for name, shape in shapes.items() if name not in ("flatten", "dropout")} == PROBE_POINTS
    assert [name for name in shapes if name not in ("flatten", "dropout")] == list(PROBE_POINTS)
    assert list(shapes).index("dropout") == list(shapes).index("fc1_postact") + 1


def test_it_computes_what_a_forward_pass_by_hand_does(network):
    weights = dict(network.named_parameters())
    images = torch.rand(3, 1, 28, 28) - 0.5
    hidden = images
    for name in ("conv1_preact", "conv2_preact"):
        hidden = F.conv2d(hidden, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=2)
        hidden = F.max_pool2d(F.relu(hidden), 2)
    hidden = F.relu(F.linear(hidden.flatten(1), weights["fc1_preact.weight"], weights["fc1_preact.bias"]))
    logits = F.linear(hidden, weights["logits.weight"], weights["logits.bias"])
    torch.testing.assert_close(network(images), logits)


def test_the_number_of_parameters(network):
    assert sum(p.numel() for p in network.parameters()) == 832 + 51_264 + 1_606_144 + 5_130


def test_weights_start_truncated_at_two_standard_deviations(network):
    # A standard normal cut at ±2 has the standard deviation 0.8796.
    for name, parameter in network.named_parameters():
        if name.endswith(".weight"):
            assert parameter.abs().max() <= 0.2
            tolerance = 4 * 0.088 / (2 * parameter.numel()) ** 0.5
            assert abs(parameter.std().item() - 0.08796) < tolerance
            assert abs(parameter.mean().item()) < 4 * 0.088 / parameter.numel() ** 0.5
    assert network.fc1_preact.weight.abs().max() > 0.1999


def test_biases_start_at_zero_in_the_first_convolution_and_at_a_tenth_elsewhere(network):
    biases = {name: set(p.tolist()) for name, p in network.named_parameters() if name.endswith(".bias")}
    tenth = torch.tensor(0.1).item()
    assert biases == {
        "conv1_preact.bias": {0.0},
        "conv2_preact.bias": {tenth},
        "fc1_preact.bias": {tenth},
        "logits.bias": {tenth},
    }


def test_the_global_seed_chooses_the_weights():
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.nn.utils.parameters_to_vector(MnistConvNet().parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
