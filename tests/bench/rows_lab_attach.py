# SPDX-License-Identifier: Apache-2.0
"""A disk that is plugged in: from the request to the moment when the guest's kernel says that it is there, ours and QEMU's
(device_add scsi-hd), each in a guest of its own with the same kernel, in turns. Requests go to the API's and the monitor's
socket: what a command line takes to start is not the point, least of all where machines are emulated."""
from benchlib import RUNS, alternate, row, work_dir
from labs import STATE, initramfs, once, qemu
from rows_lab_vm import host

TURNS = max(15, 3 * RUNS)
PEER = f'{STATE}/peer'
MONITOR = '/tmp/peer.monitor'
# The kernel's own word, by netlink: nobody polls.
PLUG = '''#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
modprobe -a virtio_pci virtio_scsi sd_mod
n=0; while [ ! -b /dev/sda ] && [ $n -lt 200 ]; do n=$((n + 1)); sleep 0.05; done
echo bench-ready
exec uevent /bin/plugged
'''
PLUGGED = '''#!/bin/busybox sh
[ "$DEVNAME" != sdb ] || echo "plug-$ACTION"
'''


@once
def guests():
    """Both up, each with a second disk that it may get."""
    a = host()
    a.put(initramfs(a.lab, PLUG, ['virtio_pci', 'virtio_scsi', 'sd_mod'], {'bin/plugged': plugged()}), f'{STATE}/plug.cpio')
    cli = a.perilune.cli
    for name in ('plug', 'more'):
        cli(f'disk create vol:/{name} --size 64M')
    cli(f'vm create plug --volume vol --memory 256M --cpus 1 --disk vol:/plug --kernel {STATE}/vmlinuz --initrd {STATE}/plug.cpio '
        f'--append "console=ttyS0 quiet panic=-1 mitigations=off"')
    a.run(f'mkdir -p {PEER}; truncate -s 64M {PEER}/disk.raw {PEER}/more.raw')
    a.run(f'until_seen bench-ready {STATE}/vm perilune --connect {STATE} vm start plug', timeout=90)
    words = qemu(f'{STATE}/vmlinuz', f'{STATE}/plug.cpio', f'{PEER}/disk.raw', extra=(
        f'-monitor unix:{MONITOR},server,nowait '
        f'-blockdev driver=file,node-name=file,filename={PEER}/more.raw,cache.direct=on,aio=io_uring -blockdev driver=raw,node-name=more,file=file'))
    words = words.replace('-serial stdio', f'-serial file:{PEER}/guest.console')
    a.spawn('exec ' + words)
    a.run(f"timeout 90 sh -c 'until grep -q bench-ready {PEER}/guest.console; do sleep 0.2; done'", timeout=120)
    return a


def plugged():
    """A file here with the guest's program."""
    path = work_dir() / 'plugged'
    path.write_text(PLUGGED)
    path.chmod(0o755)
    return path


def until(text, where, command):
    return float(guests().run(f'until_seen {text} {where} {command}', timeout=90).out)


def ours():
    body = '{"name": "plug", "disk": "vol:/more"}'
    took = until('plug-add', f'{STATE}/vm', f"@{STATE}/api.sock 'POST /v1/vm/attach HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n{body}'")
    until('plug-remove', f'{STATE}/vm', f'perilune --connect {STATE} vm detach plug vol:/more')
    return took


def theirs():
    def say(words):
        return f"@{MONITOR} '{words}\\n'"

    took = until('plug-add', PEER, say('device_add scsi-hd,bus=s.0,drive=more,id=plugged'))
    until('plug-remove', PEER, say('device_del plugged'))
    return took


@row('attach-to-visible', 'ms')
def attach_to_visible():
    guests()
    return alternate(ours, theirs, TURNS)
