// Goal: what the contract suite (test/contract/clock-contract.ts) cannot know of Node.js timers. Method: real time.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { SystemClock } from './system-clock.ts'

const clock = new SystemClock()

test('no wake-up comes early, wherever in a millisecond it is set', async () => {
  // Timers count whole milliseconds from a truncated start: without care they are up to one early.
  for (let i = 0; i < 40; i++) {
    const startMs = clock.nowMs()
    while (clock.nowMs() < startMs + i / 16) {}
    const deadlineMs = clock.nowMs() + 2
    const firedMs = await new Promise<number>((resolve) => clock.wakeAt(deadlineMs, () => resolve(clock.nowMs())))
    assert.ok(firedMs >= deadlineMs, `fired at ${firedMs}, the deadline was ${deadlineMs}`)
  }
})

test('a deadline in a year is one sleeping timer, not a busy one', async (context) => {
  const warnings: string[] = []
  const onWarning = (warning: Error): void => void warnings.push(warning.name)
  process.on('warning', onWarning)
  context.after(() => process.off('warning', onWarning))
  const handle = clock.wakeAt(clock.nowMs() + 365 * 24 * 3600 * 1000, () => assert.fail('too early'))
  await new Promise((resolve) => setTimeout(resolve, 10))
  handle.cancel()
  assert.deepEqual(warnings, [], 'Node.js was given a delay that it cannot count')
})
