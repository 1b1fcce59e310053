# SPDX-License-Identifier: Apache-2.0
"""The lab itself: its channel, its SAN, its power and network switches, and that nothing of it stays."""
import glob, os, re, signal, subprocess, sys, time
import pytest
from perilab import Lab, LabError, LabTimeout, Lun, RunFailed
from proc import alive

pytestmark = pytest.mark.slow
HERE = os.path.dirname(os.path.abspath(__file__))


@pytest.fixture(scope='module')
def lab():
    with Lab('machines', hosts=1, luns=[Lun('1G'), Lun('512M', block_size=4096)], guest=False) as up:
        yield up


def test_commands(lab):
    host = lab.hosts[0]
    run = host.run('echo out; echo err >&2; exit 7', check=False)
    assert (run.code, run.out, run.err) == (7, 'out\n', 'err\n')
    with pytest.raises(RunFailed, match='exit 3'):
        host.run('exit 3')
    assert host.run('kill -9 $$', check=False).code == 137
    assert host.run('cat', stdin='typed').out == 'typed'
    assert host.run('sleep 1000 & echo started', timeout=10).out == 'started\n'
    start = time.monotonic()
    with pytest.raises(LabTimeout):
        host.run('echo begun; sleep 1000', timeout=1)
    assert time.monotonic() - start < 10 * lab.scale
    assert host.run('ps | grep -c "[s]leep 1000"').out == '1\n'  # the one left behind on purpose


def test_many_commands_at_once(lab):
    runs = [lab.hosts[0].spawn(f'sleep 0.{i}; echo {i}') for i in range(1, 9)]
    assert [r.wait(30) for r in runs] == [0] * 8
    assert [r.out for r in runs] == [f'{i}\n' for i in range(1, 9)]


def test_files_in_and_out(lab):
    host, data = lab.hosts[0], os.urandom(3 << 20)
    host.put(data, '/tmp/file', 0o600)
    assert host.get('/tmp/file') == data
    assert host.run('stat -c %a /tmp/file').out == '600\n'


def test_expect_follows_output(lab):
    run = lab.hosts[0].spawn('read x; echo "got $x"; sleep 100')
    run.write('word\n')
    assert run.expect(r'^got (\w+)$', 20)[1] == b'word'
    with pytest.raises(LabTimeout):
        run.expect('never', 0.5)
    run.kill()
    assert run.wait(20) == 137


def test_host_has_kvm_and_a_real_root(lab):
    out = lab.hosts[0].run('cat /sys/module/kvm_*/parameters/nested; [ -c /dev/kvm ] && echo kvm; '
                           'unshare -m sh -c "mkdir /tmp/r && mount -t tmpfs r /tmp/r && mkdir /tmp/r/old && '
                           'pivot_root /tmp/r /tmp/r/old && echo pivoted"').out.split()
    assert out == ['1', 'kvm', 'pivoted'] or out == ['Y', 'kvm', 'pivoted']


def test_san_compares_and_writes(lab):
    """ATS over both port groups: GOOD, then CHECK CONDITION, and the first one's data is there."""
    for net in ('sana', 'sanb'):
        p = lab.native([sys.executable, f'{HERE}/perilab/caw.py', lab.san.url(0, [net]), '1000' if net == 'sana' else '2000'],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert p.communicate(timeout=30)[0].split() == ['0', '2', '0']


def test_san_luns(lab):
    host = lab.hosts[0]
    first, second = (host.run(f'iscsi-readcapacity16 {lab.san.url(n, ["sana"])}').out for n in (0, 1))
    assert 'BYTES:512\n' in first and 'BYTES:4096\n' in second, first + second
    pages = [host.run(f'iscsi-inq -e 1 -c 131 {lab.san.url(0, [net])}')._out for net in ('sana', 'sanb')]
    names = [re.findall(rb'\(3\) NAA\nDesignator:\[(.+)\]', page) for page in pages]
    assert names[0] and names[0] == names[1], pages


def test_portal_goes_and_comes(lab):
    host, url = lab.hosts[0], lab.san.url(0, ['sanb'])
    lab.san.remove_portal('sanb')
    assert host.run(f'iscsi-readcapacity16 {url}', check=False).code
    lab.san.add_portal('sanb')
    host.run(f'iscsi-readcapacity16 {url}')


def test_throttle(lab):
    host, url = lab.hosts[0], lab.san.url(0, ['sana'])
    # one request passes however large it is; those behind it wait
    write = f'qemu-io -f raw {" ".join(["-c", chr(34) + "write -q 0 1M" + chr(34)] * 5)} {url}'

    def seconds():
        start = time.monotonic()
        host.run(write)
        return time.monotonic() - start
    free = seconds()
    lab.san.throttle_lun(0, bps=1 << 20)
    slow = seconds()
    lab.san.throttle_lun(0)
    assert slow > free + 2


def test_freeze_and_wake(lab):
    host = lab.hosts[0]
    host.freeze()
    with pytest.raises(LabTimeout):
        host.run('true', timeout=1)
    host.wake()
    host.run('true', timeout=20)


def test_power_cord(lab):
    """What was written to the host's state disk and synced outlives its death; what it ran does not."""
    host = lab.hosts[0]
    host.run('echo kept > /var/lib/perilune/f; sync; echo lost > /tmp/f')
    host.kill()
    with pytest.raises(LabError, match='not up'):
        host.run('true')
    host.start()
    host.wait_up()
    assert host.run('cat /var/lib/perilune/f; ls /tmp/f', check=False).out == 'kept\n'


def test_a_boot_that_hangs(lab):
    """Whoever waits for a machine that takes nothing and says nothing gives up in time, and starts it anew."""
    host = lab.hosts[0]
    host.kill()
    host.start()
    hung, agent = host.process.pid, host.dir / 'agent'
    end = time.monotonic() + 20 * lab.scale
    while not agent.exists() and time.monotonic() < end:
        time.sleep(0.01)
    assert agent.exists()
    os.kill(hung, signal.SIGSTOP)
    host.wait_up(12 * lab.scale)
    assert host.process.pid != hung
    assert host.run('echo up').out == 'up\n'


def test_san_dies_and_comes_back(lab):
    host, url = lab.hosts[0], lab.san.url(0, ['sana'])
    host.run(f'qemu-io -f raw -c "write -q -P 0x5a 1M 64k" {url}')
    lab.san.reboot()
    host.run(f'qemu-io -f raw -c "read -P 0x5a 1M 64k" {url}')


def test_lun_grows(lab):
    lab.san.grow(1, '600M')
    out = lab.hosts[0].run(f'iscsi-readcapacity16 {lab.san.url(1, ["sana"])}').out
    assert str(600 * 1048576 // 4096 - 1) in out, out


# --- the end of a lab ---

# A signal that comes right before a blocking read is seen by Python when that is over: so none is for long. And who was
# begun in the background of a shell without job control inherits that SIGINT is ignored.
CHILD = f'''
import select, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {HERE!r})
from perilab import Lab
with Lab('killed', hosts=0, guest=False) as lab:
    print(lab.san.process.pid, lab.dir, flush=True)
    while not select.select([sys.stdin], [], [], 0.2)[0]:
        pass
'''


def gone(pid):
    for _ in range(100):
        if not alive(pid):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize('sig', [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_stays(sig):
    child = subprocess.Popen([sys.executable, '-c', CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL, text=True)
    qemu, place = child.stdout.readline().split()
    assert os.path.exists(f'/proc/{qemu}')
    child.send_signal(sig)
    child.wait(30)
    assert gone(qemu), f'QEMU {qemu} outlived its lab'
    from perilab.lab import _sweep
    _sweep()
    assert not os.path.exists(place)


def test_two_labs_at_once():
    """Same names, same addresses, apart."""
    with Lab('twin', hosts=0, guest=False) as one, Lab('twin', hosts=0, guest=False) as two:
        assert one.san.networks == two.san.networks and one.dir != two.dir
        one.san.run('touch /tmp/only-one')
        assert two.san.run('ls /tmp').out == ''
    assert not glob.glob(f'{one.dir or "/nowhere"}')
