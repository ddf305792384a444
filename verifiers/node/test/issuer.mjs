// The issuer and the clocks of a scenario: see resource/testdata/vectors/README.md.
import { createPrivateKey, createPublicKey, sign } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { pathToFileURL } from 'node:url'
import { deflateSync } from 'node:zlib'
import { Verifier } from '../dist/verifier.js'

// VECTORS is the folder of the vectors where this one was copied elsewhere.
export const folder = process.env.VECTORS ? pathToFileURL(process.env.VECTORS + '/') : new URL('../../../resource/testdata/vectors/', import.meta.url)
export const world = JSON.parse(readFileSync(new URL('world.json', folder), 'utf8'))

const b64 = (data) => Buffer.from(data).toString('base64url')

export function edited(object, edits = {}) {
  return Object.fromEntries(Object.entries({ ...object, ...edits }).filter(([, value]) => value !== null))
}

function jws(header, claims, by) {
  const signed = b64(header) + '.' + b64(claims)
  const key = createPrivateKey({ key: world.keys[by], format: 'jwk' })
  return signed + '.' + b64(sign('sha256', Buffer.from(signed), { key, dsaEncoding: 'ieee-p1363' }))
}

export function claimsOf({ claims, idx = 5, list = '1-0' }) {
  return edited({ ...world.claims, status: { status_list: { idx, uri: `${world.issuer}/status/${list}` } } }, claims)
}

export function tokenOf(t) {
  if (t.text) return t.text
  const header = edited(world.header, t.header)
  return jws(t.header_text ?? JSON.stringify(header), t.claims_text ?? JSON.stringify(claimsOf(t)), t.by ?? header.kid)
}

function listOf(id, l) {
  const entries = Buffer.alloc(l.bytes ?? 1 << 18)
  for (const [idx, value] of Object.entries(l.values ?? {})) entries[idx >> 2] |= value << ((idx & 3) * 2)
  const header = edited({ alg: 'ES256', kid: 'access-1', typ: 'statuslist+jwt' }, l.header)
  const claims = edited({
    iss: world.issuer, sub: `${world.issuer}/status/${id}`, iat: world.starts, exp: world.starts + 3600, ttl: 60,
    status_list: { bits: 2, lst: b64(deflateSync(entries)) }, epoch: l.epoch ?? world.epoch, seq: l.seq ?? world.seq,
  }, l.claims)
  return jws(JSON.stringify(header), JSON.stringify(claims), l.by ?? header.kid)
}

function deferred() {
  let resolve
  return { promise: new Promise((r) => (resolve = r)), resolve }
}

const tick = () => new Promise(setImmediate)

// inTime waits, with no time passing on the stage, for as long as a busy machine may need.
async function inTime(done, what) {
  for (const end = Date.now() + 30_000; !done(); await tick()) if (Date.now() > end) throw new Error(`waited in vain: ${what}`)
}

/** One issuer, one verifier, and clocks that go when told to. */
export class Stage {
  asked = 0
  reads = 0
  always = null
  logged = []
  keysRead = 0
  lasting = world.lasting
  seen = []
  instances = new Set() // that have asked the feed
  left = [] // and those that follow no more
  silent = new Set() // hosts whose packets are dropped
  hold = 200
  way = 0 // how long a request travels, and as long its answer
  #paused = {}
  #mono = 0
  #wall = world.starts * 1000
  #timers = new Set()
  #polls = []

  constructor({ tokens = {}, lists = {}, snapshot = {}, introspection = {} } = {}) {
    this.tokens = tokens
    this.texts = new Map(Object.entries(tokens).map(([name, t]) => [name, tokenOf(t)]))
    Object.assign(this, { lists, snapshot, introspection })
  }

  async start(config = {}) {
    const { issuer, audience, client_id: clientId, client_secret: clientSecret } = world
    this.verifier = new Verifier(this.#machine(), { issuer, audience, clientId, clientSecret, ...config })
    let started = false
    const starting = this.verifier.start().finally(() => (started = true))
    starting.catch(() => {})
    // Reading takes none of this time, however long the machine takes over it. Without a snapshot it waits for one.
    if (!this.snapshot.status && !this.silent.size) await inTime(() => started, 'it starts')
    for (let n = 0; n < 500 && !started; n++) await tick()
    while (!started) await this.wait(100)
    await starting
    await this.settle()
    this.asked = 0
  }

  #machine() {
    return {
      fetch: (url, options) => this.#travel(new URL(url), options),
      mono: () => this.#mono,
      wall: () => this.#wall,
      log: (message) => this.logged.push(message),
      after: (ms, f) => {
        const timer = { at: this.#mono + ms, ms, f }
        this.#timers.add(timer)
        return () => this.#timers.delete(timer)
      },
    }
  }

  jump(ms) {
    this.#wall += ms
  }

  /** Time passes in which nothing happens. */
  skip(ms) {
    this.#mono += ms
    this.#wall += ms
  }

  later(ms, f) {
    this.#machine().after(ms, f)
  }

  /** What comes of a promise, for which no more than so many milliseconds may pass. */
  async within(ms, promise) {
    let over = false
    const settled = promise.finally(() => (over = true))
    settled.catch(() => {})
    for (let left = ms; left > 0 && !over; left -= 10) {
      for (let n = 0; n < 500 && !over; n++) await tick()
      if (!over) await this.wait(10)
    }
    // What is still to be done takes none of this time.
    await inTime(() => over, `${ms} ms are enough`)
    return settled
  }

  /** What waits for so long has waited. */
  async fire(ms) {
    for (const timer of this.#timers) if (timer.ms === ms) this.#timers.delete(timer), timer.f()
    await this.settle()
  }

  async wait(ms) {
    const end = this.#mono + ms
    for (;;) {
      const next = [...this.#timers].filter((t) => t.at <= end).sort((a, b) => a.at - b.at)[0]
      const step = (next?.at ?? end) - this.#mono
      this.#mono += step
      this.#wall += step
      if (!next) return
      this.#timers.delete(next)
      next.f()
      await this.settle()
    }
  }

  /** Waits until the follower can do nothing before time passes. */
  async settle() {
    for (let n = 0; n < 3; n++) await tick()
    for (let n = 0; n < 500 && this.#polls.length === 0 && ![...this.#timers].some((t) => t.ms === 40 || t.ms === this.way); n++) await tick()
  }

  /** The poll that is held, the follower's pauses being over. */
  async held() {
    for (let n = 0; n < 100 && this.#polls.length === 0; n++) await this.wait(10)
    return this.#polls[0]
  }

  async feed(answer) {
    ;(await this.held()).answer(answer)
    await this.settle()
  }

  /** Answers the poll that is held in so many milliseconds. */
  feedIn(ms, answer) {
    this.later(ms, () => this.#polls[0].answer(answer))
  }

  /** Holds up the answers of introspection, or of another path: `reached` resolves when a question is out. */
  pause(path = '/introspect') {
    const reached = deferred()
    const resumed = deferred()
    this.#paused[path] = () => {
      reached.resolve()
      return resumed.promise
    }
    return { reached: reached.promise, resume: resumed.resolve }
  }

  async setAlways(answer) {
    this.always = answer
    if (answer) for (const poll of [...this.#polls]) poll.answer(answer)
    await this.settle()
  }

  #reply({ status = 200, text, age, ...edits }, base) {
    const headers = age === undefined ? {} : { age: `${age}` }
    return new Response(status === 200 ? (text ?? JSON.stringify(edited(base, edits))) : null, { status, headers })
  }

  #travel(url, options) {
    if (!this.way) return this.#serve(url, options)
    const way = (answer) => new Promise((there) => this.later(this.way, () => there(answer)))
    const aborted = new Promise((_, reject) => options.signal.addEventListener('abort', () => reject(options.signal.reason)))
    return Promise.race([aborted, way().then(() => this.#serve(url, options)).then(way)])
  }

  async #serve(url, { method, headers, body, signal }) {
    if (this.silent.has(url.host)) return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
    const path = url.pathname
    const basic = 'Basic ' + Buffer.from('store+api:s3cret%2Bof+the%3DAPI').toString('base64')
    if ((path === '/revocations' || method === 'POST') && headers.Authorization !== basic) return new Response(null, { status: 401 })
    const set = (ids) => ({ keys: ids.map((kid) => ({ ...createPublicKey({ key: world.keys[kid], format: 'jwk' }).export({ format: 'jwk' }), kid })) })
    if (path === '/.well-known/oauth-authorization-server') {
      const at = (p) => world.issuer + p
      return Response.json({ issuer: world.issuer, jwks_uri: at('/jwks'), introspection_endpoint: at('/introspect'), ...(!this.feedless && { revocation_feed_endpoint: at('/revocations') }) })
    }
    if (path === '/jwks') return Response.json(set(world.access))
    if (path === '/oauth/jwks/lasting') {
      this.keysRead++
      const answer = Response.json(set(this.lasting), this.age ? { headers: { age: `${this.age}` } } : {})
      if (this.slow) await new Promise((over) => this.later(this.slow, over))
      return answer
    }
    if (path === '/introspect') {
      const { slow, ...answer } = this.#introspect(new URLSearchParams(body).get('token'))
      await this.#paused[path]?.()
      if (slow) await new Promise((over) => this.later(slow, over))
      return answer.status ? new Response(null, answer) : Response.json(answer)
    }
    if (path === '/revocations/seen') {
      this.seen.push(JSON.parse(body))
      return new Response(null, { status: 204 })
    }
    if (path.startsWith('/status/')) {
      this.reads++
      const id = path.slice('/status/'.length)
      const list = this.lists[id] ?? { status: 404 }
      const answer = list.status ? new Response(null, { status: list.status }) : new Response(listOf(id, list))
      await this.#paused[path]?.()
      return answer
    }
    if (path === '/revocations' && method === 'DELETE') {
      this.left.push(url.searchParams.get('instance'))
      await Promise.race([this.leaving?.(), new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))])
      return new Response(null, { status: 204 })
    }
    if (path === '/revocations') return this.#poll(url, signal)
    return new Response(null, { status: 404 })
  }

  #introspect(token) {
    this.asked++
    if (token === 'no-token') return { active: false }
    const name = [...this.texts].find(([, text]) => text === token)?.[0]
    const answer = this.introspection[name] ?? { status: 503 }
    if (!answer.active) return answer
    const { iss, aud, sub, client_id, jti, grant_id, scope, rights } = claimsOf(this.tokens[name])
    return edited({ iss, aud, sub, client_id, jti, grant_id, scope, rights, epoch: world.epoch, iseq: world.seq }, answer)
  }

  #poll({ host, searchParams: query }, signal) {
    this.instances.add(query.get('instance'))
    const base = { epoch: world.epoch, seq: world.seq, more: false, changes: [], rules: [] }
    if (this.always) return this.#reply(this.always, base)
    if (!query.has('after')) return this.#reply(this.snapshot, base)
    return new Promise((resolve, reject) => {
      const end = () => {
        this.#polls.splice(this.#polls.indexOf(poll), 1)
        cancel()
      }
      const poll = {
        node: host,
        query,
        answer: (a) => {
          end()
          resolve(this.#reply(a, base))
        },
      }
      const cancel = this.#machine().after(this.hold, () => poll.answer({ status: 204 }))
      this.#polls.push(poll)
      signal.addEventListener('abort', () => {
        end()
        reject(signal.reason)
      })
    })
  }
}
