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

// Whoever invents key ids makes this API read twice a minute at most. An issuer that publishes a key so long before it signs
// with it has no token refused.
const refetchEvery = 30_000
const retryEvery = 1_000

/** One of the issuer's two sets of keys. */
export class KeySet {
  #table: Map<string, Key> | undefined
  #reading: Promise<void> | undefined
  #searched = -Infinity // when an unknown key id last made us read
  #error: unknown

  constructor(
    readonly world: World,
    readonly read: () => Promise<Uint8Array>,
  ) {}

  find(kid: string): Key | undefined {
    return this.#table?.get(kid)
  }

  /** The key that a token names, reading the set again if it is not there. A set that cannot be read makes no token bad. */
  async lookup(kid: string): Promise<Key> {
    let key = this.find(kid)
    if (key) return key
    if (!kid) throw bad('unknown_key')
    if (!this.#table) throw unavailable('no_keys')
    const now = this.world.mono()
    if (this.#reading || now - this.#searched >= (this.#error ? retryEvery : refetchEvery)) {
      if (!this.#reading) this.#searched = now
      await this.load().catch(() => {})
    }
    key = this.find(kid)
    if (key) return key
    throw this.#error ? unavailable('no_keys', this.#error) : bad('unknown_key')
  }

  /** Reads the set, once at a time. What was read before stays in use where that fails. */
  load(): Promise<void> {
    this.#reading ??= (async () => {
      try {
        this.#table = await parseKeys(await this.read())
        this.#error = undefined
      } catch (e) {
        this.#error = e
        throw e
      } finally {
        this.#reading = undefined
      }
    })()
    return this.#reading
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
