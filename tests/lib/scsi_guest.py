# SPDX-License-Identifier: Apache-2.0
"""Commands that the disk shell (guest/disk_shell.c) sends to its LUN as they are: reservations, INQUIRY."""

GOOD, CHECK, CONFLICT = 0, 2, 0x18
REGISTER, RESERVE, RELEASE, PREEMPT, IGNORE = 0, 1, 2, 4, 6
WE_REGISTRANTS_ONLY = 5


def send(shell, cdb, data=b'', read=0, news=8, length=0):
    """(status, key, asc, ascq, bytes); unit attentions are news, and the command is sent again. `length`: of the data,
    with zeroes behind what is given."""
    line = f'X {cdb} {data.hex()} {length or len(data)}' if data else f'x {cdb} {read}'
    for _ in range(news + 1):
        words = shell.run(line, 'x ').split()[1:]
        status, key, asc, ascq = map(int, words[:4])
        if (status, key) != (CHECK, 6):
            break
    return status, key, asc, ascq, bytes.fromhex(words[4]) if len(words) > 4 else b''


def reserve_out(shell, action, key, other=0, kind=WE_REGISTRANTS_ONLY):
    """PERSISTENT RESERVE OUT; the status."""
    data = key.to_bytes(8, 'big') + other.to_bytes(8, 'big') + bytes(8)
    return send(shell, f'5f{action:02x}{kind if action not in (REGISTER, IGNORE) else 0:02x}0000000000{len(data):02x}00', data)[0]


def register(shell, key):
    return reserve_out(shell, IGNORE, 0, key)


def keys(shell):
    status, *_, data = send(shell, '5e000000000000004000', read=64)
    assert status == GOOD
    return [int.from_bytes(data[8 + i:16 + i], 'big') for i in range(0, int.from_bytes(data[4:8], 'big'), 8)]


def write(shell, block=0):
    """WRITE of one block of 512 bytes; the status."""
    return send(shell, f'2a00{block:08x}00000100', b'w' * 16, length=512)[0]
