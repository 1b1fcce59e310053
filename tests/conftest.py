# SPDX-License-Identifier: Apache-2.0
"""Markers for pytest: `slow` is left out of `make check-fast`, `soak` is for `make soak` only. And tests/lib for all.
tests/run hears of each test when it is over: PERILUNE_TELL is a descriptor and what it calls these tests."""
import os, pathlib, sys

sys.path.insert(0, str(pathlib.Path(__file__).parent / 'lib'))


def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: left out of make check-fast')
    config.addinivalue_line('markers', 'soak: make soak only')


def pytest_runtest_logreport(report):
    tell = os.environ.get('PERILUNE_TELL', '').split()
    if tell and report.when == 'call' and report.passed and 'PYTEST_XDIST_WORKER' not in os.environ:
        path, _, name = report.nodeid.partition('::')
        os.write(int(tell[0]), f'passed  {tell[1]}: {pathlib.Path(path).stem}.{name} ({report.duration:.1f} s)\n'.encode())
