// What the scripts here share. The Go test beside them starts the demo, passes its line in DEMO, and answers at PERSON for
// the person at the browser: given an app's link, it signs in, allows, and returns the address the app was called back at.
// Each case is told as one line of JSON on standard output.
import assert from 'node:assert/strict'

export const demo = JSON.parse(process.env.DEMO)
export const app = (profile, confidential) =>
  demo.apps.find((a) => a.profile === profile && (confidential === undefined || (a.client_secret !== '') === confidential))
export const redirectURI = 'https://client.example/callback'
export const audience = process.env.AUDIENCE

export async function allow(link) {
  const response = await fetch(process.env.PERSON, { method: 'POST', body: String(link) })
  const text = await response.text()
  assert.equal(response.status, 200, text)
  return new URL(text)
}

export async function test(name, run) {
  let error = null
  try {
    await run()
  } catch (e) {
    error = String(e?.stack ?? e) + (e?.cause ? '\ncause: ' + JSON.stringify(e.cause) + ' ' + String(e.cause) : '')
  }
  console.log(JSON.stringify({ case: name, error }))
}

// refused runs what must fail, and returns the error.
export async function refused(run) {
  let result
  try {
    result = await run()
  } catch (e) {
    return e
  }
  assert.fail('accepted: ' + JSON.stringify(result))
}

export { assert }
