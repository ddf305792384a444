// JSON as strictly as a signed statement deserves (RFC 8259, RFC 7515 section 4). JSON.parse takes the last of two members
// of one name and reads 1e0 as 1; each of these lets two readers of one token disagree.

export type Json = null | boolean | number | string | Json[] | { [name: string]: Json }
export type JsonObject = { [name: string]: Json }

const maxDepth = 8
const maxMembers = 64
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
const lexeme = /[ \t\n\r]*(?:([{}[\]:,])|("(?:[^"\\\x00-\x1f]|\\.)*")|(true|false|null)|(-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?))/y

/** Reads one object and nothing after it; throws on anything else. A number that is not a whole one from 0 to 2^53-1 in
 * plain digits is read as NaN, which no claim can be. */
export function parseStrict(bytes: Uint8Array): JsonObject {
  const text = utf8.decode(bytes)
  let at = 0
  let mark = ''
  let literal: Json | undefined

  function next(): void {
    lexeme.lastIndex = at
    const m = lexeme.exec(text)
    if (!m) fail()
    at = lexeme.lastIndex
    mark = m[1] ?? ''
    literal = undefined
    if (m[2]) {
      literal = JSON.parse(m[2]) as string
      if (!literal.isWellFormed()) fail()
    } else if (m[3]) literal = JSON.parse(m[3]) as Json
    else if (m[4]) literal = /^\d+$/.test(m[4]) && Number.isSafeInteger(+m[4]) ? +m[4] : NaN
  }

  // value reads the one whose first lexeme was read.
  function value(depth: number): Json {
    if (literal !== undefined) return literal
    if (depth > maxDepth) fail()
    if (mark === '[') {
      const list: Json[] = []
      items(']', () => list.push(value(depth + 1)))
      return list
    }
    if (mark !== '{') fail()
    const members = new Map<string, Json>()
    items('}', () => {
      const name = literal
      if (typeof name !== 'string' || members.has(name) || members.size === maxMembers) fail()
      next()
      if (mark !== ':') fail()
      next()
      members.set(name, value(depth + 1))
    })
    return Object.fromEntries(members)
  }

  function items(end: string, item: () => void): void {
    next()
    if (mark === end) return
    for (;;) {
      item()
      next()
      if (mark === end) return
      if (mark !== ',') fail()
      next()
    }
  }

  next()
  if (mark !== '{') fail()
  const whole = value(1) as JsonObject
  if (/[^ \t\n\r]/.test(text.slice(at))) fail()
  return whole
}

function fail(): never {
  throw new SyntaxError('not strict JSON')
}

export const isObject = (v: unknown): v is { [name: string]: unknown } => typeof v === 'object' && v !== null && !Array.isArray(v)
export const isCount = (v: unknown): v is number => Number.isSafeInteger(v) && (v as number) >= 0
