import type { Powers } from './caller.js'
import { covers, type Change, type Changes, type Follower, type Rule } from './follower.js'
import { isCount, parseStrict } from './json.js'
import { bad, unavailable } from './refusal.js'
import { readPowers, type Slot, type Token } from './token.js'

/** What the issuer said of a token (RFC 7662 section 2.2). */
export interface Said {
  powers: Powers
  token: Token
  /** How far the feed was that this is true of, at least. */
  epoch: number
  iseq: number
  /** Whether the feed has said something of the token while the question was out, and this may be from before it. */
  overtaken: boolean
}

interface Question {
  token: Token
  seq: number
  /** Where the feed was when it last said something of the token while this is out; -1 where it has not. */
  told: number
  said: Promise<Said>
}

const maxOut = 64
const maxKept = 1 << 17

/** Asks the issuer about tokens, one question about one token at a time, and keeps what it said of those whose entry says
 * *ask*, until the feed says something about them. */
export class Answers implements Changes {
  #out = new Set<Question>()
  #kept = new Map<string, Map<string, Said>>() // by slot, by digest
  readonly counters = { asked: 0, askedFailed: 0, shed: 0 }

  constructor(
    readonly post: (token: string) => Promise<Uint8Array>,
    readonly follower: () => Follower | undefined,
  ) {}

  /** What was kept. It counts only under a live lease. */
  kept(t: Token): Said | undefined {
    return t.status && this.#kept.get(name(t.status))?.get(t.digest)
  }

  /** Asks, or waits for the question that is out, unless the feed has said something about the token since. */
  ask(t: Token, text: string): Promise<Said> {
    for (const q of this.#out) if (q.token.digest === t.digest && q.told < 0) return q.said
    if (this.#out.size >= maxOut) {
      this.counters.shed++
      throw unavailable('shed')
    }
    this.counters.asked++
    const q: Question = { token: t, seq: this.follower()?.seq ?? -1, told: -1, said: undefined! }
    q.said = this.#ask(q, text).finally(() => this.#out.delete(q))
    this.#out.add(q)
    return q.said
  }

  async #ask(q: Question, text: string): Promise<Said> {
    let said: Said | undefined
    try {
      said = readSaid(q.token, await this.post(text))
    } catch (e) {
      this.counters.askedFailed++
      throw unavailable('no_answer', e)
    }
    if (!said) throw bad('not_active')
    const f = this.follower()
    if (!f) return said
    // An answer without a place in the feed is older than whatever was told, and than nothing else.
    said.overtaken = said.epoch === f.epoch || said.epoch < 0 ? said.iseq < q.told : said.epoch < f.epoch
    if (q.token.status && f.live && said.epoch === f.epoch && said.iseq >= Math.max(q.seq, q.told)) {
      const slot = name(q.token.status)
      const there = this.#kept.get(slot) ?? new Map<string, Said>()
      if (there.size >= 16) there.clear()
      if (this.#kept.size >= maxKept) this.#kept.delete(this.#kept.keys().next().value!)
      this.#kept.set(slot, there.set(q.token.digest, said))
    }
    return said
  }

  changed(change: Change): void {
    const slot = name(change)
    this.#kept.delete(slot)
    for (const q of this.#out) if (q.token.status && name(q.token.status) === slot) q.told = Math.max(q.told, change.seq)
  }

  ruled(rule: Rule): void {
    for (const [slot, there] of this.#kept) {
      for (const said of there.values()) if (concerns(rule, said.token, said.powers)) this.#kept.delete(slot)
    }
    for (const q of this.#out) if (concerns(rule, q.token, undefined)) q.told = Math.max(q.told, rule.seq)
  }

  lost(): void {
    this.#kept.clear()
    for (const q of this.#out) q.told = Infinity
  }
}

const name = (slot: Slot) => `${slot.list}/${slot.idx}`

// concerns also holds of a rule that is lifted. Without rights in the answer yet, any store may be the token's.
function concerns(rule: Rule, t: Token, said: Powers | undefined): boolean {
  const named = { all: '', client: t.claims.client_id, key: t.kid }
  if (rule.value !== 0 && !covers(rule, t)) return false
  if (rule.kind !== 'store') return named[rule.kind] === rule.id
  return !t.printed || !said || [...t.printed.rights, ...said.rights].some((r) => r.stores.includes(rule.id))
}

// readSaid returns undefined for a token that does not stand, and throws on what is no answer about it.
function readSaid(t: Token, body: Uint8Array): Said | undefined {
  const a = parseStrict(body)
  for (const [member, value] of Object.entries(a)) if (value === null) delete a[member]
  if (a.active === false) return undefined
  const { iss, aud, sub, client_id, grant_id, jti } = t.claims
  const same = a.iss === iss && a.aud === aud && a.sub === sub && a.client_id === client_id && a.grant_id === grant_id && (a.jti ?? jti) === jti
  const powers = readPowers(a)
  if (a.active !== true || !same || !powers) throw new Error('the answer is not about this token')
  const { epoch, iseq } = a
  const at = isCount(epoch) && isCount(iseq) ? { epoch, iseq } : { epoch: -1, iseq: -1 }
  return { powers, token: t, ...at, overtaken: false }
}
