# SPDX-License-Identifier: Apache-2.0
"""Each file of scenarios/ on a lab of its own. `tests/lab/lab run NAME` runs one by hand."""
import glob, os
import pytest
from perilab.scenario import load, run

HERE = os.path.dirname(os.path.abspath(__file__))
NAMES = sorted(os.path.basename(p)[:-3] for p in glob.glob(f'{HERE}/scenarios/*.py'))
MARKS = {n: [pytest.mark.slow, *([pytest.mark.soak] if getattr(load(n), 'SOAK', False) else [])] for n in NAMES}


@pytest.mark.parametrize('name', [pytest.param(n, marks=MARKS[n]) for n in NAMES])
def test_scenario(name):
    run(name)
