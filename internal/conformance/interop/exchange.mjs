// The published "Complete Flow Example" of the code exchange, steps 3 and 4, as it is printed except for the host names.
import { app, assert, demo, test } from './harness.mjs'

const CLIENT_ID = app('exchange').client_id
process.env.CLIENT_SECRET = app('exchange').client_secret
const code = process.env.CODE

await test('the published sample', async () => {
  // 3. Your backend exchanges the code for an API key
  const response = await fetch(
    `${demo.issuer}/oauth2/${CLIENT_ID}/exchange/${code}`,
    {
      headers: {
        "x-client-secret": process.env.CLIENT_SECRET,
        "User-Agent": "MyApp/1.0",
      },
    }
  );

  const { data: apiKey } = await response.json();

  // 4. Store the API key securely and use it for API calls
  const stores = await fetch(`${demo.store_api}/stores`, {
    headers: {
      Authorization: `Bearer ${apiKey}`,
      "User-Agent": "MyApp/1.0",
    },
  });

  assert.equal(response.status, 200)
  assert.match(apiKey, /^eyJ/)
  assert.equal(stores.status, 200)
  const { success, data } = await stores.json()
  assert.equal(success, true)
  assert.deepEqual(data.map((s) => s.id).sort(), demo.stores.slice(0, 2).map((s) => s.id).sort())
})
