"""Model files that nobody here wrote: each compiles, the simulator is the golden model, outputs are the model's."""

import numpy as np
import pytest
from npu_compiler.backend import compile_quantized
from npu_compiler.options import QuantizeOptions
from npu_compiler.pipeline import check_fit, import_model, quantize_graph
from npu_isa.machine.config import load_machine
from npu_runtime.reports.agreement import Agreement, FloatModel
from npu_runtime.session.session import Session

from tests.equality import compare
from tests.zoo import LIGHT, TRAINED, Shipped

pytestmark = pytest.mark.slow
OPTIONS = QuantizeOptions(rounding="nearest", selection="range", positions="range", bias_correction="none")
BY_NAME = {model.name: model for model in (*LIGHT, *TRAINED)}
FITTED = ("light_bvlc_alexnet", "light_inception_v1", "light_inception_v2", "light_zfnet512", "detector")
COSINES = {"light_squeezenet": 0.99, "light_shufflenet": 0.99, "orientation": 0.99, "direction": 0.95}


def there(name: str) -> Shipped:
    model = BY_NAME[name]
    if model.path is None:
        pytest.skip(model.missing)
    return model


@pytest.mark.parametrize("name", FITTED)
def test_it_fits_every_shipped_machine(name):
    model = there(name)
    graph = import_model(model.path, input_shape=model.shape)
    for machine in ("npu16", "npu32", "npu128"):
        check_fit(graph, load_machine(machine))


@pytest.mark.parametrize("name", COSINES)
def test_it_runs_as_the_golden_model_and_as_in_float(name):
    model = there(name)
    calibration, images = model.images(16, 0), model.images(8, 1)
    graph = import_model(model.path, input_shape=model.shape)
    quantized = quantize_graph(graph, calibration, model.preprocess, OPTIONS)
    for machine in ("npu16", "npu128", "npu32") if model.trained else ("npu32",):
        session = Session(compile_quantized(quantized, load_machine(machine)))
        for ratio in (0, 100):
            found = compare(quantized, session, images[:1], session.binary.boundaries_at(ratio))
            assert found.difference is None, (machine, ratio)
    session.set_ratio(0)
    agreement = Agreement(FloatModel(model.path, session.binary), session.binary.results)
    agreement.add(images, 0, session.run_all(images))
    (row,) = agreement.rows(0)
    assert row.cosine is not None
    assert row.cosine > COSINES[name]
    assert np.isclose(session.run(images).sum(axis=1), 1, atol=1e-3).all()  # probabilities, by the host's softmax
