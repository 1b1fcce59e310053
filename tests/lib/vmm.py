# SPDX-License-Identifier: Apache-2.0
"""Plays the daemon for perilune-vmm: memory, lease, control messages (base/vmctl.h), payload guests.

    with Vmm(payload('mov $0x3f8, %dx; mov $"A", %al; out %al, %dx; hlt')) as vm:
        vm.configure(); vm.start(); vm.expect(b'A')

A payload is 64-bit code without SSE, wrapped as a bzImage: it runs where a kernel would, at
KERNEL_GPA + 0x200, with the first 4 GiB mapped one to one and the zero page in %rsi.
"""
import array, ctypes, fcntl, mmap, os, select, socket, struct, subprocess, tempfile, time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(TOP, os.environ.get('BUILD', 'build'))
KERNEL_GPA, SETUP_GPA = 0x100000, 0x10000
MiB = 1 << 20
LEASE_NONE = (1 << 64) - 1
SEABIOS = '/usr/share/seabios/bios-256k.bin'

HELLO, CONFIG, START, PAUSE, RESUME, POWER_BUTTON, RESET, KILL, CONSOLE_INPUT, GET_STATUS = range(1, 11)
LOG_START, LOG_SYNC, LOG_STOP, SAVE, LOAD, GET_CPU, SET_CPU = range(0x40, 0x47)
CPU, SET_MACHINE, CAN_SAVE = 0x50, 0x78, 0x79
READY, STATUS, EVENT, CONSOLE_OUTPUT, REPLY = range(32, 37)
EV_POWERED_OFF, EV_RESET, EV_PANICKED, EV_CRASHED, EV_FROZEN, EV_DEVICE, EV_WATCHDOG = range(1, 8)
NEW, CONFIGURED, RUNNING, PAUSED, FROZEN, ST_RESET, POWERED_OFF, CRASHED = range(1, 9)
SCSI, BLK, RNG, AGENT = 1, 2, 3, 6


def boot_ns():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def payload(asm):
    """Assembles; the result is the protected-mode part of a bzImage (0x200 bytes, then the code)."""
    with tempfile.TemporaryDirectory() as d:
        with open(d + '/p.S', 'w') as f:
            f.write('.code64\n.globl _start\n_start:\n' + asm + '\n')
        subprocess.run(['gcc', '-c', '-o', d + '/p.o', d + '/p.S'], check=True)
        subprocess.run(['ld', '--no-warn-rwx-segments', '-Ttext', hex(KERNEL_GPA + 0x200), '-e', '_start', '--omagic', '-o', d + '/p',
                        d + '/p.o'], check=True)
        subprocess.run(['objcopy', '-O', 'binary', d + '/p', d + '/p.bin'], check=True)
        with open(d + '/p.bin', 'rb') as f:
            return bytes(0x200) + f.read()


def setup_sectors(init_size=64 * 1024):
    """Boot sector and one setup sector: the least a loader needs."""
    h = bytearray(1024)
    h[0x1f1] = 1
    h[0x1fe:0x200] = b'\x55\xaa'
    h[0x201] = 0x6a
    h[0x202:0x206] = b'HdrS'
    h[0x206:0x208] = struct.pack('<H', 0x20f)
    h[0x211] = 1                                        # LOADED_HIGH
    h[0x22c:0x230] = struct.pack('<I', 0x7fffffff)      # initrd_addr_max
    h[0x236:0x238] = struct.pack('<H', 1)               # XLF_KERNEL_64
    h[0x238:0x23c] = struct.pack('<I', 2047)            # cmdline_size
    h[0x258:0x260] = struct.pack('<Q', KERNEL_GPA)
    h[0x260:0x264] = struct.pack('<I', init_size)
    return bytes(h)


class Gone(Exception):
    pass


class Vmm:
    def __init__(self, kernel=None, memory=2 * MiB, cpus=1, devices=(), initrd=b'', cmdline='', lease=LEASE_NONE,
                 args=(), binary=None, kernel_gpa=KERNEL_GPA, setup=None, firmware=None):
        self.kernel, self.memory, self.cpus, self.devices = kernel, memory, cpus, list(devices)
        self.initrd, self.cmdline, self.kernel_gpa = initrd, cmdline, kernel_gpa
        self.firmware = firmware    # bytes; cmdline is its boot order then
        self.setup = setup or setup_sectors(max(65536, len(kernel or b'')))
        self.dir = tempfile.TemporaryDirectory(prefix='vmm-')
        self.path = self.dir.name + '/vmm.sock'
        self.memfd = os.memfd_create('guest', os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.memfd, memory)
        fcntl.fcntl(self.memfd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self.mem = mmap.mmap(self.memfd, memory)
        lease_fd = os.memfd_create('lease', os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(lease_fd, 4096)
        self.lease = mmap.mmap(lease_fd, 4096)
        self.set_lease(lease)
        lease_ro = os.open(f'/proc/self/fd/{lease_fd}', os.O_RDONLY | os.O_CLOEXEC)
        os.close(lease_fd)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(self.path)
        listener.listen(16)
        kvm = os.open('/dev/kvm', os.O_RDWR | os.O_CLOEXEC)
        self.log = open(self.dir.name + '/log', 'w+b')
        fds = (kvm, self.memfd, lease_ro, listener.fileno())
        cmd = [binary or f'{BUILD}/bin/perilune-vmm', '--kvm', str(kvm), '--memory', str(self.memfd), '--lease',
               str(lease_ro), '--listen', str(listener.fileno()), '--id', 'test', '--verbose', *args]
        self.proc = subprocess.Popen(cmd, pass_fds=fds, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                     stderr=self.log)
        os.close(kvm)
        os.close(lease_ro)
        listener.close()
        self.console, self.events, self.tag, self.buf, self.sock = b'', [], 0, b'', None

    def __enter__(self):
        return self

    def __exit__(self, kind, value, tb):
        if kind and not self.log.closed:
            print('console:', self.console[-500:])
            print('events:', self.events)
            print('exit:', self.proc.poll())
            self.log.seek(0)
            print(self.log.read().decode(errors='replace'))
        self.close()

    def close(self):
        if self.log.closed:
            return
        if self.sock:
            self.sock.close()
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait()
        self.mem.close()
        self.lease.close()
        os.close(self.memfd)
        self.log.close()
        self.dir.cleanup()

    def set_lease(self, end_ns):
        # One aligned store of 8 bytes: never half an end.
        ctypes.c_uint64.from_buffer(self.lease).value = end_ns

    # --- messages

    def connect(self, kind=1, device=0, features=0):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        s.connect(self.path)
        s.sendall(struct.pack('<IHHII', 0x314d5650, HELLO, 0, 24, 0) + struct.pack('<IIIIQ', 1, kind, device, 0, features))
        if kind != 1:
            return s
        self.sock, self.buf = s, b''
        self.ready = self.await_type(READY, 10)
        return self.ready

    def send(self, mtype, body=b'', fd=None):
        self.tag += 1
        head = struct.pack('<IHHII', 0x314d5650, mtype, 0, len(body), self.tag)
        if fd is None:
            self.sock.sendall(head + body)
        else:
            self.sock.sendmsg([head + body], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [fd]))])
        return self.tag

    def receive(self, timeout):
        """The next message as (type, tag, body), or None; console and events are collected."""
        end = time.monotonic() + timeout
        while True:
            if len(self.buf) >= 16:
                magic, mtype, flags, size, tag = struct.unpack('<IHHII', self.buf[:16])
                assert magic == 0x314d5650 and flags == 0 and size <= 16384
                if len(self.buf) >= 16 + size:
                    body, self.buf = self.buf[16:16 + size], self.buf[16 + size:]
                    if mtype == CONSOLE_OUTPUT:
                        self.console += body
                    if mtype == EVENT:
                        kind, code, n = struct.unpack('<III', body[:12])
                        self.events.append((kind, code, body[12:].decode()))
                    return mtype, tag, body
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.sock], [], [], left)[0]:
                return None
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                data = b''
            if not data:
                raise Gone('the VMM closed the connection')
            self.buf += data

    def await_type(self, mtype, timeout, tag=None):
        end = time.monotonic() + timeout
        while True:
            m = self.receive(max(0, end - time.monotonic()))
            assert m, f'no message of type {mtype} within {timeout} s'
            if m[0] == mtype and tag in (None, m[1]):
                return self.parse_status(m[2]) if mtype in (READY, STATUS) else m

    def parse_status(self, b):
        keys = ('version', 'state', 'features', 'pid', 'boots', 'flags', 'text_bytes', 'ready', 'connected', 'lost',
                'start_ns', 'first_output_ns')
        s = dict(zip(keys, struct.unpack('<IIQIIIIQQQQQ', b[:72])))
        s['text'] = b[72:].decode()
        return s

    def call(self, mtype, body=b'', timeout=10, fd=None):
        """Sends a request; 0 or the errno of its REPLY; the words are in self.why, its value in self.value."""
        return self.heard(self.await_type(REPLY, timeout, self.send(mtype, body, fd)))

    def heard(self, reply):
        err, self.value, n = struct.unpack('<III', reply[2][:12])
        self.why = reply[2][12:].decode()
        return err

    def status(self):
        return self.await_type(STATUS, 10, self.send(GET_STATUS))

    def wait_event(self, kind, timeout=20):
        end = time.monotonic() + timeout
        while not any(e[0] == kind for e in self.events):
            assert self.receive(max(0.01, end - time.monotonic())) or time.monotonic() < end, \
                f'no event {kind}; events {self.events}, console {self.console!r}'
        event = next(e for e in self.events if e[0] == kind)
        self.events.remove(event)
        return event

    def expect(self, text, timeout=20):
        end = time.monotonic() + timeout
        while text not in self.console:
            if not self.receive(max(0.01, end - time.monotonic())):
                assert time.monotonic() < end, f'no {text!r} on the console: {self.console[-2000:]!r}'
        self.console = self.console[self.console.index(text) + len(text):]

    # --- a guest's life

    def load(self):
        """What the daemon does before each START."""
        if self.firmware:
            self.mem[MiB - len(self.firmware):MiB] = self.firmware
            return
        self.mem[SETUP_GPA:SETUP_GPA + len(self.setup)] = self.setup
        self.mem[self.kernel_gpa:self.kernel_gpa + len(self.kernel)] = self.kernel
        self.initrd_gpa = 0
        if self.initrd:
            top = min(self.memory, 0x7fffffff + 1, 0xc0000000)
            self.initrd_gpa = (top - len(self.initrd)) & ~4095
            self.mem[self.initrd_gpa:self.initrd_gpa + len(self.initrd)] = self.initrd

    def config_body(self):
        cl = self.cmdline.encode()
        if self.firmware:
            n = len(self.firmware)
            return (struct.pack('<IIQQQQQQQII', self.cpus, 2, self.memory, MiB - n, n, 0, 0, 0, 0, len(self.devices), len(cl)) +
                    b''.join(struct.pack('<HHHH', *d, 0) for d in self.devices) + cl)
        if self.kernel is None:                             # to be loaded
            return (struct.pack('<IIQQQQQQQII', self.cpus, 0, self.memory, 0, 0, 0, 0, 0, 0, len(self.devices), 0) +
                    b''.join(struct.pack('<HHHH', *d, 0) for d in self.devices))
        return (struct.pack('<IIQQQQQQQII', self.cpus, 1, self.memory, SETUP_GPA, len(self.setup), self.kernel_gpa,
                            len(self.kernel), self.initrd_gpa, len(self.initrd), len(self.devices), len(cl)) +
                b''.join(struct.pack('<HHHH', *d, 0) for d in self.devices) + cl)

    def configure(self):
        if not self.sock:
            self.connect()
        if self.kernel is not None or self.firmware:
            self.load()
        err = self.call(CONFIG, self.config_body())
        assert err == 0, f'CONFIG: errno {err}'

    def set_machine(self, nested=False, watchdog=0):
        return self.call(SET_MACHINE, struct.pack('<II', nested, watchdog))

    def start(self):
        err = self.call(START)
        assert err == 0, f'START: errno {err}'

    # --- migration

    def save(self, timeout=20):
        """The state of a paused VM, as bytes."""
        fd = os.memfd_create('state', os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, 16 * MiB)
            err = self.call(SAVE, fd=fd, timeout=timeout)
            assert err == 0, f'SAVE: errno {err}: {self.why}'
            return os.pread(fd, self.value, 0)
        finally:
            os.close(fd)

    def load_state(self, state, elapsed_ns=0):
        """0 or an errno; the words are in self.why."""
        fd = os.memfd_create('state', os.MFD_CLOEXEC)
        try:
            os.pwrite(fd, state, 0)
            return self.call(LOAD, struct.pack('<QQ', len(state), elapsed_ns), fd=fd)
        finally:
            os.close(fd)

    def log_start(self):
        fd = os.memfd_create('log', os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, self.memory // 4096 // 8)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self.log_map = mmap.mmap(fd, self.memory // 4096 // 8)
        err = self.call(LOG_START, fd=fd)
        os.close(fd)
        assert err == 0, f'LOG_START: errno {err}: {self.why}'

    def dirty_pages(self):
        """Takes the log: the numbers of the pages in it. (Nobody else writes it between SYNC and here, in a test.)"""
        assert self.call(LOG_SYNC) == 0, self.why
        bits = bytes(self.log_map)
        self.log_map[:] = bytes(len(bits))
        return [8 * i + b for i, byte in enumerate(bits) if byte for b in range(8) if byte >> b & 1]

    def cpu_table(self):
        """{(function, index): (eax, ebx, ecx, edx)}, {msr: value}"""
        body = self.await_type(CPU, 10, self.send(GET_CPU))[2]
        leaves, msrs = struct.unpack('<II', body[:8])
        rows = [struct.unpack('<6I', body[8 + 24 * i:32 + 24 * i]) for i in range(leaves)]
        at = 8 + 24 * leaves
        return ({r[:2]: r[2:] for r in rows},
                {m: v for m, _, v in (struct.unpack('<IIQ', body[at + 16 * i:at + 16 * i + 16]) for i in range(msrs))})

    def set_cpu(self, leaves, msrs=()):
        msrs = dict(msrs)
        body = struct.pack('<II', len(leaves), len(msrs))
        body += b''.join(struct.pack('<6I', *key, *regs) for key, regs in leaves.items())
        return self.call(SET_CPU, body + b''.join(struct.pack('<IIQ', m, 0, v) for m, v in msrs.items()))

    def run(self):
        self.configure()
        self.start()
        return self
