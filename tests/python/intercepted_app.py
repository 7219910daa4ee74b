"""An application that knows nothing of a mesh. Ports from the one named: HTTP, echo, a server that speaks first, HTTP on
loopback alone, TLS where a certificate is given (PEM of key and chain in one file), and one that tells who called. It prints
each request that it got, and leaves POST unanswered."""

import http.server
import socket
import socketserver
import ssl
import sys
import threading

name, port = sys.argv[1], int(sys.argv[2])


class Dual:
    address_family = socket.AF_INET6
    daemon_threads = True
    allow_reuse_address = True

    def server_bind(self):
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class Http(Dual, http.server.ThreadingHTTPServer):
    pass


class Loopback(http.server.ThreadingHTTPServer):
    daemon_threads = True


class Tcp(Dual, socketserver.ThreadingTCPServer):
    pass


class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the body waits for 40 ms, as the head is written by itself

    def do_POST(self):
        print(f"asked {self.path}", flush=True)
        threading.Event().wait()

    def do_GET(self):
        print(f"asked {self.path}", flush=True)
        fields = ",".join(k.lower() for k in self.headers if k.lower().startswith(("fusewire-", "x-forwarded-for")))
        body = f"{name} {self.path} from={self.client_address[0].removeprefix('::ffff:')} fields={fields}\n".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.send_header("x-caller-port", str(self.client_address[1]))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)


class Greeter(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(f"220 {name}\r\n".encode())
        self.request.recv(1)


class Who(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(f"from {self.client_address[0].removeprefix('::ffff:')}\r\n".encode())
        self.request.recv(1)


servers = [
    Http(("::", port), Page),
    Tcp(("::", port + 1), Echo),
    Tcp(("::", port + 2), Greeter),
    Loopback(("127.0.0.1", port + 3), Page),
    Tcp(("::", port + 5), Who),
]
if len(sys.argv) > 3:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[3])
    secure = Http(("::", port + 4), Page)
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    servers.append(secure)
for server in servers:
    threading.Thread(target=server.serve_forever, daemon=True).start()
print("listening", flush=True)
threading.Event().wait()
