"""What the simulators ask of Numba: its cache knows an edit of any module; what it may not have can be missing."""

import os
import subprocess
import sys

import numba
import pytest
from npu_sim import numba_options, sources

compiled = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled (NUMBA_DISABLE_JIT)")
MODULE = """
from numba import njit
from npu_sim.sources import depend_on

def compiled(sources):
    @njit(cache=True)
    def kernel(number):
        depend_on(sources)
        return number + 1
    return kernel
"""


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A function from a digest to a cached kernel, of a module of its own."""
    (tmp_path / "kernels_for_a_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "kernels_for_a_test", raising=False)
    import kernels_for_a_test

    return kernels_for_a_test.compiled


@compiled
def test_a_kernel_is_compiled_again_for_other_sources(make):
    for digest, hits in (("a", 0), ("a", 1), ("b", 0), ("b", 1), ("a", 1)):
        kernel = make(digest)
        assert kernel(4) == 5
        assert sum(kernel.stats.cache_hits.values()) == hits


def test_a_digest_knows_an_edit_in_an_inner_package(tmp_path, monkeypatch):
    inner = tmp_path / "package_for_a_test" / "inner"
    inner.mkdir(parents=True)
    for folder in (inner.parent, inner):
        (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    found = [sources.digest("package_for_a_test")]
    for text in ("a = 1", "a = 2"):
        (inner / "module.py").write_text(text)
        found.append(sources.digest("package_for_a_test"))
    (inner / "notes.txt").write_text("not code")
    assert len(set(found)) == 3
    assert sources.digest("package_for_a_test") == found[-1]


@compiled
def test_options_that_numba_does_not_know_are_left_out(monkeypatch):
    wanted = {"_nrt": False, "forceinline": True, "an_option_of_the_future": True}
    monkeypatch.setattr(numba_options, "INTERNALS", True)
    assert numba_options.known_options(**wanted) == {"_nrt": False, "forceinline": True}
    monkeypatch.setattr(numba_options, "INTERNALS", False)
    assert numba_options.known_options(**wanted) == {}


WITHOUT = """
import warnings
from numba.core import cgutils
del cgutils.for_range_slice
with warnings.catch_warnings(record=True) as found:
    from npu_sim.fast.values import kernels
print(kernels.chosen.__name__, len(found))
"""


@compiled
@pytest.mark.slow
def test_a_numba_without_an_internal(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "NPU_NUMBA_INTERNALS"}
    environment["NUMBA_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-c", WITHOUT], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "npu_sim.fast.values.kernels.loops 1"
