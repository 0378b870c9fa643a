"""The page of operators is what the importer's table says."""

import pytest
from npu_compiler.frontend.importer import LIMITS, REFUSALS
from npu_compiler.frontend.reader import OPERATORS
from npu_compiler.frontend.reference import PAGE, page, write
from npu_isa.errors import NpuError


def test_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m npu_compiler.frontend.reference"


def test_every_operator_says_what_of_it_is_understood():
    assert LIMITS.keys() == OPERATORS.keys()
    assert [name for name in OPERATORS if not LIMITS[name]] == []
    assert not REFUSALS.keys() & OPERATORS.keys()


def test_page_is_written_into_a_source_tree_alone(tmp_path):
    write(tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == page()
    with pytest.raises(NpuError, match="source tree"):
        write(tmp_path / "none" / "page.md")
