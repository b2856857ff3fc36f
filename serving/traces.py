"""OpenTelemetry spans of requests, for the collector that `serve.traces` names.

Ray Serve makes spans of its proxy, its handles and its replicas, and carries the trace between their
processes (`ray.serve.schema.TracingConfig`). Ours are made among them by OpenTelemetry's API, which does
nothing where Serve has set no provider. No span holds text of a request or an answer; the messages of errors
may quote one, and are left out.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from headwater.cluster.errors import HeadwaterError
from headwater.serving.errors import ApiError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

PARENT = b"traceparent"
"""W3C Trace Context's header, and Serve reads this one alone."""
UNTRACED = (PARENT, b"00-" + b"0" * 31 + b"1-" + b"0" * 15 + b"1-00")
"""Header of a request that makes no spans: its parent is not recorded."""
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
EXPORTER = f"{__name__}:processors"
SENDER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
"""Of the extra `traces`."""


def check(collector: str) -> None:
    """Raises HeadwaterError where there is a collector and nothing that sends it spans."""
    try:
        if collector:
            importlib.import_module(SENDER)
    except ModuleNotFoundError as error:
        raise HeadwaterError(
            f"this needs a package that is not installed: {error.name}",
            where="serve.traces",
            fix="pip install 'headwater[serve,traces]', or leave the setting empty",
        ) from error


def environment(collector: str) -> dict[str, str]:
    """Variables of every process of the endpoint; none without a collector."""
    if not collector:
        return {}
    return {
        ENDPOINT: collector,
        "OTEL_SERVICE_NAME": os.environ.get("OTEL_SERVICE_NAME", "headwater"),
        # Serve 2.60 does not tell its proxies of `TracingConfig`; they look here.
        "RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH": EXPORTER,
        "RAY_SERVE_TRACING_SAMPLING_RATIO": "1.0",
    }


def tracing_config(collector: str) -> dict[str, Any] | None:
    """Serve's `TracingConfig`: all traces but those whose client says that they are not recorded."""
    return {"enabled": True, "exporter_import_path": EXPORTER, "sampling_ratio": 1.0} if collector else None


def processors() -> list[SpanProcessor]:
    """Called by Serve in each process: send spans over OTLP/HTTP, as the `OTEL_…` variables say."""
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    class WithoutMessages(BatchSpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            super().on_end(_without_messages(span))

    return [WithoutMessages(importlib.import_module(SENDER).OTLPSpanExporter())]


def _without_messages(span: ReadableSpan) -> ReadableSpan:
    from opentelemetry.sdk.trace import Event, ReadableSpan

    if not span.events and span.status.description is None:
        return span
    events = [
        Event(
            event.name,
            {"exception.type": (event.attributes or {}).get("exception.type", "")},
            event.timestamp,
        )
        if event.name == "exception"
        else event
        for event in span.events
    ]
    return ReadableSpan(
        span.name,
        span.context,
        span.parent,
        span.resource,
        span.attributes,
        events,
        span.links,
        span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


_TRACER = trace.get_tracer("headwater")
"""Takes the provider that Serve sets, also later."""


def tracer() -> trace.Tracer:
    return _TRACER


def start(name: str, **attributes: Any) -> Span:
    """A span below the present one. Its owner ends it."""
    return tracer().start_span(name, attributes=attributes)


def failed(span: Span, error: BaseException) -> None:
    span.set_attribute("error.type", getattr(error, "code", None) or type(error).__name__)
    if not isinstance(error, ApiError) or error.status >= 500:  # else the client's fault, not the span's
        span.set_status(StatusCode.ERROR)


def answered(span: Span, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_status(StatusCode.ERROR)


@contextlib.contextmanager
def within(span: Span) -> Iterator[None]:
    """Spans that start here are below this one. No generator may yield here: its caller would be within."""
    with trace.use_span(span, record_exception=False, set_status_on_exception=False):
        yield


@contextlib.contextmanager
def spanned(name: str, **attributes: Any) -> Iterator[Span]:
    """A span of what happens here, as `within`. As a decorator: of a call."""
    span = start(name, **attributes)
    try:
        with within(span):
            yield span
    except BaseException as error:
        failed(span, error)
        raise
    finally:
        span.end()


class Phases:
    """Spans that follow each other below the present one. The last one's owner ends it."""

    def __init__(self, first: str) -> None:
        self._name, self.span = first, start(first)

    def begin(self, name: str) -> None:
        """No-op in the phase of this name. The thread must run in the context of the first phase."""
        if name != self._name:
            self.span.end()
            self._name, self.span = name, start(name)


# -- the door ----------------------------------------------------------------------------------
def entry(scope: Any) -> Span:
    """The span of a whole request, below its client's (an ASGI scope's header `traceparent`)."""
    given = [value.decode("latin-1") for name, value in scope["headers"] if name == PARENT]
    above = TraceContextTextMapPropagator().extract({"traceparent": given[-1]}) if given else Context()
    return tracer().start_span(
        "request",
        above,
        SpanKind.SERVER,
        {"http.request.method": scope["method"], "url.path": scope["path"][:200]},
    )


def below(scope: Any, span: Span) -> Any:
    """The scope of a request that Serve takes for the span's."""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, trace.set_span_in_context(span))
    return _with_parent(scope, (PARENT, carrier["traceparent"].encode()))


def telling(span: Span, send: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    """Send, and tell the span the response's status."""

    async def sent(message: Any) -> None:
        if message["type"] == "http.response.start":
            answered(span, message["status"])
        await send(message)

    return sent


def untraced(scope: Any) -> Any:
    return _with_parent(scope, UNTRACED)


def _with_parent(scope: Any, header: tuple[bytes, bytes]) -> Any:
    return {**scope, "headers": [*(each for each in scope["headers"] if each[0] != PARENT), header]}
