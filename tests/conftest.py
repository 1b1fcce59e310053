# SPDX-License-Identifier: Apache-2.0
"""Markers for pytest: `slow` is left out of `make check-fast`, `soak` is for `make soak` only. And tests/lib for all."""
import pathlib, sys

sys.path.insert(0, str(pathlib.Path(__file__).parent / 'lib'))


def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: left out of make check-fast')
    config.addinivalue_line('markers', 'soak: make soak only')
