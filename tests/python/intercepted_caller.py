"""Calls a URL over and over, as an application that knows nothing of a mesh. Usage: intercepted_caller.py URL THREADS

Connections are kept. A line for each call: the first word of its answer, or "failed" and why."""

import http.client
import sys
import threading
import time
import urllib.parse

url = urllib.parse.urlsplit(sys.argv[1])
out = threading.Lock()


def once(connection):
    connection.request("GET", url.path)
    answer = connection.getresponse()
    body = answer.read().decode()
    if answer.status == 200:
        return body.split()[0]
    return f"failed {answer.status} {answer.headers.get('fusewire-reason')}"


def over_and_over():
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=25)
    while True:
        try:
            said = once(connection)
        except Exception as error:
            connection.close()  # and a new one with the next call
            said = f"failed {type(error).__name__}"
        with out:
            print(said, flush=True)
        time.sleep(0.03)


for _ in range(int(sys.argv[2]) - 1):
    threading.Thread(target=over_and_over, daemon=True).start()
over_and_over()
