# SPDX-License-Identifier: Apache-2.0
import pathlib, sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from hostlib import Cluster  # noqa: E402


@pytest.fixture
def cluster():
    with Cluster() as c:
        yield c
