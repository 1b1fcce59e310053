# SPDX-License-Identifier: Apache-2.0
"""VMs that boot from their disk, and what else is in a machine, under their daemons: Debian's SeaBIOS on the machine's own
/dev/kvm, with a boot sector that speaks. A whole Debian boots so in the lab."""
import os

import pytest
from hostlib import until
from payloads import boot_sector, guest, say
from vmlib import show, state
from vmm import SEABIOS, setup_sectors

if not os.access('/dev/kvm', os.R_OK | os.W_OK):
    pytest.skip('no /dev/kvm', allow_module_level=True)

BOOTS_IN = 120


def times_said(host, text):
    return host.run('vm', 'console', 'g', '--log').out.count(text)


def says(host, text, times=1):
    until(lambda: times_said(host, text) >= times, BOOTS_IN, what=f'the guest saying {text!r}')


def import_disk(host, name, text):
    raw = host.dir.parent / 'boot.raw'
    raw.write_bytes((boot_sector() + text.encode() + b'\0').ljust(1 << 20, b'\0'))
    host.ok('disk', 'import', raw, f'v1:/{name}')


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists(SEABIOS), reason='no SeaBIOS: Debian package seabios')
def test_it_boots_from_its_disk_here_and_there(pair):
    h1, h2 = pair
    new = ['--volume', 'v1', '--memory', '64M', '--boot', 'disk']
    assert '--disk' in h1.fails('usage', 'vm', 'create', 'g', *new)['message']
    import_disk(h1, 'other', 'the wrong disk')
    import_disk(h1, 'first', 'the first disk')
    h1.fails('usage', 'vm', 'create', 'g', '--volume', 'v1', '--memory', '16M', '--boot', 'disk', '--disk', 'v1:/first')
    h1.fails('usage', 'vm', 'create', 'g', '--volume', 'v1', '--memory', '64M', '--boot', 'floppy', '--disk', 'v1:/first')
    h1.ok('vm', 'create', 'g', *new, '--disk', 'v1:/other', '--disk', 'v1:/first')
    h1.ok('vm', 'detach', 'g', 'v1:/other')
    h1.ok('vm', 'attach', 'g', '--disk', 'v1:/other', '--lun-number', '0')      # the first by address, not by order
    d = show(h1)
    assert (d['boot'], d['nested'], d['watchdog']) == ('disk', False, 'reset')

    h1.ok('vm', 'start', 'g')
    says(h1, 'the first disk')
    h1.ok('vm', 'migrate', 'g', '--to', 'h2', timeout=120)
    assert show(h2)['host'] == 'h2'
    assert 'typed' in h2.ok('vm', 'console', 'g', stdin='typed', timeout=BOOTS_IN).out    # the BIOS answers there
    h2.ok('vm', 'reboot', 'g', '--force')
    says(h2, 'the first disk')
    assert times_said(h2, 'SeaBIOS') == 1 and 'wrong' not in h1.run('vm', 'console', 'g', '--log').out
    assert 'off' in h2.fails('busy', 'vm', 'set', 'g', '--nested', 'on')['message']
    h2.ok('vm', 'kill', 'g')
    h2.ok('vm', 'set', 'g', '--nested', 'on', '--watchdog', 'report')
    assert (show(h2)['boot'], show(h2)['nested'], show(h2)['watchdog']) == ('disk', True, 'report')
    assert 'kernel' in h2.fails('usage', 'vm', 'set', 'g', '--boot', 'kernel')['message']
    assert show(h2)['boot'] == 'disk'


def test_without_firmware_it_is_refused_before_anything_happens(cluster, lun):
    h = cluster.host('h1', '--firmware', '/nonexistent/bios')
    h.ok('volume', 'format', 'v1', lun)
    h.ok('volume', 'mount', lun)
    h.ok('disk', 'create', 'v1:/a', '--size', '1M')
    h.ok('vm', 'create', 'g', '--volume', 'v1', '--memory', '64M', '--boot', 'disk', '--disk', 'v1:/a')
    assert 'seabios' in h.fails('not-found', 'vm', 'start', 'g')['message']
    assert state(h) == 'stopped'


def test_a_guest_whose_watchdog_runs_out_is_reset_and_the_event_tells(cluster, lun):
    h = cluster.host('h1')
    h.ok('volume', 'format', 'v1', lun)
    h.ok('volume', 'mount', lun)
    kernel = cluster.dir / 'kernel'
    arm = 'mov $0x620, %dx; mov $2, %eax; out %eax, %dx; mov $0x628, %dx; mov $1, %al; out %al, %dx;'
    kernel.write_bytes(setup_sectors() + guest(say('armed') + arm))
    new = ['--volume', 'v1', '--memory', '16M', '--kernel', kernel]
    h.fails('usage', 'vm', 'create', 'g', *new, '--watchdog', 'bark')
    h.ok('vm', 'create', 'g', *new, '--watchdog', 'reset')
    h.ok('vm', 'start', 'g')
    says(h, 'armed', 2)
    assert 'watchdog ran out' in h.run('event', 'list').out
    h.ok('vm', 'kill', 'g')
