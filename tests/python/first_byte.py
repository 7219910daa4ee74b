"""How long new connections take to the first byte of an answer. Usage: first_byte.py HOST PORT PROTOCOL COUNT

Protocols: http1, http2, tls (HTTP/1 within it), redis, postgres, greeting (the server speaks first). Prints milliseconds, a
line for each."""

import socket
import ssl
import sys
import time

host, port, protocol, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
authority = f"{host}:{port}".encode()
get = b"GET / HTTP/1.1\r\nHost: " + authority + b"\r\n\r\n"
# RFC 9113: the preface, SETTINGS, and HEADERS with END_STREAM and END_HEADERS; RFC 7541: indexed fields and one literal
fields = b"\x82\x84\x86\x41" + bytes([len(authority)]) + authority
http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
http2 += len(fields).to_bytes(3, "big") + b"\1\5\0\0\0\1" + fields
tls = ssl.create_default_context()
tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE


def exactly(connection, size):
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        assert more, "the connection has ended"
        data += more
    return data


def answer(connection):
    if protocol == "http2":
        connection.sendall(http2)
        while True:  # to the HEADERS of the answer: whoever takes the connection sends SETTINGS at once
            head = exactly(connection, 9)
            if head[3] == 1:
                return
            exactly(connection, int.from_bytes(head[:3], "big"))
    ask = {"http1": get, "tls": get, "redis": b"PING\r\n", "postgres": b"\0\0\0\x08\x04\xd2\x16\x2f", "greeting": b""}
    connection.sendall(ask[protocol])
    exactly(connection, 1)


for _ in range(count):
    start = time.perf_counter()
    with socket.create_connection((host, port), 20) as connection:
        answer(tls.wrap_socket(connection) if protocol == "tls" else connection)
        print((time.perf_counter() - start) * 1000)
