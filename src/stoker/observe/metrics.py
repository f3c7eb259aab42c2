"""Prometheus metrics of the gateway, in a registry of their own."""

from collections.abc import Callable
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from stoker.observe.engine_metrics import EngineCollector, EngineReporter
from stoker.observe.record import RequestRecord

CONTENT_TYPE = CONTENT_TYPE_LATEST
"""Media type of `Metrics.render`'s text."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 150, 300, 900)
_FIRST_TOKEN_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)
_INTER_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_WAKE_SECONDS = (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 25, 60)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)


class TokenTimer:
    """Measures one request's time to first token and the times between tokens.

    `tick` is the only metrics work done per piece of text: a clock reading and a histogram's observe.
    """

    __slots__ = ("_first", "_inter", "_last_s", "_record")

    def __init__(self, *, first: Histogram, inter: Histogram, record: RequestRecord, n_choices: int) -> None:
        self._first = first
        self._inter = inter
        self._record = record
        self._last_s: list[float | None] = [None] * n_choices

    def tick(self, choice: int) -> None:
        """New text of this choice is here."""
        now_s = perf_counter()
        last_s = self._last_s[choice]
        self._last_s[choice] = now_s
        if last_s is not None:
            self._inter.observe(now_s - last_s)
        elif self._record.first_token_s is None:
            self._record.first_token_s = now_s
            self._first.observe(now_s - self._record.started_s)


class Metrics:
    """Every metric of one gateway process; all names begin with ``stoker_``.

    Args:
        version: Version of Stoker, for ``stoker_build_info``.
    """

    def __init__(self, *, version: str) -> None:
        # A process-wide switch of the library: no `_created` series, which would double every metric.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library left it unannotated
        self.registry = CollectorRegistry()
        build = Gauge(
            "stoker_build_info", "1, labelled with the version.", ["version"], registry=self.registry
        )
        build.labels(version).set(1)
        self._in_flight = Gauge(
            "stoker_http_requests_in_flight", "HTTP requests being answered.", registry=self.registry
        )
        self._requests = Counter(
            "stoker_http_requests_total",
            "HTTP requests answered.",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self._request_seconds = Histogram(
            "stoker_http_request_seconds",
            "Time from a request's head to its answer's end.",
            ["route"],
            buckets=_REQUEST_SECONDS,
            registry=self.registry,
        )
        self._failed = Counter(
            "stoker_requests_failed_total",
            "Requests that were refused, failed or were given up, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self._choices = Gauge(
            "stoker_choices_in_flight",
            "Choices that hold one of the places, running or waiting.",
            ["model"],
            registry=self.registry,
        )
        self._bodies = Gauge(
            "stoker_http_body_bytes",
            "Bytes of the bodies of requests being answered.",
            registry=self.registry,
        )
        self._prompts = Gauge(
            "stoker_prompt_bytes",
            "Memory that the prompts in flight are taken to need in the gateway.",
            ["model"],
            registry=self.registry,
        )
        self._unread = Gauge(
            "stoker_unread_tokens",
            "Tokens, and alternatives told with them, that streams have not taken yet.",
            ["model"],
            registry=self.registry,
        )
        self._first_token = Histogram(
            "stoker_time_to_first_token_seconds",
            "Time from a request's head to its first text.",
            ["model"],
            buckets=_FIRST_TOKEN_SECONDS,
            registry=self.registry,
        )
        self._inter_token = Histogram(
            "stoker_inter_token_seconds",
            "Time between consecutive pieces of one choice's text.",
            ["model"],
            buckets=_INTER_TOKEN_SECONDS,
            registry=self.registry,
        )
        self._request_tokens = Histogram(
            "stoker_request_tokens",
            "Tokens of a finished request.",
            ["model", "kind"],
            buckets=_TOKENS,
            registry=self.registry,
        )
        self._asleep = Gauge(
            "stoker_model_asleep",
            "1 while the model sleeps: its engine has ended until a request wakes it.",
            ["model"],
            registry=self.registry,
        )
        self._sleeps = Counter(
            "stoker_model_sleeps_total",
            "Times that a model was put to sleep, by reason.",
            ["model", "reason"],
            registry=self.registry,
        )
        self._wakes = Counter(
            "stoker_model_wakes_total",
            "Times that a model was woken, by outcome.",
            ["model", "outcome"],
            registry=self.registry,
        )
        self._wake_seconds = Histogram(
            "stoker_model_wake_seconds",
            "Time from the beginning of a wake to a ready engine.",
            ["model"],
            buckets=_WAKE_SECONDS,
            registry=self.registry,
        )
        self._wake_wait_seconds = Histogram(
            "stoker_model_wake_wait_seconds",
            "Time that a request waited for its model to be awake, whether it came to that or not.",
            ["model"],
            buckets=_WAKE_SECONDS,
            registry=self.registry,
        )
        self._embeddings = Counter(
            "stoker_embeddings_total",
            "Embeddings made, also those of documents that were ranked and texts that were scored.",
            ["model"],
            registry=self.registry,
        )
        self._embedded_tokens = Counter(
            "stoker_embedded_tokens_total",
            "Tokens of the inputs of embeddings.",
            ["model"],
            registry=self.registry,
        )
        self._early_exits = Counter(
            "stoker_early_exits_total",
            "Answers that might end early, by what became of them; texts that were classified or judged.",
            ["model", "reason"],
            registry=self.registry,
        )
        self._forgotten: set[str] = set()
        self._engines = EngineCollector()
        self.registry.register(self._engines)

    def watch_engine(self, model: str, reporter: EngineReporter) -> None:
        """Report this model's engine from now on; the reporter is called at every scrape."""
        self._engines.watch(model, reporter)
        self._forgotten.discard(model)

    def watch_choices(self, model: str, count: Callable[[], int]) -> None:
        """Report how many choices this model has in flight; `count` is called at every scrape."""
        self._choices.labels(model).set_function(lambda: float(count()))

    def watch_bodies(self, size_bytes: Callable[[], int]) -> None:
        """Report the bytes of bodies being held; `size_bytes` is called at every scrape."""
        self._bodies.set_function(lambda: float(size_bytes()))

    def watch_memory(
        self, model: str, *, prompt_bytes: Callable[[], int], unread_tokens: Callable[[], int]
    ) -> None:
        """Report what this model's requests hold in the gateway; both are called at every scrape."""
        self._prompts.labels(model).set_function(lambda: float(prompt_bytes()))
        self._unread.labels(model).set_function(lambda: float(unread_tokens()))

    def watch_sleep(self, model: str, asleep: Callable[[], bool]) -> None:
        """Report whether this model sleeps; `asleep` is called at every scrape."""
        self._asleep.labels(model).set_function(lambda: float(asleep()))

    def model_slept(self, model: str, reason: str) -> None:
        """Count that a model was put to sleep."""
        self._sleeps.labels(model, reason).inc()

    def model_woke(self, model: str, took_s: float) -> None:
        """Count that a model was woken."""
        self._wakes.labels(model, "awake").inc()
        self._wake_seconds.labels(model).observe(took_s)

    def model_failed_to_wake(self, model: str) -> None:
        """Count that a model could not be woken."""
        self._wakes.labels(model, "failed").inc()

    def model_waited_for(self, model: str, waited_s: float) -> None:
        """Count that a request waited for a model to be awake, however that ended."""
        if model not in self._forgotten:
            self._wake_wait_seconds.labels(model).observe(waited_s)

    def forget(self, model: str) -> None:
        """Drop every series of a model that is served no more; requests that end later leave none."""
        self._engines.forget(model)
        self._forgotten.add(model)
        for metric in (
            self._choices,
            self._prompts,
            self._unread,
            self._first_token,
            self._inter_token,
            self._request_tokens,
            self._asleep,
            self._sleeps,
            self._wakes,
            self._wake_seconds,
            self._wake_wait_seconds,
            self._embeddings,
            self._embedded_tokens,
            self._early_exits,
        ):
            metric.remove_by_labels({"model": model})

    def token_timer(self, record: RequestRecord, *, model: str, n_choices: int) -> TokenTimer:
        """Return the timer of one request's tokens."""
        return TokenTimer(
            first=self._first_token.labels(model),
            inter=self._inter_token.labels(model),
            record=record,
            n_choices=n_choices,
        )

    def embedded(self, model: str, *, n_inputs: int, n_tokens: int) -> None:
        """Count what was embedded for a request."""
        if model not in self._forgotten:
            self._embeddings.labels(model).inc(n_inputs)
            self._embedded_tokens.labels(model).inc(n_tokens)

    def request_began(self) -> None:
        """Count a request in."""
        self._in_flight.inc()

    def request_ended(self, record: RequestRecord) -> None:
        """Count a request out; exactly once for each `request_began`."""
        self._in_flight.dec()
        method = record.method if record.method in _METHODS else "other"
        self._requests.labels(record.route, method, str(record.status)).inc()
        self._request_seconds.labels(record.route).observe(perf_counter() - record.started_s)
        if record.error is not None:
            self._failed.labels(record.error).inc()
        if record.model in self._forgotten:
            return
        if record.model is not None:
            for reason in record.early_exits:
                self._early_exits.labels(record.model, reason).inc()
        if record.model is not None and record.completion_tokens is not None:
            self._request_tokens.labels(record.model, "prompt").observe(record.prompt_tokens or 0)
            self._request_tokens.labels(record.model, "generated").observe(record.completion_tokens)

    def render(self) -> bytes:
        """Return every metric in Prometheus's text format."""
        return generate_latest(self.registry)
