// Clients talk: channels, acknowledgements, echo, presence, private messages, history, commands.

import assert from 'node:assert/strict';
import { Client, envelope, refused, run } from './bus.mjs';

const numbers = (count, from = 0) => Array.from({ length: count }, (_, n) => n + from);

async function events(ann, bob, eve) {
  await refused(403, 'NOT_JOINED', ann.publish('lab:talk', {}));
  const joined = await ann.join('lab:talk', { echo: true });
  assert.deepEqual([joined.created, joined.sequence, joined.participants], [true, 0, 1]);
  await bob.join('lab:talk');

  const text = 'grüße \u2028 🦀 "\\';
  for (const n of numbers(100)) {
    for (const client of [ann, bob]) client.send(envelope('event', client.id, 'lab:talk', { n, text }));
  }
  const heardByAnn = [];
  for (const _ of numbers(200)) heardByAnn.push(await ann.event());
  assert.deepEqual(heardByAnn.map((event) => event.metadata.sequence), numbers(200, 1));
  const heardByBob = [];
  for (const _ of numbers(100)) heardByBob.push(await bob.event());
  assert.deepEqual(heardByBob, heardByAnn.filter((event) => event.from === 'ann'));
  assert.deepEqual(heardByBob.map((event) => event.payload.n), numbers(100));
  assert.equal(heardByBob[0].payload.text, text);

  // A client may always retry: the id is what counts.
  for (const duplicate of [false, true, true]) {
    const ack = await bob.publish('lab:talk', { n: 1 }, { id: 'arq_retried' });
    assert.deepEqual([ack.sequence, ack.duplicate], [201, duplicate]);
  }
  assert.equal((await ann.event()).id, 'arq_retried');
  const traced = await bob.publish('lab:talk', {}, { metadata: { trace: true } });
  assert.equal(traced.delivered, 1);
  assert.ok(traced.trace.some((hop) => hop.at === 'delivered' && hop.ns > 0), JSON.stringify(traced));
  await ann.event();
  for (const client of [ann, bob, eve]) await client.isQuiet();
}

async function presence(ann, bob) {
  await ann.join('lab:door', { presence: true });
  await bob.join('lab:door');
  assert.equal((await ann.notice('joined')).client_id, 'bob');
  await bob.ask('leave_channel', { channel: 'lab:door' });
  assert.equal((await ann.notice('left')).client_id, 'bob');
}

async function privately(ann, bob) {
  for (const target of ['bob', ['bob']]) {
    ann.send(envelope('private', 'ann', 'lab:talk', { target, text: 'psst' }));
    const got = await bob.find((message) => message.type === 'private');
    assert.deepEqual([got.from, got.payload], ['ann', { target, text: 'psst' }]);
  }
  const missing = envelope('private', 'ann', 'lab:talk', { target: 'nobody' });
  await refused(404, 'TARGET_NOT_FOUND', ann.exchange(missing));
}

async function commands(ann, bob) {
  const page = await ann.ask('history', { channel: 'lab:talk', limit: 2 });
  assert.deepEqual(page.messages.map((message) => message.metadata.sequence), [201, 202]);
  assert.ok(page.messages.every((message) => message.metadata.replayed));
  assert.equal((await ann.ask('status')).server, 'arqonbus');
  const info = await ann.ask('channel_info', { channel: 'lab:talk' });
  assert.deepEqual(info.participants.map((one) => one.client_id), ['ann', 'bob']);
  await ann.ask('pause_room', { room: 'lab' });
  await refused(409, 'ROOM_PAUSED', bob.publish('lab:talk', {}));
  await ann.ask('resume_room', { room: 'lab' });
  await ann.ask('announce', { message: 'hear, hear' });
  for (const client of [ann, bob]) {
    assert.equal((await client.notice('announcement')).message, 'hear, hear');
  }
  await ann.ask('disconnect_client', { client_id: 'bob', reason: 'good night' });
  assert.deepEqual(await bob.closed, { code: 4013, reason: 'good night' });
}

run(async (bus) => {
  const ann = await Client.connect(bus, { client_id: 'ann', screen_name: 'Änn ☺' });
  const bob = await Client.connect(bus, { client_id: 'bob', client_type: 'service' });
  const eve = await Client.connect(bus, { join: 'science:general,lab:join' });
  assert.equal(ann.welcome.protocol, '1.0');
  assert.match(eve.id, /^arq_client_[0-9A-Z]{26}$/);
  assert.equal(eve.welcome.joined.length, 2);
  await events(ann, bob, eve);
  await presence(ann, bob);
  await privately(ann, bob);
  await eve.isQuiet();
  await commands(ann, bob);
  assert.equal((await ann.close()).code, 1000);
});
