"""Connections that come and go: each asks once, and is closed. Usage: churn.py HOST PORT http|redis RATE COUNT

RATE: connections a second, 0 for as fast as they go. Prints as JSON how many were answered, what failed, and how long it took."""

import json
import socket
import sys
import threading
import time

host, port, protocol, rate, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
ask, wanted = {
    "http": (f"GET /index.html HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode(), b"HTTP/1.1 200"),
    "redis": (b"PING\r\n", b"+PONG\r\n"),
}[protocol]
THREADS = 32
began = time.monotonic()
answered, failed, took = [0] * THREADS, {}, []


def once():
    with socket.create_connection((host, port), 20) as connection:
        connection.sendall(ask)
        answer = connection.recv(65536)
        while protocol == "http" and (more := connection.recv(65536)):
            answer += more
    if not answer.startswith(wanted):
        reason = [line for line in answer.split(b"\r\n") if line.startswith(b"fusewire-")]
        raise ValueError(f"answered {answer[:20]!r} {reason}")


def worker(me):
    for n in range(me, count, THREADS):
        if rate:
            time.sleep(max(0.0, began + n / rate - time.monotonic()))
        start = time.monotonic()
        try:
            once()
            answered[me] += 1
        except (OSError, ValueError) as error:
            failed[repr(error)] = failed.get(repr(error), 0) + 1
        took.append(time.monotonic() - start)


threads = [threading.Thread(target=worker, args=(me,)) for me in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
took.sort()
seconds = time.monotonic() - began
print(json.dumps({
    "answered": sum(answered),
    "failed": failed,
    "seconds": round(seconds, 1),
    "rate": round(count / seconds),
    "median_ms": round(took[len(took) // 2] * 1000, 2),
    "p99_ms": round(took[len(took) * 99 // 100] * 1000, 2),
}))
