"""The package's threaded interface: a thread reads while others publish, without asyncio."""

import json
import threading

from websockets.sync.client import connect

from bus import PATIENCE_S, command, envelope, result_of, run, with_query

SPEAKERS = 3
EACH = 100


class Client:
    """A client that blocks, on a socket that is open."""

    def __init__(self, socket):
        self.socket = socket
        welcome = json.loads(socket.recv(timeout=PATIENCE_S))
        assert welcome["payload"]["event"] == "welcome", welcome
        self.id = welcome["payload"]["client_id"]

    def ask(self, message):
        """Sends, and passes over everything until the answer."""
        self.socket.send(json.dumps(message))
        while True:
            heard = json.loads(self.socket.recv(timeout=PATIENCE_S))
            if heard["payload"].get("request_id") == message["id"]:
                return result_of(heard["payload"])


def main(bus, _telemetry, _http):
    failures = []

    def speak(number):
        try:
            with connect(url(bus, f"speaker{number}")) as socket:
                publish(Client(socket))
        except Exception as failure:
            failures.append(failure)

    with connect(url(bus, "reader")) as socket:
        reader = Client(socket)
        threads = [threading.Thread(target=speak, args=(number,)) for number in range(SPEAKERS)]
        for thread in threads:
            thread.start()
        read(reader)
        for thread in threads:
            thread.join(PATIENCE_S)
        assert not failures, failures

        assert socket.ping().wait(PATIENCE_S), "the bus answers pings"
        history = command("reader", "history", {"channel": "lab:log", "limit": 5})
        assert len(reader.ask(history)["messages"]) == 5
    assert socket.close_code == 1000


def url(bus, client_id):
    """Where a client of that id connects to."""
    return with_query(bus, {"client_id": client_id, "join": "lab:log"})


def publish(speaker):
    """Publishes, every other message in pieces and without awaiting its answer."""
    for n in range(EACH):
        message = envelope("event", speaker.id, "lab:log", {"n": n}, {"ack": True})
        if n % 2:
            text = json.dumps(message)
            speaker.socket.send([text[:50], text[50:51], text[51:]])
        else:
            assert speaker.ask(message)["duplicate"] is False
    # Its answer comes after all others.
    speaker.ask(command(speaker.id, "ping", {}))


def read(reader):
    """Reads what all speakers said: in one order, and each speaker's in its own."""
    heard = {f"speaker{number}": [] for number in range(SPEAKERS)}
    for sequence in range(1, SPEAKERS * EACH + 1):
        event = json.loads(reader.socket.recv(timeout=PATIENCE_S))
        assert event["metadata"]["sequence"] == sequence, event
        heard[event["from"]].append(event["payload"]["n"])
    assert all(numbers == list(range(EACH)) for numbers in heard.values()), heard


run(main)
