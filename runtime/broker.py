"""The embedded broker: a supervised nats-server child that speaks MQTT and keeps its state over kill -9.

Facts about NATS 2.15.1 that this relies on (each has a test):
- An MQTT topic is a subject: `/` becomes `.`, and `.` becomes `//`, so that symbols such as BRK.B are safe.
- `mqtt.no_auth_user` lets clients without a password in as that user, on the MQTT listener only; the NATS
  client port cannot be switched off, so it is a random loopback port that wants a password.
- A denied publish is acknowledged like a good one; only the server's log tells ("Publish Violation"), so
  the log is read and handed to `on_violation`. Permissions hold for wills and retained messages as well.
- A deny beats every allow and there is no negation: everybody may publish what is not denied, and denied are
  the daemon's own topics and NATS's internal subjects (`$JS`, `$MQTT`, `$SYS`), which an MQTT client could
  otherwise use to read or delete streams.
- Who connects with the daemon's client id takes its session over, so client ids contain a secret part.
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import re
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.files import write_whole
from runtime.supervisor import Child, ChildError, Supervisor
from runtime.topics import Topics

log = logging.getLogger("fillbook.broker")

DAEMON_USER = "fillbook"
_PUBLIC_USER = "everybody"
_PRIVATE = 0o600
"""The mode of files with passwords."""
_LEAVING = 10.0
"""Seconds that the child of a killed daemon may take until it has stored what it delivered and ends."""
_VIOLATION = re.compile(r'- "(?P<client>.*)" - Publish Violation - (?:User ".*", )?Subject "(?P<subject>.*)"$')
_LEVEL = re.compile(r"\[(?P<level>ERR|WRN|FTL)\] (?P<text>.*)")


class BrokerError(ChildError):
    """The embedded broker cannot run; the message says what to do."""


class PortTaken(BrokerError):
    """Somebody else listens where the broker should."""


@dataclass(frozen=True, slots=True)
class Credential:
    """The daemon's own login at the embedded broker. `client_suffix` keeps its client ids unguessable."""

    username: str
    password: str
    client_suffix: str

    def client_id(self, service: str) -> str:
        """The stable client id of one service (no dots)."""
        return f"fillbook-{service}-{self.client_suffix}"


@dataclass(frozen=True, slots=True)
class Violation:
    """Somebody without the daemon's credential published to one of its topics; the message was dropped."""

    topic: str
    client_id: str


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    """How the embedded broker runs. Sizes in bytes, times in seconds.

    `max_payload` is above the daemon's own limit, so that an oversize message is answered with a dead letter
    instead of a closed connection. `sync_interval` "always" is safe over power loss too, at 40 % of the
    speed; `max_ack_pending` 1 keeps strict order over a kill, at a third of the speed; `ack_wait` is how long
    a message waits after the daemon's kill -9 until it is delivered again.
    """

    directory: Path
    host: str = "127.0.0.1"
    port: int = 1883
    command: Sequence[str] = ()
    max_payload: int = 1024 * 1024
    max_storage: int = 2 * 1024**3
    sync_interval: str = "1s"
    ack_wait: float = 1.0
    max_ack_pending: int = 64
    start_timeout: float = 10.0


def load_credential(directory: Path) -> Credential:
    """The credential stored under the broker's directory; made at the first call, readable by its owner only."""
    file = directory / "credential.json"
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        return Credential(stored["username"], stored["password"], stored["client_suffix"])
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BrokerError(f"{file} cannot be read ({error}); remove it to have a new one made") from error
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    credential = Credential(DAEMON_USER, secrets.token_urlsafe(24), secrets.token_hex(6))
    content = {
        "username": credential.username,
        "password": credential.password,
        "client_suffix": credential.client_suffix,
    }
    write_whole(file, json.dumps(content) + "\n", _PRIVATE)
    return credential


def find_server(command: Sequence[str] = ()) -> list[str]:
    """The nats-server to run and its arguments: `command`, or the one installed beside this Python.

    Raises BrokerError.
    """
    wanted = command[0] if command else str(Path(sys.executable).with_name("nats-server"))
    program = shutil.which(wanted)
    if program is None:
        raise BrokerError(
            f"no nats-server at {wanted}; name one with broker.command, "
            f"or use a broker that runs elsewhere with broker.embedded=false"
        )
    return [program, *command[1:]]


def subject_of(topic_filter: str) -> list[str]:
    """The NATS subjects of an MQTT filter: `a/#` is both `a` and `a.>`."""
    if topic_filter.endswith("/#"):
        head = subject_of(topic_filter[:-2])[0]
        return [head, f"{head}.>"]
    levels = (level.replace(".", "//") for level in topic_filter.split("/"))
    return [".".join("*" if level == "+" else level for level in levels)]


def topic_of(subject: str) -> str:
    """The MQTT topic of a NATS subject, as it stands in the server's log."""
    return "/".join("" if level == "/" else level.replace("//", ".") for level in subject.split("."))


def server_config(options: BrokerOptions, topics: Topics, credential: Credential, public_password: str) -> str:
    """The text of the child's configuration file."""
    base = topics.base.replace("/", ".")
    denied = ["$JS.>", "$MQTT.>", "$SYS.>", base, f"{base}.*", f"{topics.root.replace('/', '.')}.*"]
    # No topic that anybody else may publish has only two levels after the version.
    denied.append(f"{topics.root.replace('/', '.')}.*.*")
    for pattern in topics.protected_filters():
        denied.extend(subject_of(pattern))
    deny = json.dumps(sorted(set(denied)))
    return f"""# Written by the daemon at each start. Holds its password: readable by its owner only.
server_name: fillbook
host: "127.0.0.1"
port: -1
max_payload: {options.max_payload}
jetstream {{
  store_dir: {json.dumps(str(options.directory / "store"))}
  max_file_store: {options.max_storage}
  sync_interval: {json.dumps(options.sync_interval)}
}}
mqtt {{
  host: {json.dumps(options.host)}
  port: {options.port}
  ack_wait: "{round(options.ack_wait * 1000)}ms"
  max_ack_pending: {options.max_ack_pending}
  no_auth_user: {_PUBLIC_USER}
}}
authorization {{
  timeout: 3
  users: [
    {{ user: {json.dumps(credential.username)}, password: {json.dumps(credential.password)} }}
    {{ user: {_PUBLIC_USER}, password: {json.dumps(public_password)}, permissions: {{
        publish: {{ allow: [">"], deny: {deny} }}
        subscribe: {{ allow: [">"], deny: ["$JS.>", "$SYS.>"] }}
    }} }}
  ]
}}
"""


class EmbeddedBroker:
    """The supervised child. `start` returns when it answers an MQTT CONNECT; `stop` ends it."""

    def __init__(
        self,
        options: BrokerOptions,
        topics: Topics,
        *,
        on_violation: Callable[[Violation], None] | None = None,
        on_restart: Callable[[int], None] | None = None,
    ) -> None:
        self.options = options
        self._topics = topics
        self._on_violation = on_violation
        self._server = find_server(options.command)
        self._lock: int | None = None
        self._supervisor = Supervisor("the embedded broker", self._start_child, on_restart=on_restart)
        self.credential = load_credential(options.directory)
        self.incarnation = ""
        """A name of the running child; a new one numbers unacknowledged messages anew (see runtime.mqtt)."""

    @property
    def pid(self) -> int | None:
        """The child's process id while it runs."""
        return self._supervisor.pid

    @property
    def restarts(self) -> int:
        """How often it had to be started again."""
        return self._supervisor.restarts

    async def start(self) -> None:
        """Lock the data folder, start the child, wait until it answers. Raises BrokerError, PortTaken."""
        await self._take_lock()
        try:
            config = server_config(self.options, self._topics, self.credential, secrets.token_urlsafe(24))
            write_whole(self._config_file, config, _PRIVATE)
            await self._supervisor.start()
        except BaseException:
            self._release_lock()
            raise

    async def stop(self) -> None:
        """End the child. Its sessions, queues and retained messages stay on disk."""
        await self._supervisor.stop()
        self._release_lock()

    @property
    def _config_file(self) -> Path:
        return self.options.directory / "nats.conf"

    # ---- the lock: held by the daemon and, through the inherited descriptor, by the child until it exits ----

    async def _take_lock(self) -> None:
        file = self.options.directory / "lock"
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            await self._lock_it(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._lock = descriptor

    async def _lock_it(self, descriptor: int) -> None:
        # The child of a daemon that was killed a moment ago may still be on its way out.
        deadline = time.monotonic() + _LEAVING
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    holder = os.read(descriptor, 64).decode("ascii", "replace").strip() or "unknown"
                    raise BrokerError(
                        f"the broker's folder {self.options.directory} is in use by process {holder}"
                    ) from None
            await asyncio.sleep(0.01)

    def _release_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # ---- the child -----------------------------------------------------------------------------------

    async def _start_child(self) -> Child:
        self._check_port()
        assert self._lock is not None
        self.incarnation = secrets.token_hex(4)
        child = await Child.start(
            [*self._server, "-c", str(self._config_file)], on_line=self._read_log, pass_fds=(self._lock,)
        )
        try:
            await self._wait_ready(child)
        except BaseException:
            await child.stop(1.0)
            raise
        return child

    def _check_port(self) -> None:
        family = socket.AF_INET6 if ":" in self.options.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.options.host, self.options.port))
            except OSError as error:
                raise PortTaken(
                    f"the broker cannot listen on {self.options.host}:{self.options.port} "
                    f"({error.strerror}). Choose another port with --set broker.port=NUMBER, "
                    f"FILLBOOK_BROKER__PORT=NUMBER or port in [broker] of fillbook.toml"
                ) from error

    async def _wait_ready(self, child: Child) -> None:
        deadline = time.monotonic() + self.options.start_timeout
        while True:
            if not child.is_running:
                await child.wait()
                raise BrokerError(f"the broker ended while starting: {_last_words(child.last_lines)}")
            if await answers_connect(self.options.host, self.options.port, self.credential):
                return
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"the broker did not answer within {self.options.start_timeout:g} s: "
                    f"{_last_words(child.last_lines)}"
                )
            await asyncio.sleep(0.005)

    def _read_log(self, line: str) -> None:
        found = _VIOLATION.search(line)
        if found is not None:
            if self._on_violation is not None:
                self._on_violation(Violation(topic_of(found["subject"]), found["client"]))
            return
        shown = _LEVEL.search(line)
        if shown is not None and "Plaintext passwords" not in line:  # ours, in a file only we can read
            log.log(logging.WARNING if shown["level"] == "WRN" else logging.ERROR, "broker: %s", shown["text"])


def _last_words(lines: Sequence[str]) -> str:
    """What the server said last that matters."""
    serious = [found["text"] for line in lines if (found := _LEVEL.search(line)) and found["level"] != "WRN"]
    return serious[-1] if serious else (lines[-1] if lines else "it said nothing")


async def answers_connect(host: str, port: int, credential: Credential, timeout: float = 1.0) -> bool:
    """Whether a broker answers an MQTT CONNECT with success; a listening port alone is not readiness."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(_connect_packet(credential))
                answer = await reader.readexactly(4)
                writer.write(b"\xe0\x00")
                await writer.drain()
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False
    return answer[0] == 0x20 and answer[3] == 0


def _connect_packet(credential: Credential) -> bytes:
    """CONNECT of MQTT 3.1.1: clean session, keepalive 5 s, user and password."""

    def text(value: str) -> bytes:
        raw = value.encode()
        return len(raw).to_bytes(2, "big") + raw

    fields = (f"fillbook-ready-{os.getpid()}", credential.username, credential.password)
    body = text("MQTT") + b"\x04\xc2\x00\x05" + b"".join(text(field) for field in fields)
    assert len(body) < 128  # the remaining length fits one byte
    return b"\x10" + bytes([len(body)]) + body
