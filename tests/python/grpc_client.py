"""Asserts what a gRPC client must see through the mesh. Usage: grpc_client.py HOST:PORT AUTHORITY everything|dies"""

import queue
import sys

import grpc

options = [
    ("grpc.default_authority", sys.argv[2]),
    ("grpc.max_receive_message_length", 8 << 20),
    ("grpc.enable_retries", 0),  # every failure is to be seen
]
channel = grpc.insecure_channel(sys.argv[1], options=options)
unary = channel.unary_unary("/test.Echo/Unary")
fail = channel.unary_unary("/test.Echo/Fail")
slow = channel.unary_unary("/test.Echo/Slow")
down = channel.unary_stream("/test.Echo/Down")
forever = channel.unary_stream("/test.Echo/Forever")
up = channel.stream_unary("/test.Echo/Up")
both = channel.stream_stream("/test.Echo/Both")


def fails(call, *codes):
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() in codes, f"{error.code()}: {error.details()}"
        return error
    raise AssertionError(f"a success, and not {codes}")


def metadata():
    answer, call = unary.with_call(b"hello", metadata=(("x-ask", "me"),), timeout=10)
    assert answer == b"hello"
    assert dict(call.initial_metadata())["x-asked"] == "me", call.initial_metadata()
    trailing = dict(call.trailing_metadata())
    assert (trailing["count"], trailing["bin-bin"]) == ("5", b"\x00\xff\n"), trailing


def large_messages():
    big = bytes(range(256)) * (12 << 10)  # 3 MiB
    for _ in range(3):
        assert unary(big, timeout=30) == big
    assert list(both(iter([b"x" * (3 << 20)] * 2), timeout=30)) == [b"X" * (3 << 20)] * 2


def streaming_one_way():
    assert list(down(b"1000", timeout=10)) == [b"%d" % n for n in range(1000)]
    assert list(down(b"0", timeout=10)) == []
    assert up((b"%d" % n for n in range(1000)), timeout=10) == b",".join(b"%d" % n for n in range(1000))
    assert up(iter(()), timeout=10) == b""


def streaming_both_ways():
    """Each message waits for the answer to the one before: nothing may be held back on the way."""
    ask = queue.Queue()
    answers = both(iter(ask.get, None), timeout=30)
    for n in range(100):
        ask.put(b"n%d" % n)
        assert next(answers) == b"N%d" % n
    ask.put(None)
    assert list(answers) == []


def status_codes():
    for code in grpc.StatusCode:
        if code is not grpc.StatusCode.OK:
            error = fails(lambda: fail(code.name.encode(), timeout=10), code)
            assert error.details() == "not today: 100 % ünïcode\n", error.details()
            assert dict(error.trailing_metadata())["why"] == "asked for"
    fails(lambda: channel.unary_unary("/test.Echo/Nothing")(b"", timeout=10), grpc.StatusCode.UNIMPLEMENTED)


def deadlines_and_cancels():
    fails(lambda: slow(b"", timeout=0.3), grpc.StatusCode.DEADLINE_EXCEEDED)
    stream = forever(b"", timeout=30)
    assert next(stream) == b"first"
    stream.cancel()
    assert unary(b"still fine", timeout=10) == b"still fine"


def everything():
    for check in [metadata, large_messages, streaming_one_way, streaming_both_ways, status_codes, deadlines_and_cancels]:
        check()
    print("ok")


def dies():
    """Waits within a stream until the server dies, then asks again."""
    stream = forever(b"", timeout=60)
    assert next(stream) == b"first"
    print("streaming", flush=True)
    # gRPC makes a status of the code that a stream was reset with
    codes = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED
    cut = fails(lambda: next(stream), *codes)
    error = fails(lambda: unary(b"hello", timeout=10), grpc.StatusCode.UNAVAILABLE)
    print(cut.code().name, dict(error.trailing_metadata() or ()).get("fusewire-reason"), flush=True)


{"everything": everything, "dies": dies}[sys.argv[3]]()
