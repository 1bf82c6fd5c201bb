"""How the bus says no: before the upgrade in HTTP, after it in words, and at last by a close."""

import json

import websockets

from bus import Client, envelope, run, with_query


async def main(bus, _telemetry, _http):
    await http_statuses(bus)
    await tokens(bus)
    await forged(bus)
    await malformed(bus)


async def denied(url, **options):
    """The status and the body of a handshake that is refused."""
    try:
        await websockets.connect(url, **options)
    except websockets.InvalidStatus as refusal:
        return refusal.response.status_code, json.loads(refusal.response.body)
    raise AssertionError(f"{url} was let in")


async def http_statuses(bus):
    ann = await Client.connect(bus, client_id="ann")
    status, body = await denied(with_query(bus, {"client_id": "ann"}))
    assert (status, body["error"], body["field"]) == (409, "CLIENT_ID_IN_USE", "client_id"), body
    for query in ({"client_id": "a b"}, {"client_type": "robot"}, {"colour": "blue"}):
        status, body = await denied(with_query(bus, query))
        assert (status, body["error"]) == (400, "BAD_IDENTITY"), body
        assert body["field"] in query, body
    status, body = await denied(bus + "/elsewhere")
    assert (status, body["error"]) == (400, "BAD_HANDSHAKE"), body
    await ann.close()
    # The id is free once its connection is gone.
    again = await Client.connect(bus, client_id="ann")
    await again.close()


async def tokens(bus):
    """A token may come as the second subprotocol, as browsers must send it."""
    for protocols, chosen in (
        (["arqonbus.v1", "tok-en.1"], "arqonbus.v1"),
        (["arqonbus.v1"], "arqonbus.v1"),
        (["chat"], None),
    ):
        client = await Client.connect(bus, {"subprotocols": protocols})
        assert client.socket.subprotocol == chosen, client.socket.subprotocol
        await client.close()
    headers = {"Authorization": "Bearer tok-en.1"}
    client = await Client.connect(bus, {"additional_headers": headers})
    await client.close()
    status, body = await denied(with_query(bus, {"token": "one"}), additional_headers=headers)
    assert (status, body["field"]) == (400, "token") and "tok-en.1" not in str(body), body


async def forged(bus):
    """Nobody speaks in another's name, or in the server's."""
    ann = await Client.connect(bus, client_id="ann2", join="lab:log")
    for change, code, error, field in (
        ({"from": "bob"}, 403, "SENDER_MISMATCH", "from"),
        ({"from": "arqonbus_server"}, 403, "SENDER_MISMATCH", "from"),
        ({"type": "system"}, 403, "TYPE_FORBIDDEN", "type"),
        ({"type": "command_response"}, 403, "TYPE_FORBIDDEN", "type"),
        ({"metadata": {"sequence": 1}}, 400, "RESERVED_METADATA", "metadata.sequence"),
        ({"version": "2.0"}, 400, "UNSUPPORTED_VERSION", "version"),
        ({"colour": "blue"}, 400, "UNKNOWN_FIELD", "colour"),
        ({"timestamp": "yesterday"}, 400, "BAD_TIMESTAMP", "timestamp"),
        ({"payload": [1]}, 400, "WRONG_TYPE", "payload"),
    ):
        message = envelope("event", "ann2", "lab:log", {}) | change
        reply = await ann.reply(await ann.send(message))
        got = (reply["status"], reply["code"], reply["error"], reply["field"])
        assert got == ("error", code, error, field), (got, change)
    # Nine violations are one less than the tenth; the client is still welcome.
    await ann.publish("lab:log", {})
    await ann.close()


async def malformed(bus):
    """Each is answered; the tenth within a minute closes."""
    client = await Client.connect(bus, client_id="bad")
    most = client.welcome["limits"]["max_violations"]
    bad = ["", "hello", "{", "[]", "null", '{"a":1,"a":2}', '{"\\ud800":1}', "{}x", "1e999", "{\x00}"]
    assert len(bad) == most == 10
    for text in bad:
        await client.socket.send(text)
    for text in bad:
        reply = (await client.read())["payload"]
        assert reply["status"] == "error" and reply["request_id"] is None, reply
        assert reply["code"] == 400 and reply["error"] and reply["message"], reply
    try:
        await client.read()
        raise AssertionError("the connection is still open")
    except websockets.ConnectionClosed as closed:
        assert closed.rcvd.code == 1008 and "malformed" in closed.rcvd.reason, closed


run(main)
