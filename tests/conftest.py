"""What all tests share: patient hypothesis settings, and golden files."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# without deadlines: the machine that runs the tests may be busy with others
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite golden files; their tests are skipped")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Return a check of a text against golden/NAME beside the test; a missing file fails, an update skips."""
    folder = Path(request.path).parent / "golden"

    def check(name: str, text: str) -> None:
        path = folder / name
        if request.config.getoption("--update-golden"):
            folder.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            pytest.skip(f"{path.name} was rewritten")
        if not path.is_file():
            pytest.fail(f"no golden file {path}; look at the text and write it with --update-golden:\n{text}")
        assert text == path.read_text(encoding="utf-8")

    return check
