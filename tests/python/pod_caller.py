"""An application in a pod that calls another for ever: pod_caller.py HOST PATH. A line for each answer: when it was asked, in
seconds; the status, or 0; and what was said. Two of its callers keep their connection, two make a new one each time."""

import http.client
import sys
import threading
import time

host, path = sys.argv[1:]
printing = threading.Lock()


def call(keep):
    connection = None
    while True:
        asked = time.monotonic()
        try:
            connection = connection or http.client.HTTPConnection(host, timeout=15)
            connection.request("GET", path)
            answer = connection.getresponse()
            reason = answer.getheader("fusewire-reason") or ""
            said = f"{answer.status} {reason} {answer.read().decode().strip()}"
        except (OSError, http.client.HTTPException) as error:
            said, connection = f"0 {error!r}", None
        if not keep:
            connection and connection.close()
            connection = None
        with printing:
            print(f"{asked:.3f} {said}", flush=True)
        time.sleep(0.02)


for n in range(4):
    threading.Thread(target=call, args=(n % 2 == 0,)).start()
