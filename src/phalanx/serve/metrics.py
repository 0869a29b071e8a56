"""The server's numbers, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from phalanx.serve.worker_pool import WorkerPool

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The counters and gauges of one server."""

    def __init__(self, pool: WorkerPool) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("phalanx_requests", "Requests.", ["path", "status"], registry=self.registry)
        self.seconds = Histogram("phalanx_request_seconds", "Time to the whole answer.", ["path"], buckets=SECONDS,
                                 registry=self.registry)  # fmt: skip
        self.tokens = Counter("phalanx_generated_tokens", "Tokens of completions.", registry=self.registry)
        waiting = Gauge("phalanx_jobs", "Jobs that wait or are computed.", registry=self.registry)
        waiting.set_function(lambda: pool.waiting)
        restarts = Gauge("phalanx_worker_restarts", "Times a computing process was started again.",
                         registry=self.registry)  # fmt: skip
        restarts.set_function(lambda: sum(worker.restarts for worker in pool.workers))
        ready = Gauge("phalanx_ready", "1 once the models are loaded.", registry=self.registry)
        ready.set_function(lambda: float(pool.ready))

    def observe(self, path: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """Return all of them in the form that Prometheus reads."""
        return generate_latest(self.registry)
