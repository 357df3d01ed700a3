"""A healthy recording for every check."""

import pytest
from toy_recording import make


@pytest.fixture
def healthy():
    return make()
