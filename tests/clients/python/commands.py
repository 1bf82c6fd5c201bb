"""Every command that `help` lists is given at least once, and answers as the protocol says."""

from bus import Client, command, refused, result_of, run


class Caller(Client):
    """A client that remembers what it has asked."""

    asked = set()

    async def ask(self, name, **parameters):
        Caller.asked.add(name)
        return await super().ask(name, **parameters)


async def main(bus, _telemetry, _http):
    admin = await Caller.connect(bus)
    told = await admin.ask("identify", client_id="admin", client_type="service", join=["lab:log"])
    assert (told["client_id"], told["client_type"]) == ("admin", "service"), told
    admin.id = "admin"
    bob = await Caller.connect(bus, client_id="bob", client_type="ai-agent", screen_name="Bob")

    await about_the_bus(admin)
    await about_channels(admin, bob)
    await about_rooms(admin, bob)
    await about_clients(admin, bob)
    await wrong(admin)

    listed = {spec["name"]: spec for spec in await admin.ask("help")}
    assert set(listed) == Caller.asked, set(listed) ^ Caller.asked
    assert listed["announce"]["requires_admin"] and not listed["history"]["requires_admin"]
    assert listed["history"]["scope"] == "channel", listed["history"]
    brief = command("admin", "help", {})
    brief["payload"]["response_format"] = "brief"
    names = result_of(await admin.reply(await admin.send(brief)))
    assert sorted(names) == sorted(listed), names


async def about_the_bus(admin):
    status = await admin.ask("status")
    assert status["server"] == "arqonbus" and status["clients"] == 2, status
    assert status["storage"] == "memory" and status["uptime_s"] >= 0, status
    assert (await admin.ask("ping"))["pong"] is True


async def about_channels(admin, bob):
    made = await admin.ask("create_channel", channel="lab:made", metadata={"colour": "blue"})
    assert (made["name"], made["metadata"]) == ("made", {"colour": "blue"}), made
    await refused(409, "CHANNEL_EXISTS", admin.ask("create_channel", channel="lab:made"))
    joined = await bob.join("lab:made")
    assert joined["created"] is False and joined["participants"] == 1, joined
    await bob.publish("lab:made", {"n": 1})
    info = await admin.ask("channel_info", room="lab", channel="made")
    assert info["participants"] == [
        {"client_id": "bob", "client_type": "ai-agent", "screen_name": "Bob"}
    ], info
    assert (info["history"]["first_sequence"], info["history"]["last_sequence"]) == (1, 1), info
    lines = {line["name"]: line for line in await channels(admin, "lab")}
    assert lines["log"]["auto_created"] and not lines["made"]["auto_created"], lines
    assert lines["made"]["participants"] == 1, lines
    assert len((await bob.ask("history", channel="lab:made"))["messages"]) == 1
    await refused(409, "CHANNEL_NOT_EMPTY", admin.ask("delete_channel", channel="lab:made"))
    assert (await bob.ask("leave_channel", channel="lab:made"))["left"] is True
    await refused(403, "NOT_JOINED", bob.ask("history", channel="lab:made"))
    await admin.ask("delete_channel", channel="lab:made")
    assert "made" not in {line["name"] for line in await channels(admin, "lab")}


async def channels(client, room):
    """The lines of `list_channels`."""
    listed = await client.ask("list_channels", room=room)
    return listed["channels"] if isinstance(listed, dict) else listed


async def about_rooms(admin, bob):
    config = {"history_size": 7, "publishers": ["admin"]}
    room = await admin.ask("create_room", room="hall", config=config)
    assert (room["name"], room["type"]) == ("hall", "user"), room
    await refused(409, "ROOM_EXISTS", admin.ask("create_room", room="hall"))
    listed = await admin.ask("list_rooms")
    rooms = {view["name"]: view for view in (listed["rooms"] if isinstance(listed, dict) else listed)}
    assert rooms["hall"]["config"]["history_size"] == 7, rooms["hall"]
    assert rooms["science"]["type"] == "system" and rooms["lab"]["type"] == "dynamic", rooms

    await bob.join("lab:log")
    await admin.ask("pause_room", room="lab")
    await refused(409, "ROOM_PAUSED", bob.publish("lab:log", {}))
    await admin.ask("resume_room", room="lab")
    await bob.publish("lab:log", {})
    await admin.ask("announce", message="to the lab", room="lab")
    await admin.ask("announce", message="to all")
    for client in (admin, bob):
        for text in ("to the lab", "to all"):
            assert (await client.notice("announcement"))["message"] == text

    await refused(409, "ROOM_NOT_EMPTY", admin.ask("delete_room", room="lab"))
    await refused(409, "ROOM_PROTECTED", admin.ask("delete_room", room="science"))
    await admin.ask("delete_room", room="hall")
    await refused(404, "ROOM_NOT_FOUND", admin.ask("list_channels", room="hall"))


async def about_clients(admin, bob):
    listed = await admin.ask("list_clients")
    clients = {view["client_id"]: view for view in (listed["clients"] if isinstance(listed, dict) else listed)}
    assert set(clients) == {"admin", "bob"}, clients
    assert clients["bob"]["subscriptions"] == ["lab:log"], clients["bob"]
    assert clients["bob"]["role"] == "admin", "only this machine can connect"
    await admin.ask("disconnect_client", client_id="bob", reason="good night")
    await bob.socket.wait_closed()
    assert (bob.socket.close_code, bob.socket.close_reason) == (4013, "good night")
    await refused(404, "CLIENT_NOT_FOUND", admin.ask("disconnect_client", client_id="bob"))


async def wrong(admin):
    no = Client.ask
    await refused(400, "BAD_PARAMETER", no(admin, "join_channel", channel="lab:x", colour="blue"))
    await refused(400, "BAD_PARAMETER", no(admin, "history", channel="lab:log", limit=0))
    await refused(400, "BAD_NAME", no(admin, "join_channel", channel="lab:a b"))
    await refused(409, "ALREADY_IDENTIFIED", no(admin, "identify", client_id="eve"))
    reply = await admin.reply(await admin.send(command("admin", "dance", {})))
    assert (reply["code"], reply["error"]) == (400, "UNKNOWN_COMMAND"), reply


run(main)
