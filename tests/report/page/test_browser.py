"""The page in a real browser: what it asks for, what pickers and brush change, what its tooltips say."""

import io
import re
import shutil
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from helpers import made_runs
from helpers.browser import Opened, opened
from helpers.compared import compare_layers
from layerprobe.report.difference import compare_runs, difference_sentence
from layerprobe.report.page.document import page
from layerprobe.report.run_comparison import compare
from layerprobe.report.significance import holm, mcnemar_p, two_sample_p

pytestmark = pytest.mark.browser

RUNS = 12


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    return compare([made_runs.write_sweep(tmp_path_factory.mktemp("runs"), RUNS)])


@pytest.fixture(scope="module")
def shown(comparison, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(page(comparison))
    with opened(file) as result:
        yield result


@pytest.fixture(autouse=True)
def as_at_first(shown):
    yield
    for i in range(3):
        shown.signal(f"checkpoint_{i}", i == 2)
    shown.signal("chosen", [])
    shown.signal("colour", "key0")
    shown.signal("swept", "key0")


def marks(shown):
    """Everything that has a tooltip: what it says, and where it is on the screen."""
    return shown.page.evaluate(
        """() => Object.entries(report.views).flatMap(([name, view]) => {
          const box = document.querySelector(`#${name} svg`).getBoundingClientRect();
          const [left, top] = view.origin(), pad = view.padding(), found = [];
          const walk = (mark, x, y) => {
            for (const item of mark.items ?? []) {
              if (item.tooltip) found.push({tip: item.tooltip, x: box.left + x + item.x, y: box.top + y + item.y});
              for (const inner of item.items ?? []) walk(inner, x + (item.x ?? 0), y + (item.y ?? 0));
            }
          };
          walk(view.scenegraph().root, left + pad.left, top + pad.top);
          return found;
        })"""
    )


def drawn(shown):
    """What the tooltips of the curves' points say."""
    return [mark["tip"] for mark in marks(shown) if {"layer", "95% interval", "run"} <= set(mark["tip"])]


def until(shown, holds, seconds=30):
    """Wait until what a choice leads to is there."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it has not come to hold"
        shown.page.wait_for_timeout(20)


def test_asks_for_nothing_and_complains_about_nothing(shown):
    assert [url for url in shown.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert shown.complaints == []


def test_tooltips_say_what_the_parquet_says(shown, comparison):
    for i in range(3):
        shown.signal(f"checkpoint_{i}", True)
    found = {(tip["run"], tip["checkpoint"], tip["layer"]): tip for tip in drawn(shown)}
    assert len(found) == RUNS * 3 * 4
    for run, name in zip(comparison.runs, comparison.names, strict=True):
        for row in pd.read_parquet(run.directory / "probes" / "results.parquet").to_dict("records"):
            tip = found[name, row["checkpoint"], row["layer"]]
            assert tip["test error"] == f"{row['test_error']:.2%}"
            assert tip["95% interval"] == f"{row['test_error_low']:.2%} to {row['test_error_high']:.2%}"
            assert tip["l2"].replace("−", "-") == f"{row['l2']:.2e}".replace("e-0", "e-")
            assert (tip["shape"], tip["kind"], tip["status"]) == (row["shape"], row["kind"], row["status"])
            assert tip["features"] == "64 of 128"
            assert tip["lr"] == f"{run.config['optimizer.lr']:g}"


def test_a_checkpoints_box_shows_and_hides_its_curves(shown):
    assert {tip["checkpoint"] for tip in drawn(shown)} == {"final"}
    box = shown.page.get_by_label("initial", exact=True)
    box.check()
    shown.page.wait_for_timeout(100)
    assert {tip["checkpoint"] for tip in drawn(shown)} == {"initial", "final"}
    box.uncheck()
    shown.page.wait_for_timeout(100)
    assert {tip["checkpoint"] for tip in drawn(shown)} == {"final"}


def test_the_legend_of_checkpoints_names_those_that_are_drawn(shown):
    named = """() => [...document.querySelectorAll('#curves .role-legend-label text')]
        .map((text) => text.textContent).filter((text) => ['initial', 'epoch_1', 'final'].includes(text))"""
    assert shown.page.evaluate(named) == ["final"]
    shown.signal("checkpoint_0", True)
    assert shown.page.evaluate(named) == ["initial", "final"]
    for i in (0, 2):
        shown.signal(f"checkpoint_{i}", False)
    assert shown.page.evaluate(named) == []
    assert shown.complaints == []


def test_the_colour_picker_changes_the_colours(shown):
    colours = (
        "() => new Set([...document.querySelectorAll('svg .mark-line path')].map((p) => p.getAttribute('stroke'))).size"
    )
    by_width = shown.page.evaluate(colours)
    shown.page.locator("select[name=colour]").select_option(label="lr")
    shown.page.wait_for_timeout(200)
    assert shown.page.evaluate(colours) > by_width
    titles = shown.page.evaluate("() => document.querySelector('#views').textContent")
    assert "Test error over depth at final, by lr" in titles


def test_the_brush_chooses_the_runs_of_all_views(shown, comparison):
    shown.page.locator("select[name=swept]").select_option(label="lr")
    shown.page.wait_for_timeout(200)
    place = [mark for mark in marks(shown) if "best layer" in mark["tip"] and mark["tip"]["lr"] == "0.1"]
    xs, ys = [p["x"] for p in place], [p["y"] for p in place]
    mouse = shown.page.mouse
    mouse.move(min(xs) - 14, min(ys) - 14)
    mouse.down()
    mouse.move(max(xs) + 14, max(ys) + 14, steps=6)
    mouse.up()
    shown.page.wait_for_timeout(300)
    names = {tip["run"] for tip in drawn(shown)}
    expected = {n for n, r in zip(comparison.names, comparison.runs, strict=True) if r.config["optimizer.lr"] == 0.1}
    assert names == expected
    assert shown.page.locator("#runs tbody tr:not(.outside)").count() == len(expected)
    mouse.click(min(xs) - 60, min(ys) - 14)
    shown.page.wait_for_timeout(300)
    assert len({tip["run"] for tip in drawn(shown)}) == RUNS


def test_the_tables_boxes_choose_runs_without_a_mouse(shown, comparison):
    boxes = shown.page.locator("#runs tbody input")
    boxes.nth(0).focus()
    shown.page.keyboard.press("Space")
    shown.page.wait_for_timeout(200)
    assert {tip["run"] for tip in drawn(shown)} == set(comparison.names[1:])
    shown.page.keyboard.press("Space")
    shown.page.wait_for_timeout(200)
    assert len({tip["run"] for tip in drawn(shown)}) == RUNS


def test_the_table_is_sorted_by_a_click_and_back(shown, comparison):
    def column():
        return [shown.page.locator("#runs tbody tr").nth(i).locator("td").nth(6).inner_text() for i in range(RUNS)]

    errors = comparison.table()["test_error"]
    button = shown.page.get_by_role("button", name="test error")
    button.click()
    assert column() == [f"{e:.2%}" for e in sorted(errors)]
    button.press("Enter")
    assert column() == [f"{e:.2%}" for e in sorted(errors, reverse=True)]


def test_the_layer_picker_changes_the_path(shown, comparison):
    def chosen_errors():
        return sorted(mark["tip"]["validation error"] for mark in marks(shown) if "validation error" in mark["tip"])

    for layer in ("input", "fc"):
        shown.page.locator("select[name=layer]").select_option(label=layer)
        shown.page.wait_for_timeout(200)
        expected = []
        for run in comparison.runs:
            path = pd.read_parquet(run.directory / "probes" / "path.parquet")
            chosen = path[(path["layer"] == layer) & (path["checkpoint"] == "final") & path["selected"]]
            error = f"{chosen['val_error'].iloc[0]:.4g}"
            expected.append(f"{float(error):.2%}")
        assert chosen_errors() == sorted(expected)


def test_mcnemar_and_holm_agree_with_python(shown):
    generator = np.random.default_rng(0)
    pairs = [(0, 0), (0, 1), (1, 7), (700, 600), (5000, 5100), *generator.integers(0, 80, (40, 2)).tolist()]
    found = shown.page.evaluate("(pairs) => pairs.map(([b, c]) => report.mcnemar(b, c))", pairs)
    expected = [mcnemar_p(b, c) for b, c in pairs]
    assert found == pytest.approx(expected, rel=1e-6)
    assert shown.page.evaluate("(p) => report.holm(p)", expected) == pytest.approx(holm(expected))
    counts = [(0, 8, 0, 9), (3, 8, 1, 9), (12, 400, 60, 400), (5, 10_000, 400, 10_000), (7, 7, 9, 9)]
    found = shown.page.evaluate("(counts) => counts.map((c) => report.pearson(...c))", counts)
    assert found == pytest.approx([two_sample_p(*c) for c in counts], rel=1e-6)


def differences(shown):
    rows = shown.page.locator("#differences tbody tr")
    return [[cell.inner_text() for cell in rows.nth(i).locator("td").all()] for i in range(rows.count())]


def agree(rows, table):
    assert [row[0] for row in rows] == table["layer"].tolist()
    for row, expected in zip(rows, table.to_dict("records"), strict=True):
        only = [expected["only_first"], expected["only_second"]]
        assert row[4:6] == ["" if pd.isna(count) else str(count) for count in only]
        assert row[1:3] == [f"{expected['first_error']:.2%}", f"{expected['second_error']:.2%}"]
        assert float(row[6]) == pytest.approx(expected["p_holm"], abs=6e-4)
        assert (row[7] == "differ") == expected["differs"]


def test_two_runs_and_two_layers_are_compared_as_in_python(shown, comparison):
    first, second = comparison.runs[0], comparison.runs[2]
    shown.page.locator("#second").select_option(label=comparison.names[2])
    shown.page.wait_for_timeout(200)
    table = compare_runs(first, second, "final")
    agree(differences(shown), table)
    assert table["differs"].any()
    words = shown.page.locator("#in-words").inner_text()
    assert re.search(rf"differ at {table['differs'].sum()} of 4 layers", words)

    shown.page.locator("#kind").select_option("layers")
    shown.page.locator("#against").select_option(label="input")
    shown.page.wait_for_timeout(200)
    agree(differences(shown), compare_layers(first, "final", "input"))
    assert "other layers" in shown.page.locator("#in-words").inner_text()


def test_the_sentence_on_two_runs_is_cut_short_as_in_python(shown, tmp_path):
    layers = [f"block{i}" for i in range(8)]
    for i in range(2):
        made_runs.write_run(tmp_path / str(i), overrides={"seed": i}, seed=i, shift=0.3 * i, layers=layers)
    runs = compare([tmp_path])
    table = compare_runs(*runs.runs, "final")
    assert table["differs"].all()
    file = tmp_path / "report.html"
    file.write_text(page(runs))
    tab = shown.page.context.browser.new_page()
    tab.goto(file.as_uri())
    tab.wait_for_function("() => document.documentElement.dataset.ready")
    said = [tab.locator("#in-words").inner_text(), difference_sentence(table, *runs.names)]
    assert [sentence.split("), ")[-1] for sentence in said] == ["… (2 more)."] * 2
    tab.close()


def test_controls_are_those_of_the_data_that_they_belong_to(shown, tmp_path):
    nan = float("nan")
    majorities = {"digits": 0.9, "words": 0.5}
    for i, (data, majority) in enumerate([*majorities.items()] * 2):
        columns = {"majority_error": majority, "shuffled_error": majority - 0.05}
        columns |= {"test_error_low": nan, "test_error_high": nan} if data == "words" else {}
        made_runs.write_run(
            tmp_path / "runs" / str(i), overrides={"data": data, "seed": i // 2}, seed=i, shift=0.1 * (data == "words"),
            columns=columns,
        )  # fmt: skip
    comparison = compare([tmp_path / "runs"])
    file = tmp_path / "report.html"
    file.write_text(page(comparison))
    tab = shown.page.context.browser.new_page()
    tab.goto(file.as_uri())
    tab.wait_for_function("() => document.documentElement.dataset.ready")
    other = Opened(tab)
    other.signal("controls", True)
    tips = [mark["tip"] for mark in marks(other)]
    points = drawn(other)
    heat = {(tip["network"], tip["layer"], tip["checkpoint"]): tip for tip in tips if "network" in tip}
    text = tab.locator("#views").text_content()
    tab.close()
    assert {tip["95% interval"] for tip in points if tip["data"] == "words"} == {"–"}
    assert all(" to " in tip["95% interval"] for tip in points if tip["data"] == "digits")
    found = {(tip["control"], tip["test error"]) for tip in tips if "control" in tip}
    errors = (
        pd.concat([run.results.assign(data=run.config["data"]) for run in comparison.runs], ignore_index=True)
        .groupby(["data", "checkpoint", "layer"])["test_error"]
        .mean()
    )
    for data, majority in majorities.items():
        assert (f"majority · data {data}", f"{majority:.2%}") in found
        assert (f"shuffled · data {data}", f"{majority - 0.05:.2%}") in found
        assert f"majority · data {data}" in text
        untrained = {float(error.rstrip("%")) for control, error in found if control == f"untrained · data {data}"}
        expected = [100 * errors[data, "initial", layer] for layer in made_runs.LAYERS]
        assert untrained
        assert all(min(abs(error - one) for one in expected) < 0.006 for error in untrained)
        for layer in made_runs.LAYERS:
            tip = heat[f"convnet (data {data})", layer, "final"]
            assert float(tip["mean test error"].rstrip("%")) == pytest.approx(
                100 * errors[data, "final", layer], abs=0.006
            )
            assert tip["runs"] == "2"
    assert len({control for control, _ in found}) == 6


@pytest.mark.parametrize(("kept", "said"), [(True, "were tested on other samples"), (False, "cannot be known")])
def test_heads_on_other_samples_are_not_paired(shown, tmp_path, kept, said):
    for i in range(2):
        made_runs.write_run(tmp_path / "runs" / str(i), seed=i, shift=0.1 * i, samples=str(i) if kept else "")
    comparison = compare([tmp_path / "runs"])
    file = tmp_path / "report.html"
    file.write_text(page(comparison))
    tab = shown.page.context.browser.new_page()
    tab.goto(file.as_uri())
    tab.wait_for_function("() => document.querySelector('#in-words').textContent")
    agree(differences(Opened(tab)), compare_runs(*comparison.runs, "final"))
    words = tab.locator("#in-words").inner_text()
    tab.close()
    assert said in words
    assert "Pearson's test" in words


def test_a_single_run_is_not_compared_with_itself(shown, comparison, tmp_path):
    run = comparison.runs[0].directory
    one = shutil.copytree(run, tmp_path / "one")
    for file in ("results.parquet", "path.parquet", "correct.parquet"):
        table = pd.read_parquet(run / "probes" / file)
        table[table["checkpoint"] == "final"].to_parquet(one / "probes" / file)

    def first_seen(directory):
        file = tmp_path / f"{directory.name}.html"
        file.write_text(page(compare([directory])))
        tab = shown.page.context.browser.new_page()
        tab.goto(file.as_uri())
        tab.wait_for_function("() => document.querySelector('#in-words').textContent")
        found = tab.locator("#kind").input_value(), tab.locator("#in-words").inner_text()
        tab.close()
        return found

    checkpoints = pd.read_parquet(run / "probes" / "results.parquet")["checkpoint"].unique()
    kind, words = first_seen(run)
    assert kind == "runs"
    assert f"at {checkpoints[0]} and " in words
    assert f"at {checkpoints[-1]} differ" in words
    kind, words = first_seen(one)
    assert kind == "layers"
    assert "other layers" in words


def test_what_can_be_reached_by_keyboard_and_read_aloud(shown):
    labels = [element.get_attribute("aria-label") for element in shown.page.locator(".view [role=img]").all()]
    assert len(labels) == 5
    assert all("chart" in label or "plot" in label or "map" in label for label in labels)
    unnamed = shown.page.evaluate(
        """() => [...document.querySelectorAll('input, select, button')]
          .filter((e) => !e.ariaLabel && !e.labels?.length && !e.textContent.trim()).map((e) => e.outerHTML)"""
    )
    assert unnamed == []
    shown.page.keyboard.press("Tab")
    assert shown.page.evaluate("() => document.activeElement.tagName") in ("A", "SELECT", "INPUT", "BUTTON", "DIV")


def test_means_of_many_runs_with_bands_and_a_single_one_where_the_mouse_is(shown, tmp_path):
    layers = [f"block{i // 6}.{i % 6}" for i in range(40)]
    made_runs.write_sweep(tmp_path / "runs", 15, layers=layers, checkpoints=[("initial", 0), ("final", 9)])
    comparison = compare([tmp_path / "runs"])
    tab = opened_beside(shown, comparison, tmp_path)
    other = Opened(tab)
    assert not drawn(other), "no run is a line of its own"
    found = [mark["tip"] for mark in marks(other) if "middle half" in mark["tip"]]
    assert len(found) == 2 * len(layers)
    rows = pd.concat([run.results.assign(width=run.config["model.width"]) for run in comparison.runs])
    rows = rows[rows["checkpoint"] == "final"]
    for tip in found[:5]:
        errors = rows.loc[(rows["layer"] == tip["layer"]) & (rows["width"] == int(tip["runs of"])), "test_error"]
        assert tip["number of runs"] == str(len(errors))
        assert tip["mean"] == f"test error {errors.mean():.2%}"
    points = "[...document.querySelectorAll('#curves .mark-symbol.role-mark path')]"
    opacity = tab.evaluate(f"() => {points}.map((point) => point.getAttribute('opacity'))")
    assert set(opacity) == {"0"}, "a long curve has no markers"
    tab.locator("#runs tbody tr").nth(4).hover()
    tab.wait_for_timeout(300)
    assert {tip["run"] for tip in drawn(other)} == {comparison.names[4]}
    tab.locator("select[name=lines]").select_option(label="each run")
    tab.wait_for_timeout(300)
    assert {tip["run"] for tip in drawn(other)} == set(comparison.names)
    tab.close()


def opened_beside(shown, comparison, folder, address="", animations=(), **options):
    file = folder / "report.html"
    file.write_text(page(comparison, animations))
    tab = shown.page.context.browser.new_page(**options)
    tab.goto(file.as_uri() + address)
    tab.wait_for_selector("html[data-ready]", timeout=60_000)
    return tab


def test_choices_are_in_the_address_and_open_again(shown, comparison, tmp_path):
    shown.page.get_by_label("initial", exact=True).check()
    shown.page.locator("select[name=colour]").select_option(label="lr")
    shown.page.locator("#kind").select_option("runs")
    shown.page.locator("#second").select_option(label=comparison.names[3])
    box = shown.page.locator("#runs tbody input[value='1']")  # wherever the table has been sorted to
    box.uncheck()
    chosen = {(name, at) for name in comparison.names if name != comparison.names[1] for at in ("initial", "final")}
    until(shown, lambda: {(tip["run"], tip["checkpoint"]) for tip in drawn(shown)} == chosen)
    until(shown, lambda: comparison.names[3] in shown.page.locator("#in-words").inner_text())
    words = shown.page.locator("#in-words").inner_text()
    assert shown.page.locator("#differences tbody tr").count() == 4, "two comparisons at a time fill one table"
    address = shown.page.evaluate("() => location.hash")
    tab = opened_beside(shown, comparison, tmp_path, address)
    try:
        assert {(tip["run"], tip["checkpoint"]) for tip in drawn(Opened(tab))} == chosen
        assert tab.evaluate("() => report.views.curves.signal('colour')") == "key1"
        assert tab.locator("#in-words").inner_text() == words
    finally:
        tab.close()
        box.check()
        shown.page.get_by_label("initial", exact=True).uncheck()
        shown.page.locator("select[name=colour]").select_option(label="width")


def test_a_picture_is_copied(shown):
    shown.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    button = shown.page.locator("#curves .copy")
    button.click()
    shown.page.wait_for_function("() => document.querySelector('#curves .copy').textContent !== 'copy picture'")
    assert button.inner_text() == "copied"
    kinds = shown.page.evaluate("async () => (await navigator.clipboard.read())[0].types")
    assert kinds == ["image/png"]


def test_failed_runs_are_not_in_the_tables_first_view(shown, tmp_path):
    for i, status in enumerate(["done", "failed", "done"]):
        made_runs.write_run(tmp_path / "runs" / str(i), overrides={"optimizer.lr": 0.1 * (i + 1)}, status=status)
    tab = opened_beside(shown, compare([tmp_path / "runs"]), tmp_path)
    heads = [head.strip() for head in tab.locator("#runs thead th").all_inner_texts()]
    assert heads[1:5] == ["run", "lr", "best layer", "test error"]
    rows = tab.locator("#runs tbody tr")
    assert [rows.nth(i).is_visible() for i in range(3)] == [True, False, True]
    tab.get_by_label("also 1 that failed").check()
    assert rows.nth(1).is_visible()
    tab.close()


def test_data_sets_and_reducers_have_their_own_curves(shown, tmp_path):
    for i in range(4):
        directory = made_runs.write_run(tmp_path / "runs" / str(i), overrides={"data": ("a", "b")[i % 2], "seed": i})
        file = directory / "probes" / "path.parquet"
        path = pd.read_parquet(file)
        other = path.assign(reducer="flatten", val_error=path["val_error"] / 2, selected=False)
        pq.write_table(
            pa.Table.from_pandas(pd.concat([path, other]), schema=pq.read_schema(file), preserve_index=False), file
        )
    tab = opened_beside(shown, compare([tmp_path / "runs"]), tmp_path)
    other = Opened(tab)
    found = [mark["tip"] for mark in marks(other) if "reducer" in mark["tip"]]
    assert {tip["reducer"] for tip in found} == {"average_pool", "flatten"}
    assert all(tip["checkpoint"] == "final" for tip in found)
    assert {mark["tip"]["head"] for mark in marks(other) if "head" in mark["tip"]} == {"average_pool"}
    tab.locator("select[name=problem]").select_option(label="data b")
    tab.wait_for_timeout(300)
    assert {tip["data"] for tip in drawn(other)} == {"b"}
    tab.close()


@pytest.mark.parametrize("width", [390, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_fits_the_screen(shown, comparison, tmp_path, width, scheme):
    tab = opened_beside(shown, comparison, tmp_path, viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert tab.evaluate("() => document.documentElement.scrollWidth") <= width
    for name in ("curves", "best_layer", "seed_mean", "l2_path", "layer_map"):
        box = tab.locator(f"#{name} svg").bounding_box()
        assert box["x"] >= 0
        assert 0.5 * min(width, 600) * 0.6 < box["width"] <= width - box["x"]
        pixels = np.asarray(Image.open(io.BytesIO(tab.locator(f"#{name}").screenshot())).convert("L"), dtype=float)
        assert (np.median(pixels) < 60) == (scheme == "dark")
        assert pixels.std() > 8, "there is a picture"
    tab.close()


def test_printed_pages_hold_whole_charts(shown, comparison, tmp_path):
    tab = opened_beside(shown, comparison, tmp_path, viewport={"width": 1280, "height": 900})
    tab.emulate_media(media="print")
    tab.set_viewport_size({"width": 720, "height": 900})
    for name in ("curves", "best_layer", "seed_mean", "l2_path", "layer_map"):
        box = tab.locator(f"#{name} svg").bounding_box()
        assert box["x"] + box["width"] <= 720
        assert box["height"] < 900
    assert tab.pdf().count(b"/Type /Page\n") >= 2
    tab.close()


def test_printing_hides_what_only_a_screen_needs(shown):
    shown.page.emulate_media(media="print")
    try:
        assert not shown.page.locator("#pickers").is_visible()
        assert shown.page.locator("#runs").is_visible()
        look = "e => { const s = getComputedStyle(e); return [s.display, s.breakInside, s.breakAfter]; }"
        styles = {e: shown.page.locator(e).first.evaluate(look) for e in ("#runs thead", "#runs th button", "h2")}
        # Chromium repeats a table's head on each page only so, and leaves no heading alone at the end of one.
        assert styles["#runs thead"][1] == "avoid" and styles["#runs th button"][0] == "contents"
        assert styles["h2"][2] == "avoid"
    finally:
        shown.page.emulate_media(media="screen")


def test_animations_stay_readable_on_a_narrow_screen(shown, comparison, tmp_path):
    panel = {"mark": "point", "width": 220, "height": 220}
    wide = {"data": {"values": [{}]}, "hconcat": [panel] * 3, "params": [{"name": "frame", "value": 0}]}
    viewport = {"width": 390, "height": 900}
    animations = [("a run", wide), ("one panel", wide | {"hconcat": [panel]})]
    tab = opened_beside(shown, comparison, tmp_path, animations=animations, viewport=viewport)
    assert tab.locator("#animation-0 canvas").bounding_box()["width"] > 660, "moved into view, not shrunk"
    assert tab.locator("#animation-1 canvas").bounding_box()["width"] < 450, "not enlarged"
    assert tab.evaluate("() => document.documentElement.scrollWidth") <= 390
    tab.close()


def test_long_names_leave_room_for_the_errors_on_a_narrow_screen(shown, tmp_path):
    layers = ["input", *(f"features.denseblock{i}.denselayer{i}.conv1" for i in range(5))]
    for i in range(2):
        made_runs.write_run(tmp_path / "runs" / str(i), layers=layers, seed=i)
    tab = opened_beside(shown, compare([tmp_path / "runs"]), tmp_path, viewport={"width": 390, "height": 900})
    errors = tab.locator("#differences tbody tr").nth(3).locator("td").nth(2).bounding_box()
    assert errors["x"] + errors["width"] <= 390
    tab.close()


def test_a_cell_of_a_heat_map_has_one_colour_in_either_theme_and_letters_that_can_be_read(shown, comparison, tmp_path):
    """Dark stands for a high error also where the paper is dark, and on paper the letters are dark again."""
    tab = opened_beside(shown, comparison, tmp_path, viewport={"width": 1280, "height": 900})

    def painted():
        return tab.evaluate(
            """() => {
              const all = (part) => [...document.querySelectorAll(`#layer_map ${part}`)];
              const of = (part) => all(part).map((mark) => mark.getAttribute("fill"));
              const filter = (view) => getComputedStyle(document.querySelector(`${view} svg`)).filter;
              return {
                cells: of(".mark-rect.role-mark path"), figures: of(".mark-text.role-mark text"),
                letters: of(".role-axis-label text"), filter: filter("#layer_map"), others: filter("#curves"),
              };
            }"""
        )

    light = painted()
    assert len(light["cells"]) == 12
    assert len(set(light["cells"])) > 3
    tab.emulate_media(color_scheme="dark")
    until(shown, lambda: set(painted()["letters"]) == {"#e4e4e4"})
    dark = painted()
    assert dark["filter"] == "none"
    assert "invert" in dark["others"]
    for same in ("cells", "figures"):
        assert dark[same] == light[same]
    assert set(light["letters"]) == {"#222222"}
    tab.evaluate("() => { dispatchEvent(new Event('beforeprint')); }")
    assert painted()["letters"] == light["letters"]
    tab.evaluate("() => { dispatchEvent(new Event('afterprint')); }")
    assert set(painted()["letters"]) == {"#e4e4e4"}
    tab.close()


def test_names_of_layers_are_whole_where_another_width_turns_them(shown, tmp_path):
    made_runs.write_run(tmp_path / "run", layers=[f"block{i // 6}.{i % 6}.conv" for i in range(24)])
    tab = opened_beside(shown, compare([tmp_path / "run"]), tmp_path, viewport={"width": 1280, "height": 900})
    cut = """() => {
      const svg = document.querySelector("#curves svg"), bottom = (element) => element.getBoundingClientRect().bottom;
      return Math.max(...[...svg.querySelectorAll("text")].map(bottom)) - bottom(svg);
    }"""
    assert tab.evaluate(cut) <= 1
    tab.set_viewport_size({"width": 480, "height": 900})
    until(shown, lambda: tab.evaluate(cut) <= 1)
    tab.emulate_media(media="print")
    tab.evaluate("() => { dispatchEvent(new Event('beforeprint')); }")
    assert tab.evaluate(cut) <= 1
    tab.close()


def test_letters_of_printed_charts_are_equally_large(shown, tmp_path):
    layers = ["input", *(f"features.denseblock{i}.denselayer{i}.conv1" for i in range(30))]
    for i in range(2):
        made_runs.write_run(tmp_path / "runs" / str(i), layers=layers, seed=i)
    tab = opened_beside(shown, compare([tmp_path / "runs"]), tmp_path, viewport={"width": 720, "height": 900})
    tab.emulate_media(media="print")
    sizes = tab.evaluate(
        """() => [...document.querySelectorAll('.view svg')]
          .map((svg) => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width)"""
    )
    assert len(sizes) == 5
    assert max(sizes) / min(sizes) < 1.05
    tab.close()
