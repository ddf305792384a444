import { createHash } from 'node:crypto'
import type { Powers, Right } from './caller.js'
import { isCount, isObject, parseStrict, type Json, type JsonObject } from './json.js'
import { confirms, type Key, type KeySet } from './keys.js'
import { bad } from './refusal.js'
import type { World } from './world.js'

/** What a signed token says, and which key said it. */
export interface Token {
  digest: string
  kid: string
  key: Key
  keys: KeySet
  claims: { iss: string; aud: string; sub: string; client_id: string; jti: string; grant_id: string }
  exp: number
  nbf: number
  iseq: number
  /** Where its status stands; undefined for a token that does not say. */
  status: Slot | undefined
  /** What it prints that it may do, or undefined where that could not be printed, or not be held against rules. */
  printed: Powers | undefined
}

/** An entry of a status list. */
export interface Slot {
  list: string
  idx: number
}

export const listEntries = 1 << 20
export const listId = /^[0-9]{1,19}-[0-9]{1,4}$/

const maxToken = 32 << 10
const text = ['iss', 'aud', 'sub', 'client_id', 'jti', 'grant_id'] as const

/** Decodes base64url in its one way of writing: no padding, no other alphabet, no bits behind the last byte. */
export function decode(s: string): Uint8Array {
  const bytes = Buffer.from(s, 'base64url')
  if (bytes.toString('base64url') !== s) throw new SyntaxError('not base64url')
  return bytes
}

/** Reads a JWS in compact form without believing it (RFC 7515 section 7.1). */
export function parseJws(jws: string): { header: JsonObject; claims: JsonObject } {
  const [header, claims, signature, ...more] = jws.split('.')
  if (!header || !claims || !signature || more.length) throw new SyntaxError('not a JWS')
  decode(signature)
  return { header: parseStrict(decode(header)), claims: parseStrict(decode(claims)) }
}

/** Checks all of a token that can be checked without asking: form, type, issuer, audience, claims, key, algorithm, signature
 * and times. */
export class TokenReader {
  // Two generations of tokens that verified, and nothing about whether they still stand. Only what verified enters, so
  // nobody without a key can push others out.
  #young = new Map<string, Token>()
  #old = new Map<string, Token>()

  constructor(
    readonly world: World,
    readonly issuer: string,
    readonly audience: string,
    readonly access: KeySet,
    readonly lasting: KeySet,
  ) {}

  async read(jws: string): Promise<Token> {
    if (jws.length > maxToken) throw bad('not_a_token')
    const digest = createHash('sha256').update(jws).digest('base64')
    let token = this.#young.get(digest) ?? this.#old.get(digest)
    if (!token || token.keys.find(token.kid)?.jwk !== token.key.jwk) token = await this.#verify(jws, digest)
    // No leeway: the issuer goes by its own clock too.
    const now = Math.floor(this.world.wall() / 1000)
    if (now >= token.exp) throw bad('expired')
    if (now < token.nbf) throw bad('not_yet')
    if (this.#young.size >= 4096) [this.#old, this.#young] = [this.#young, new Map()]
    this.#young.set(digest, token)
    return token
  }

  async #verify(jws: string, digest: string): Promise<Token> {
    const { header, claims } = this.#parse(jws)
    const { typ, alg, kid } = header as { [name: string]: string | undefined }
    // The two types never share a key (RFC 8725 section 3.12). RFC 9068 section 4 has two forms of the first.
    const keys = typ === 'apikey+jwt' ? this.lasting : typ === 'at+jwt' || typ === 'application/at+jwt' ? this.access : undefined
    if (!keys) throw bad('wrong_type')
    // An access token must expire (RFC 9068 section 2.2). An API key must not: one that does is not ours.
    const complete = text.every((name) => name in claims) && claims.sub !== '' && 'iat' in claims
    if (!complete || 'exp' in claims !== (keys === this.access)) throw bad('wrong_claims')
    // Both before the key is looked up: a token made for somebody else must not make us fetch keys.
    if (claims.iss !== this.issuer) throw bad('wrong_issuer')
    if (claims.aud !== this.audience) throw bad('wrong_audience')
    if (alg !== 'ES256' && alg !== 'RS256' && alg !== 'EdDSA') throw bad('wrong_algorithm')
    const key = await keys.lookup(kid ?? '')
    if (alg !== key.alg) throw bad('wrong_algorithm') // which it is, is the key's to say (RFC 8725 section 3.1)
    if (!(await confirms(key, jws))) throw bad('bad_signature')

    const { exp = Infinity, nbf = 0, iseq = 0 } = claims as { [name: string]: number }
    const powers = readPowers(claims)
    const printed = 'rights' in claims && 'iseq' in claims ? powers : undefined
    return { digest, kid: kid!, key, keys, claims: claims as Token['claims'] & JsonObject, exp, nbf, iseq, printed, status: this.#status(claims.status) }
  }

  #parse(jws: string): { header: JsonObject; claims: JsonObject } {
    try {
      const { header, claims } = parseJws(jws)
      // Each would have the token choose its own key or its own rules (RFC 8725 sections 3.1 and 3.10).
      const forbidden = ['jwk', 'jku', 'x5u', 'x5c', 'crit', 'b64'].some((name) => name in header)
      const strings = ['alg', 'typ', 'kid'].every((name) => isString(header[name])) && text.every((name) => isString(claims[name]))
      const numbers = ['iat', 'exp', 'nbf', 'iseq'].every((name) => !(name in claims) || isCount(claims[name]))
      const { kid = 'none' } = header as { kid?: string }
      if (!forbidden && strings && numbers && /^[!#-[\]-~]{1,128}$/.test(kid) && readPowers(claims)) return { header, claims }
    } catch {}
    throw bad('not_a_token')
  }

  #status(status: Json | undefined): Slot | undefined {
    if (status === undefined) return undefined
    const { uri, idx } = (isObject(status) && isObject(status.status_list) ? status.status_list : {}) as { [name: string]: unknown }
    if (typeof uri !== 'string' || !isCount(idx) || idx >= listEntries) throw bad('wrong_claims')
    const prefix = this.issuer.replace(/\/$/, '') + '/status/'
    const list = uri.slice(prefix.length)
    return uri.startsWith(prefix) && listId.test(list) ? { list, idx } : undefined
  }
}

const isString = (v: unknown) => v === undefined || typeof v === 'string'
const words = (s: string) => s.split(' ').filter(Boolean)

/** Reads `scope` and `rights` of a key or an answer; undefined where they are not as agreed. */
export function readPowers({ scope = '', rights = [] }: { [name: string]: unknown }): Powers | undefined {
  if (typeof scope !== 'string' || !Array.isArray(rights)) return undefined
  const read: Right[] = []
  for (const r of rights as unknown[]) {
    if (!isObject(r)) return undefined
    const { stores = [], scope = '' } = r
    if (typeof scope !== 'string' || !Array.isArray(stores) || !stores.every((s) => typeof s === 'string')) return undefined
    read.push({ stores, scopes: words(scope) })
  }
  return { scopes: words(scope), rights: read }
}
