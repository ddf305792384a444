// jose, and jsonwebtoken with jwks-rsa, set up as their documentation has it from what discovery says. Many verifiers take
// any typ and a missing exp, so a lasting key must fail for want of its key: it must be refused by both, while each accepts
// an access token of the same issuer, and would accept the lasting key if it were given the set of lasting keys.
import { createRemoteJWKSet, jwtVerify } from 'jose'
import jwt from 'jsonwebtoken'
import { JwksClient } from 'jwks-rsa'
import * as oauth from 'oauth4webapi'
import { assert, audience, demo, refused, test } from './harness.mjs'

const { LASTING: lasting, ACCESS: access } = process.env
const metadata = await (await fetch(demo.issuer + '/.well-known/openid-configuration')).json()
const issuer = metadata.issuer
const lastingSet = demo.issuer + '/oauth/jwks/lasting'

function withJose(token, jwksURI) {
  return jwtVerify(token, createRemoteJWKSet(new URL(jwksURI)), { issuer, audience })
}

function withJsonwebtoken(token, jwksUri) {
  const client = new JwksClient({ jwksUri })
  const key = ({ kid }, done) =>
    client.getSigningKey(kid).then((k) => done(null, k.getPublicKey()), (e) => done(e))
  return new Promise((resolve, reject) =>
    jwt.verify(token, key, { algorithms: ['ES256'], issuer, audience }, (e, claims) => (e ? reject(e) : resolve(claims))))
}

await test('jose accepts an access token', async () => {
  const { payload, protectedHeader } = await withJose(access, metadata.jwks_uri)
  assert.equal(protectedHeader.typ, 'at+jwt')
  assert.equal(typeof payload.exp, 'number')
})
await test('jose refuses a lasting key', async () => {
  assert.equal((await refused(() => withJose(lasting, metadata.jwks_uri))).code, 'ERR_JWKS_NO_MATCHING_KEY')
})
await test('jose would accept it with the set of lasting keys', async () => {
  const { payload, protectedHeader } = await withJose(lasting, lastingSet)
  assert.equal(protectedHeader.typ, 'apikey+jwt')
  assert.equal(payload.exp, undefined)
})

await test('jsonwebtoken accepts an access token', async () => {
  assert.equal(typeof (await withJsonwebtoken(access, metadata.jwks_uri)).exp, 'number')
})
await test('jsonwebtoken refuses a lasting key', async () => {
  const e = await refused(() => withJsonwebtoken(lasting, metadata.jwks_uri))
  assert.match(e.message, /Unable to find a signing key/)
})
await test('jsonwebtoken would accept it with the set of lasting keys', async () => {
  assert.equal((await withJsonwebtoken(lasting, lastingSet)).iss, issuer)
})

// RFC 9068 as oauth4webapi has it, which demands typ at+jwt and every required claim.
await test('oauth4webapi accepts an access token and refuses a lasting key', async () => {
  const validate = (token) => {
    const request = new Request('https://api.example/', { headers: { authorization: 'Bearer ' + token } })
    return oauth.validateJwtAccessToken(metadata, request, audience, { [oauth.allowInsecureRequests]: true })
  }
  assert.equal((await validate(access)).iss, issuer)
  await refused(() => validate(lasting))
})
