from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from layerprobe.results.checkpoint_ledger import Entry, Ledger, OtherResultsError

ENTRY = Entry("a.ckpt", "123", {"probe": {"l2": (0.1, 1.0)}, "seed": 0})


def test_what_was_begun_goes_on_and_what_is_complete_is_not_done_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert not ledger.is_complete("final", ENTRY, has_results=False)
    ledger.write("final", ENTRY)
    assert not Ledger(tmp_path).is_complete("final", ENTRY, has_results=True)
    ledger.write("final", replace(ENTRY, complete=True))
    assert Ledger(tmp_path).is_complete("final", ENTRY, has_results=True)
    assert not Ledger(tmp_path).is_complete("other", ENTRY, has_results=False)


def test_what_failed_before_its_first_layer_is_begun_again_with_other_settings(tmp_path: Path) -> None:
    other = replace(ENTRY, config={"probe": {"l2": (0.5,)}, "seed": 0})
    Ledger(tmp_path).write("final", ENTRY)
    assert not Ledger(tmp_path).is_complete("final", other, has_results=False)
    with pytest.raises(OtherResultsError):
        Ledger(tmp_path).is_complete("final", other, has_results=True)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (replace(ENTRY, content="456"), "of other weights, from a.ckpt"),
        (replace(ENTRY, config={"probe": {"l2": (0.1,)}, "seed": 0}), r"found with probe.l2=\[0.1, 1.0\], now \[0.1\]"),
        (replace(ENTRY, config={"probe": {"l2": (0.1, 1.0)}, "seed": 0, "data": 1}), "data=None, now 1"),
    ],
)
def test_results_of_another_network_or_protocol_are_not_mixed_in(tmp_path: Path, entry: Entry, message: str) -> None:
    Ledger(tmp_path).write("final", ENTRY)
    with pytest.raises(OtherResultsError, match=rf"{message}.*run_dir=DIR, or force=true"):
        Ledger(tmp_path).is_complete("final", entry, has_results=True)


def test_results_without_an_entry(tmp_path: Path) -> None:
    with pytest.raises(OtherResultsError, match="not known how"):
        Ledger(tmp_path).is_complete("final", ENTRY, has_results=True)
