"""Saved views: what they are made of, and that a server takes them."""

import json

import pytest

from helpers import made_runs
from helpers.wandb_server import ENTITY, serving
from layerprobe.report.page.page_data import page_data
from layerprobe.report.page.views import linked_views
from layerprobe.report.run_comparison import compare
from layerprobe.results.wandb_views import NAME, report, save, workspace

pytest.importorskip("wandb_workspaces")

ABOUT = {
    "checkpoints": ["initial", *(f"epoch_{i}" for i in range(6)), "final"], "layers": ["input", "layer1.0.add", "fc#1"],
    "swept": ["optimizer.lr"],
}  # fmt: skip


def panels(spec):
    """All panels in a specification, wherever they are."""
    found = []

    def walk(node):
        if isinstance(node, dict):
            if "viewType" in node and "config" in node:
                found.append(node)
            for inner in node.values():
                walk(inner)
        elif isinstance(node, list):
            for inner in node:
                walk(inner)

    walk(spec)
    return found


def spec_of(view):
    return json.loads(view._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))


@pytest.mark.parametrize("make", [workspace, report])
def test_views_draw_the_keys_that_runs_log(make):
    found = panels(spec_of(make("", "", **ABOUT)))
    lines = [(p["config"]["xAxis"], p["config"]["metrics"]) for p in found if p["viewType"] == "Run History Line Plot"]
    curves = [y for x, y in lines if x == "probe/depth"]
    # The mean over the runs of a group, of the last checkpoint, is one more.
    expected = [[f"probe/test_error/{name}"] for name in reversed(ABOUT["checkpoints"][-5:])]
    assert curves == [*expected, expected[0]]
    assert [y for x, y in lines if x != "probe/depth"] == [
        ["probe/input/test_error"],
        ["probe/layer1.0.add/test_error"],
        ["probe/fc#1/test_error"],
    ]
    text = json.dumps(found)
    assert "probe/best_layer_test_error" in text
    assert "optimizer.lr" in text
    assert "figures/depth_curve" in text


def test_the_workspace_opens_on_the_views_of_the_page_and_on_runs_that_did_not_fail(tmp_path):
    for i in range(2):
        made_runs.write_run(tmp_path / str(i), overrides={"optimizer.lr": 0.1 * (1 + i)})
    drawn = page_data(compare([tmp_path]))
    views = linked_views(drawn)
    titles = [spec["title"]["text"] for spec in views.values()]
    chosen = {parameter["name"]: parameter.get("value") for parameter in views["curves"]["params"]}
    assert chosen["measure_names"][chosen["measure"]] == "test error"
    words = "upper(slice(measure_names[measure], 0, 1)) + slice(measure_names[measure], 1) + '"
    spec = spec_of(workspace("p", "e", drawn.checkpoints, drawn.layer_names, ["optimizer.lr"]))
    sections = spec["section"]["panelBankConfig"]["sections"]
    opened = [section["name"] for section in sections if section["isOpen"]]
    assert len(opened) == len(titles) == 5
    for name, title in zip(opened, titles, strict=True):
        assert name in (title if isinstance(title, str) else title["expr"].replace(words, "'Test error"))
    (grouped,) = [p["config"] for p in panels(sections) if "groupBy" in p["config"]]
    assert (grouped["groupBy"], grouped["groupAgg"], grouped["xAxis"]) == ("group", "mean", "probe/depth")
    runs = json.dumps(spec)
    assert '"value": ["failed", "crashed"]' in runs
    for column in ("config:optimizer.lr", "summary:probe/best_layer", "summary:probe/best_layer_test_error"):
        assert f'"{column}' in runs


def test_a_server_takes_workspace_and_report_and_the_second_time_renews_them(monkeypatch, tmp_path):
    with serving() as server:
        for key, value in server.environment.items():
            monkeypatch.setenv(key, value)
        kept = tmp_path / "report.wandb.json"
        for _ in range(2):
            save(workspace("p", ENTITY, **ABOUT), report("p", ENTITY, **ABOUT, summary="## A summary"), kept)
        views = list(server.stored.views.values())
        assert server.counts["graphql:upsertView"] + server.counts["graphql:UpsertView2"] == 4
    assert [view["displayName"] for view in views] == [NAME, NAME]
    assert "probe/test_error/final" in views[0]["spec"]
    assert "A summary" in views[1]["spec"]
