// What the vectors do not say: HTTP, several nodes, bounds.
import assert from 'node:assert/strict'
import { createServer, get } from 'node:http'
import { test } from 'node:test'
import { inspect } from 'node:util'
import { ConfigError, createVerifier, Refusal } from '../dist/index.js'
import { parseStrict } from '../dist/json.js'
import { Stage, tokenOf, world } from './issuer.mjs'

const good = { tokens: { key: {} }, lists: { '1-0': {} } }

async function staged(t, scenario = good, config) {
  const stage = new Stage(scenario)
  t.after(() => void stage.verifier?.close())
  await stage.start(config)
  return stage
}

// request has a server guard what it does not look at, and returns what it answered.
function request(guard, headers) {
  return new Promise((resolve, reject) => {
    const server = createServer((req, res) => guard(req, res, () => res.end(req.caller.subject))).listen(0, '127.0.0.1', () => {
      const req = get({ port: server.address().port, headers }, async (res) => {
        server.close()
        resolve({ status: res.statusCode, headers: res.headers, body: (await res.toArray()).join('') })
      })
      req.on('error', reject)
    })
  })
}

test('the middleware takes one token out of Authorization or x-dressipi-jwt', async (t) => {
  const stage = await staged(t)
  const key = stage.texts.get('key')
  const guard = stage.verifier.middleware({ scope: 'stores.view', store: () => 'shop-1' })
  for (const headers of [{ Authorization: 'Bearer ' + key }, { authorization: 'bearer  ' + key }, { 'X-Dressipi-Jwt': key },
    { Authorization: 'Bearer ' + key, 'X-Dressipi-Jwt': key }, { Authorization: 'Basic eDp5', 'X-Dressipi-Jwt': key }]) {
    const { status, body } = await request(guard, headers)
    assert.deepEqual({ status, body }, { status: 200, body: 'user-7' })
  }
  for (const [status, code, headers] of [
    [401, undefined, {}],
    [401, undefined, { Authorization: 'Basic eDp5' }],
    [400, 'invalid_request', { Authorization: 'Bearer' }],
    [400, 'invalid_request', { Authorization: `Bearer ${key} ${key}` }],
    [400, 'invalid_request', { Authorization: ['Bearer ' + key, 'Bearer ' + key] }],
    [400, 'invalid_request', { Authorization: 'Bearer ' + key, 'X-Dressipi-Jwt': key + 'x' }],
    [401, 'invalid_token', { Authorization: `Bearer ${key}x` }],
  ]) {
    const answer = await request(guard, headers)
    assert.equal(answer.status, status, JSON.stringify(headers))
    assert.equal(JSON.parse(answer.body).error, code)
    assert.match(answer.headers['www-authenticate'], /^Bearer realm="https:\/\/api\.example\/v1"/)
    assert.equal(answer.headers['cache-control'], 'no-store')
  }
})

test('once there is news, the next poll waits a moment', async (t) => {
  const stage = await staged(t)
  const { polls } = stage.verifier.counters
  await stage.feed({ seq: world.seq + 1 })
  await stage.wait(9)
  assert.equal(stage.verifier.counters.polls, polls)
  await stage.wait(1)
  await stage.settle()
  assert.equal(stage.verifier.counters.polls, polls + 1)
})

test('what a route answers who may not', async (t) => {
  const stage = await staged(t)
  const bearer = { Authorization: 'Bearer ' + stage.texts.get('key') }
  const denied = await request(stage.verifier.middleware({ scope: 'stores.view', store: () => undefined }), bearer)
  assert.equal(denied.status, 403)
  assert.match(denied.headers['www-authenticate'], /error="insufficient_scope", error_description="Your access token does not have permission to view stores in this store", scope="stores\.view"$/)
  await stage.setAlways({ status: 503 })
  await stage.wait(701)
  const stale = await request(stage.verifier.middleware({ onStale: 'closed' }), bearer)
  assert.equal(stale.status, 503)
  assert.equal(stale.headers['retry-after'], '1')
  assert.equal(stale.headers['www-authenticate'], undefined)
  stage.verifier.close()
  const closed = await request(stage.verifier.middleware({}), bearer)
  assert.equal(closed.status, 503)
})

const twoNodes = { nodes: ['https://a.example', 'https://b.example/'] }

// checksAllTheWhile has every check of so many milliseconds made under a lease.
async function checksAllTheWhile(stage, ms) {
  for (let n = 0; n < ms; n++) {
    await stage.wait(1)
    await stage.verifier.check(stage.texts.get('key'), { onStale: 'closed' })
  }
  assert.equal(stage.verifier.counters.stale, 0)
}

test('the next node is asked within the lease where one falls silent', async (t) => {
  const stage = await staged(t, good, twoNodes)
  await stage.verifier.check(stage.texts.get('key'))
  // The worst that there is: the lease is of a poll sent at 200 ms that was held for 199 ms and then had news, the next poll
  // is lost, and the other node has nothing to say, which it says at 899 ms.
  stage.way = 10
  await stage.wait(409)
  assert.equal((await stage.held()).node, 'a.example')
  stage.silent.add('a.example')
  await stage.feed({ seq: world.seq + 1 })
  await checksAllTheWhile(stage, 1500)
  assert.equal((await stage.held()).node, 'b.example')
})

test('a node that is far away is no silent one', async (t) => {
  const stage = await staged(t, good, twoNodes)
  await stage.verifier.check(stage.texts.get('key'))
  stage.way = 60
  await checksAllTheWhile(stage, 1500)
  assert.deepEqual(stage.logged, [])
})

test('a poll that is answered after its time is worth nothing', async (t) => {
  const stage = await staged(t)
  await stage.verifier.check(stage.texts.get('key'))
  stage.silent.add('issuer.example')
  await stage.wait(901)
  await assert.rejects(stage.verifier.check(stage.texts.get('key'), { onStale: 'closed' }), { kind: 'unavailable', reason: 'stale' })
})

test('an answer of more than 8 MiB is refused', async (t) => {
  const stage = await staged(t)
  await stage.feed({ text: JSON.stringify({ epoch: 1, seq: 13, more: false, changes: [], rules: [] }) + ' '.repeat(8 << 20) })
  assert.deepEqual((await stage.held()).query.get('after'), '12')
  assert.match(stage.logged.join(), /more than 8388608 bytes/)
})

test('trouble is logged once when it begins and once when it ends', async (t) => {
  const stage = await staged(t)
  await stage.setAlways({ status: 503 })
  await stage.wait(5000)
  await stage.setAlways(null)
  await stage.wait(1000)
  assert.deepEqual(stage.logged, ['the revocation feed is not followed: answered 503', 'the revocation feed is followed again'])
})

test('one question about one key at a time, and no more than 64 at once', async (t) => {
  const tokens = Object.fromEntries(Array.from({ length: 70 }, (_, n) => ['key' + n, { idx: n, claims: { jti: 'key' + n } }]))
  const stage = await staged(t, { tokens, lists: good.lists, introspection: Object.fromEntries(Object.keys(tokens).map((name) => [name, { active: true }])) })
  // Signatures are checked now, which takes its time, so that all who ask later ask together.
  await Promise.all([...stage.texts.values()].map((text) => stage.verifier.check(text)))
  stage.asked = 0
  await stage.setAlways({ status: 503 })
  await stage.wait(701)
  const out = stage.pause()
  const checks = Promise.allSettled([...stage.texts.values()].flatMap((text) => [stage.verifier.check(text), stage.verifier.check(text)]))
  while (stage.verifier.counters.shed < 12) await stage.settle()
  out.resume()
  const outcomes = (await checks).map((o) => o.reason?.reason ?? 'accepted')
  assert.equal(stage.asked, 64)
  assert.equal(outcomes.filter((o) => o === 'accepted').length, 128)
  assert.equal(outcomes.filter((o) => o === 'shed').length, 12)
})

test('a question that is out when the feed names its key is not shared by later checks', async (t) => {
  const stage = await staged(t, { tokens: { key: {} }, lists: { '1-0': { values: { 5: 3 } } }, introspection: { key: { active: true } } })
  const out = stage.pause()
  const first = stage.verifier.check(stage.texts.get('key'))
  await out.reached
  await stage.feed({ seq: 13, changes: [{ seq: 13, list: '1-0', idx: 5, value: 1 }] })
  await assert.rejects(stage.verifier.check(stage.texts.get('key')), { reason: 'not_active' })
  out.resume()
  await assert.rejects(first, { reason: 'not_active' })
})

test('nor is what it answers kept', async (t) => {
  const stage = await staged(t, { tokens: { key: {} }, lists: { '1-0': { values: { 5: 3 } } }, introspection: { key: { active: true } } })
  const key = stage.texts.get('key')
  const out = stage.pause()
  const first = stage.verifier.check(key)
  await out.reached
  await stage.feed({ seq: 13, changes: [{ seq: 13, list: '1-0', idx: 5, value: 3 }] })
  const second = stage.verifier.check(key)
  while (stage.verifier.counters.asked < 2) await stage.settle()
  out.resume()
  await stage.within(40, Promise.all([first, second]))
  assert.equal(stage.asked, 3) // the first request twice: what it was answered first may be from before the event
  await stage.verifier.check(key)
  assert.equal(stage.asked, 4)
})

test('each of two questions about one key is held against what the feed says while it is out', async (t) => {
  const active = { active: true, iseq: 13 }
  const stage = await staged(t, { tokens: { key: {} }, lists: { '1-0': { values: { 5: 3 } } }, introspection: { key: active } })
  const out = stage.pause()
  const outcomes = []
  for (const seq of [13, 14]) {
    outcomes.push(assert.rejects(stage.verifier.check(stage.texts.get('key')), { reason: 'not_active' }))
    while (stage.asked < outcomes.length) await stage.settle()
    await stage.feed({ seq, changes: [{ seq, list: '1-0', idx: 5, value: 3 }] })
  }
  stage.introspection = { key: { active: false } }
  out.resume()
  await stage.within(40, Promise.all(outcomes))
})

const change = (seq, idx, value) => ({ seq, changes: [{ seq, list: '1-0', idx, value }] })

// onItsWay has keys checked whose list is then on its way, made before anything that the feed says from then on.
async function onItsWay(t, list) {
  const tokens = { five: { idx: 5 }, six: { idx: 6 }, seven: { idx: 7 } }
  const stage = await staged(t, { tokens, lists: { '1-0': list } })
  const out = stage.pause('/status/1-0')
  const checks = Object.fromEntries(Object.keys(tokens).map((name) =>
    [name, stage.verifier.check(stage.texts.get(name)).then(() => 'accepted', (e) => e.reason)]))
  await out.reached
  const arrived = async () => {
    out.resume()
    return Object.fromEntries(await Promise.all(Object.entries(checks).map(async ([name, outcome]) => [name, await outcome])))
  }
  return { stage, arrived }
}

test('a list counts that was made before what the feed said while it was on its way, and so does what it said', async (t) => {
  const { stage, arrived } = await onItsWay(t, {})
  for (const news of [change(13, 6, 1), change(14, 7, 2), change(15, 5, 0), change(16, 7, 0)]) await stage.feed(news)
  assert.deepEqual(await arrived(), { five: 'accepted', six: 'not_active', seven: 'accepted' })
  await stage.feed(change(17, 5, 1))
  await assert.rejects(stage.verifier.check(stage.texts.get('five')), { reason: 'not_active' })
  assert.deepEqual([stage.reads, stage.asked], [1, 0])
})

test('what a list has in it is not done to it once more', async (t) => {
  const { stage, arrived } = await onItsWay(t, { seq: 14, values: { 6: 1 } })
  for (const news of [change(13, 5, 1), change(14, 6, 0), change(15, 7, 1)]) await stage.feed(news)
  assert.deepEqual(await arrived(), { five: 'accepted', six: 'not_active', seven: 'not_active' })
  assert.deepEqual([stage.reads, stage.asked], [1, 0])
})

test('a list on its way when the feed begins anew is dropped', async (t) => {
  const { stage, arrived } = await onItsWay(t, {})
  stage.snapshot = { seq: 13 }
  await stage.feed({ status: 410 })
  await stage.held()
  await arrived()
  const { asked } = stage
  stage.lists['1-0'] = { seq: 13, values: { 5: 1 } }
  await assert.rejects(stage.verifier.check(stage.texts.get('five')), { reason: 'not_active' })
  assert.deepEqual([stage.reads, stage.asked], [2, asked])
})

test('made-up key ids have the keys read twice a second at most, and keep nobody out', async (t) => {
  const stage = await staged(t, { tokens: { key: {}, successors: { header: { kid: 'lasting-3' } } }, lists: { '1-0': {} } })
  const { verifier, texts } = stage
  await verifier.check(texts.get('key'))
  assert.equal(stage.keysRead, 1) // not again when the feed begins
  await stage.wait(500)
  const read = stage.keysRead
  const made = (kid) => verifier.check(tokenOf({ header: { kid }, by: 'stranger' }))
  const flood = []
  for (let n = 0; n < 50; n++) {
    flood.push(assert.rejects(made(`made-up-${n}`), { reason: 'unknown_key' }))
    await stage.wait(100)
    await stage.within(0, verifier.check(texts.get('key')))
  }
  stage.lasting = [...world.lasting, 'lasting-3']
  await stage.within(500, verifier.check(texts.get('successors')))
  await stage.within(1000, Promise.all(flood))
  assert.ok(stage.keysRead - read <= 14, `${stage.keysRead - read} readings in six seconds`)

  // One that is known not to be there is refused at once, and still looked for.
  await stage.within(0, assert.rejects(made('made-up-0'), { reason: 'unknown_key' }))
  const before = stage.keysRead
  await stage.wait(500)
  assert.equal(stage.keysRead, before + 1)
})

test('so many may wait for a key set', async (t) => {
  const stage = await staged(t)
  const made = (n) => stage.verifier.check(tokenOf({ header: { kid: `made-up-${n}` }, by: 'stranger' }))
  const flood = Array.from({ length: 1024 }, (_, n) => assert.rejects(made(n), { reason: 'unknown_key' }))
  await stage.within(0, assert.rejects(made('one-more'), { kind: 'unavailable', reason: 'shed' }))
  await stage.within(1000, Promise.all(flood))
})

test('who closes says so, once nothing is accepted any more, and which grants were seen', async (t) => {
  const stage = await staged(t, { ...good, introspection: { key: { active: true } } }, { nodes: ['https://a.example', 'https://b.example'] })
  const checks = () => ['introspect', 'closed', { open: 3_600_000 }].map((onStale) =>
    stage.verifier.check(stage.texts.get('key'), { onStale }).then(() => 200, (e) => e.status))
  assert.deepEqual(await Promise.all(checks()), [200, 200, 200])
  stage.silent.add('a.example')
  await stage.wait(500)
  const { node, query } = await stage.held()
  assert.equal(node, 'b.example')
  let after
  stage.leaving = async () => (after = await Promise.all(checks()))
  const underWay = checks()
  const closing = stage.verifier.close()
  assert.equal(stage.verifier.close(), closing)
  await closing
  assert.deepEqual(await Promise.all(underWay), [503, 503, 503])
  assert.deepEqual(after, [503, 503, 503])
  assert.deepEqual(stage.left, [query.get('instance')])
  assert.deepEqual(stage.seen, [{ grants: ['grant-1'] }])
})

test('who closes before the feed has answered says so too: it may have been counted', async (t) => {
  const stage = new Stage({ ...good, snapshot: { status: 503 } })
  t.after(() => void stage.verifier?.close())
  const starting = stage.start()
  while (!stage.instances.size) await stage.settle()
  await stage.verifier.close()
  assert.deepEqual(stage.left, [...stage.instances])
  await starting
})

test('who closes does not wait long to be heard', async (t) => {
  const stage = await staged(t)
  stage.leaving = () => new Promise(() => {})
  let closed = false
  const closing = stage.verifier.close().then(() => (closed = true))
  await stage.wait(499)
  assert.equal(closed, false)
  await stage.wait(1)
  await closing
})

test('the issuer is told once an hour which grants were seen', async (t) => {
  const stage = await staged(t)
  await stage.verifier.check(stage.texts.get('key'))
  await stage.verifier.check(stage.texts.get('key'))
  await stage.fire(3_600_000)
  await stage.fire(3_600_000)
  assert.deepEqual(stage.seen, [{ grants: ['grant-1'] }])
})

test('a configuration that is wrong is told at once', async (t) => {
  const config = { issuer: world.issuer, audience: world.audience, clientId: 'x', clientSecret: 'y' }
  for (const wrong of [{ issuer: 'http://issuer.example' }, { issuer: 'https://issuer.example/?x' }, { issuer: undefined }, { audience: 'a "b"' },
    { clientSecret: '' }, { nodes: [] }, { nodes: ['ftp://a.example'] }]) {
    await assert.rejects(createVerifier({ ...config, ...wrong }), ConfigError, JSON.stringify(wrong))
  }
  await assert.rejects(staged(t, good, { clientSecret: 'wrong' }), ConfigError)
  await assert.rejects(staged(t, good, { issuer: 'https://issuer.example/' }), ConfigError)
})

// The sentences of the verifier in Go, and of its test: one key and one store, one answer, whatever the API is written in.
test('a refusal says what is not permitted', () => {
  for (const [scope, reason, words] of [
    ['stores.products.update', 'scope', 'does not have permission to update products'],
    ['stores.update', 'scope', 'does not have permission to update stores'],
    ['stores.reviews.flagged.create', 'scope', 'does not have permission to create flagged reviews'],
    ['user.crypto.viewEnabled', 'scope', 'does not have permission to view enabled crypto'],
    ['user.webhooks.delete', 'scope', 'does not have permission to delete webhooks'],
    ['user.delete', 'scope', 'does not have permission to delete user'],
    ['email', 'scope', 'does not have permission to use email'],
    ['stores.orders.refund', 'other_store', 'does not have permission to refund orders in this store'],
    [undefined, 'store', 'does not have access to this store'],
  ]) {
    const refusal = new Refusal('insufficient_scope', reason).challenge('https://api.example', scope)
    assert.equal(JSON.parse(refusal.body).error_description, 'Your access token ' + words)
    assert.ok(refusal.headers['WWW-Authenticate'].includes(`error_description="Your access token ${words}"`), words)
  }
  assert.equal(JSON.parse(new Refusal('invalid_token', 'expired').body).error_description, 'Your access token has expired')
})

test('a slip of the pen opens no route', async (t) => {
  const stage = await staged(t)
  const key = stage.texts.get('key')
  await assert.rejects(stage.verifier.check(key, { scope: 'stores.view', store: undefined }), { kind: 'insufficient_scope' })
  await assert.rejects(stage.verifier.check(key, { store: undefined }), { kind: 'insufficient_scope' })
  for (const wrong of [{ scope: undefined }, { scope: '' }, { scope: 'stores.view user.view' }, { scope: 'a"b' }, { onStale: 'close' }, { onStale: {} }, { onStale: null }, { onStale: { open: -1 } }]) {
    assert.throws(() => stage.verifier.middleware(wrong), ConfigError, JSON.stringify(wrong))
    await assert.rejects(stage.verifier.check(key, wrong), ConfigError, JSON.stringify(wrong))
    if (!('scope' in wrong)) await assert.rejects(staged(t, good, wrong), ConfigError)
  }
})

test('an issuer without a feed is asked about every token, whatever the route would do without a lease', async (t) => {
  const stage = new Stage({ ...good, introspection: { key: { active: true } } })
  stage.feedless = true
  t.after(() => void stage.verifier?.close())
  await stage.start()
  for (const onStale of ['introspect', 'closed', { open: 1000 }])
    assert.equal((await stage.verifier.check(stage.texts.get('key'), { onStale })).subject, 'user-7')
  assert.equal(stage.asked, 3)
})

test('an issuer that does not answer is no error, and is tried again', async (t) => {
  const stage = new Stage(good)
  t.after(() => void stage.verifier?.close())
  stage.silent.add('issuer.example')
  await stage.start()
  assert.equal(stage.verifier.ready, false)
  await assert.rejects(stage.verifier.check(stage.texts.get('key')), { kind: 'unavailable', reason: 'no_keys' })
  stage.silent.clear()
  await stage.wait(3000)
  await stage.held()
  assert.equal(stage.verifier.ready, true)
  await stage.verifier.check(stage.texts.get('key'))
  assert.equal(stage.asked, 1) // the trial of the credentials
})

test('a verifier that is printed has no secret in it', async (t) => {
  const stage = await staged(t)
  assert.doesNotMatch(inspect(stage.verifier, { depth: 9, showHidden: true }) + JSON.stringify(stage.verifier), /s3cret/)
})

test('strict JSON', () => {
  const read = (s) => parseStrict(Buffer.from(s))
  assert.deepEqual(read(' {"a":[1,-2.5e3,null,true,"\\u00e9\\ud83d\\ude00"],"__proto__":{}}\n').a, [1, NaN, null, true, 'é😀'])
  for (const s of ['', '{', '{}}', '[]', '1', '{"a":1,"a":2}', '{"a":1,"\\u0061":2}', '{"a":01}', '{"a":1.}', '{"a":+1}', '{"a":tru}', "{'a':1}", '{"a":1,}',
    '{"a" 1}', '{"a":"\t"}', '{"a":"\\x"}', '{"a":"\\ud800"}', '{,}', '{"a":}', '{"a":]', '\ufeff{}', '{"a":[1 2]}', '{"a":' + '['.repeat(9) + ']'.repeat(9) + '}']) {
    assert.throws(() => read(s), SyntaxError, s)
  }
  assert.throws(() => parseStrict(Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d])))
})
