"""A command's side of the bus, on the memory bus."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from config.loading import load_settings
from config.settings import Settings
from runtime.bus import MemoryBroker, MemoryBus
from runtime.client import Address, NoAnswer, address_of, ask, exchange, is_resting, retained
from runtime.topics import Command, Topics
from tests.integration.brokers import PATIENCE, RunningBroker, free_port
from tests.runtime.test_rundir import info_of

TOPICS = Topics()
REQUEST = TOPICS.request("main", Command.TRADE)
RESPONSE = TOPICS.response("main", "r-1")
BODY = b'{"request_id":"r-1"}'


def answer(status: str, final: bool) -> bytes:
    """A response."""
    return json.dumps({"request_id": "r-1", "status": status, "final": final}).encode()


@asynccontextmanager
async def asking(respond: Callable[[int], list[bytes]]) -> AsyncIterator[tuple[MemoryBus, list[bytes]]]:
    """A client's bus beside a daemon that answers the n-th copy of a request with `respond(n)`."""
    broker = MemoryBroker()
    client, daemon = MemoryBus(broker, "cli", [RESPONSE]), MemoryBus(broker, "daemon", [REQUEST])
    await client.start()
    await daemon.start()
    seen: list[bytes] = []

    async def serve() -> None:
        async for incoming in daemon.messages():
            seen.append(incoming.payload)
            for payload in respond(len(seen)):
                await daemon.publish(RESPONSE, payload)

    task = asyncio.create_task(serve())
    try:
        yield client, seen
    finally:
        await daemon.stop()
        await task


async def put(client: MemoryBus, **options: Any) -> dict[str, Any]:
    """Send the request, with all the time that a test does not say otherwise."""
    times = {"timeout": PATIENCE, "repeat": PATIENCE, "linger": PATIENCE}
    return await exchange(client, REQUEST, BODY, **{**times, **options})


async def test_the_response_ends_the_exchange() -> None:
    async with asking(lambda _copy: [answer("filled", True)]) as (client, seen):
        assert (await put(client))["status"] == "filled"
    assert seen == [BODY]


async def test_the_same_request_is_repeated_until_it_is_answered() -> None:
    async with asking(lambda copy: [answer("filled", True)] if copy == 3 else []) as (client, seen):
        assert (await put(client, repeat=0.02))["status"] == "filled"
    assert len(seen) >= 3
    assert set(seen) == {BODY}


async def test_without_an_answer_the_outcome_is_unknown() -> None:
    async with asking(lambda _copy: []) as (client, seen):
        with pytest.raises(NoAnswer, match=r"no answer within 0\.5 s"):
            await put(client, timeout=0.5, repeat=0.02)
    assert set(seen) == {BODY}


async def test_an_open_order_is_waited_for_until_it_is_final() -> None:
    async with asking(lambda _copy: [answer("accepted", False), answer("filled", True)]) as (client, _):
        assert (await put(client))["status"] == "filled"


async def test_an_order_that_stays_open_is_answered_as_such() -> None:
    async with asking(lambda _copy: [answer("accepted", False)]) as (client, _):
        assert (await put(client, linger=0.05))["status"] == "accepted"


async def test_the_acceptance_of_a_resting_order_is_enough() -> None:
    async with asking(lambda _copy: [answer("accepted", False)]) as (client, _):
        assert (await put(client, resting=True))["status"] == "accepted"


async def test_what_is_no_response_is_passed_over() -> None:
    async with asking(lambda _copy: [b"\xff", b"[]", b"{}", answer("done", True)]) as (client, _):
        assert (await put(client))["status"] == "done"


def test_a_limit_order_rests_unless_it_is_ioc() -> None:
    assert is_resting({"limit_price": "1"})
    assert not is_resting({"limit_price": "1", "time_in_force": "IOC"})
    assert not is_resting({"notional": "1"})


@asynccontextmanager
async def slow_line(broker: RunningBroker) -> AsyncIterator[int]:
    """The port of a line to a broker that brings one packet after another, with a pause before each."""

    over: list[asyncio.Event] = []

    async def back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while header := await reader.read(2):
            assert header[1] < 128, "a short packet: one byte for its length"
            body = await reader.readexactly(header[1])
            await asyncio.sleep(0.4)
            writer.write(header + body)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        over.append(asyncio.Event())
        from_broker, to_broker = await asyncio.open_connection(broker.host, broker.port)
        returning = asyncio.create_task(back(from_broker, writer))
        while sent := await reader.read(1000):
            to_broker.write(sent)
        returning.cancel()
        await asyncio.gather(returning, return_exceptions=True)
        to_broker.close()
        writer.close()
        over[-1].set()

    server = await asyncio.start_server(serve, broker.host, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.wait_for(over[0].wait(), PATIENCE)


async def test_all_that_is_retained_is_read_however_slow_the_broker_is(
    embedded_broker: RunningBroker,
) -> None:
    async with embedded_broker.bus("daemon") as daemon:
        for name in ("one", "two"):
            await daemon.publish(f"state/{name}", b'{"name": "%s"}' % name.encode(), retain=True)
    async with slow_line(embedded_broker) as port:
        found = await retained(Address("127.0.0.1", port, TOPICS), ["state/+"], timeout=PATIENCE)
    assert found == {"state/one": {"name": "one"}, "state/two": {"name": "two"}}


async def test_all_that_is_retained_is_read_however_much_it_is(any_broker: RunningBroker) -> None:
    async with any_broker.bus("daemon") as daemon:
        said = [await daemon.publish_soon(f"state/{number}", b"%d" % number, retain=True) for number in range(100)]
        await asyncio.gather(*said)
    found = await retained(Address("127.0.0.1", any_broker.port, TOPICS), ["state/+"], timeout=PATIENCE)
    assert found == {f"state/{number}": number for number in range(100)}


async def test_no_broker_is_said_with_its_address() -> None:
    port = free_port()
    with pytest.raises(Exception, match=f"no MQTT broker at 127.0.0.1:{port}"):
        await ask(Address("127.0.0.1", port, TOPICS), "main", Command.HALT, {"request_id": "r-1"}, timeout=0.3)


def test_the_address_is_the_running_daemons_or_the_external_brokers(tmp_path: Path) -> None:
    def settings(*sets: str) -> Settings:
        return load_settings(config_file=None, overrides=sets, environ={}, cwd=tmp_path).settings

    assert address_of(settings(), None) is None
    found = address_of(settings(), info_of(tmp_path))
    assert found is not None
    assert (found.host, found.port, found.username) == ("127.0.0.1", 18830, None)
    external = settings("broker.embedded=false", "broker.port=99", "broker.username=me", "broker.password=secret")
    found = address_of(external, None)
    assert found is not None
    assert (found.port, found.username, found.password) == (99, "me", "secret")
