import { randomBytes } from 'node:crypto'
import { promisify } from 'node:util'
import { inflate } from 'node:zlib'
import type { Powers, Right } from './caller.js'
import { isCount, isObject } from './json.js'
import { confirms, type KeySet } from './keys.js'
import { decode, listEntries, listId, parseJws, type Slot, type Token } from './token.js'
import { exchange, sleep, type World } from './world.js'

/** How long an answer of the feed counts, from before the question was sent. */
export const leaseMs = 700
const clocksAgreeMs = 50
const pauseMs = 40
// Passes before the next poll once there is news, which the node tells all others at this moment.
const newsMs = 10
const failedMs = 250
/** The longest that a healthy node lets us wait, and some: it holds an answer for 200 ms at most. After it the next node is
 * asked as well, so that a silent one costs no lease: that began 200 ms, a round trip and newsMs before the poll that stays
 * unanswered, and the next node's answer takes as long once more: 200 + 10 + 250 + 200, which of 700 leaves two round trips
 * of 20 ms each. */
const patienceMs = 250
// When an answer must have begun. A later one would be worth no lease.
const pollMs = 600
// When it must have ended: a long one moves us on even if it is worth no lease.
const bodyMs = 2_000
const maxFeed = 8 << 20
const maxMissed = 1 << 14
const listBytes = listEntries / 4

/** What the feed says of a token: it stands, it does not, the issuer must be asked, or its list is not here. */
export type Verdict = 'valid' | 'refused' | 'ask' | 'no list'

/** A cut-off: it covers the keys whose `iseq` is below `before`, and one about a signing key all that it signed. */
export interface Rule {
  kind: 'client' | 'key' | 'all' | 'store'
  id: string
  seq: number
  before: number
  value: number
}

/** Whether a rule about what a token names covers it. Who holds a signing key writes what `iseq` he likes. */
export const covers = (rule: Rule, t: Token): boolean => rule.kind === 'key' || t.iseq < rule.before

const ruleValues = { client: [0, 1, 2], key: [0, 1], all: [0, 1], store: [0, 1, 3] }

export interface Change extends Slot {
  seq: number
  value: number
}

interface Answer {
  seq: number
  epoch: number
  more: boolean
  changes: Change[]
  rules: Rule[]
}

/** What came of one poll: an answer, nothing, or that we must begin anew. */
interface Reply {
  node: number
  /** From before it was sent. */
  sent: { mono: number; wall: number }
  said: Answer | 'nothing' | 'begin'
}

interface List {
  entries?: Uint8Array
  seq: number
  loading?: Promise<void> | undefined
  /** While it is read: how new it must be, and what the feed said of it after that. */
  since: number
  missed: Change[]
  tryAfter: number
}

/** Told of what may have changed an answer of the issuer. */
export interface Changes {
  changed(change: Change): void
  ruled(rule: Rule): void
  lost(): void
}

/** Follows the revocation feed of one issuer: cut-off rules, status lists, and the lease that says that both are of now. */
export class Follower {
  /** Where the feed was when it was last read, -1 before. Neither ever falls but with a new epoch. */
  epoch = -1
  seq = -1
  /** Resolves when the feed was first read. */
  readonly heard: Promise<void>
  readonly counters = { polls: 0, pollsFailed: 0, listsRead: 0 }

  #following = false
  #sent: { mono: number; wall: number } | undefined
  #rules = new Map<string, Rule>()
  #storeRules = 0
  #lists = new Map<string, List>()
  #trouble = ''
  #badList = ''
  #instance = randomBytes(12).toString('base64url')
  #node = 0

  constructor(
    readonly world: World,
    readonly o: { issuer: string; nodes: string[]; authorization: string; keys: Record<'access' | 'lasting', KeySet>; changes: Changes; signal: AbortSignal },
  ) {
    this.heard = new Promise((heard) => void this.#run(heard))
  }

  /** Milliseconds since the lease was taken, by whichever clock says more; Infinity without one. */
  get age(): number {
    if (!this.#sent || this.o.signal.aborted) return Infinity
    return Math.max(this.world.mono() - this.#sent.mono, this.world.wall() - this.#sent.wall)
  }

  /** Whether what is known here is of now. A machine that slept, or whose clock was set, does not know. */
  get live(): boolean {
    if (!this.#sent || this.o.signal.aborted) return false
    const mono = this.world.mono() - this.#sent.mono
    const wall = this.world.wall() - this.#sent.wall
    return Math.max(mono, wall) <= leaseMs && Math.abs(wall - mono) <= clocksAgreeMs
  }

  /** What is known of a token now, if anything. */
  judgeNow(t: Token): Verdict | undefined {
    return this.live ? this.judge(t) : undefined
  }

  /** What was known of a token last. */
  judge(t: Token): Verdict {
    for (const rule of [this.#rules.get('all '), this.#rules.get('client ' + t.claims.client_id), this.#rules.get('key ' + t.kid)]) {
      if (rule && covers(rule, t)) return 'refused'
    }
    if (!t.status) return 'ask'
    const list = this.#lists.get(t.status.list)
    if (!list?.entries) return 'no list'
    const value = (list.entries[t.status.idx >> 2]! >> ((t.status.idx & 3) * 2)) & 3
    if (value === 1 || value === 2) return 'refused'
    if (value === 3 || !t.printed) return 'ask'
    return this.#storeRules > 0 && t.printed.rights.some((r) => r.stores.some((id) => this.#storeRule(t, id))) ? 'ask' : 'valid'
  }

  /** Takes the stores out that a rule denies to a token, and the scopes that were about no others. */
  narrow(t: Token, all: Powers): Powers {
    const denied = (id: string) => this.#storeRule(t, id)?.value === 1
    if (this.#storeRules === 0 || !all.rights.some((r) => r.stores.some(denied))) return all
    const rights = all.rights.map((r) => ({ ...r, stores: r.stores.filter((id) => !denied(id)) }))
    const somewhere = (list: readonly Right[], scope: string) => list.some((r) => r.stores.length > 0 && r.scopes.includes(scope))
    return { rights, scopes: all.scopes.filter((s) => !somewhere(all.rights, s) || somewhere(rights, s)) }
  }

  #storeRule(t: Token, id: string): Rule | undefined {
    const rule = this.#rules.get('store ' + id)
    return rule && covers(rule, t) ? rule : undefined
  }

  // run polls until the signal ends it; it never rejects.
  async #run(heard: () => void): Promise<void> {
    let failed = 0
    while (!this.o.signal.aborted) {
      const { seq } = this
      const following = this.#following
      try {
        const reply = await this.#round()
        this.#node = reply.node
        const more = this.#take(reply)
        failed = 0
        if (this.#trouble) this.world.log('the revocation feed is followed again')
        this.#trouble = ''
        heard()
        // Whoever has nothing to say holds its answer; if something in between does not, it is not asked all the time.
        const idle = this.seq === seq && this.world.mono() - reply.sent.mono < pauseMs
        const news = this.seq !== seq && following && !more
        if (idle || news) await sleep(this.world, news ? newsMs : pauseMs, this.o.signal)
      } catch (e) {
        if (this.o.signal.aborted) return
        const why = (e as Error).message
        if (!this.#trouble) this.world.log('the revocation feed is not followed: ' + why)
        this.#trouble = why
        if (++failed % this.o.nodes.length === 0) await sleep(this.world, pauseMs, this.o.signal)
      }
    }
  }

  // round asks a node, and beside it the next one where the answer is late. The first right answer counts; one that comes
  // after it is dropped.
  async #round(): Promise<Reply> {
    const first = this.#poll(this.#node)
    const over = new AbortController()
    const end = () => over.abort()
    first.then(end, end)
    await sleep(this.world, patienceMs, over.signal)
    if (over.signal.aborted) return first
    this.#moveOn(this.#node)
    const next = this.#poll(this.#node)
    return Promise.any([first, next]).catch(() => next)
  }

  // moveOn goes to the node after one that failed, if nobody did before.
  #moveOn(from: number): void {
    if (this.#node === from) this.#node = (from + 1) % this.o.nodes.length
  }

  /** Tells the issuer, once the signal has ended everything here, that whoever revokes need not wait for this process. If
   * that is not heard, it is waited for until it was not seen for a minute. Who was never answered may be counted all the same. */
  async leave(within: number): Promise<void> {
    if (this.counters.polls === 0) return
    const url = `${this.o.nodes[this.#node]}/revocations?instance=${this.#instance}`
    await exchange(this.world, url, { method: 'DELETE', headers: { Authorization: this.o.authorization }, within, limit: maxFeed }).catch(() => {})
  }

  // poll asks one node what happened since what is known now.
  async #poll(node: number): Promise<Reply> {
    this.counters.polls++
    const sent = { mono: this.world.mono(), wall: this.world.wall() }
    const { seq, epoch } = this
    const following = this.#following
    const query = new URLSearchParams({ ...(following && { after: `${seq}`, epoch: `${epoch}` }), instance: this.#instance })
    try {
      const { status, body, cached } = await exchange(this.world, `${this.o.nodes[node]}/revocations?${query}`, {
        headers: { Authorization: this.o.authorization }, within: pollMs, bodyWithin: bodyMs, limit: maxFeed, signal: this.o.signal,
      })
      if (cached) throw new Error('the answer comes out of a cache')
      if (status === 410 && following) return { node, sent, said: 'begin' }
      if (status === 204 && following) return { node, sent, said: 'nothing' }
      if (status !== 200) throw new Error(`answered ${status}`)
      const said = readAnswer(JSON.parse(Buffer.from(body).toString()), following ? seq : -1)
      if (said.epoch < epoch || (said.epoch === epoch && said.seq < seq)) throw new Error('the feed went backwards')
      if (following && said.epoch !== epoch) throw new Error('the answer is of another epoch')
      return { node, sent, said }
    } catch (e) {
      if (!this.o.signal.aborted) this.counters.pollsFailed++
      this.#moveOn(node)
      throw e
    }
  }

  // take puts a reply into effect, and says whether there is more to be had at once.
  #take({ sent, said }: Reply): boolean {
    if (said === 'begin') {
      this.#forget()
      this.o.keys.access.forget()
      this.o.keys.lasting.forget()
      return false
    }
    if (said !== 'nothing') this.#apply(said)
    if (said !== 'nothing' && said.more) return true
    this.#sent = sent
    return false
  }

  #forget(): void {
    this.#following = false
    this.#sent = undefined
    this.#rules.clear()
    this.#storeRules = 0
    this.#lists.clear()
    this.o.changes.lost()
  }

  #apply(a: Answer): void {
    if (!this.#following) this.#forget()
    this.epoch = a.epoch
    this.seq = a.seq
    this.#following = true
    for (const rule of a.rules) {
      const name = rule.kind + ' ' + rule.id
      if (rule.value === 0) this.#rules.delete(name)
      else this.#rules.set(name, rule)
      this.o.changes.ruled(rule)
    }
    if (a.rules.length > 0) this.#storeRules = [...this.#rules.values()].filter((r) => r.kind === 'store').length
    for (const c of a.changes) {
      const list = this.#lists.get(c.list)
      if (list?.entries) change(list.entries, list.seq, c)
      else if (list?.loading) miss(list, c)
      this.o.changes.changed(c)
    }
  }

  /** Reads a list, once at a time and not too often. Whether it is here then, judge says. */
  async load(id: string): Promise<void> {
    let list = this.#lists.get(id)
    if (!list) this.#lists.set(id, (list = { seq: 0, since: 0, missed: [], tryAfter: 0 }))
    if (!list.loading && this.world.mono() < list.tryAfter) return
    await (list.loading ??= this.#read(id, list).finally(() => Object.assign(list, { loading: undefined, missed: [] })))
  }

  // read takes a list that is not older than what was known here when its reading began, and does to it what the feed said
  // since: a feed that never rests for as long as a list is on its way would leave none that is up to it when it comes.
  async #read(id: string, list: List): Promise<void> {
    list.since = this.seq
    list.tryAfter = this.world.mono() + pauseMs
    this.counters.listsRead++
    for (const node of this.o.nodes) {
      try {
        const { status, body } = await exchange(this.world, `${node}/status/${id}`, {
          headers: { Accept: 'application/statuslist+jwt' }, within: 300, limit: 1 << 20, signal: this.o.signal,
        })
        if (status !== 200) throw new Error(`answered ${status}`)
        const { seq, epoch, entries } = await this.#openList(id, Buffer.from(body).toString())
        if (epoch !== this.epoch || seq < list.since) return // behind what was known here: it is read again
        for (const c of list.missed) change(entries, seq, c)
        list.seq = seq
        list.entries = entries
        this.#badList = ''
        return
      } catch (e) {
        list.tryAfter = this.world.mono() + failedMs
        if (!this.#badList && !this.o.signal.aborted) this.world.log(`status list ${id} cannot be used: ${(e as Error).message}`)
        this.#badList = id
      }
    }
  }

  // Token Status List, section 8.3, and what is ours.
  async #openList(id: string, jws: string): Promise<{ epoch: number; seq: number; entries: Uint8Array }> {
    const { header, claims } = parseJws(jws)
    const { iss, sub, exp, epoch, seq, status_list: body } = claims
    const key = await this.o.keys.access.lookup(typeof header.kid === 'string' ? header.kid : '')
    const uri = `${this.o.issuer.replace(/\/$/, '')}/status/${id}`
    if (header.typ !== 'statuslist+jwt' || header.alg !== 'ES256' || key.alg !== 'ES256' || 'crit' in header) throw new Error('not a status list')
    if (iss !== this.o.issuer || sub !== uri) throw new Error('of another issuer, or another list')
    if (!isCount(exp) || exp * 1000 <= this.world.wall()) throw new Error('expired')
    if (!isCount(epoch) || !isCount(seq) || !isObject(body) || body.bits !== 2 || typeof body.lst !== 'string') throw new Error('wrong claims')
    if (!(await confirms(key, jws))) throw new Error('its signature is wrong')
    const entries = await promisify(inflate)(decode(body.lst), { maxOutputLength: listBytes })
    if (entries.length !== listBytes) throw new Error(`${entries.length} bytes`)
    return { epoch, seq, entries }
  }
}

// miss keeps what is said of a list that is on its way. Beyond the bound what was kept is forgotten, and the list must be as
// new as that.
function miss(list: List, c: Change): void {
  if (list.missed.length === maxMissed) {
    list.since = list.missed[maxMissed - 1]!.seq
    list.missed = []
  }
  list.missed.push(c)
}

// change does to the entries of a list what was said after they were read.
function change(entries: Uint8Array, seq: number, c: Change): void {
  if (c.seq <= seq) return
  const shift = (c.idx & 3) * 2
  entries[c.idx >> 2] = (entries[c.idx >> 2]! & ~(3 << shift)) | (c.value << shift)
}

// readAnswer refuses an answer whole if any of it is not as agreed. `after` is -1 for a snapshot.
function readAnswer(a: unknown, after: number): Answer {
  const wrong = (what: string) => new Error('the feed answered a wrong ' + what)
  const only = (o: unknown, names: string[]): o is { [name: string]: unknown } =>
    isObject(o) && Object.keys(o).length === names.length && names.every((name) => name in o)
  if (!only(a, ['epoch', 'seq', 'more', 'changes', 'rules'])) throw wrong('form')
  const { epoch, seq, more, changes, rules } = a
  if (!isCount(epoch) || !isCount(seq) || typeof more !== 'boolean' || !Array.isArray(changes) || !Array.isArray(rules)) throw wrong('member')
  if (seq < after) throw wrong('seq')
  const rising = (list: { seq?: unknown }[]) =>
    list.every((e, i) => isCount(e.seq) && e.seq > after && e.seq <= seq && (i === 0 || e.seq >= (list[i - 1]!.seq as number)))
  for (const c of changes as unknown[]) {
    if (!only(c, ['seq', 'list', 'idx', 'value'])) throw wrong('change')
    if (typeof c.list !== 'string' || !listId.test(c.list) || !isCount(c.idx) || c.idx >= listEntries || !isCount(c.value) || c.value > 3) throw wrong('change')
  }
  for (const r of rules as unknown[]) {
    if (!only(r, ['seq', 'kind', 'id', 'before', 'value'])) throw wrong('rule')
    const values = Object.hasOwn(ruleValues, r.kind as string) ? ruleValues[r.kind as Rule['kind']] : []
    if (typeof r.id !== 'string' || (r.kind === 'all') !== (r.id === '') || !isCount(r.before) || !values.includes(r.value as number)) throw wrong('rule')
  }
  if (!rising(changes) || (after >= 0 && !rising(rules)) || (after < 0 && changes.length > 0)) throw wrong('order')
  return { epoch, seq, more, changes, rules }
}
