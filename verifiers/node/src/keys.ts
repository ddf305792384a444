import { compactVerify, importJWK, type CryptoKey, type JWK } from 'jose'
import { isObject } from './json.js'
import { bad, unavailable } from './refusal.js'
import type { World } from './world.js'

/** A public key of the issuer, with the one algorithm it may be used for. */
export interface Key {
  alg: string
  public: CryptoKey | Uint8Array
  /** What two readings of the same key have in common. */
  jwk: string
}

/** Whether a key confirms a JWS in compact form. */
export async function confirms(key: Key, jws: string): Promise<boolean> {
  try {
    await compactVerify(jws, key.public, { algorithms: [key.alg] })
    return true
  } catch {
    return false
  }
}

// One reading answers for every key id there is, so whoever makes key ids up has this API read twice a second, less often
// than it asks the feed, and keeps nobody out: a token of a signing key that was made a moment ago waits for the next reading,
// which has it. To ask the issuer about the token would cost it a question to its database for each that is made up.
const searchEvery = 500
// How much later another node of the issuer may know of a new key than the one that signs with it, and goes on serving the
// set without it.
const nodeKnows = 100
const maxWaiting = 1024
const maxMissing = 1024

interface Reading {
  began: number
  /** Whether whoever served it knows the keys of now. */
  ofNow: boolean
}

/** One of the issuer's two sets of keys. */
export class KeySet {
  #table: Map<string, Key> | undefined
  #reading: Promise<Reading> | undefined
  #began = -Infinity // when the set was last read, or will be
  #waiting = 0
  #missing = new Set<string>() // another one, once what was known was dropped

  constructor(
    readonly world: World,
    readonly read: () => Promise<{ body: Uint8Array; cached: boolean }>,
  ) {}

  find(kid: string): Key | undefined {
    return this.#table?.get(kid)
  }

  /** Drops what is known, of what is there and what is not, and reads the set: a backup that was put back brings keys with it
   * that were cut off since, and knows nothing of those that were made since, nor of a rule about one that was cut. */
  forget(): void {
    this.#missing = new Set()
    if (!this.#table) return
    this.#table = new Map()
    this.#began = -Infinity
    this.load().catch(() => {}) // whoever needs a key tries again
  }

  /** The key that a token names, reading the set again if it is not there, until a reading has begun so much later that every
   * node of the issuer knew of it. A set that cannot be read makes no token bad, nor does one that lacks the key and
   * says how old it is (Age): who serves it does not know the keys of now. What it has is gone by, and what it lacks is kept. */
  async lookup(kid: string): Promise<Key> {
    const known = this.find(kid)
    if (known) return known
    if (!kid) throw bad('unknown_key')
    if (!this.#table) throw unavailable('no_keys')
    const missing = this.#missing
    if (missing.has(kid)) {
      this.#search().catch(() => {}) // for those that come later
      throw bad('unknown_key')
    }
    if (this.#waiting >= maxWaiting) throw unavailable('shed')
    this.#waiting++
    try {
      const everyNodeKnows = this.world.mono() + nodeKnows
      for (let proof = false; !proof; ) {
        const { began, ofNow } = await this.#search()
        const key = this.find(kid)
        if (key) return key
        if (!ofNow) throw new Error('who serves the key set does not know the keys of now (Age)')
        proof = began >= everyNodeKnows
      }
    } catch (e) {
      throw unavailable('no_keys', e)
    } finally {
      this.#waiting--
    }
    if (missing.size >= maxMissing) missing.clear()
    missing.add(kid)
    throw bad('unknown_key')
  }

  /** Reads the set, once at a time. What was read before stays in use where that fails. */
  load(): Promise<unknown> {
    return (this.#reading ??= this.#read(0))
  }

  // search reads the set for the sake of a key id that it did not hold, as soon as it may be read.
  #search(): Promise<Reading> {
    return (this.#reading ??= this.#read(this.#began + searchEvery - this.world.mono()))
  }

  async #read(pause: number): Promise<Reading> {
    const began = (this.#began = this.world.mono() + Math.max(0, pause))
    try {
      if (pause > 0) await new Promise<void>((over) => void this.world.after(pause, over))
      const missing = this.#missing
      const { body, cached } = await this.read()
      const table = await parseKeys(body)
      // Unless what was known was dropped meanwhile. An old reading only adds: whoever served it may not know yet of a key that
      // another node has shown. Nor of one that was cut off, which the rule about it ends.
      if (this.#missing === missing) this.#table = cached ? new Map([...table, ...(this.#table ?? [])]) : table
      return { began, ofNow: !cached }
    } finally {
      this.#reading = undefined
    }
  }
}

// parseKeys reads a JWK set (RFC 7517 section 5) and keeps the keys that a token may be verified with: public, named, meant
// for signatures, with one algorithm. The rest is left out, as section 5 asks, and so is a name that two keys share.
async function parseKeys(body: Uint8Array): Promise<Map<string, Key>> {
  const set = JSON.parse(Buffer.from(body).toString()) as unknown
  if (!isObject(set) || !Array.isArray(set.keys)) throw new Error('the answer is not a key set')
  const table = new Map<string, Key>()
  const twice = new Set<string>()
  for (const jwk of set.keys as JWK[]) {
    const alg = jwk?.alg ?? 'ES256'
    const fits = { ES256: jwk?.kty === 'EC' && jwk.crv === 'P-256', RS256: jwk?.kty === 'RSA', EdDSA: jwk?.kty === 'OKP' && jwk.crv === 'Ed25519' }
    if (!fits[alg as keyof typeof fits] || !jwk.kid || 'd' in jwk || (jwk.use ?? 'sig') !== 'sig') continue
    if (table.has(jwk.kid)) twice.add(jwk.kid)
    const key = await importJWK(jwk, alg).catch(() => undefined)
    if (key) table.set(jwk.kid, { alg, public: key, jwk: JSON.stringify(jwk) })
  }
  for (const kid of twice) table.delete(kid)
  return table
}
