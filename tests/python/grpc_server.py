"""A gRPC server without a proto: messages are bytes. Usage: grpc_server.py PORT"""

import sys
import time
from concurrent import futures

import grpc


def unary(request, context):
    asked = dict(context.invocation_metadata()).get("x-ask", "nothing")
    context.send_initial_metadata((("x-asked", asked),))
    context.set_trailing_metadata((("count", str(len(request))), ("bin-bin", b"\x00\xff\n")))
    return request


def fail(request, context):
    context.set_trailing_metadata((("why", "asked for"),))
    context.abort(grpc.StatusCode[request.decode()], "not today: 100 % ünïcode\n")


def slow(request, context):
    while context.is_active():  # until the caller's deadline has reached us
        time.sleep(0.01)
    return b""


def down(request, context):
    for n in range(int(request)):
        yield b"%d" % n


def up(requests, context):
    return b",".join(requests)


def both(requests, context):
    for request in requests:
        yield request.upper()


def forever(request, context):
    yield b"first"
    while context.is_active():
        time.sleep(0.01)


handlers = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
    "Down": grpc.unary_stream_rpc_method_handler(down),
    "Forever": grpc.unary_stream_rpc_method_handler(forever),
    "Up": grpc.stream_unary_rpc_method_handler(up),
    "Both": grpc.stream_stream_rpc_method_handler(both),
}
options = [("grpc.max_receive_message_length", 8 << 20), ("grpc.so_reuseport", 0)]
server = grpc.server(futures.ThreadPoolExecutor(16), options=options)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
assert server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}") != 0
server.start()
server.wait_for_termination()
