// openid-client and oauth4webapi from discovery to revocation, as a confidential and as a public client.
import * as client from 'openid-client'
import * as oauth from 'oauth4webapi'
import { allow, app, assert, demo, redirectURI, refused, test } from './harness.mjs'

const apps = { confidential: app('standard', true), public: app('standard', false) }
const scope = 'stores.view'

function relying(a, algorithm) {
  const authentication = a.client_secret ? client.ClientSecretBasic(a.client_secret) : client.None()
  return client.discovery(new URL(demo.issuer), a.client_id, {}, authentication, { algorithm, execute: [client.allowInsecureRequests] })
}

for (const [kind, a] of Object.entries(apps)) {
  for (const algorithm of ['oidc', 'oauth2']) {
    await test(`openid-client, ${kind}, discovery by ${algorithm}`, async () => {
      const config = await relying(a, algorithm)
      assert.equal(config.serverMetadata().supportsPKCE(), true)
      const pkceCodeVerifier = client.randomPKCECodeVerifier()
      const expectedState = client.randomState()
      const link = client.buildAuthorizationUrl(config, {
        redirect_uri: redirectURI, scope, state: expectedState, response_type: 'code',
        code_challenge: await client.calculatePKCECodeChallenge(pkceCodeVerifier), code_challenge_method: 'S256',
      })
      const back = await allow(link)

      // Another issuer's answer, or one without iss, is refused by the client (RFC 9207).
      for (const iss of ['https://evil.example', null]) {
        const mixed = new URL(back)
        iss ? mixed.searchParams.set('iss', iss) : mixed.searchParams.delete('iss')
        const e = await refused(() => client.authorizationCodeGrant(config, mixed, { pkceCodeVerifier, expectedState }))
        assert.match(String(e.message) + String(e.cause?.message ?? ''), /iss|response parameter/i)
      }
      const tokens = await client.authorizationCodeGrant(config, back, { pkceCodeVerifier, expectedState })
      assert.equal(tokens.token_type, 'bearer')
      assert.equal(tokens.scope, scope)
      assert.equal(tokens.expires_in, 600)

      const again = await client.refreshTokenGrant(config, tokens.refresh_token)
      assert.notEqual(again.access_token, tokens.access_token)
      assert.ok(again.refresh_token)

      const api = await relying(demo.resource_server, algorithm)
      const live = await client.tokenIntrospection(api, again.access_token)
      assert.equal(live.active, true)
      assert.equal(live.client_id, a.client_id)
      await client.tokenRevocation(config, again.refresh_token, { token_type_hint: 'refresh_token' })
      assert.deepEqual(await client.tokenIntrospection(api, again.access_token), { active: false })
      const e = await refused(() => client.refreshTokenGrant(config, again.refresh_token))
      assert.equal(e.error, 'invalid_grant')
    })
  }

  for (const authentication of a.client_secret ? ['ClientSecretBasic', 'ClientSecretPost'] : ['None']) {
    await test(`oauth4webapi, ${kind}, ${authentication}`, async () => {
      const insecure = { [oauth.allowInsecureRequests]: true }
      const issuer = new URL(demo.issuer)
      const as = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, { algorithm: 'oauth2', ...insecure }))
      const c = { client_id: a.client_id }
      const proof = oauth[authentication](a.client_secret)
      const verifier = oauth.generateRandomCodeVerifier()
      const state = oauth.generateRandomState()
      const link = new URL(as.authorization_endpoint)
      link.search = new URLSearchParams({
        client_id: c.client_id, redirect_uri: redirectURI, response_type: 'code', scope, state,
        code_challenge: await oauth.calculatePKCECodeChallenge(verifier), code_challenge_method: 'S256',
      })
      const back = oauth.validateAuthResponse(as, c, await allow(link), state)
      const redeem = () => oauth.authorizationCodeGrantRequest(as, c, proof, back, redirectURI, verifier, insecure)
      const tokens = await oauth.processAuthorizationCodeResponse(as, c, await redeem())

      const again = await oauth.processRefreshTokenResponse(as, c, await oauth.refreshTokenGrantRequest(as, c, proof, tokens.refresh_token, insecure))
      assert.ok(again.access_token)

      const api = { client_id: demo.resource_server.client_id }
      const introspect = async (token) => oauth.processIntrospectionResponse(as, api,
        await oauth.introspectionRequest(as, api, oauth.ClientSecretBasic(demo.resource_server.client_secret), token, insecure))
      assert.equal((await introspect(again.access_token)).active, true)
      assert.equal(await oauth.processRevocationResponse(await oauth.revocationRequest(as, c, proof, again.access_token, insecure)), undefined)
      assert.equal((await introspect(again.access_token)).active, false)

      const e = await refused(async () => oauth.processAuthorizationCodeResponse(as, c, await redeem()))
      assert.equal(e.error, 'invalid_grant')
    })
  }
}

await test('oauth4webapi hears that the secret is wrong', async () => {
  const insecure = { [oauth.allowInsecureRequests]: true }
  const issuer = new URL(demo.issuer)
  const as = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, { algorithm: 'oidc', ...insecure }))
  const c = { client_id: apps.confidential.client_id }
  const response = await oauth.refreshTokenGrantRequest(as, c, oauth.ClientSecretBasic('wrong'), 'x', insecure)
  assert.equal(response.status, 401)
  const e = await refused(() => oauth.processRefreshTokenResponse(as, c, response))
  assert.ok(e instanceof oauth.WWWAuthenticateChallengeError || e.error === 'invalid_client', String(e))
})
