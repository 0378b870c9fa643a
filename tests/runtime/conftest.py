"""The demo's network, compiled once per process."""

from pathlib import Path

import pytest
from npu_compiler.options import QuantizeOptions
from npu_isa.file.container import save
from npu_runtime.data.dataset import Dataset, load_dataset
from npu_runtime.session.compiling import Compiled, compile_file
from npu_runtime.session.session import Session

DEMO = Path(__file__).parent.parent / "demo"


@pytest.fixture(scope="session")
def digits() -> Compiled:
    return compile_file(DEMO / "digits.onnx", DEMO / "digits_train.npz", options=QuantizeOptions(max_images=64))


@pytest.fixture(scope="session")
def digits_file(digits, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("binary") / "digits.npubin"
    save(digits.binary, path)
    return path


@pytest.fixture
def session(digits) -> Session:
    return Session(digits.binary)


@pytest.fixture(scope="session")
def images() -> Dataset:
    return load_dataset(DEMO / "digits_test.npz", limit=40, channels=1)
