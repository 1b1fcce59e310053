# SPDX-License-Identifier: Apache-2.0
import pathlib, sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from clientlib import Server  # noqa: E402


@pytest.fixture
def server(tmp_path):
    with Server(tmp_path) as s:
        yield s
