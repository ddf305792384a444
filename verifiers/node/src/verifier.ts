import type { IncomingMessage, ServerResponse } from 'node:http'
import { Answers } from './answers.js'
import { Caller, type Access, type Powers } from './caller.js'
import { Follower, leaseMs } from './follower.js'
import { isObject } from './json.js'
import { KeySet } from './keys.js'
import { bad, Refusal, unavailable } from './refusal.js'
import { TokenReader, type Token } from './token.js'
import { exchange, sleep, type World } from './world.js'

/** What happens while it is not known here whether a token still stands: `introspect` asks the issuer, for 300 ms at most, or
 * 600 where the feed has overtaken the answer, `closed` answers 503, and `open` goes by what was known last for so many
 * milliseconds, and asks the issuer where that says nothing: a revoked key is accepted as long. */
export type OnStale = 'introspect' | 'closed' | { open: number }

/** Says whose tokens a verifier admits. */
export interface Config {
  /** The issuer's URL, compared byte for byte with `iss`. Plain http is for loopback hosts only. */
  issuer: string
  /** This API's URI as the issuer knows it, compared byte for byte with `aud`. It is also the realm of challenges. */
  audience: string
  /** The API's own credentials at the issuer. */
  clientId: string
  clientSecret: string
  /** URLs of the issuer's nodes, for the feed and the status lists: where one falls silent, the next is asked within the
   * lease. Without them, the issuer's own URL. */
  nodes?: string[]
  /** `introspect` if not said. A route may say otherwise. */
  onStale?: OnStale
}

/** What a call of check asks for. */
export interface CheckOptions extends Access {
  onStale?: OnStale
}

/** What a middleware asks for: the store is read from the request. */
export interface RouteOptions<R> {
  scope?: string
  store?: (req: R) => string | undefined
  onStale?: OnStale
}

const askMs = 300
// Between two questions of one request.
const againMs = 40
const startMs = 2_000
const retryMs = 1_000
const reloadMs = 600_000
const reportMs = 3_600_000
const lastMs = 500
const maxReport = 10_000
const maxBody = 1 << 20

/** Checks tokens of one issuer for one API. Made by createVerifier, ended by close. */
export class Verifier {
  #ready = false
  #closed = new AbortController()
  #closing: Promise<void> | undefined
  #introspection = ''
  #access: KeySet
  #lasting: KeySet
  #tokens: TokenReader
  #answers: Answers
  #follower: Follower | undefined
  #jwks = ''
  #seen = new Set<string>()
  #counts = { accepted: 0, refused: 0, unavailable: 0, stale: 0, open: 0 }
  #open = false
  readonly #world: World
  readonly #config: Config
  readonly #base: string
  readonly #authorization: string

  /** @internal */
  constructor(world: World, config: Config) {
    checkConfig(config)
    this.#world = world
    this.#config = config
    const { issuer, audience, clientId, clientSecret } = config
    this.#base = issuer.replace(/\/$/, '')
    this.#authorization = 'Basic ' + Buffer.from(`${formEncode(clientId)}:${formEncode(clientSecret)}`).toString('base64')
    this.#access = new KeySet(world, () => this.#get(this.#jwks))
    this.#lasting = new KeySet(world, () => this.#get(this.#base + '/oauth/jwks/lasting'))
    this.#tokens = new TokenReader(world, issuer, audience, this.#access, this.#lasting)
    this.#answers = new Answers((token) => this.#introspect(token), () => this.#follower)
  }

  /** True once metadata, keys and the feed were read and the credentials tried; it stays true from then on, because an API
   * that is taken out of service during an outage could not answer 503. */
  get ready(): boolean {
    return this.#ready
  }

  /** Counts since the start: checks by outcome, those made without a lease, questions to the issuer, polls and lists. */
  get counters(): Readonly<Record<string, number>> {
    return { ...this.#counts, ...this.#answers.counters, ...this.#follower?.counters }
  }

  /** Ends background work. Checks after it are refused as unavailable. Resolves, after half a second at most, when the issuer
   * was told which grants were seen, and that whoever revokes need not wait for this process any more. */
  close(): Promise<void> {
    return (this.#closing ??= this.#end())
  }

  async #end(): Promise<void> {
    this.#closed.abort()
    await Promise.all([this.#report(lastMs), this.#follower?.leave(lastMs)])
  }

  /** Resolves with the caller that the token stands for, if it has the access asked for; rejects with a Refusal. */
  async check(token: string, options: CheckOptions = {}): Promise<Caller> {
    checkOptions(options)
    try {
      const caller = await this.#authenticate(token, options.onStale ?? this.#config.onStale ?? 'introspect')
      caller.allow(options)
      this.#counts.accepted++
      if (this.#seen.size < maxReport) this.#seen.add(caller.grantId)
      return caller
    } catch (e) {
      const refusal = e instanceof Refusal ? e : unavailable('failed', e)
      this.#counts[refusal.kind === 'unavailable' ? 'unavailable' : 'refused']++
      throw refusal.challenge(this.#config.audience, options.scope)
    }
  }

  /** Guards a route of node:http, Express and their like: `req.caller` is who calls. */
  middleware<R extends IncomingMessage>(route: RouteOptions<R> = {}) {
    const { store, ...options } = route
    checkOptions(options)
    return async (req: R, res: ServerResponse, next: (error?: unknown) => void): Promise<void> => {
      try {
        const caller = await this.check(tokenOf(req, this.#config.audience), { ...options, ...(store && { store: store(req) ?? '' }) })
        Object.assign(req, { caller })
      } catch (e) {
        if (!(e instanceof Refusal)) return next(e)
        res.writeHead(e.status, e.headers).end(e.body)
        return
      }
      next()
    }
  }

  async #authenticate(text: string, onStale: OnStale): Promise<Caller> {
    if (this.#closed.signal.aborted) throw unavailable('closed')
    if (typeof text !== 'string') throw bad('not_a_token')
    const t = await this.#tokens.read(text)
    const f = this.#follower
    let verdict = f?.judgeNow(t)
    if (verdict === 'no list') {
      await f!.load(t.status!.list)
      verdict = f!.judgeNow(t)
    }
    const live = verdict !== undefined
    if (live) this.#open = false
    else {
      this.#counts.stale++
      const feedless = !f && this.#ready // then there is no lease that could be waited for
      if (onStale !== 'introspect' && !feedless) {
        if (!f || onStale === 'closed' || f.age > leaseMs + onStale.open) throw unavailable('stale')
        verdict = f.judge(t)
        if (verdict === 'valid') this.#opens(onStale.open)
        // For checks to come: this one may take no longer than the issuer's answer.
        if (verdict === 'no list') void f.load(t.status!.list)
      }
    }
    switch (verdict) {
      case 'valid':
        return callerOf(t, t.printed!)
      case 'refused':
        throw bad('not_active')
    }
    const kept = live && this.#answers.kept(t)
    if (kept) return callerOf(t, f!.narrow(t, kept.powers))
    return callerOf(t, await this.#ask(t, text))
  }

  // An answer is of when it was given; what the feed said since holds, while it is of now. One that may be from before that
  // is asked for again, so that a request waits for no longer than two questions take.
  async #ask(t: Token, text: string): Promise<Powers> {
    for (const last = this.#world.mono() + askMs - againMs; ; ) {
      const said = await this.#answers.ask(t, text)
      const f = this.#follower
      if (!f?.live) return said.powers
      if (f.judge(t) === 'refused') throw bad('not_active')
      if (!said.overtaken) return f.narrow(t, said.powers)
      if (this.#world.mono() > last) throw unavailable('no_answer', new Error("the issuer's answers are older than the feed"))
      await sleep(this.#world, againMs, this.#closed.signal)
    }
  }

  #opens(ms: number): void {
    this.#counts.open++
    if (!this.#open) this.#world.log(`tokens are accepted by what was known last, for ${ms} ms at most`)
    this.#open = true
  }

  // A kept connection that the issuer closed at this moment is no outage. Asking changes nothing, so it may be done again.
  async #introspect(token: string): Promise<Uint8Array> {
    if (!this.#introspection) throw new Error("the issuer's metadata was not read yet")
    const end = this.#world.mono() + askMs
    const again = (e: Error) => {
      const left = end - this.#world.mono()
      if (!(e.cause instanceof TypeError) || left <= 0) throw e
      return this.#question(token, left)
    }
    const { status, body } = await this.#question(token, askMs).catch(again)
    if (status !== 200) throw new Error(`introspection answered ${status}`)
    return body
  }

  #question(token: string, within: number) {
    const form = new URLSearchParams({ token, token_type_hint: 'access_token' })
    return this.#post(this.#introspection, 'application/x-www-form-urlencoded', form.toString(), within, this.#closed.signal)
  }

  #post(url: string, type: string, body: string, within: number, signal?: AbortSignal) {
    const headers = { Authorization: this.#authorization, 'Content-Type': type }
    return exchange(this.#world, url, { method: 'POST', headers, body, within, limit: maxBody, ...(signal && { signal }) })
  }

  async #get(url: string): Promise<{ body: Uint8Array; cached: boolean }> {
    const { status, body, cached } = await exchange(this.#world, url, { within: startMs, limit: maxBody, signal: this.#closed.signal })
    if (status !== 200) throw new Error(`${new URL(url).pathname} answered ${status}`)
    return { body, cached }
  }

  /** @internal */
  async start(): Promise<void> {
    const failed = await this.#tryLoading()
    if (failed instanceof ConfigError) {
      void this.close()
      throw failed
    }
    void this.#keepLoading(failed)
    void this.#keepReporting()
  }

  async #keepLoading(failed: Error | undefined): Promise<void> {
    const { signal } = this.#closed
    for (;;) {
      await sleep(this.#world, failed ? retryMs : reloadMs, signal)
      if (signal.aborted) return
      failed = await this.#tryLoading(failed)
    }
  }

  async #tryLoading(before?: Error): Promise<Error | undefined> {
    try {
      await this.#load()
      return undefined
    } catch (e) {
      const { message } = e as Error
      if (message !== before?.message && !this.#closed.signal.aborted) this.#world.log('the issuer cannot be read: ' + message)
      return e as Error
    }
  }

  async #load(): Promise<void> {
    const { body } = await this.#get(this.#base + '/.well-known/oauth-authorization-server')
    const meta: unknown = JSON.parse(Buffer.from(body).toString())
    if (!isObject(meta) || meta.issuer !== this.#config.issuer) throw new ConfigError(`the metadata found under ${this.#config.issuer} names another issuer`)
    const { jwks_uri: jwks, introspection_endpoint: introspection, revocation_feed_endpoint: feed } = meta
    this.#jwks = checkUrl('jwks_uri', jwks)
    this.#introspection = checkUrl('introspection_endpoint', introspection)
    await Promise.all([this.#access.load(), this.#lasting.load()])
    if (this.#ready) return
    const { status } = await this.#question('no-token', startMs)
    if (status === 401) throw new ConfigError('the issuer refuses clientId and clientSecret')
    if (status !== 200) throw new Error(`introspection answered ${status}`)
    if (feed === undefined && !this.#config.nodes) this.#world.log('the issuer has no revocation feed: it is asked on every check')
    else if (!(await this.#follow())) throw new Error('the revocation feed does not answer')
    this.#ready = true
  }

  // Resolves with whether the feed answered. A follower goes on trying.
  async #follow(): Promise<boolean> {
    const { signal } = this.#closed
    const { issuer, nodes = [this.#base] } = this.#config
    this.#follower ??= new Follower(this.#world, {
      issuer, authorization: this.#authorization, keys: { access: this.#access, lasting: this.#lasting }, changes: this.#answers, signal,
      nodes: nodes.map((node) => node.replace(/\/$/, '')),
    })
    await Promise.race([this.#follower.heard, sleep(this.#world, startMs, signal)])
    return this.#follower.seq >= 0
  }

  // Which grants were seen since the last report: what "last used" says of them goes by it.
  async #keepReporting(): Promise<void> {
    const { signal } = this.#closed
    for (;;) {
      await sleep(this.#world, reportMs, signal)
      if (signal.aborted) return
      await this.#report(startMs, signal)
    }
  }

  // A report that does not arrive is lost: "last used" is then as old as it was.
  async #report(within: number, signal?: AbortSignal): Promise<void> {
    if (this.#seen.size === 0 || !this.#follower) return
    const grants = [...this.#seen]
    this.#seen.clear()
    await this.#post(this.#base + '/revocations/seen', 'application/json', JSON.stringify({ grants }), within, signal).catch(() => {})
  }
}

/** A mistake that waiting does not mend. */
export class ConfigError extends Error {
  override name = 'ConfigError'
}

function checkConfig(c: Config): void {
  checkUrl('issuer', c.issuer)
  for (const node of c.nodes ?? []) checkUrl('nodes', node)
  if (c.nodes?.length === 0) throw new ConfigError('nodes is empty')
  if (!/^[!#-[\]-~]+$/.test(c.audience)) throw new ConfigError("audience must be this API's URI")
  if (!c.clientId || !c.clientSecret) throw new ConfigError('clientId and clientSecret must be set')
  checkOptions({ ...(c.onStale !== undefined && { onStale: c.onStale }) })
}

// checkOptions refuses what would open a route by a slip of the pen, such as the name of a constant that is not there.
function checkOptions(o: CheckOptions): void {
  if ('scope' in o && !(typeof o.scope === 'string' && /^[!#-[\]-~]+$/.test(o.scope))) throw new ConfigError('scope must be one scope')
  const { onStale = 'closed' } = o
  const open = typeof onStale === 'object' && onStale !== null && onStale.open > 0
  if (onStale !== 'introspect' && onStale !== 'closed' && !open) throw new ConfigError("onStale must be 'introspect', 'closed' or { open: milliseconds }")
}

// checkUrl holds the issuer and what its metadata names to https (RFC 8414 section 2), with http for loopback hosts.
function checkUrl(name: string, s: unknown): string {
  const u = typeof s === 'string' && URL.canParse(s) ? new URL(s) : undefined
  const loopback = u?.protocol === 'http:' && (u.hostname === 'localhost' || u.hostname === '[::1]' || /^127\.\d+\.\d+\.\d+$/.test(u.hostname))
  if (!u || u.username || u.password || /[?#]/.test(s as string) || !(u.protocol === 'https:' || loopback)) {
    throw new ConfigError(`${name} must be an https URL without query (http is for loopback hosts only)`)
  }
  return s as string
}

const callerOf = ({ claims: c }: Token, powers: Powers) => new Caller(c.sub, c.client_id, c.grant_id, powers)

// RFC 6749 section 2.3.1 has both halves of HTTP Basic form-encoded.
const formEncode = (s: string) => new URLSearchParams({ '': s }).toString().slice(1)

// tokenOf takes the token from the request (RFC 6750 section 2.1, or x-dressipi-jwt), never from a query or a form.
function tokenOf(req: IncomingMessage, realm: string): string {
  const { authorization = [], 'x-dressipi-jwt': own = [] } = req.headersDistinct
  const found = [...authorization.flatMap((h) => /^bearer +(.*)$/i.exec(h + ' ')?.[1]?.trim() ?? []), ...own]
  // Authorization is not a list (RFC 9110 section 11.6.2): a proxy and this API could each read another one.
  if (authorization.length > 1 || found.some((token) => !/^[\w.~+/-]+=*$/.test(token))) throw new Refusal('malformed', 'malformed').challenge(realm)
  if (new Set(found).size > 1) throw new Refusal('two_tokens', 'two_tokens').challenge(realm)
  if (!found[0]) throw new Refusal('no_token', 'no_token').challenge(realm)
  return found[0]
}
