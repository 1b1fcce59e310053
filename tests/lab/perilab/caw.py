# SPDX-License-Identifier: Apache-2.0
"""Tries COMPARE AND WRITE on a LUN through libiscsi: caw.py URL LBA. Prints the SCSI status of a matching one,
of the same again (which must now miscompare), and whether the block holds what the first one wrote. Destroys
the block. A program of its own, so that it can be run inside a lab's network."""
import ctypes, os, sys

BLOCK = 512
lib = ctypes.CDLL('libiscsi.so.7')
for name in ('iscsi_create_context', 'iscsi_parse_full_url', 'iscsi_compareandwrite_sync', 'iscsi_read10_sync',
             'iscsi_testunitready_sync'):
    getattr(lib, name).restype = ctypes.c_void_p
lib.iscsi_get_error.restype = ctypes.c_char_p


class Url(ctypes.Structure):  # the head of struct iscsi_url, libiscsi's iscsi.h
    _fields_ = [('portal', ctypes.c_char * 256), ('target', ctypes.c_char * 256)]


class Task(ctypes.Structure):  # the head of struct scsi_task, libiscsi's scsi-lowlevel.h
    _fields_ = [('status', ctypes.c_int)]


def task(p):
    if not p:
        sys.exit(f'caw: {lib.iscsi_get_error(iscsi).decode()}')
    return ctypes.cast(ctypes.c_void_p(p), ctypes.POINTER(Task)).contents.status


iscsi = ctypes.c_void_p(lib.iscsi_create_context(b'iqn.2026-11.io.perilune:caw'))
url, lba = sys.argv[1].encode(), int(sys.argv[2])
portal, iqn, lun = sys.argv[1].removeprefix('iscsi://').rsplit('/', 2)
lib.iscsi_set_targetname(iscsi, iqn.encode())
lib.iscsi_set_session_type(iscsi, 2)
if lib.iscsi_full_connect_sync(iscsi, portal.encode(), int(lun)):
    sys.exit(f'caw: {lib.iscsi_get_error(iscsi).decode()}')
old, new = bytes(BLOCK), os.urandom(BLOCK)
words = (ctypes.c_uint64(lba), old + new, 2 * BLOCK, BLOCK, 0, 0, 0, 0)
first = task(lib.iscsi_compareandwrite_sync(iscsi, int(lun), *words))
again = task(lib.iscsi_compareandwrite_sync(iscsi, int(lun), *words))
words = (ctypes.c_uint64(lba), new + new, 2 * BLOCK, BLOCK, 0, 0, 0, 0)
holds = task(lib.iscsi_compareandwrite_sync(iscsi, int(lun), *words))
print(first, again, holds)
