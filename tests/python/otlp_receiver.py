"""An OTLP receiver on OpenTelemetry's own messages: what arrives is printed, one JSON object a line.

Usage: otlp_receiver.py GRPC_PORT HTTP_PORT [slow | refuse | partial]
slow: answers after a minute. refuse: wants nothing. partial: takes all but one span of each request.
"""

import json
import sys
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc

MODE = sys.argv[3] if len(sys.argv) > 3 else ""
LOCK = threading.Lock()


def say(thing):
    with LOCK:
        print(json.dumps(thing), flush=True)


def value(any_value):
    kind = any_value.WhichOneof("value")
    return getattr(any_value, kind) if kind else None


def attributes(pairs):
    return {pair.key: value(pair.value) for pair in pairs}


def spans(request, via, headers):
    for of_resource in request.resource_spans:
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                say({
                    "span": span.name,
                    "kind": span.kind,
                    "trace": span.trace_id.hex(),
                    "id": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "start": span.start_time_unix_nano,
                    "end": span.end_time_unix_nano,
                    "attributes": attributes(span.attributes),
                    "events": [{"name": e.name, "at": e.time_unix_nano, "attributes": attributes(e.attributes)} for e in span.events],
                    "status": span.status.code,
                    "resource": attributes(of_resource.resource.attributes),
                    "schema": of_scope.schema_url,
                    "scope": of_scope.scope.name,
                    "via": via,
                    "headers": headers,
                })


def point(p, kind):
    told = {"attributes": attributes(p.attributes), "start": p.start_time_unix_nano, "time": p.time_unix_nano}
    if kind == "histogram":
        told.update(count=p.count, sum=p.sum, counts=list(p.bucket_counts), bounds=list(p.explicit_bounds))
    else:
        told["value"] = getattr(p, p.WhichOneof("value"))
    return told


def metrics(request, via):
    for of_resource in request.resource_metrics:
        for of_scope in of_resource.scope_metrics:
            for metric in of_scope.metrics:
                kind = metric.WhichOneof("data")
                data = getattr(metric, kind)
                say({
                    "metric": metric.name,
                    "kind": kind,
                    "unit": metric.unit,
                    "temporality": getattr(data, "aggregation_temporality", 0),
                    "monotonic": getattr(data, "is_monotonic", False),
                    "points": [point(p, kind) for p in data.data_points],
                    "resource": attributes(of_resource.resource.attributes),
                    "via": via,
                })


def trace_answer(request, via, headers):
    answer = trace_pb.ExportTraceServiceResponse()
    if MODE == "slow":
        time.sleep(60)
    spans(request, via, headers)
    if MODE == "partial":
        answer.partial_success.rejected_spans = 1
        answer.partial_success.error_message = "one too many"
    return answer


class Traces(trace_grpc.TraceServiceServicer):
    def Export(self, request, context):
        if MODE == "refuse":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not wanted here")
        return trace_answer(request, "grpc", dict(context.invocation_metadata()))


class Metrics(metrics_grpc.MetricsServiceServicer):
    def Export(self, request, context):
        metrics(request, "grpc")
        return metrics_pb.ExportMetricsServiceResponse()


class Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): text for name, text in self.headers.items()}
        path = self.path.removeprefix("/otlp")
        status = 200
        if self.headers["content-type"] != "application/x-protobuf":
            status, answer = 415, b""
        elif path == "/v1/traces":
            request = trace_pb.ExportTraceServiceRequest.FromString(body)
            if MODE == "refuse":
                status, answer = 400, b"not wanted here"
            else:
                answer = trace_answer(request, "http", headers).SerializeToString()
        elif path == "/v1/metrics":
            metrics(metrics_pb.ExportMetricsServiceRequest.FromString(body), "http")
            answer = metrics_pb.ExportMetricsServiceResponse().SerializeToString()
        else:
            status, answer = 404, b""
        self.send_response(status)
        self.send_header("content-type", "application/x-protobuf" if status == 200 else "text/plain")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    trace_grpc.add_TraceServiceServicer_to_server(Traces(), server)
    metrics_grpc.add_MetricsServiceServicer_to_server(Metrics(), server)
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    server.start()
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Http).serve_forever()


main()
