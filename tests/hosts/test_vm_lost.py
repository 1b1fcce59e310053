# SPDX-License-Identifier: Apache-2.0
"""A monitor's connection that is lost is no state of its guest: nobody is shown as paused who runs, nobody is let run whom
somebody wants paused. Monitors are programs (stublib.py) that hang up in the middle of a request, obeyed or not."""
import subprocess

from hostlib import BIN, until
from stublib import HangsUp, cluster, counts, goes_on, show  # noqa: F401 (cluster is a fixture)
from test_stub_vm import host  # noqa: F401 (a fixture)


def runs(host):
    host.ok('vm', 'start', 'g')
    goes_on(host)
    return show(host)['pid']


def told(host):
    """What was said of its standing still."""
    return [e['text'] for e in host.json('event', 'list') if e['text'].startswith(('paused', 'running again'))]


def test_told_to_stand_still_and_to_go_on(cluster, host):
    pid = runs(host)
    for when in 'no pause', 'pause':                                    # who wants it hears that it failed; so it runs
        with HangsUp(cluster, 'h1', when) as hung_up:
            said = host.run('vm', 'pause', 'g')
            hung_up()
            assert show(host)['state'] == 'running', when
        assert said.code and 'connection to its monitor is lost' in said.err, said
        goes_on(host)
        assert show(host)['state'] == 'running' and not told(host), when
    for when in 'no resume', 'resume':
        host.ok('vm', 'pause', 'g')
        before = len(told(host))
        with HangsUp(cluster, 'h1', when) as hung_up:
            assert host.run('vm', 'resume', 'g').code
            hung_up()
        until(lambda: show(host)['state'] == 'running')
        goes_on(host)
        assert told(host)[before:] == ['running again'], when
    assert show(host)['pid'] == pid
    host.ok('vm', 'pause', 'g')                                         # and whom somebody holds a new connection lets not go
    was = counts(host)
    host.stop()
    host.start()
    until(lambda: show(host)['state'] == 'paused')
    assert counts(host) == was


def test_stood_still_for_a_moment_only(cluster, host):
    """As for a save, or a migration (test_migrate.py), that comes to nothing: it was to run on."""
    runs(host)
    step = host.dir / 'steps' / 'save.paused'
    step.parent.mkdir(exist_ok=True)
    for when in 'no pause', 'pause', 'no resume', 'resume':
        if 'resume' in when:
            step.touch()
        with HangsUp(cluster, 'h1', when) as hung_up, \
             subprocess.Popen([BIN / 'perilune', '--connect', host.dir, 'vm', 'save', 'g'], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL) as p:
            if step.exists():
                reached = step.with_suffix('.paused.reached')
                until(reached.exists)
                reached.unlink()
                host.ok('task', 'cancel', until(lambda: next((t['id'] for t in host.json('task', 'list') if t['state'] == 'running'), 0)))
                step.unlink()
            hung_up()
            assert show(host)['state'] == 'running', when
        assert p.returncode
        goes_on(host)
        assert show(host)['state'] == 'running' and not told(host), when
