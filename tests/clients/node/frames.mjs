// What the package does with frames: compression offered, fragments, pings, sizes, closes.

import assert from 'node:assert/strict';
import { Client, envelope, run, sleep } from './bus.mjs';

async function compression(bus) {
  let offered;
  let chosen;
  const client = new Client(bus, {
    perMessageDeflate: { threshold: 0 },
    finishRequest: (request) => {
      offered = request.getHeader('Sec-WebSocket-Extensions');
      request.end();
    },
  });
  client.socket.on('upgrade', (response) => {
    chosen = response.headers['sec-websocket-extensions'];
  });
  const welcome = await client.find(() => true);
  assert.match(offered, /permessage-deflate/);
  assert.equal(chosen, undefined, 'the bus declines');
  assert.equal(client.socket.extensions, '');
  client.id = welcome.payload.client_id;
  await client.isQuiet();
}

async function fragments(ann, bob) {
  const said = 'grüße 🦀'.repeat(50);
  for (const size of [1, 2, 7, 125, 126, 4_000]) {
    const message = envelope('event', 'ann', 'lab:log', { text: said });
    // Bytes, so that characters are cut, too.
    const bytes = Buffer.from(JSON.stringify(message));
    for (let at = 0; at < bytes.length; at += size) {
      const fin = at + size >= bytes.length;
      ann.socket.send(bytes.subarray(at, at + size), { binary: false, fin });
      // A control frame may stand between two fragments.
      if (!fin && at % 3 === 0) ann.socket.ping();
    }
    const event = await bob.event();
    assert.deepEqual([event.id, event.payload.text], [message.id, said], `${size}`);
  }
}

async function sizes(ann, bob) {
  const most = ann.welcome.limits.max_message_bytes;
  assert.equal(most, 1 << 20);
  for (const length of [1_000, 65_535, 65_536, 65_537, most - 1, most]) {
    const message = envelope('event', 'ann', 'lab:log', { filler: '' });
    message.payload.filler = 'x'.repeat(length - JSON.stringify(message).length);
    assert.equal(JSON.stringify(message).length, length);
    ann.send(message);
    assert.deepEqual((await bob.event()).payload, message.payload);
  }
}

async function pings(bus, ann) {
  const pong = new Promise((resolve) => ann.socket.once('pong', resolve));
  ann.socket.ping('are you there?');
  assert.equal((await pong).toString(), 'are you there?');
  const beat = ann.welcome.heartbeat_ms;
  assert.ok(beat <= 1_000, 'this program is to be run with a short heartbeat');
  let asked = 0;
  const quiet = await Client.connect(bus);
  quiet.socket.on('ping', () => {
    asked += 1;
  });
  const mute = await Client.connect(bus, {}, { autoPong: false });
  await sleep(3.5 * beat);
  assert.ok(asked >= 2, `a silent client is asked once a heartbeat, not ${asked} times in all`);
  assert.equal(quiet.isClosed, undefined, 'who answers pings stays');
  await quiet.ask('ping');
  assert.equal((await mute.closed).code, 4010, 'who does not is closed');
}

async function closes(bus) {
  for (const [data, code] of [['x'.repeat((1 << 20) + 1), 1009], [Buffer.from('{}'), 1003]]) {
    const client = await Client.connect(bus);
    client.socket.send(data);
    const closed = await client.closed;
    assert.equal(closed.code, code);
    assert.notEqual(closed.reason, '');
  }
  const client = await Client.connect(bus);
  assert.equal((await client.close()).code, 1000);
}

run(async (bus) => {
  const ann = await Client.connect(bus, { client_id: 'ann', join: 'lab:log' });
  const bob = await Client.connect(bus, { client_id: 'bob', join: 'lab:log' });
  await compression(bus);
  await fragments(ann, bob);
  await sizes(ann, bob);
  await Promise.all([pings(bus, ann), closes(bus)]);
});
