# SPDX-License-Identifier: Apache-2.0
"""The lab: a SAN and hosts that are machines, in one command. docs/lab.md is the manual.

    from perilab import Lab, Lun
    with Lab('name-of-the-test', hosts=2, luns=[Lun('2G')]) as lab:
        a, b = lab.hosts
        print(a.run('uname -r').out)
        b.kill()
"""
import os, sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'lib'))
from .cache import LabError
from .channel import LabTimeout, RunFailed
from .console import GuestConsole
from .host import Host, HostSpec
from .lab import Lab
from .san import Lun, San

__all__ = ['GuestConsole', 'Host', 'HostSpec', 'Lab', 'LabError', 'LabTimeout', 'Lun', 'RunFailed', 'San']
