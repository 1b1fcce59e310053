# SPDX-License-Identifier: Apache-2.0
"""How long a guest stood still, as seen from outside of it: it counts into the first block of a disk, past all
caches, and the bare machine looks at the LUN's own file. The clock is the observer's alone."""
import os, struct, threading, time

MAGIC = 0x6e6f636165627770
LOOK_S = 0.001

# perl, since a minimal Debian has it. Memory for O_DIRECT must be aligned, so it writes from inside a longer string.
PROGRAM = r'''
my ($disk, $told) = @ARGV;
sysopen(my $f, $disk, 1 | 040000) or die "beacon: $disk: $!\n";
my $b = "\0" x 8192;
substr($b, 0, 1) = "\1";
my $at = -unpack("Q", pack("P", $b)) & 4095;
my ($n, $go) = (0, 1);
$SIG{TERM} = sub { $go = 0 };
while ($go) {
	substr($b, $at, 16) = pack("QQ", 0x6e6f636165627770, ++$n);
	sysseek($f, 0, 0);
	my $wrote = syswrite($f, $b, 4096, $at);
	defined $wrote && $wrote == 4096 or die "beacon: write $n: $!\n";
	select(undef, undef, undef, 0.002);
}
open(my $t, ">", $told) or die "beacon: $told: $!\n";
print $t "$n\n";
'''


def start(console, disk):
    """In the guest, in the background; what it must not do is end."""
    console.put('/root/beacon', PROGRAM)
    console.run(f'perl /root/beacon {disk} /run/beacon.told & echo $! > /run/beacon.pid')


def stop(console):
    """The number whose write the guest was told of last."""
    console.run('kill $(cat /run/beacon.pid) && wait $(cat /run/beacon.pid)')
    return int(console.run('cat /run/beacon.told')[1].split()[-1])


def number(block):
    magic, n = struct.unpack_from('<QQ', block)
    return n if magic == MAGIC else 0


class Watch:
    """Looks at the LUN's file from now until stop(): `longest` time in seconds without a new number, `seen`
    numbers, `last` of them; `backwards` is what was seen after a higher one: an older write that came late."""

    def __init__(self, path, address):
        self.path, self.address = path, address
        self.longest, self.seen, self.last, self.backwards = 0.0, 0, 0, []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self):
        fd = os.open(self.path, os.O_RDONLY)
        changed = None
        while not self._end.wait(LOOK_S):
            n = number(os.pread(fd, 16, self.address))
            if n == self.last:
                continue
            if n < self.last:
                self.backwards.append((self.last, n))
            now = time.monotonic()
            if changed:
                self.longest = max(self.longest, now - changed)
            changed, self.last, self.seen = now, n, self.seen + 1
        if changed:
            self.longest = max(self.longest, time.monotonic() - changed)
        os.close(fd)

    def go_on(self, count, timeout):
        """Until `count` more numbers were seen; False when they don't come."""
        want, end = self.seen + count, time.monotonic() + timeout
        while self.seen < want and time.monotonic() < end:
            time.sleep(0.01)
        return self.seen >= want

    def stop(self):
        self._end.set()
        self._thread.join()
        return self
