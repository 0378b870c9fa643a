"""Every layer, every ratio, random networks on random machines: the simulator is the golden model, bit for bit."""

import pytest
from npu_isa.errors import CompileError

from tests.equality import random_case


@pytest.mark.parametrize("seed", range(40))
def test_random_network(seed):
    try:
        found, _, text = random_case(seed)
    except CompileError as error:
        pytest.skip(f"the random machine is too small: {error.message}")
    assert [c.difference for c in found] == [None] * len(found), text
