"""Random networks: import and passes against onnxruntime."""

import pytest
from hypothesis import given, settings
from npu_isa.errors import UnsupportedError

from tests.onnx_models import same_meaning
from tests.random_onnx import networks


@pytest.mark.slow
@given(networks(every=True))
@settings(max_examples=250)
def test_random_network_keeps_its_meaning(tmp_path_factory, case):
    net, output = case
    try:
        same_meaning(net, output, tmp_path_factory.getbasetemp())
    except UnsupportedError as error:  # the one reason why a network of known operators is refused
        if "parts, at most" not in error.message:
            raise
