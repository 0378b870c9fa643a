"""Damaged ONNX files are refused or imported; tests/benchmarks/mutate_onnx.py tries many more."""

from collections import Counter

import numpy as np
import pytest

from tests.onnx_mutations import mutate, outcome, small_models

FILES = small_models()


@pytest.mark.parametrize("part", range(5))
def test_damaged_files_are_refused_or_imported(part, tmp_path):
    found: Counter[str] = Counter()
    path = tmp_path / "damaged.onnx"
    for seed in range(40 * part, 40 * part + 40):
        rng = np.random.default_rng(seed)
        _, damaged = mutate(FILES[seed % len(FILES)], rng)
        path.write_bytes(damaged)
        found[outcome(path)] += 1
    assert found.keys() <= {"accepted", "ModelError", "UnsupportedError"}, found
    assert found["accepted"]
    assert found["ModelError"]


def test_whole_files_are_imported(tmp_path):
    path = tmp_path / "whole.onnx"
    for data in FILES:
        path.write_bytes(data)
        assert outcome(path) == "accepted"
