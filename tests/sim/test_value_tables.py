"""Rows of the value kernels' tables: every field by its name."""

import pytest
from npu_sim.fast.values.tables import Record, fill

PLACE = Record(y="row", x="column")


def test_the_order_of_values_does_not_matter():
    table = PLACE.table([PLACE.row(y=1, x=2), PLACE.row(x=4, y=3)])
    assert table["y"].tolist() == [1, 3]
    assert table["x"].tolist() == [2, 4]
    assert PLACE.table([]).shape == (0,)


@pytest.mark.parametrize(
    ("values", "wrong"), [({"y": 1}, "x"), ({"y": 1, "x": 2, "z": 3}, "z"), ({"y": 1, "z": 3}, "x, z")]
)
def test_exactly_the_fields_have_a_value(values, wrong):
    with pytest.raises(TypeError, match=f"missing or unknown fields: {wrong}$"):
        PLACE.row(**values)


def test_fields_are_filled_by_name():
    table = PLACE.table([PLACE.row(y=1, x=2), PLACE.row(y=3, x=4)])
    fill(table, [{"x": 5}, {"x": 6}])
    assert table["y"].tolist() == [1, 3]
    assert table["x"].tolist() == [5, 6]
    with pytest.raises(ValueError, match="z"):
        fill(table, [{"z": 0}, {"z": 0}])
