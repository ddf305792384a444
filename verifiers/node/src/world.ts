/** What the verifier needs of the machine. Tests have another one. */
export interface World {
  fetch: typeof fetch
  /** Milliseconds on a clock that nobody sets. */
  mono(): number
  /** Milliseconds since 1970. */
  wall(): number
  /** Calls f after so many milliseconds, unless what it returns is called before. No process stays alive for it. */
  after(ms: number, f: () => void): () => void
  log(message: string): void
}

export const thisMachine: World = {
  fetch: (...args) => fetch(...args),
  mono: () => performance.now(),
  wall: () => Date.now(),
  after(ms, f) {
    const timer = setTimeout(f, ms).unref()
    return () => clearTimeout(timer)
  },
  log: (message) => console.warn('grantway: ' + message),
}

/** Waits, or until the signal ends it. */
export function sleep(world: World, ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve()
    const end = () => {
      cancel()
      signal.removeEventListener('abort', end)
      resolve()
    }
    const cancel = world.after(ms, end)
    signal.addEventListener('abort', end)
  })
}

/** An HTTP exchange with the issuer: it follows no redirect, which would carry credentials and tokens to a place nobody
 * configured, is answered within so many milliseconds, and reads no more than `limit` bytes. */
export async function exchange(
  world: World,
  url: string,
  o: { within: number; bodyWithin?: number; limit: number; signal?: AbortSignal } & Pick<RequestInit, 'method' | 'headers' | 'body'>,
): Promise<{ status: number; body: Uint8Array; cached: boolean }> {
  const stop = new AbortController()
  const late = () => stop.abort(new Error('no answer in time'))
  let cancel = world.after(o.within, late)
  const close = () => stop.abort(new Error('closed'))
  o.signal?.addEventListener('abort', close)
  const { method = 'GET', headers = {}, body } = o
  try {
    o.signal?.throwIfAborted()
    const response = await world.fetch(url, {
      method,
      headers: { Accept: 'application/json', 'User-Agent': 'grantway-node', 'Cache-Control': 'no-cache', ...headers },
      ...(body != null && { body }),
      redirect: 'manual',
      signal: stop.signal,
    })
    if (o.bodyWithin) {
      cancel()
      cancel = world.after(o.bodyWithin, late)
    }
    const chunks: Uint8Array[] = []
    let size = 0
    if (response.body) {
      for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
        if ((size += chunk.length) > o.limit) throw new Error(`more than ${o.limit} bytes`)
        chunks.push(chunk)
      }
    }
    return { status: response.status, body: Buffer.concat(chunks), cached: response.headers.has('age') }
  } catch (e) {
    const { message, cause } = e as Error
    throw new Error(`${new URL(url).pathname}: ${(cause as Error | undefined)?.message ?? message}`, { cause: e })
  } finally {
    cancel()
    o.signal?.removeEventListener('abort', close)
  }
}
