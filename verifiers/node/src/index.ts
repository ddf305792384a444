// Guards an API in Node whose callers hold access tokens and API keys issued by Grantway. What is revoked is refused within
// 850 ms, also when the network is cut: see README.md.
import { Verifier, type Config } from './verifier.js'
import { thisMachine } from './world.js'

/** Reads the issuer's metadata and keys, tries the credentials and follows the revocation feed. Rejects with a ConfigError
 * where the configuration is wrong. An issuer that does not answer is no error, so that an API can start during an outage:
 * `ready` says so, and the verifier goes on trying. */
export async function createVerifier(config: Config): Promise<Verifier> {
  const verifier = new Verifier(thisMachine, config)
  await verifier.start()
  return verifier
}

export type { Access, Caller } from './caller.js'
export { Refusal, type Kind } from './refusal.js'
export { ConfigError, type CheckOptions, type Config, type OnStale, type RouteOptions, type Verifier } from './verifier.js'
