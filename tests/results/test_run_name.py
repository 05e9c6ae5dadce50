"""Names, groups and tags of a sweep's runs."""

import itertools

from layerprobe.results.run_name import run_group, run_name, run_tags


def test_a_hundred_runs_can_be_told_apart_and_seeds_share_a_group():
    swept = itertools.product((0.1, 0.01), (2, 3, 4, 5, 6), range(10))
    overrides = [[f"optimizer.lr={lr}", f"model.width={w}", f"seed={s}", "logger=wandb"] for lr, w, s in swept]
    assert len({run_name("xor_mlp", one) for one in overrides}) == 100
    assert len({run_group("xor_mlp", one) for one in overrides}) == 10
    assert run_name("xor_mlp", overrides[3]) == "xor_mlp lr=0.1 width=2 seed=3"
    assert run_group("xor_mlp", overrides[3]) == "xor_mlp lr=0.1 width=2"
    assert run_tags("xor_mlp", overrides[3]) == ["xor_mlp", "optimizer.lr=0.1", "model.width=2"]


def test_what_says_nothing_about_the_result_is_left_out():
    overrides = ["experiment=xor_mlp", "+model.bias=true", "~callbacks.plane", "hydra.run.dir=x", "logger=none"]
    assert run_name("xor_mlp", overrides) == "xor_mlp bias=true"


def test_keys_with_one_last_part_keep_the_whole():
    assert run_name("x", ["optimizer.lr=1", "head.lr=2"]) == "x optimizer.lr=1 head.lr=2"


def test_names_and_tags_keep_to_the_limits():
    long = [f"a.key{i}={'v' * 30}" for i in range(20)]
    assert len(run_name("x", long)) == 120
    assert run_tags("x", ["a.b=" + "v" * 90]) == ["x"]
