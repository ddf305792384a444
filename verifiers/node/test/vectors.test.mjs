// The vectors that every verifier of Grantway's keys is held to.
import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { describe, test } from 'node:test'
import { Refusal } from '../dist/index.js'
import { folder, Stage } from './issuer.mjs'

const policy = (said) => (typeof said === 'number' ? { open: said } : said)

async function outcome(stage, { check, scope, store, on_stale }) {
  const options = Object.fromEntries(Object.entries({ scope, store, onStale: policy(on_stale) }).filter(([, v]) => v !== undefined))
  try {
    const caller = await stage.verifier.check(stage.texts.get(check), options)
    return { want: 'accepted', stores: caller.stores(scope) }
  } catch (e) {
    assert.ok(e instanceof Refusal, e)
    assert.equal(e.status, { invalid_token: 401, insufficient_scope: 403, unavailable: 503 }[e.kind])
    return { want: e.kind, reason: e.reason }
  }
}

async function run(stage, step) {
  if ('check' in step) {
    const { asked, reads } = stage
    const got = await (step.within === undefined ? outcome(stage, step) : stage.within(step.within, outcome(stage, step)))
    assert.equal(got.want, step.want, got.reason)
    if (step.asks !== null) assert.equal(stage.asked - asked, step.asks ?? 0, 'introspections')
    if (step.reads !== undefined) assert.equal(stage.reads - reads, step.reads, 'lists read')
    if (step.stores) assert.deepEqual(got.stores, step.stores)
  } else if ('polled' in step) {
    const { query } = await stage.held()
    assert.deepEqual({ epoch: query.get('epoch'), after: query.get('after') }, { epoch: `${step.polled.epoch}`, after: `${step.polled.after}` })
  } else if ('load' in step) {
    for (let n = 0, asked; asked !== stage.asked; n++) {
      assert.ok(n < 100, 'the list is never used')
      if (n > 1) await stage.wait(10)
      asked = stage.asked
      await outcome(stage, { check: step.load })
      await stage.settle()
    }
  } else if ('feed' in step && step.in) stage.feedIn(step.in, step.feed)
  else if ('feed' in step) await stage.feed(step.feed)
  else if ('always' in step) await stage.setAlways(step.always)
  else if ('wait' in step) await stage.wait(step.wait)
  else if ('jump' in step) stage.jump(step.jump)
  else if ('lasting' in step) {
    serve(stage, step.in, { lasting: step.lasting, age: step.age, slow: step.slow })
  } else {
    const [name] = Object.keys(step)
    assert.ok(['lists', 'snapshot', 'introspection'].includes(name), `unknown step ${name}`)
    serve(stage, step.in, { [name]: step[name] })
  }
}

function serve(stage, ms, what) {
  if (ms) stage.later(ms, () => Object.assign(stage, what))
  else Object.assign(stage, what)
}

for (const file of readdirSync(folder).filter((f) => f.endsWith('.json') && f !== 'world.json')) {
  describe(file, () => {
    for (const scenario of JSON.parse(readFileSync(new URL(file, folder), 'utf8'))) {
      test(scenario.name, async (t) => {
        const stage = new Stage(scenario)
        t.after(() => void stage.verifier.close())
        await stage.start()
        for (const [i, step] of scenario.steps.entries()) {
          await run(stage, step).catch((e) => {
            e.message = `step ${i + 1}, ${JSON.stringify(step)}: ${e.message}`
            throw e
          })
        }
      })
    }
  })
}
