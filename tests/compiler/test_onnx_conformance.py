"""The node tests of the onnx package for every operator that the importer has: right or refused with a reason."""

import pytest
from npu_compiler.frontend.importer import OPERATORS

from tests.onnx_conformance import Result, cases, operator_of, run, summary

LEAST_PASSED = 300  # of the package in use: fewer mean that whole families are refused


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return [r for case in cases() if operator_of(case) in OPERATORS for r in run(case)]


@pytest.mark.slow
def test_no_node_test_fails(results):
    assert [r for r in results if r.outcome == "failed"] == []
    assert [r for r in results if r.outcome == "refused" and not r.reason] == []


@pytest.mark.slow
def test_most_operators_pass_some_of_their_tests(results):
    table = summary(results)
    never = {"Cast", "QuantizeLinear", "DequantizeLinear"}  # their tests are of integers and other types
    never |= {"Tile", "PRelu"}  # of the batch, and of constants that differ between pixels
    never |= {"Softmax"}  # which is refused at the end of a model
    assert {row[0] for row in table if not row[1]} == never
    assert sum(row[1] for row in table) >= LEAST_PASSED
