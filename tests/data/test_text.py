from __future__ import annotations

import json
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.model_selection import train_test_split

from layerprobe.data.errors import CorruptDataError, DataError, DataNotFoundError
from layerprobe.data.labelled_texts import divide, examples_of, limited, noised
from layerprobe.data.pretrained_tokenizer import PretrainedTokenizer
from layerprobe.data.text import TextDataModule
from layerprobe.data.text_table import HubDataset, LabelledLines, TextFile

SPLITS = ("train", "val", "test")
ROWS = [
    {"said": f"text number {i} says {'yes' if i % 3 else 'no'}", "y": int(i % 3 > 0), "who": f"g{i // 2}"}
    for i in range(60)
]


def word_level(folder: Path, limit: int = 12) -> str:
    """A real tokenizer of few words, as a folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "<pad>": 1, "text": 2, "number": 3, "says": 4, "yes": 5, "no": 6, "aaa": 7, "bbb": 8}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>")
    fast.model_max_length = limit
    fast.save_pretrained(folder / "tokenizer")
    return str(folder / "tokenizer")


def module(folder: Path, rows: list[dict[str, Any]] = ROWS, **options: Any) -> TextDataModule:
    (folder / "rows.json").write_text(json.dumps(rows))
    limit = options.pop("limit", 12)
    tokenizer = options.pop("tokenizer", None) or PretrainedTokenizer(
        word_level(folder, limit), **options.pop("tokenizer_options", {})
    )
    found = TextDataModule(TextFile("rows.json"), tokenizer, text="said", label="y", root=folder, **options)
    found.setup()
    return found


def test_batches_are_mappings_of_ids_and_mask_with_targets(tmp_path: Path) -> None:
    data = module(tmp_path, [{"said": "yes", "y": 1}, {"said": "no no says", "y": 0}] * 10, batch_size=4)
    inputs, targets = next(iter(data.train_dataloader()))
    assert set(inputs) == {"input_ids", "attention_mask"} | ({"token_type_ids"} & set(inputs))
    for ids, mask, target in zip(inputs["input_ids"], inputs["attention_mask"], targets, strict=True):
        assert ids[mask.bool()].tolist() == ([5] if target == 1 else [6, 6, 4])
        assert mask.tolist() == sorted(mask.tolist(), reverse=True), "padding is on the right"
    assert (inputs["input_ids"].dtype, targets.dtype) == (torch.int64, torch.int64)


def test_padding_on_the_left_counts_positions_from_the_first_token(tmp_path: Path) -> None:
    rows = [{"said": "yes", "y": 1}, {"said": "no no says", "y": 0}] * 10
    data = module(tmp_path, rows, batch_size=20, tokenizer_options={"padding_side": "left"})
    inputs, _ = next(iter(data.train_dataloader()))
    for mask, position in zip(inputs["attention_mask"], inputs["position_ids"], strict=True):
        assert position[mask.bool()].tolist() == list(range(int(mask.sum())))
        assert mask[-1] == 1


def test_splits_are_disjoint_complete_stratified_and_fixed_by_their_seed(tmp_path: Path) -> None:
    data, again, other = (module(tmp_path, split_seed=seed) for seed in (0, 0, 1))
    texts = {split: data.examples(split).texts for split in SPLITS}
    assert sorted(chain.from_iterable(texts.values())) == sorted(row["said"] for row in ROWS)
    assert [len(texts[split]) for split in SPLITS] == [36, 12, 12]
    for split in SPLITS:
        assert data.examples(split).targets.mean() == pytest.approx(2 / 3, abs=0.04)
        assert texts[split] == again.examples(split).texts
    assert texts["test"] != other.examples("test").texts


def test_a_group_never_straddles_two_splits(tmp_path: Path) -> None:
    def groups(**options: Any) -> dict[str, set[str]]:
        data = module(tmp_path, **options)
        number = {row["said"]: row["who"] for row in ROWS}
        return {split: {number[text] for text in data.examples(split).texts} for split in SPLITS}  # type: ignore[arg-type]

    together = groups(group="who")
    assert not any(together[a] & together[b] for a, b in (("train", "val"), ("train", "test"), ("val", "test")))
    apart = groups()
    assert apart["train"] & apart["test"], "negative control: without the column they do"


def test_the_test_split_is_scikit_learns(tmp_path: Path) -> None:
    table = TextFile("rows.json")
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    found = examples_of(table.read(tmp_path), "said", "y", classes=[1, 0])
    parts = divide(found, None, 0, 0.4, stratified=False, seed=42)
    texts = [row["said"] for row in ROWS if row["y"] == 1] + [row["said"] for row in ROWS if row["y"] == 0]
    expected = train_test_split(texts, test_size=0.4, random_state=42)
    assert {found.texts[i] for i in parts["test"]} == set(expected[1])
    assert set(parts) == {"train", "test"}, "no validation split was asked for"


def test_a_module_without_validation_says_so(tmp_path: Path) -> None:
    data = module(tmp_path, val_size=0)
    assert data.val_dataloader() is None
    assert len(data.examples("train").texts) == 48


def test_classes_are_numbered_in_their_order_and_others_left_out(tmp_path: Path) -> None:
    rows = [{"said": f"text {label}", "y": label} for label in ("no", "yes", "maybe")] * 10
    data = module(tmp_path, rows, classes=["yes", "no"])
    examples = [data.examples(split) for split in SPLITS]  # type: ignore[arg-type]
    seen = Counter(
        zip(chain.from_iterable(e.texts for e in examples), np.concatenate([e.targets for e in examples]), strict=True)
    )
    assert seen == {("text yes", 0): 10, ("text no", 1): 10}


def test_balancing_and_limits_keep_so_many_of_each_class() -> None:
    table = __import__("pandas").DataFrame(ROWS)
    found = examples_of(table, "said", "y")
    assert Counter(limited(found, None, True, 0).targets.tolist()) == {0: 20, 1: 20}
    first = limited(found, 5, False, 0)
    assert Counter(first.targets.tolist()) == {0: 5, 1: 5}
    assert first.texts[:2] == [ROWS[0]["said"], ROWS[3]["said"]], "the first ones"
    drawn = [limited(found, None, True, seed).texts for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_noise_is_one_of_the_strings_before_each_text_and_seeded(tmp_path: Path) -> None:
    texts = [f"t{i}" for i in range(400)]
    first, again, other = (noised(texts, ("aaa", "bbb"), seed) for seed in (0, 0, 1))
    assert first == again != other
    assert all(new in (f"aaa{old}", f"bbb{old}") for new, old in zip(first, texts, strict=True))
    assert 150 < sum(new.startswith("aaa") for new in first) < 250
    assert noised(texts, (), 0) == texts
    data = module(tmp_path, noise=["aaa "], template="says {text} says")
    assert data.examples("test").texts[0].startswith("aaa text number")
    inputs, _ = next(iter(data.test_dataloader()))
    assert inputs["input_ids"][0, :3].tolist() == [4, 7, 2], "template, noise, text"


def test_several_columns_are_joined_after_what_is_removed(tmp_path: Path) -> None:
    rows = [{"q": "is it", "a": f"{'Yes' if i % 2 else 'No'}. because", "y": {"Yes": i % 2}} for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = TextFile("rows.jsonl").read(tmp_path)
    found = examples_of(table, ["q", "a"], "y.Yes", remove=r"^(Yes|No)\.\s*")
    assert set(found.texts) == {"is it because"}
    assert found.targets.sum() == 10


def test_files_of_every_kind_hold_the_same_rows(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame({"text": ["a, b", 'he said "no"', "None"], "label": ["1", "0", "1"]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    frame.to_json(tmp_path / "lines.json", orient="records", lines=True)
    frame.to_json(tmp_path / "t.json", orient="records")
    (tmp_path / "under.json").write_text(json.dumps({"about": 1, "rows": frame.to_dict("records")}))
    (tmp_path / "t.txt").write_text("".join(f"{row.label} {row.text}\n" for row in frame.itertuples()))
    tables = [TextFile(name) for name in ("t.csv", "t.tsv", "t.jsonl", "lines.json", "t.json")]
    for table in (*tables, TextFile("under.json", rows="rows"), LabelledLines("t.txt")):
        found = table.read(tmp_path)
        assert found[["text", "label"]].to_dict("list") == frame.to_dict("list"), table


def test_a_folder_of_the_hub_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.csv").write_text("text,label\nyes,1\nno,0\n")
    found = HubDataset("set", split="train").read(tmp_path)
    assert found["text"].tolist() == ["yes", "no"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"group": "city"}, DataError, "no column 'city': found said, y, who.*data.group"),
        ({"template": "Is it true?"}, ValueError, r"no place for the text: expected one \{text\}, found 0"),
        ({"classes": [0, 2]}, DataError, "no label '2': found '0', '1'"),
        ({"classes": [1]}, DataError, "one class only, '1'"),
        ({"limit": 4}, DataError, "60 of 60 texts have more than the 4 tokens.*truncation=true"),
        ({"test_size": 50, "val_size": 20}, DataError, "60 texts cannot be divided"),
        ({"tokenizer": PretrainedTokenizer("/nowhere/at/all")}, DataNotFoundError, "tokenizer '/nowhere/at/all'"),
    ],
)
def test_what_cannot_be_gets_one_clear_error(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        module(tmp_path, **options)


def test_a_set_with_one_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="The column 'y' has one class only, '1'"):
        module(tmp_path, [row | {"y": 1} for row in ROWS])


def test_a_class_without_a_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No row with the label '0' has a text in 'said'.*data.text="):
        module(tmp_path, [row | ({} if row["y"] else {"said": None}) for row in ROWS])


def test_a_label_that_is_another_in_each_row_is_named_shortly(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be divided.*Choose other sizes") as caught:
        module(tmp_path, [row | {"y": f"the label of row {i}"} for i, row in enumerate(ROWS)])
    assert len(str(caught.value)) < 500


def test_long_texts_are_cut_where_that_is_wanted(tmp_path: Path) -> None:
    data = module(tmp_path, limit=4, tokenizer_options={"truncation": True})
    inputs, _ = next(iter(data.test_dataloader()))
    assert inputs["input_ids"].shape[1] == 4


@pytest.mark.parametrize(
    ("name", "content", "table", "error", "message"),
    [
        ("t.csv", None, TextFile("t.csv"), DataNotFoundError, "t.csv is not there.*data.root=DIR"),
        ("t.xml", "<a/>", TextFile("t.xml"), DataError, "ends in '.xml': expected .csv, .tsv"),
        ("t.json", "{nothing", TextFile("t.json"), CorruptDataError, "no readable JSON"),
        ("t.json", '{"a": []}', TextFile("t.json", rows="b"), CorruptDataError, "no rows under 'b'"),
        ("t.json", '{"a": []}', TextFile("t.json"), CorruptDataError, "data.table.rows=KEY"),
        ("t.csv", "text;label\nyes;1\n", TextFile("t.csv"), CorruptDataError, "divided by ';' and not by a comma"),
        ("t.tsv", "text,label\nyes,1\n", TextFile("t.tsv"), CorruptDataError, "divided by ',' and not by a tab"),
        ("t.csv", b"text,label\n\xe4,1\n", TextFile("t.csv"), CorruptDataError, "is not encoded as UTF-8"),
        ("t.jsonl", b'{"text": "\xe4"}', TextFile("t.jsonl"), CorruptDataError, "is not encoded as UTF-8"),
        ("t.txt", b"1 \xe4\n", LabelledLines("t.txt"), CorruptDataError, "is not encoded as UTF-8"),
        ("t.txt", "1 good\nbad\n", LabelledLines("t.txt"), CorruptDataError, "the line 'bad'"),
    ],
)
def test_a_file_that_cannot_be_read(
    tmp_path: Path, name: str, content: str | bytes | None, table: Any, error: type[Exception], message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(error, match=message):
        table.read(tmp_path)


def test_the_bag_of_words_is_on_the_same_splits_and_knows_training_words_only(tmp_path: Path) -> None:
    data = module(tmp_path)
    words = data.baselines()["bag_of_words"]
    for split in SPLITS:
        counts, targets = words[split]  # type: ignore[index]
        assert len(counts) == len(targets) == len(data.examples(split).texts)  # type: ignore[arg-type]
    vocabulary = {word for text in data.examples("train").texts for word in text.split() if len(word) > 1}
    assert words["train"][0].shape[1] == len(vocabulary)
    assert words["train"][0].sum() == sum(len(t) > 1 for text in data.examples("train").texts for t in text.split())


def test_the_length_of_a_text_is_its_tokens_words_and_characters(tmp_path: Path) -> None:
    data = module(tmp_path)
    for split in SPLITS:
        counts, targets = data.baselines()["text_length"][split]  # type: ignore[index]
        texts = data.examples(split).texts  # type: ignore[arg-type]
        assert counts[:, 1].tolist() == [len(text.split()) for text in texts]
        assert counts[:, 2].tolist() == [len(text) for text in texts]
        assert len(counts) == len(targets)
    batches = data.test_dataloader()
    assert batches is not None
    masks = [length for inputs, _ in batches for length in inputs["attention_mask"].sum(1).tolist()]
    assert data.baselines()["text_length"]["test"][0][:, 0].tolist() == masks


@pytest.mark.parametrize(
    ("name", "n", "first"),
    [("cities", 1496, 748), ("common_claim", 6000, 3000), ("counterfact", 4000, 2000), ("stsa", 6920, 3310),
     ("strategyqa", 2290, None), ("coinflip", 500, None)],
)  # fmt: skip
def test_the_concept_sets_have_the_papers_sizes(shared: Path, name: str, n: int, first: int | None) -> None:
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from layerprobe.config import register

    register()
    root = Path(__file__).resolve().parents[2] / "conf"
    with initialize_config_dir(str(root), version_base="1.3"):
        cfg = compose(
            "probe", [f"data={name}", "model=hf_encoder", f"model.name={shared}/models/all-MiniLM-L6-v2",
                      f"data.root={shared}/data/concepts"],
        )  # fmt: skip
    data = instantiate(cfg.data)
    data.setup()
    targets = np.concatenate([data.examples(split).targets for split in SPLITS])
    assert len(targets) == n
    if first is not None:
        assert (targets == 0).sum() == first
    if cfg.data.group:
        groups = [set(data.examples(split).groups) for split in SPLITS]
        assert not groups[0] & groups[2]


SPANS = {"number": "which", "verb": [-8, None], "all": [None, None]}


def spanned(folder: Path, **options: Any) -> TextDataModule:
    rows = [
        {"said": f"text number {i} says {'yes' if i % 2 else 'no'}", "y": i % 2, "which": f"{i}"} for i in range(40)
    ]
    return module(folder, rows, spans=SPANS, limit=30, **options)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(("template", "noise"), [("{text}", []), ("number number: {text} yes?", ["aaa ", "bbb bbb "])])
def test_spans_are_the_tokens_of_their_words(tmp_path: Path, side: str, template: str, noise: list[str]) -> None:
    data = spanned(tmp_path, template=template, noise=noise, tokenizer_options={"padding_side": side}, batch_size=50)
    loader = data.train_dataloader()
    assert loader is not None
    words = data.tokenizer.tokenizer
    seen = 0
    for inputs, targets in loader:
        for row, target in enumerate(targets):
            tokens = {
                name: words.convert_ids_to_tokens(inputs["input_ids"][row][inputs[f"span:{name}"][row].bool()])
                for name in SPANS
            }
            answer = "yes" if target else "no"
            assert tokens["number"] == ["<unk>"], "the number is no word of the tokenizer's"
            assert tokens["verb"] == ["says", answer]
            assert tokens["all"] == ["text", "number", "<unk>", "says", answer]
            assert inputs["span:all"][row].sum() < inputs["attention_mask"][row].sum() or template == "{text}"
            seen += 1
    assert seen == 24


def test_a_span_that_is_not_in_the_text_is_named_with_its_row(tmp_path: Path) -> None:
    rows = [{"said": "text says yes", "y": i % 2, "which": "yes" if i != 7 else "maybe"} for i in range(20)]
    wanted = (
        r"span 'which' is not in row 7: its words 'maybe' are not in 'text says yes'.*data\.spans=\{which: COLUMN\}"
    )
    with pytest.raises(DataError, match=wanted):
        module(tmp_path, rows, spans={"which": "which"})
    with pytest.raises(DataError, match=r"'end' is not in row 0: the characters \[13, 20\] are not"):
        module(tmp_path, rows, spans={"end": [13, 20]})
    with pytest.raises(DataError, match=r"no column 'who': found said, y, which.*data\.spans\.NAME"):
        module(tmp_path, rows, spans={"x": "who"})
    with pytest.raises(DataError, match=r"span 'end', 'yes', has no token left in 'text says yes': it was cut off"):
        options = {"truncation": True, "max_length": 2}
        module(tmp_path, rows, spans={"end": [10, None]}, tokenizer_options=options)


def test_spans_need_a_tokenizer_that_knows_its_characters(tmp_path: Path) -> None:
    tokenizer = PretrainedTokenizer(word_level(tmp_path))
    tokenizer.tokenizer.__class__ = type("Slow", (type(tokenizer.tokenizer),), {"is_fast": False})
    with pytest.raises(DataError, match=r"does not say which characters.*spans need that \(all\).*fast tokenizer"):
        module(tmp_path, spans={"all": [None, None]}, tokenizer=tokenizer)
