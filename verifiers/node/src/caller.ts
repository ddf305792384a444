import { Refusal } from './refusal.js'

/** What a route asks of its caller. */
export interface Access {
  /** One scope; without it every token that stands is admitted. */
  scope?: string
  /** The store that the request is about, in which the scope must then hold. An empty one admits nobody, so that a misspelt
   * path value cannot open a route. Without it, a caller is admitted who holds the scope for the account or in one store. */
  store?: string
}

/** Scopes that hold in each of the stores. */
export interface Right {
  readonly stores: readonly string[]
  readonly scopes: readonly string[]
}

/** What a token may do: what it prints, or what the issuer said. */
export interface Powers {
  readonly scopes: readonly string[]
  readonly rights: readonly Right[]
}

/** Who calls and what they may do now. */
export class Caller {
  /** Those that act on the account, and those that hold in every store of the token. Ask hasIn or stores about a store. */
  readonly scopes: readonly string[]
  readonly #rights: readonly Right[]

  /** @internal */
  constructor(
    /** The user, by the platform's own id (`sub`). */
    readonly subject: string,
    /** The app. */
    readonly clientId: string,
    /** The connection between the two, which the user can revoke. */
    readonly grantId: string,
    { scopes, rights }: Powers,
  ) {
    this.scopes = scopes
    this.#rights = rights
  }

  /** Whether the caller holds an account scope. For a store scope use hasIn. */
  has(scope: string): boolean {
    return this.scopes.includes(scope)
  }

  /** Whether the caller holds a scope in one store. It goes by `rights` alone. */
  hasIn(store: string, scope: string): boolean {
    return this.#rights.some((r) => r.scopes.includes(scope) && r.stores.includes(store))
  }

  /** The stores in which the caller holds the scope, each once; without one, all that the token covers. */
  stores(scope?: string): string[] {
    return [...new Set(this.#rights.flatMap((r) => (scope === undefined || r.scopes.includes(scope) ? r.stores : [])))]
  }

  /** @internal */
  allow(access: Access): void {
    const { scope, store } = access
    const named = 'store' in access // by its name, for an undefined store is one that was misspelt
    const somewhere = scope !== undefined && this.stores(scope).length > 0
    let allowed: boolean
    if (!named) allowed = scope === undefined || this.has(scope) || somewhere
    else allowed = !!store && (scope === undefined ? this.stores().includes(store) : this.hasIn(store, scope))
    if (!allowed) throw new Refusal('insufficient_scope', scope === undefined ? 'store' : named && somewhere ? 'other_store' : 'scope')
  }
}
