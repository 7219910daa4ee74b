"""Asserts what a client of the registry must see. Usage: registry_client.py HOST:PORT FOLDER

FOLDER holds cert.pem, key.pem and bundle.pem of the identity `jobs`; the stubs are made from proto/ and on PYTHONPATH.
"""

import pathlib
import queue
import sys
import threading

import grpc
from fusewire.v1 import registry_pb2 as wire
from fusewire.v1 import registry_pb2_grpc

folder = pathlib.Path(sys.argv[2])
credentials = grpc.ssl_channel_credentials(
    root_certificates=(folder / "bundle.pem").read_bytes(),
    private_key=(folder / "key.pem").read_bytes(),
    certificate_chain=(folder / "cert.pem").read_bytes(),
)
# a control plane proves this name, at whatever address it is reached
options = [("grpc.ssl_target_name_override", "control.fusewire.local"), ("grpc.enable_retries", 0)]


def connect():
    return registry_pb2_grpc.RegistryStub(grpc.secure_channel(sys.argv[1], credentials, options=options))


registry = connect()


def job(number, **more):
    port = wire.Port(port=9000 + number, service="jobs")
    more = {"weight": 2, "zone": "a", "metadata": {"track": "stable"}, "ttl_ms": 1000, **more}
    return wire.Registration(id=f"job-{number}", host="127.0.0.1", ports=[port], **more)


def register(registration):
    return registry.Register(wire.RegisterRequest(registration=registration), timeout=10)


def refused(registration, code, *words):
    try:
        register(registration)
    except grpc.RpcError as error:
        assert error.code() == code, error
        for word in words:
            assert word in error.details(), error.details()
        return
    raise AssertionError(f"taken: {registration}")


class Watch:
    """What a watcher holds, message by message."""

    def __init__(self, service):
        self.held = {}
        self.call = registry.Watch(wire.WatchRequest(service=service), timeout=60)
        self.messages = []

    def next(self):
        message = next(self.call)
        assert not message.more, "a small set goes in one message"
        if message.whole:
            self.held.clear()
        for found in message.upserted:
            self.held[found.instance.id] = found
        for gone in message.removed:
            del self.held[gone]
        self.messages.append(message)
        return message

    def until(self, condition):
        while not condition(self.held):
            self.next()


class Beats:
    """A heartbeat stream of its own."""

    def __init__(self, id):
        self.queue = queue.Queue()
        self.stop = threading.Event()
        self.answers = registry.Heartbeat(iter(self.queue.get, None))
        self.id = id

    def beat(self, *reports):
        self.queue.put(wire.Beat(registration=self.id, reports=reports))
        return next(self.answers)

    def keep(self):
        while not self.stop.wait(0.3):
            assert self.beat().known

    def __enter__(self):
        self.thread = threading.Thread(target=self.keep)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        self.queue.put(None)


watch = Watch("jobs")
assert watch.next().whole and not watch.held, "an empty service is said to be empty"

granted = register(job(1))
assert (granted.ttl_ms, granted.grace_ms) == (1000, 1000), granted
assert granted.heartbeat_every_ms == 333, granted
first = Beats("job-1")
assert first.beat().known
with first:
    watch.until(lambda held: "job-1" in held)
    found = watch.held["job-1"]
    assert found.instance.address == "127.0.0.1:9001" and found.instance.weight == 2, found
    assert list(found.sources) == ["registry"] and found.instance.zone == "a", found
    seen = len(watch.messages)

    # the same again is not a change; another is one small message
    register(job(1))
    register(job(2))
    watch.until(lambda held: "job-2" in held)
    assert len(watch.messages) == seen + 1, watch.messages
    assert watch.messages[-1].ByteSize() < 200, watch.messages[-1]
    answer = registry.Lookup(wire.LookupRequest(service="jobs"), timeout=10)
    assert [found.instance.id for found in answer.instances] == ["job-1", "job-2"], answer
    assert all(found.age_ms < 60000 and found.HasField("age_ms") for found in answer.instances), answer
    assert answer.revision == watch.messages[-1].revision, answer

    # nobody beats for it
    watch.until(lambda held: "job-2" not in held)
    assert list(watch.messages[-1].removed) == ["job-2"], watch.messages[-1]
    lost = Beats("job-2")
    assert not lost.beat().known, "it must register again"
    lost.queue.put(None)

    # starting, up, down
    register(job(3, starting=True, ttl_ms=60000))
    third = Beats("job-3")

    def report(health, detail):
        third.beat(wire.Report(service="jobs", instance="job-3", health=health, detail=detail))

    report(wire.HEALTH_UP, "")
    watch.until(lambda held: "job-3" in held)
    assert watch.held["job-3"].health == wire.HEALTH_UP, watch.held
    report(wire.HEALTH_DOWN, "GET /ready: 503")
    watch.until(lambda held: held["job-3"].health == wire.HEALTH_DOWN)
    assert watch.held["job-3"].detail == "GET /ready: 503", watch.held
    registry.Deregister(wire.DeregisterRequest(id="job-3"), timeout=10)
    watch.until(lambda held: "job-3" not in held)
    third.queue.put(None)

# refusals: which field, what is allowed, all at once
other = wire.Registration(id="x", host="127.0.0.1", ports=[wire.Port(port=1, service="cart")])
refused(other, grpc.StatusCode.PERMISSION_DENIED, "registration.ports", "spiffe://fusewire.local/somebody-else")
bad = wire.Registration(id="", host="0.0.0.0", ports=[wire.Port(port=0, service="Jobs")], ttl_ms=5, weight=5000)
words = ("id:", "host:", "ports[0].port:", "ports[0].service:", "ttl_ms:", "weight:")
refused(bad, grpc.StatusCode.INVALID_ARGUMENT, *[f"registration.{word}" for word in words])
try:
    anonymous = grpc.ssl_channel_credentials(root_certificates=(folder / "bundle.pem").read_bytes())
    stub = registry_pb2_grpc.RegistryStub(grpc.secure_channel(sys.argv[1], anonymous, options=options))
    stub.Lookup(wire.LookupRequest(service="jobs"), timeout=10)
    raise AssertionError("answered without a certificate")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED, error
print("ok")
