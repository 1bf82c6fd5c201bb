// How the bus says no: before the upgrade in HTTP, after it in words, and at last by a close.

import assert from 'node:assert/strict';
import { Client, denied, envelope, refused, run } from './bus.mjs';

async function httpStatuses(bus) {
  const ann = await Client.connect(bus, { client_id: 'ann' });
  const taken = await denied(bus, { client_id: 'ann' });
  assert.equal(taken.status, 409);
  assert.deepEqual([taken.body.error, taken.body.field], ['CLIENT_ID_IN_USE', 'client_id']);
  for (const query of [{ client_id: 'a b' }, { client_type: 'robot' }, { colour: 'blue' }]) {
    const { status, body } = await denied(bus, query);
    assert.deepEqual([status, body.error, body.field], [400, 'BAD_IDENTITY', Object.keys(query)[0]]);
  }
  await ann.close();
  await (await Client.connect(bus, { client_id: 'ann' })).close();
}

async function tokens(bus) {
  for (const protocols of [['arqonbus.v1', 'tok-en.1'], ['arqonbus.v1']]) {
    const client = await Client.connect(bus, {}, { protocols });
    assert.equal(client.socket.protocol, 'arqonbus.v1');
    await client.close();
  }
  const headers = { Authorization: 'Bearer tok-en.1' };
  await (await Client.connect(bus, {}, { headers })).close();
  const { status, body } = await denied(bus, { token: 'another' }, { headers });
  assert.deepEqual([status, body.field], [400, 'token']);
}

async function forged(bus) {
  const ann = await Client.connect(bus, { client_id: 'ann2', join: 'lab:log' });
  for (const [change, code, error] of [
    [{ from: 'bob' }, 403, 'SENDER_MISMATCH'],
    [{ from: 'arqonbus_server' }, 403, 'SENDER_MISMATCH'],
    [{ type: 'system' }, 403, 'TYPE_FORBIDDEN'],
    [{ metadata: { replayed: true } }, 400, 'RESERVED_METADATA'],
    [{ id: 'mine' }, 400, 'BAD_ID'],
    [{ payload: null }, 400, 'MISSING_FIELD'],
  ]) {
    const message = envelope('event', 'ann2', 'lab:log', {}, change);
    // An id that is none can't be answered by name.
    const isMeant = ({ payload }) => payload.request_id === (error === 'BAD_ID' ? null : message.id);
    ann.send(message);
    const { payload } = await ann.find(isMeant);
    assert.deepEqual([payload.status, payload.code, payload.error], ['error', code, error]);
  }
  await ann.publish('lab:log', {});
  await refused(403, 'NOT_JOINED', ann.publish('lab:other', {}));
  await ann.close();
}

async function malformed(bus) {
  const client = await Client.connect(bus, { client_id: 'bad' });
  const count = client.welcome.limits.max_violations;
  assert.equal(count, 10);
  for (let n = 0; n < count; n += 1) {
    assert.equal(client.isClosed, undefined, `the ${n}th did not close`);
    client.socket.send('{"bad":');
    const { payload } = await client.find(() => true);
    assert.deepEqual([payload.status, payload.error, payload.request_id], ['error', 'INVALID_JSON', null]);
  }
  const { code, reason } = await client.closed;
  assert.equal(code, 1008);
  assert.match(reason, /malformed/);
}

run(async (bus) => {
  await httpStatuses(bus);
  await tokens(bus);
  await forged(bus);
  await malformed(bus);
});
