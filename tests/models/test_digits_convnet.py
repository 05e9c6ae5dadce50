import torch

from layerprobe.models.digits_convnet import DigitsConvNet
from layerprobe.models.mnist_convnet import MnistConvNet


def test_it_names_its_layers_as_the_mnist_network_does():
    assert [name for name, _ in DigitsConvNet().named_children()] == [
        name for name, _ in MnistConvNet().named_children()
    ]


def test_it_gives_a_score_for_each_class():
    assert DigitsConvNet(n_classes=7)(torch.zeros(3, 1, 8, 8)).shape == (3, 7)
