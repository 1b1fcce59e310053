# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy before an iSCSI target that behaves as bad networks do.

    with Proxy(tgt.port, seed=1) as p: ... iscsi://127.0.0.1:{p.port}/... ; p.begin(); ...; p.end()

From begin() to end() bytes are delayed at random, connections are cut, and answers are swallowed: for a while what
the initiator sends goes on and is done, nothing comes back, and then the connection is cut. `watch` is shown what
the initiator sends, as it was read, before it goes on."""
import random, select, socket, threading, time


class Link:
    def __init__(self, proxy, client):
        self.proxy, self.client = proxy, client
        self.server = socket.create_connection(('127.0.0.1', proxy.target_port), timeout=10)
        self.server.settimeout(None)
        self.swallow = False
        for s in (self.client, self.server):
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.threads = [threading.Thread(target=self.pump, args=(a, b, back), daemon=True)
                        for a, b, back in ((client, self.server, False), (self.server, client, True))]
        for t in self.threads:
            t.start()

    def pump(self, source, sink, back):
        rng = random.Random(self.proxy.rng.random())
        try:
            while data := source.recv(1 << 16):
                if self.proxy.bad and rng.random() < 0.05:
                    time.sleep(rng.uniform(0, 0.05))
                if self.proxy.watch and not back:
                    self.proxy.watch(data)
                if not (back and self.swallow):
                    sink.sendall(data)
        except OSError:
            pass
        self.cut()

    def cut(self):
        for s in (self.client, self.server):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.cut()
        for t in self.threads:
            t.join(10)
        self.client.close()
        self.server.close()


class Proxy:
    def __init__(self, target_port, seed=1, every=1.0, watch=None):
        self.target_port, self.rng, self.every, self.watch = target_port, random.Random(seed), every, watch
        self.links, self.lock, self.bad, self.ending = [], threading.Lock(), False, False
        self.cuts = self.swallowed = 0

    def __enter__(self):
        self.listener = socket.create_server(('127.0.0.1', 0))
        self.port = self.listener.getsockname()[1]
        self.threads = [threading.Thread(target=f, daemon=True) for f in (self.accept, self.misbehave)]
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_):
        self.ending = True
        for t in self.threads:
            t.join(10)
        self.listener.close()
        for link in self.links:
            link.close()

    def accept(self):
        while not self.ending:
            if not select.select([self.listener], [], [], 0.1)[0]:
                continue
            client, _ = self.listener.accept()
            try:
                link = Link(self, client)
            except OSError:
                client.close()
                continue
            with self.lock:
                dead = [x for x in self.links if not any(t.is_alive() for t in x.threads)]
                self.links = [x for x in self.links if x not in dead] + [link]
            for x in dead:
                x.close()

    def misbehave(self):
        while not self.ending:
            time.sleep(self.rng.uniform(0.2, 1.8) * self.every)
            with self.lock:
                alive = [x for x in self.links if all(t.is_alive() for t in x.threads)]
            if not self.bad or not alive:
                continue
            link = self.rng.choice(alive)
            if self.rng.random() < 0.6:
                link.swallow = True
                time.sleep(self.rng.uniform(0.02, 0.3))
                self.swallowed += 1
            link.cut()
            self.cuts += 1

    def begin(self):
        self.bad = True

    def end(self):
        self.bad = False
