#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""slot.pml with spin: INV-HA-1/2 with reservations hold, and each rule taken away is noticed."""
import pathlib, subprocess, sys, tempfile

HERE = pathlib.Path(__file__).resolve().parent


def errors(flags):
    with tempfile.TemporaryDirectory() as work:
        subprocess.run(['spin', '-a', *flags, str(HERE / 'slot.pml')], cwd=work, check=True,
                       stdout=subprocess.DEVNULL, timeout=60)
        subprocess.run(['gcc', '-O1', '-w', '-DSAFETY', '-o', 'pan', 'pan.c'], cwd=work, check=True, timeout=120)
        out = subprocess.run(['./pan', '-m100000'], cwd=work, capture_output=True, text=True, timeout=120).stdout
    if 'errors:' not in out or 'max search depth too small' in out:
        sys.exit(f'spin did not finish:\n{out}')
    return int(out.split('errors:')[1].split()[0])


bad = 0
for flag in (None, 'ONEBLOCK', 'NOPREEMPT', 'LOOKFIRST', 'OLDSESSION'):
    n = errors([f'-D{flag}'] if flag else [])
    ok = (n == 0) == (flag is None)
    bad += not ok
    print(f"{'ok  ' if ok else 'BAD '} {flag or 'as built'}: {n} errors")
sys.exit(1 if bad else 0)
