"""Asserts what a gRPC client must see through the mesh. Usage: grpc_client.py HOST:PORT everything|unavailable"""
import sys

import grpc

options = [("grpc.default_authority", "shop"), ("grpc.max_receive_message_length", 8 << 20)]
channel = grpc.insecure_channel(sys.argv[1], options=options)
unary = channel.unary_unary("/test.Echo/Unary")


def fails(call, code):
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, f"{error.code()}: {error.details()}"
        return error
    raise AssertionError(f"no {code}")


def everything():
    answer, call = unary.with_call(b"hello", timeout=10)
    assert answer == b"hello"
    assert dict(call.trailing_metadata())["count"] == "5", call.trailing_metadata()
    assert dict(call.trailing_metadata())["bin-bin"] == b"\x00\xff"
    big = b"x" * (3 << 20)
    assert unary(big, timeout=30) == big
    stream = channel.unary_stream("/test.Echo/ServerStream")
    assert list(stream(b"100", timeout=10)) == [str(i).encode() for i in range(100)]
    assert list(stream(b"0", timeout=10)) == []
    count = channel.stream_unary("/test.Echo/ClientStream")
    assert count(iter([b"abc"] * 50), timeout=10) == b"150"
    bidi = channel.stream_stream("/test.Echo/Bidi")
    answers = bidi(ping_pong(lambda: answers), timeout=10)
    assert list(answers) == [b"A", b"B", b"C"]
    error = fails(lambda: unary(b"fail", timeout=10), grpc.StatusCode.FAILED_PRECONDITION)
    assert error.details() == "not today: 100 %", error.details()
    assert dict(error.trailing_metadata())["why"] == "asked for"
    fails(lambda: unary(b"slow", timeout=0.3), grpc.StatusCode.DEADLINE_EXCEEDED)
    fails(lambda: channel.unary_unary("/test.Echo/Nothing")(b"", timeout=10), grpc.StatusCode.UNIMPLEMENTED)
    assert unary(b"still fine", timeout=10) == b"still fine"


def ping_pong(_):
    yield from (b"a", b"b", b"c")


def unavailable():
    error = fails(lambda: unary(b"hello", timeout=10), grpc.StatusCode.UNAVAILABLE)
    reason = dict(error.trailing_metadata() or ()).get("fusewire-reason")
    assert reason in ("app-unreachable", "circuit-open"), f"{reason}: {error.details()}"


{"everything": everything, "unavailable": unavailable}[sys.argv[2]]()
print("ok")
