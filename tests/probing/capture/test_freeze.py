from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

import layerprobe
from helpers.cases import one_thread  # noqa: F401
from layerprobe.probing.capture.freeze import freeze
from layerprobe.probing.capture.random_generators import random_states
from layerprobe.probing.solvers.precision import full_precision


class Eventful(nn.Module):
    """Its forward pass changes whatever a forward pass can change."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.tensor([1.0, float("nan"), -0.0, 2.0]))
        self.seen: list[int] = []
        self.state = torch.zeros(4)
        self.last: Tensor | None = None
        self.count = 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        self.mean = self.mean * 0.9  # a new tensor in the old one's place
        self.state.add_(x.mean())
        self.count += 1
        self.seen.append(self.count)
        self.last = x
        self.extra = x
        self.fc.train()
        self.fc.weight.requires_grad_(False)
        self.fc.register_forward_hook(lambda module, args, output: output)
        torch.rand(3), random.random(), np.random.rand()
        torch.set_grad_enabled(True)
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
        torch.backends.cudnn.deterministic = True
        torch.set_float32_matmul_precision("medium")
        return self.drop(self.norm(self.fc(x)))


class Marks:
    """Everything that has to be as before."""

    def __init__(self, network: Eventful) -> None:
        self.flags = [module.training for module in network.modules()]
        self.bits = {name: value.numpy().tobytes() for name, value in network.state_dict().items()}
        self.places = {name: value.data_ptr() for name, value in network.named_buffers()}
        self.versions = {name: value._version for name, value in network.norm.named_buffers()}
        self.gradients = [parameter.requires_grad for parameter in network.parameters()]
        self.hooks = [dict(module._forward_hooks) for module in network.modules()]
        self.attributes = (list(network.seen), network.state.tolist(), network.last, network.count)
        self.names = sorted(vars(network))
        self.random = (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist())
        cudnn = torch.backends.cudnn
        self.modes = (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32),
            torch.get_float32_matmul_precision(),
            torch.backends.mha.get_fastpath_enabled(),
        )


@pytest.fixture
def network() -> Eventful:
    network = Eventful().train()
    network.norm.eval()
    network.fc.bias.requires_grad_(False)
    return network


def test_everything_is_back(network: Eventful) -> None:
    before = vars(Marks(network))
    with freeze(network) as inside:
        assert inside.network is network
        network(torch.randn(3, 4))
        network(torch.randn(3, 4))
    assert vars(Marks(network)) == before


SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[], object]]] = {
    "threads": (torch.get_num_threads, lambda: torch.set_num_threads(torch.get_num_threads() + 1)),
    "anomalies": (
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
    ),
    "print options": (lambda: str(torch.tensor([1 / 3])), lambda: torch.set_printoptions(precision=2)),
    "NumPy's print options": (np.get_printoptions, lambda: np.set_printoptions(precision=2)),
    "NumPy's errors": (np.geterr, lambda: np.seterr(all="ignore")),
    "default dtype": (torch.get_default_dtype, lambda: torch.set_default_dtype(torch.float64)),
    "default device": (torch.get_default_device, lambda: torch.set_default_device("meta")),
    "attention": (torch.backends.cuda.flash_sdp_enabled, lambda: torch.backends.cuda.enable_flash_sdp(False)),
    "autocast": (lambda: torch.is_autocast_enabled("cpu"), lambda: torch.set_autocast_enabled("cpu", True)),
}


class Sets(nn.Module):
    def __init__(self, change: Callable[[], object]) -> None:
        super().__init__()
        self.fc, self.change = nn.Linear(4, 2), change

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.fc(x)
        self.change()
        return found


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_the_process_are_back(name: str) -> None:
    read, change = SETTINGS[name]
    before = read()
    x = torch.randn(60, 4)
    data = [(x[:30], (x[:30, 0] > 0).long()), (x[30:], (x[30:, 0] > 0).long())]
    probed = layerprobe.probe(Sets(change), dict.fromkeys(("train", "val", "test"), data), progress=False)
    assert read() == before
    assert probed["status"].tolist() == ["converged"] * 2
    with freeze(nn.Identity()):  # the negative control, which is put back too
        change()
        assert read() != before
        torch.set_default_device(None)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_everything_is_back_after_an_error(network: Eventful, error: type[BaseException]) -> None:
    before = vars(Marks(network))

    def fail() -> None:
        with freeze(network):
            network(torch.randn(3, 4))
            raise error

    with pytest.raises(error):
        fail()
    assert vars(Marks(network)) == before


def test_without_it_nothing_is_back(network: Eventful) -> None:
    """Negative control: each mark is one that the forward pass changes."""
    before = vars(Marks(network))
    precision, benchmark = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    try:
        network.train()
        network(torch.randn(3, 4))
        after = vars(Marks(network))
        assert {name for name in before if before[name] != after[name]} == set(before)
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = benchmark, False


def test_inside_it_is_in_eval_mode_without_gradients(network: Eventful) -> None:
    with freeze(network):
        assert not any(module.training for module in network.modules())
        assert not torch.is_grad_enabled()
        assert not network.fc.weight.detach().clone().is_inference()
        plain = nn.Sequential(network.fc, network.drop)
        assert torch.equal(plain(torch.ones(2, 4)), plain(torch.ones(2, 4)))


def test_eval_is_not_called(network: Eventful) -> None:
    class Merging(nn.Linear):
        def train(self, mode: bool = True) -> nn.Module:
            raise AssertionError("weights would be merged")

    with freeze(nn.Sequential(Merging(2, 2))) as inside:
        assert not inside.network[0].training


def test_a_seed_makes_it_reproducible_and_none_goes_on(network: Eventful) -> None:
    def draw() -> tuple[float, float, float]:
        return torch.rand(()).item(), random.random(), np.random.rand()

    with freeze(network, seed=3):
        first = draw()
    draw()
    with freeze(network, seed=3):
        assert draw() == first
    with freeze(network, seed=4):
        assert draw() != first
    with freeze(network):
        inside = draw()
    after = draw()
    # Not Python's own generator: the run-time type checker draws from it, too.
    assert (inside[0], inside[2]) == (after[0], after[2])


def test_an_unchanged_buffer_is_not_written_to() -> None:
    """A write would tell autograd that what it saved for the backward pass is lost."""
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    loss = network(torch.randn(4, 3)).sum()
    with freeze(network):
        network(torch.randn(4, 3))
    loss.backward()


def test_training_goes_on_as_without_it() -> None:
    def train(look: Callable[[nn.Module], None]) -> dict[str, Tensor]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        for _ in range(5):
            loss = network(torch.randn(8, 3)).square().mean()
            look(network)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return network.state_dict()

    def look(network: nn.Module) -> None:
        with freeze(network, seed=1):
            network(torch.randn(8, 3))

    def careless(network: nn.Module) -> None:
        with torch.no_grad():
            network(torch.randn(8, 3))

    plain, probed, disturbed = train(lambda network: None), train(look), train(careless)
    assert all(torch.equal(plain[name], probed[name]) for name in plain)
    assert not all(torch.equal(plain[name], disturbed[name]) for name in plain)  # negative control


def test_frozen_inside_frozen(network: Eventful) -> None:
    before = vars(Marks(network))
    with freeze(network), freeze(network, seed=0):
        network(torch.randn(3, 4))
    assert vars(Marks(network)) == before


def test_a_network_that_is_not_initialised_is_refused() -> None:
    network = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    with pytest.raises(ValueError, match=r"0\.weight.*Call the network once"), freeze(network):
        pass
    assert network.training


def test_compiled_code_runs_eagerly() -> None:
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., object]:
        compiled.append(1)
        return graph.forward

    network = torch.compile(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), backend=backend)
    with freeze(network):
        network(torch.randn(2, 3))
    assert not compiled
    network(torch.randn(2, 3))
    assert compiled


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.gpu
def test_random_states_of_every_cuda_device_are_back() -> None:
    before = [state.clone() for state in torch.cuda.get_rng_state_all()]
    network = nn.Dropout().cuda()
    with freeze(network, seed=5):
        first = torch.rand(3, device="cuda")
    with freeze(network, seed=5):
        assert torch.equal(torch.rand(3, device="cuda"), first)
    assert all(torch.equal(a, b) for a, b in zip(before, torch.cuda.get_rng_state_all(), strict=True))


def test_a_network_that_its_first_call_shards_is_refused_before_it_and_read_after_it() -> None:
    distributed = torch.distributed
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        network, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU()), torch.randn(60, 8)
        fully_shard(network)
        data = (x, (x[:, 0] > 0).long())
        with pytest.raises(ValueError, match=r"not initialised yet \(0.weight, 0.bias\)\. Call the network once"):
            layerprobe.probe(network, data, progress=False)
        expected = network(x)  # what was refused is as it was
        assert layerprobe.probe(network, data, progress=False)["layer"].tolist() == ["input", "0", "1"]
        assert torch.equal(network(x), expected)
    finally:
        distributed.destroy_process_group()


def test_threads_that_probe_one_network_at_the_same_time_leave_it_and_torch_as_they_were() -> None:
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2)).train(), torch.randn(80, 4)
    data = (x, (x[:, 0] > 0).long())
    start = Barrier(4)

    def probed() -> list[float]:
        start.wait()
        return layerprobe.probe(network, data, l2=[0.01, 0.1]).test_loss.tolist()

    alone = layerprobe.probe(network, data, l2=[0.01, 0.1]).test_loss.tolist()
    before = random_states()[1:]  # run-time type checkers draw from the first, Python's
    flags = torch.backends.mha.get_fastpath_enabled(), torch.get_num_threads()
    with ThreadPoolExecutor(4) as pool:
        found = [one.result() for one in [pool.submit(probed) for _ in range(4)]]
    assert found == [alone] * 4
    assert random_states()[1:] == before
    assert (torch.backends.mha.get_fastpath_enabled(), torch.get_num_threads()) == flags
    assert all(module.training and not module._forward_hooks for module in network.modules())


def test_a_process_that_is_forked_while_another_thread_probes_can_probe() -> None:
    with ThreadPoolExecutor(1) as pool:
        inside, done = Barrier(2), Barrier(2)

        def hold() -> None:
            with full_precision():
                inside.wait()
                done.wait()

        held = pool.submit(hold)
        inside.wait()
        process = multiprocessing.get_context("fork").Process(target=_freezes)
        process.start()
        process.join(60)
        code = process.exitcode
        process.kill()
        done.wait()
        held.result()
    assert code == 0


def _freezes() -> None:
    with freeze(nn.Linear(2, 2)), full_precision():
        pass
