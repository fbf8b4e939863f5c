#!/usr/bin/env python3
"""A wide-area link between two network namespaces: two TUN devices joined by a relay that delays,
caps the rate and drops. Stands in for tc netem where the kernel has none.

  line.py NS_A NS_B --rtt 80 --mbit 10 [--loss 0.5] [--queue 100] [--seed 1]

Prints "up" when both devices exist; SIGUSR1 cuts the link, SIGUSR2 heals it, SIGTERM ends it.
"""
import argparse, collections, ctypes, fcntl, os, random, select, signal, struct, subprocess, sys, time

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("ns_a"); ap.add_argument("ns_b")
ap.add_argument("--rtt", type=float, default=80, help="round trip added, ms")
ap.add_argument("--mbit", type=float, default=0, help="rate each way, Mbit/s; 0 = no cap")
ap.add_argument("--loss", type=float, default=0, help="packets dropped each way, percent")
ap.add_argument("--queue", type=float, default=100, help="longest wait before the rate cap, ms; later packets drop")
ap.add_argument("--seed", type=int, help="makes the losses repeatable for the same packets")
ap.add_argument("--mtu", type=int, default=1500)
ap.add_argument("--dev-a", default="wan0"); ap.add_argument("--dev-b", default="wan0")
ap.add_argument("--addr-a", default="10.66.0.1"); ap.add_argument("--addr-b", default="10.66.0.2")
o = ap.parse_args()

libc = ctypes.CDLL(None, use_errno=True)
TUNSETIFF, IFF_TUN_NO_PI, CLONE_NEWNET, PR_SET_TIMERSLACK = 0x400454CA, 0x1001, 0x40000000, 29


def tun(ns, dev, addr, peer):
    home, there = os.open("/proc/self/ns/net", 0), os.open("/run/netns/" + ns, 0)
    if libc.setns(there, CLONE_NEWNET):
        sys.exit(f"cannot enter {ns}: {os.strerror(ctypes.get_errno())}")
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", dev.encode(), IFF_TUN_NO_PI))
    subprocess.check_call(["ip", "addr", "add", addr, "peer", peer, "dev", dev])
    subprocess.check_call(["ip", "link", "set", dev, "mtu", str(o.mtu), "txqueuelen", "1000", "up"])
    libc.setns(home, CLONE_NEWNET); os.close(home); os.close(there)
    return fd


fds = [tun(o.ns_a, o.dev_a, o.addr_a, o.addr_b), tun(o.ns_b, o.dev_b, o.addr_b, o.addr_a)]
flying = [collections.deque(), collections.deque()]  # (when it arrives, packet), oldest first
free = [0.0, 0.0]                                    # when the sender's line is idle again
half, rate, limit = o.rtt / 2000, o.mbit * 1e6 / 8, o.queue / 1000
rnd, now, cut, passed, dropped = random.Random(o.seed), time.monotonic, False, 0, 0


def on_signal(sig, _):
    global cut
    if sig == signal.SIGTERM:
        print(f"passed {passed} dropped {dropped}", flush=True)
        os._exit(0)
    cut = sig == signal.SIGUSR1


for s in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(s, on_signal)
libc.prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
print("up", flush=True)

while True:
    due = min([q[0][0] for q in flying if q] or [now() + 1])
    for fd in select.select(fds, [], [], max(0, due - now()))[0]:
        i = fds.index(fd)
        for _ in range(64):
            try:
                packet = os.read(fd, 65535)
            except BlockingIOError:
                break
            t = now()
            start = max(t, free[i])
            if cut or start - t > limit or (o.loss and rnd.random() * 100 < o.loss):
                dropped += 1
                continue
            free[i] = start + (len(packet) / rate if rate else 0)
            flying[i].append((free[i] + half, packet))
    t = now()
    for i, q in enumerate(flying):
        while q and q[0][0] <= t:
            packet = q.popleft()[1]
            if cut:
                dropped += 1
                continue
            try:
                os.write(fds[1 - i], packet)
                passed += 1
            except OSError:
                dropped += 1
