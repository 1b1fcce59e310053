# SPDX-License-Identifier: Apache-2.0
"""A small vhost-user back-end for tests: split rings, in-flight area, a disk in a bytearray."""
import array, mmap, os, select, socket, struct, threading

GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 1, 2, 3, 5
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE = 8, 9, 10, 11
SET_VRING_KICK, SET_VRING_CALL, GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES = 12, 13, 15, 16
GET_QUEUE_NUM, SET_VRING_ENABLE, GET_CONFIG, GET_INFLIGHT_FD, SET_INFLIGHT_FD = 17, 18, 24, 31, 32
F_VERSION_1, F_PROTOCOL = 1 << 32, 1 << 30
P_MQ, P_REPLY_ACK, P_CONFIG, P_INFLIGHT = 1 << 0, 1 << 3, 1 << 9, 1 << 12


class Ring:
    def __init__(self):
        self.num = self.next = 0
        self.addr = None
        self.kick = self.call = -1
        self.enabled = False


class Backend(threading.Thread):
    """Serves on `sock` until it closes. `hold`: requests are taken and not answered; `never`:
    a message that gets no answer."""

    def __init__(self, sock, disk=None, features=0, hold=False, protocol=None, never=None):
        super().__init__(daemon=True)
        self.sock, self.disk, self.hold = sock, disk if disk is not None else bytearray(1 << 20), hold
        self.features = F_VERSION_1 | F_PROTOCOL | features
        self.protocol = P_MQ | P_REPLY_ACK | P_CONFIG | P_INFLIGHT if protocol is None else protocol
        self.rings, self.regions, self.messages, self.served, self.taken = {}, [], [], 0, 0
        self.inflight_given = False
        self.error, self.never = None, never
        self.started = threading.Event()
        self.took = threading.Event()
        self.start()

    # --- memory

    def at(self, addr, n):
        for gpa, size, user, base, m in self.regions:
            if user <= addr and addr + n <= user + size:
                return m, base + addr - user
        raise ValueError(f'address {addr:#x}')

    def load(self, addr, n):
        m, o = self.at(addr, n)
        return m[o:o + n]

    def store(self, addr, data):
        m, o = self.at(addr, len(data))
        m[o:o + len(data)] = data

    # --- rings

    def serve(self, r):
        avail = struct.unpack('<H', self.load(r.addr[2] + 2, 2))[0]
        while r.next != avail:
            head = struct.unpack('<H', self.load(r.addr[2] + 4 + 2 * (r.next % r.num), 2))[0]
            r.next = (r.next + 1) & 0xffff
            self.taken += 1
            self.took.set()
            if self.hold:
                continue
            written = self.request(r, head)
            used = struct.unpack('<H', self.load(r.addr[1] + 2, 2))[0]
            self.store(r.addr[1] + 4 + 8 * (used % r.num), struct.pack('<II', head, written))
            self.store(r.addr[1] + 2, struct.pack('<H', (used + 1) & 0xffff))
            self.served += 1
            os.eventfd_write(r.call, 1)

    def request(self, r, head):
        """virtio-blk: read (0) and write (1)."""
        chain, i = [], head
        while True:
            addr, n, flags, nxt = struct.unpack('<QIHH', self.load(r.addr[0] + 16 * i, 16))
            chain.append((addr, n, flags))
            if not flags & 1:
                break
            i = nxt
        kind, _, sector = struct.unpack('<IIQ', self.load(chain[0][0], 16))
        at, written = sector * 512, 1
        for addr, n, flags in chain[1:-1]:
            if kind == 0:
                self.store(addr, bytes(self.disk[at:at + n]))
                written += n
            else:
                self.disk[at:at + n] = self.load(addr, n)
            at += n
        self.store(chain[-1][0], b'\0')
        return written

    # --- messages

    def reply(self, request, payload, fd=None):
        anc = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [fd]))] if fd is not None else []
        self.sock.sendmsg([struct.pack('<III', request, 5, len(payload)) + payload], anc)

    def receive(self):
        fds = array.array('i')
        data, anc, _, _ = self.sock.recvmsg(12, socket.CMSG_SPACE(32))
        for level, kind, body in anc:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(body[:len(body) - len(body) % fds.itemsize])
        if not data:
            return None
        while len(data) < 12:
            data += self.sock.recv(12 - len(data))
        request, flags, size = struct.unpack('<III', data)
        body = b''
        while len(body) < size:
            body += self.sock.recv(size - len(body))
        return request, flags, body, list(fds)

    def handle(self, request, flags, body, fds):
        u64 = struct.unpack('<Q', body[:8])[0] if len(body) >= 8 else 0
        index, num = u64 & 0xff, u64 >> 32
        ring = self.rings.setdefault(index, Ring()) if SET_VRING_NUM <= request <= SET_VRING_CALL or \
            request == SET_VRING_ENABLE else None
        if request == GET_FEATURES:
            self.reply(request, struct.pack('<Q', self.features))
        elif request == GET_PROTOCOL_FEATURES:
            self.reply(request, struct.pack('<Q', self.protocol))
        elif request == GET_QUEUE_NUM:
            self.reply(request, struct.pack('<Q', 18))
        elif request == GET_CONFIG:
            config = struct.pack('<Q', len(self.disk) // 512) + bytes(248)
            n = struct.unpack('<I', body[4:8])[0]
            self.reply(request, body[:12] + config[:n])
        elif request == SET_MEM_TABLE:
            for i, fd in enumerate(fds):
                gpa, size, user, offset = struct.unpack('<QQQQ', body[8 + 32 * i:40 + 32 * i])
                self.regions.append((gpa, size, user, 0, mmap.mmap(fd, size, offset=offset)))
        elif request == GET_INFLIGHT_FD:
            fd = os.memfd_create('inflight')
            os.ftruncate(fd, 65536)
            self.reply(request, struct.pack('<QQHHI', 65536, 0, *struct.unpack('<HH', body[16:20]), 0), fd)
            os.close(fd)
            self.inflight_given = True
        elif request == SET_VRING_NUM:
            ring.num = num
        elif request == SET_VRING_ADDR:
            _, _, desc, used, avail, _ = struct.unpack('<IIQQQQ', body)
            ring.addr = (desc, used, avail)
        elif request == SET_VRING_BASE:
            ring.next = num
            ring.base_given = num
        elif request == SET_VRING_KICK:
            ring.kick = fds.pop()
        elif request == SET_VRING_CALL:
            ring.call = fds.pop()
        elif request == SET_VRING_ENABLE:
            ring.enabled = bool(num)
            self.started.set()
        elif request == GET_VRING_BASE:
            self.reply(request, struct.pack('<II', index, ring.next))
            ring.enabled = False
        if flags & 8:
            self.reply(request, struct.pack('<Q', 0))
        for fd in fds:
            os.close(fd)

    def run(self):
        try:
            while True:
                kicks = {r.kick: r for r in self.rings.values() if r.enabled and r.kick >= 0}
                ready = select.select([self.sock, *kicks], [], [])[0]
                for fd in ready:
                    if fd is self.sock:
                        msg = self.receive()
                        if not msg:
                            return
                        self.messages.append(msg[0])
                        if msg[0] != self.never:
                            self.handle(*msg)
                    elif kicks[fd].enabled:
                        os.eventfd_read(fd)
                        self.serve(kicks[fd])
        except OSError:
            return
        except Exception as e:
            self.error = e
            raise

    def die(self):
        """As a daemon that was killed: its sockets close, nothing more is answered."""
        self.sock.shutdown(socket.SHUT_RDWR)
        self.join(5)
        self.sock.close()


class Relay(threading.Thread):
    """Joins two vhost-user sockets, message by message; ends, closing both, when either does."""

    def __init__(self, a, b):
        super().__init__(daemon=True)
        self.pair = a, b
        self.start()

    def pass_on(self, src, dst):
        head, anc, _, _ = src.recvmsg(12, socket.CMSG_SPACE(32))
        if not head:
            return False
        while len(head) < 12:
            head += src.recv(12 - len(head))
        size = struct.unpack('<III', head)[2]
        body = b''
        while len(body) < size:
            body += src.recv(size - len(body))
        dst.sendmsg([head + body], [(a, b, c) for a, b, c in anc])
        for _, _, data in anc:
            fds = array.array('i')
            fds.frombytes(data[:len(data) - len(data) % fds.itemsize])
            for fd in fds:
                os.close(fd)
        return True

    def run(self):
        try:
            while True:
                for s in select.select(self.pair, [], [])[0]:
                    if not self.pass_on(s, self.pair[s is self.pair[0]]):
                        return
        except OSError:
            pass
        finally:
            for s in self.pair:
                s.close()
