// The requests of the vendor's own client for a Dressipi server, in the shapes that it is known to send: its SDK is
// published as source only and pulls in React Native, so it is not run here. Shapes (seed-contracts 1.6 to 1.8): authorize
// by fetch; the token request a POST with every parameter in the query string and no body, redirect_uri on refresh too;
// expiry read from the payload by atob() without any base64url repair; the stored record replaced whole by each answer; a
// verifier over the whole alphabet of RFC 7636 made by Math.random; two mounted providers that refresh at once.
import { app, assert, demo, test } from './harness.mjs'

const redirect_uri = 'urn:ietf:wg:oauth:2.0:oob:auto'
const client_id = app('direct').client_id
const domain = demo.issuer + '/api'

async function pkce() {
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~'
  const verifier = Array.from({ length: 43 }, () => alphabet[Math.floor(Math.random() * alphabet.length)]).join('')
  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(verifier))
  const challenge = btoa(String.fromCharCode(...new Uint8Array(digest))).replace(/\+/g, '-').replace(/\//g, '_').replace(/=+$/, '')
  return { verifier, challenge }
}

async function json(response) {
  const body = await response.json()
  assert.equal(response.status, 200, JSON.stringify(body))
  return body
}

async function authenticate() {
  const { verifier, challenge } = await pkce()
  const state = crypto.randomUUID()
  const asked = new URLSearchParams({ redirect_uri, response_type: 'code', client_id, state, code_challenge: challenge, code_challenge_method: 'S256' })
  const answer = await json(await fetch(`${domain}/oauth/authorize?${asked}`))
  assert.equal(answer.state, state)
  const redeem = new URLSearchParams({ grant_type: 'authorization_code', client_id, redirect_uri, code: answer.code, code_verifier: verifier })
  return json(await fetch(`${domain}/oauth/token?${redeem}`, { method: 'POST' }))
}

async function refresh(record) {
  const p = new URLSearchParams({ grant_type: 'refresh_token', client_id, redirect_uri, refresh_token: record.refresh_token })
  return json(await fetch(`${domain}/oauth/token?${p}`, { method: 'POST' }))
}

const decode = (token) => JSON.parse(atob(token.split('.')[1]))
const expired = (token) => decode(token).exp < Date.now() / 1000

await test('a guest signs in', async () => {
  const record = await authenticate()
  assert.deepEqual(Object.keys(record).sort(), ['access_token', 'expires_in', 'refresh_token', 'token_type'])
  assert.equal(record.token_type, 'Bearer')
  assert.equal(record.expires_in, 86400)
})
await test('atob() reads every payload', async () => {
  for (let i = 0; i < 20; i++) {
    const { access_token } = await authenticate()
    const claims = decode(access_token)
    assert.equal(typeof claims.exp, 'number')
    assert.equal(claims.exp - claims.iat, 86400)
    assert.equal(expired(access_token), false)
    assert.doesNotMatch(access_token.split('.')[1], /[-_]/)
  }
})
await test('the record replaced whole goes on for ever', async () => {
  let record = await authenticate()
  const { sub } = decode(record.access_token)
  for (let i = 0; i < 5; i++) {
    record = await refresh(record)
    assert.ok(record.refresh_token)
    assert.equal(decode(record.access_token).sub, sub)
  }
})
await test('two providers refresh at once and both go on', async () => {
  const record = await authenticate()
  const [one, two] = await Promise.all([refresh(record), refresh(record)])
  await refresh(one)
  await refresh(two)
})
