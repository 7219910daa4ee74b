"""A gRPC server without stubs: bytes in, bytes out. Usage: grpc_server.py PORT"""
import sys
import time
from concurrent import futures

import grpc


def unary(request, context):
    if request == b"fail":
        context.set_trailing_metadata((("why", "asked for"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today: 100 %")
    if request == b"slow":
        time.sleep(5)
    context.set_trailing_metadata((("count", str(len(request))), ("bin-bin", b"\x00\xff")))
    return request


def server_stream(request, context):
    for i in range(int(request)):
        yield str(i).encode()


def client_stream(requests, context):
    return str(sum(len(r) for r in requests)).encode()


def bidi(requests, context):
    for request in requests:
        yield request.upper()


handlers = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
    "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
}
options = [("grpc.max_receive_message_length", 8 << 20)]
server = grpc.server(futures.ThreadPoolExecutor(8), options=options)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
server.start()
server.wait_for_termination()
