"""A web application in a pod: on port 8080 it says its pod's name. `/ready` and `/live` are well until there is a file
/tmp/unready or /tmp/sick. On SIGTERM it takes no new connection, answers what it has begun, and ends."""

import http.server
import os
import signal
import threading
import time

under_way, changed = 0, threading.Condition()


def count(by):
    global under_way
    with changed:
        under_way += by
        changed.notify_all()


class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        count(1)
        try:
            trouble = {"/ready": "/tmp/unready", "/live": "/tmp/sick"}.get(self.path)
            if trouble is None:
                time.sleep(0.03)  # so that some are always under way
            body = f"the-secret-answer of {os.environ['POD']}\n".encode()
            self.send_response(500 if trouble and os.path.exists(trouble) else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()
        finally:
            count(-1)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Page)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
server.server_close()
with changed:
    changed.wait_for(lambda: under_way == 0, 20)
