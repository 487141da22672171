"""A program that is not Caelum and speaks the first programs' protocol, with nothing but the standard library.

    stranger.py HOST PORT                  dial, register, ask; one JSON line of results; exit 0 if all is well
    stranger.py --listen PORT              be dialled once, answer as the first programs do, print what came
    stranger.py --beacon ADDRESS PORT      send a beacon of each dialect there, print what is heard
Options: --id NAME, --seconds N (default 5), --websocket-port N (what beacons say), --bind PORT (where beacons
are heard), --group ADDRESS (a multicast group to hear).
"""

import argparse
import base64
import datetime
import hashlib
import json
import os
import socket
import struct
import sys
import time
import uuid

ACCEPT_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3


class WebSocket:
    """One connection; frames as RFC 6455 has them, without fragments and extensions."""

    def __init__(self, connection, is_client):
        self.connection, self.is_client, self.buffer = connection, is_client, b""

    @classmethod
    def dial(cls, host, port, path="/cluster"):
        connection = socket.create_connection((host, port), timeout=5)
        key = base64.b64encode(os.urandom(16))
        connection.sendall(
            b"GET %s HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n"
            % (path.encode(), host.encode(), port, key)
        )
        self = cls(connection, True)
        head = self.head()
        if not head.startswith("HTTP/1.1 101"):
            length = int(header(head, "content-length") or 0)
            body = self.take(length).decode(errors="replace") if length else ""
            raise ConnectionRefusedError(f"{head.splitlines()[0]} {body}")
        expected = base64.b64encode(hashlib.sha1(key + ACCEPT_SUFFIX).digest()).decode()
        if header(head, "sec-websocket-accept") != expected:
            raise ConnectionError("the upgrade was not understood")
        return self

    @classmethod
    def accept(cls, connection):
        self = cls(connection, False)
        key = header(self.head(), "sec-websocket-key").encode()
        accept = base64.b64encode(hashlib.sha1(key + ACCEPT_SUFFIX).digest())
        connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %s\r\n\r\n" % accept
        )
        return self

    def head(self):
        while b"\r\n\r\n" not in self.buffer:
            self.fill()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        return head.decode()

    def fill(self):
        chunk = self.connection.recv(65536)
        if not chunk:
            raise ConnectionError("the other end is gone")
        self.buffer += chunk

    def take(self, length):
        while len(self.buffer) < length:
            self.fill()
        taken, self.buffer = self.buffer[:length], self.buffer[length:]
        return taken

    def send(self, opcode, payload):
        mask_bit = 0x80 if self.is_client else 0
        length = len(payload)
        if length < 126:
            head = struct.pack("!BB", 0x80 | opcode, mask_bit | length)
        elif length < 65536:
            head = struct.pack("!BBH", 0x80 | opcode, mask_bit | 126, length)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, mask_bit | 127, length)
        if self.is_client:
            mask = os.urandom(4)
            payload = mask + bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))
        self.connection.sendall(head + payload)

    def text(self, until):
        """The next text frame, or None when the time is over or the other end closes."""
        while True:
            left = until - time.monotonic()
            if left <= 0:
                return None
            self.connection.settimeout(left)
            try:
                first, second = self.take(2)
                length = second & 0x7F
                if length > 125:
                    length = int.from_bytes(self.take(2 if length == 126 else 8), "big")
                mask = self.take(4) if second & 0x80 else b"\0\0\0\0"
                payload = bytes(byte ^ mask[n % 4] for n, byte in enumerate(self.take(length)))
            except (TimeoutError, ConnectionError):
                return None
            opcode = first & 0x0F
            if opcode == 1:
                return payload.decode()
            if opcode == 8:
                return None
            if opcode == 9:
                self.send(10, payload)


def header(head, name):
    for line in head.splitlines()[1:]:
        if line.lower().startswith(name + ":"):
            return line.split(":", 1)[1].strip()
    return None


def now():
    return datetime.datetime.now(datetime.timezone.utc).isoformat()


class Node:
    """What the first programs say and answer."""

    def __init__(self, name, socket):
        self.name, self.socket, self.heard = name, socket, []

    def info(self):
        return {
            "machine_id": self.name, "hostname": self.name, "primary_ip": "127.0.0.1", "network_info": {},
            "resources": {"cpu_cores": 2, "memory_total_gb": 1.0, "gpu_info": None}, "status": "online",
            "running_services": [], "available_ports": [], "last_heartbeat": now(), "caelum_version": "0.0",
            "platform_info": {}, "cluster_id": None, "cluster_name": None, "machine_role": "node",
        }

    def say(self, kind, payload, correlation=None, targets=None):
        message = {
            "message_id": str(uuid.uuid4()), "message_type": kind, "source_machine": self.name,
            "target_machines": targets, "timestamp": now(), "payload": payload, "correlation_id": correlation,
        }
        self.socket.send(1, json.dumps(message).encode())
        return message["message_id"]

    def next(self, until):
        """The next message; a registration and a ping are answered on the way."""
        text = self.socket.text(until)
        if text is None:
            return None
        message = json.loads(text)
        # As strict as the first programs: exactly these members.
        assert set(message) == {
            "message_id", "message_type", "source_machine", "target_machines", "timestamp", "payload",
            "correlation_id",
        }, message
        datetime.datetime.fromisoformat(message["timestamp"])
        self.heard.append(message["message_type"])
        sender = [message["source_machine"]]
        if message["message_type"] == "machine_register":
            assert message["payload"]["machine_info"]["machine_id"] == message["source_machine"]
            self.say("machine_update", {"machine_info": self.info()}, None, sender)
        if message["message_type"] == "ping":
            self.say("pong", {"timestamp": now()}, message["message_id"], sender)
        return message

    def ask(self, kind, payload, seconds):
        wanted, until = self.say(kind, payload), time.monotonic() + seconds
        while message := self.next(until):
            if message["correlation_id"] == wanted:
                return message
        return None


def dial(options):
    node = Node(options.id, WebSocket.dial(options.host, options.port))
    asked = {
        "machine_register": {"machine_info": node.info()},
        "ping": {},
        "machine_discover": {},
        "service_query": {"service_name": "no-such-service"},
        "task_distribute": {"task": {"task_id": "t-1", "task_type": "code_analysis"}},
        "resource_request": {"resource_request": {"cpu_cores": 1}},
    }
    answers = {kind: node.ask(kind, payload, options.seconds) for kind, payload in asked.items()}
    expected = {
        "machine_register": "machine_update", "ping": "pong", "machine_discover": "machine_update",
        "service_query": "service_response", "task_distribute": "error", "resource_request": "error",
    }
    kinds = {kind: answer and answer["message_type"] for kind, answer in answers.items()}
    known = answers["machine_discover"] or {"payload": {}}
    print(json.dumps({
        "ok": kinds == expected,
        "answers": kinds,
        "peer": answers["machine_register"] and answers["machine_register"]["payload"]["machine_info"],
        "machines": [one["machine_id"] for one in known["payload"].get("discovered_machines", [])],
        "was_told_secrets": any("roster" in answer["payload"] for answer in answers.values() if answer),
        "heard": node.heard,
    }), flush=True)
    node.socket.send(8, b"")
    return 0 if kinds == expected else 1


def listen(options):
    with socket.create_server(("", options.listen)) as server:
        server.settimeout(options.seconds)
        print(json.dumps({"listening": server.getsockname()[1]}), flush=True)
        connection, peer = server.accept()
    node = Node(options.id, WebSocket.accept(connection))
    until, peer_id = time.monotonic() + options.seconds, None
    while message := node.next(until):
        peer_id = message["source_machine"]
    print(json.dumps({"ok": "machine_register" in node.heard, "peer": peer_id, "heard": node.heard}), flush=True)
    return 0 if "machine_register" in node.heard else 1


def beacon(options):
    address, port = options.beacon[0], int(options.beacon[1])
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    udp.bind(("", options.bind))
    if options.group:
        member = struct.pack("4s4s", socket.inet_aton(options.group), socket.inet_aton("0.0.0.0"))
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    first = {
        "message_type": "CAELUM_BEACON", "machine_id": options.id, "hostname": options.id,
        "primary_ip": "127.0.0.1", "cluster_id": "", "cluster_name": "",
        "websocket_port": options.websocket_port, "services": [], "timestamp": now(),
    }
    second = {
        "type": "beacon", "clusterId": options.id + "-cluster", "clusterName": options.id + "-cluster",
        "wsPort": options.websocket_port, "capabilities": ["mcp"], "role": "coordinator",
    }
    for one in (first, second):
        udp.sendto(json.dumps(one).encode(), (address, port))
    heard, until = {}, time.monotonic() + options.seconds
    while (left := until - time.monotonic()) > 0:
        udp.settimeout(left)
        try:
            datagram, sender = udp.recvfrom(4096)
            message = json.loads(datagram)
        except (TimeoutError, ValueError):
            continue
        dialect = "first" if message.get("message_type") == "CAELUM_BEACON" else "second"
        who = message.get("machine_id") or message.get("clusterId")
        if who and not str(who).startswith(options.id):
            heard[f"{dialect}:{who}"] = {"from": sender[0], "beacon": message}
    print(json.dumps({"ok": bool(heard), "heard": heard}), flush=True)
    return 0 if heard else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host", nargs="?")
    parser.add_argument("port", nargs="?", type=int)
    parser.add_argument("--listen", type=int)
    parser.add_argument("--beacon", nargs=2, metavar=("ADDRESS", "PORT"))
    parser.add_argument("--id", default="stranger-1")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--websocket-port", type=int, default=8080)
    parser.add_argument("--bind", type=int, default=0)
    parser.add_argument("--group")
    options = parser.parse_args()
    try:
        if options.beacon:
            return beacon(options)
        if options.listen is not None:
            return listen(options)
        if options.host is None or options.port is None:
            parser.error("say whom to dial, or --listen, or --beacon")
        return dial(options)
    except (OSError, AssertionError) as error:
        print(json.dumps({"ok": False, "error": f"{type(error).__name__}: {error}"}), flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
