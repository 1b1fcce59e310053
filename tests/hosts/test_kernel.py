# SPDX-License-Identifier: Apache-2.0
"""The kernel backend on loop devices; SCSI behind it (SG_IO, IOC_PR) has its turn in tests/lab."""
import pytest

from targets import loop_device
from test_cas import hosts
from test_iscsi import check


@pytest.mark.parametrize('block_size', [512, 4096])
def test_loop(block_size):
    with loop_device('64M', block_size) as dev:
        info = check('info', dev)
        assert info['block_size'] == str(block_size) and int(info['size']) == 64 << 20
        assert info['id'].startswith('loop.') and info['cas'] == 'file' and info['unmap'] == '1'
        check('data', dev)
        check('cas', dev)
        hosts(dev, 50)
