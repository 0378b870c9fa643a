"""Random networks: import and passes against onnxruntime."""

import pytest
from hypothesis import given, settings

from tests.onnx_models import same_meaning
from tests.random_onnx import networks


@pytest.mark.slow
@given(networks())
@settings(max_examples=150)
def test_random_network_keeps_its_meaning(tmp_path_factory, case):
    net, output = case
    same_meaning(net, output, tmp_path_factory.getbasetemp())
