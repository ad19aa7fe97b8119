"""How a process reaches the bus: the embedded broker, logins, client ids, subscriptions, last wills."""

import asyncio
from collections.abc import Callable
from typing import Any

from config.settings import Settings
from runtime import wire
from runtime.broker import BrokerOptions, EmbeddedBroker, Violation, load_credential
from runtime.clock import WallClock
from runtime.core import ROLES
from runtime.messages import Status
from runtime.mqtt import MqttBus, MqttOptions, Presence
from runtime.topics import Command, RouteName, Topics


class Connections:
    """Makes the broker and the buses of one process. Only the process with the execution role runs the
    embedded broker; the others connect to it with the credential from the data folder."""

    def __init__(self, settings: Settings, roles: tuple[str, ...], topics: Topics) -> None:
        self._settings = settings
        self._roles = roles
        self._topics = topics
        self._folder = settings.data_dir / "broker"
        self._broker: EmbeddedBroker | None = None
        self._buses: list[MqttBus] = []

    def embedded_broker(self, on_violation: Callable[[Violation], None]) -> EmbeddedBroker | None:
        """The broker that this process is to run, not started yet; None when it runs elsewhere."""
        settings = self._settings.broker
        if not settings.embedded or "execution" not in self._roles:
            return None
        self._broker = EmbeddedBroker(
            BrokerOptions(
                directory=self._folder,
                host=settings.host,
                port=settings.port,
                command=settings.command,
                max_payload=settings.max_payload_bytes,
                max_storage=settings.max_store_bytes,
                sync_interval=settings.sync_interval,
                ack_wait=settings.ack_wait_seconds,
                max_ack_pending=settings.max_ack_pending,
                start_timeout=settings.start_timeout_seconds,
            ),
            self._topics,
            on_violation=on_violation,
            on_restart=self._on_broker_restart,
        )
        return self._broker

    def main_bus(self) -> MqttBus:
        """The bus that requests come from and everything is published on."""
        service = "daemon" if set(self._roles) == set(ROLES) else "-".join(self._roles)
        presence = [_presence(self._topics.status())] if "execution" in self._roles else []
        return self._bus(service, self.subscriptions(), presence)

    def presence_buses(self) -> list[MqttBus]:
        """A last will belongs to a connection, so each service has one of its own that says it is there."""
        return [
            self._bus(f"presence-{role}", (), [_presence(self._topics.service_status(role))]) for role in self._roles
        ]

    async def stop(self) -> None:
        """Say goodbye on every bus."""
        await asyncio.gather(*(bus.stop() for bus in self._buses))

    def _bus(self, service: str, subscriptions: tuple[str, ...], presence: list[Presence]) -> MqttBus:
        bus = MqttBus(self._options(service), subscriptions, presence=presence)
        self._buses.append(bus)
        return bus

    def _options(self, service: str) -> MqttOptions:
        settings = self._settings.broker
        credential = load_credential(self._folder)
        return MqttOptions(
            host=settings.host,
            port=settings.port,
            client_id=credential.client_id(service),
            **self._login(),
            keepalive=settings.keepalive_seconds,
            publish_timeout=settings.publish_timeout_seconds,
            backoff_initial=settings.reconnect_min_seconds,
            backoff_maximum=settings.reconnect_max_seconds,
            session_file=self._folder / f"session-{service}",
            incarnation=self._incarnation,
        )

    def _incarnation(self) -> str:
        return "" if self._broker is None else self._broker.incarnation

    def _login(self) -> dict[str, Any]:
        settings = self._settings.broker
        if settings.embedded:
            credential = load_credential(self._folder)
            return {"username": credential.username, "password": credential.password}
        password = None if settings.password is None else settings.password.get_secret_value()
        return {"username": settings.username, "password": password}

    def subscriptions(self) -> tuple[str, ...]:
        """What this process reads, by its roles."""
        market = [RouteName.CANDLE, RouteName.PRICE]
        wanted: dict[str, list[RouteName]] = {
            "execution": [RouteName.REQUEST, RouteName.BOT_REQUEST, *market],
            "signals": [RouteName.BOT_SET, *market],
            "portfolio": market,
        }
        names = [name for role in self._roles for name in wanted[role]]
        filters: list[str] = []
        if "execution" not in self._roles:
            names += [RouteName.TRADE, RouteName.CASH_FLOW]
            names += [RouteName.RESPONSE, RouteName.HALT] if "signals" in self._roles else []
            if "portfolio" in self._roles:
                filters.append(self._topics.filter(RouteName.REQUEST, command=str(Command.RECOMPUTE)))
        return tuple(dict.fromkeys([*(self._topics.filter(name) for name in names), *filters]))

    def _on_broker_restart(self, _restarts: int) -> None:
        """The embedded broker is back: connect now instead of after the pause."""
        for bus in self._buses:
            bus.hurry()


def _presence(topic: str) -> Presence:
    online = wire.encode(wire.status_wire(Status(online=True, time=WallClock().now())))
    return Presence(topic, online, wire.encode(wire.status_wire(Status(online=False))))
