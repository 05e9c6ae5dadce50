"""What the private name of Altair is used for; a release that changes it fails here."""

from __future__ import annotations

import altair as alt
import pytest
from altair.utils.schemapi import SchemaValidationError

from layerprobe.compat.altair import unchecked


def test_parts_of_a_chart_are_not_searched_for_mistakes_inside_and_are_outside() -> None:
    @unchecked()
    def wrong(ends: bool = False) -> alt.Axis:
        if ends:
            raise KeyError
        return alt.Axis(grid="no")

    assert wrong().to_dict(validate=False) == {"grid": "no"}
    with pytest.raises(KeyError):
        wrong(ends=True)
    with pytest.raises(SchemaValidationError, match="grid"):
        alt.Axis(grid="no")
