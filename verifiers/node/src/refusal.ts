/** The class of a refusal: what the caller can do about it. */
export type Kind = 'no_token' | 'malformed' | 'two_tokens' | 'invalid_token' | 'insufficient_scope' | 'unavailable'

// RFC 6750 section 3.1. A request without a token gets no error code.
const answers: Record<Kind, { status: number; code?: string; text: string }> = {
  no_token: { status: 401, text: 'Send your access token in the Authorization header, after the word Bearer' },
  malformed: { status: 400, code: 'invalid_request', text: 'The access token could not be read: send it in the Authorization header, after the word Bearer' },
  two_tokens: { status: 400, code: 'invalid_request', text: 'Send one access token, not two different ones' },
  invalid_token: { status: 401, code: 'invalid_token', text: 'Your access token does not work for this API: it was changed, revoked or made for something else' },
  insufficient_scope: { status: 403, code: 'insufficient_scope', text: 'Your access token does not have permission' },
  unavailable: { status: 503, code: 'temporarily_unavailable', text: 'We cannot check your access token right now. Try again in a moment' },
}

/** Every error that `check` rejects with. Neither it nor its cause ever contains the token. */
export class Refusal extends Error {
  readonly kind: Kind
  /** A stable word for logs and metrics, such as `bad_signature`, `expired`, `not_active`, `other_store`, `no_answer`. */
  readonly reason: string
  /** The HTTP status to answer with: 503 and never 401 where nothing is known against the token. */
  readonly status: number
  #scope: string | undefined // that was asked for
  /** The headers to answer with. `check` knows the realm and the scope that was asked for, and fills in the challenge. */
  readonly headers: Record<string, string> = { 'Cache-Control': 'no-store', Vary: 'Authorization', 'Content-Type': 'application/json' }

  constructor(kind: Kind, reason: string, cause?: unknown) {
    super(reason, { cause })
    this.name = 'Refusal'
    this.kind = kind
    this.reason = reason
    this.status = answers[kind].status
    if (kind === 'unavailable') this.headers['Retry-After'] = '1'
  }

  /** The JSON to answer with. */
  get body(): string {
    const { code } = answers[this.kind]
    return JSON.stringify({ ...(code && { error: code }), error_description: this.#words() })
  }

  /** @internal */
  challenge(realm: string, scope?: string): this {
    const { code } = answers[this.kind]
    this.#scope = scope
    let value = `Bearer realm="${realm}"`
    if (code) value += `, error="${code}", error_description="${this.#words()}"`
    if (this.kind === 'insufficient_scope' && scope) value += `, scope="${scope}"`
    if (this.kind !== 'unavailable') this.headers['WWW-Authenticate'] = value
    return this
  }

  // The sentence for the app's developer, as the verifier in Go says it.
  #words(): string {
    const { text } = answers[this.kind]
    if (this.kind === 'invalid_token' && this.reason === 'expired') return 'Your access token has expired'
    if (this.kind !== 'insufficient_scope') return text
    if (!this.#scope) return 'Your access token does not have access to this store'
    return `${text} to ${action(this.#scope)}${this.reason === 'other_store' ? ' in this store' : ''}`
  }
}

// action turns a scope into words: stores.products.update says "update products". The last segment is the verb, the first
// the family, which is named only where nothing stands between them.
function action(scope: string): string {
  const parts = scope.split(/[.:/]/).filter(Boolean)
  if (parts.length < 2) return `use ${scope}`
  const verb = parts.at(-1)!
  const between = parts.slice(1, -1)
  const things = between.length > 0 ? between : parts.slice(0, 1)
  return [verb, ...things.reverse()].flatMap((part) => part.split(/(?<=.)(?=[A-Z])/s)).join(' ').toLowerCase()
}

export const bad = (reason: string) => new Refusal('invalid_token', reason)
export const unavailable = (reason: string, cause?: unknown) => new Refusal('unavailable', reason, cause)
