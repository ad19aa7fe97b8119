"""The whole way: request -> broker -> daemon -> commit -> broker -> answer, as any MQTT client sees it."""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any

from runtime.topics import Command, RouteName, Topics
from tests.bench.measure import Effort, Row, percentile, say
from tests.bench.mqtt_load import Load
from tests.bench.servers import server

_MILLISECONDS = 1000.0


@dataclass(frozen=True, slots=True)
class _Shape:
    """One way to load a server."""

    name: str
    rate: float
    in_flight: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Seen:
    """The best of several runs: the lowest p99 at a rate, the highest speed at saturation."""

    speed: float
    p50: float
    p99: float


def over_broker(effort: Effort) -> list[Row]:
    """50/s, 1,000/s and saturation: the daemon, an echo that does nothing, an echo that stores the request."""
    long, short = (1.0, 1.0) if effort.quick else (20.0, 8.0)
    shapes = [_Shape("50/s", 50, 0, long), _Shape("1,000/s", 1000, 0, short), _Shape("64 in flight", 0, 64, short)]
    seen: dict[str, list[_Seen]] = {}
    for kind in ("echo", "store", "daemon"):
        with server(kind, effort.folder / kind) as running:
            prime = kind == "daemon"
            found = []
            for shape in shapes:
                runs = []
                for number in range(1 if shape.rate == 50 else effort.repetitions):
                    say(f"{kind}: {shape.name}, run {number + 1}")
                    runs.append(_run(running.port, shape, prime))
                    prime = False
                key = (lambda run: -run.p99) if shape.rate else (lambda run: run.speed)
                found.append(max(runs, key=key))
            seen[kind] = found
    return [*_bare_rows(seen["echo"]), *_rows(seen["daemon"], seen["store"])]


def _bare_rows(bare: list[_Seen]) -> list[Row]:
    """What the broker and the load generator can do at all."""
    slow, _, full = bare
    return [
        Row("bare MQTT echo, no work, at 50/s, p50", slow.p50 * _MILLISECONDS, "ms", lower_is_better=True),
        Row("  p99", slow.p99 * _MILLISECONDS, "ms", lower_is_better=True),
        Row("bare MQTT echo, no work, 64 in flight", full.speed, "echos/s"),
    ]


def _rows(ours: list[_Seen], bare: list[_Seen]) -> list[Row]:
    is_ = "echo that commits the request"
    slow, steady, full = zip(ours, bare, strict=True)

    def latency(what: str, pair: tuple[_Seen, _Seen], field: str, aim: float | None) -> Row:
        measured, least = (getattr(one, field) * _MILLISECONDS for one in pair)
        return Row(what, measured, "ms", least, is_, aim, lower_is_better=True)

    return [
        latency("request -> commit -> answer at 50/s, p50", slow, "p50", 5),
        latency("request -> commit -> answer at 50/s, p99", slow, "p99", 10),
        Row("sustained at 1,000/s, fills", steady[0].speed, "fills/s", steady[1].speed, is_, 990),
        latency("  p50", steady, "p50", None),
        latency("  p99", steady, "p99", 25),
        Row("saturated, 64 in flight", full[0].speed, "fills/s", full[1].speed, is_, 1000),
        latency("  p50", full, "p50", None),
        latency("  p99", full, "p99", None),
    ]


def load(port: int, *, rate: float, in_flight: int, seconds: float, prime: bool) -> dict[str, Any]:
    """Load a server from a process of its own; what `mqtt_load` found. Raises RuntimeError on refusals."""
    topics = Topics()
    order = Load(
        host="127.0.0.1",
        port=port,
        request_topic=topics.request("main", Command.TRADE),
        response_filter=topics.filter(RouteName.RESPONSE, account="main"),
        price_topic=topics.price("BTC-USD"),
        prime=prime,
        rate=rate,
        in_flight=in_flight,
        seconds=seconds,
    )
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tests.bench.mqtt_load"],
        input=json.dumps(asdict(order)).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    if found["unanswered"] or found["refused"]:
        raise RuntimeError(f"{found['unanswered']} unanswered; refused: {found['refused']}")
    return found


def _run(port: int, shape: _Shape, prime: bool) -> _Seen:
    found = load(port, rate=shape.rate, in_flight=shape.in_flight, seconds=shape.seconds, prime=prime)
    times = found["latencies"]
    return _Seen(found["answered"] / found["seconds"], percentile(times, 0.5), percentile(times, 0.99))
