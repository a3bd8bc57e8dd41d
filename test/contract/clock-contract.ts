// Goal: every Clock does what runtime/ports.ts promises. Method: as in disk-contract.ts.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import type { Clock } from '../../src/runtime/ports.ts'
import type { ContractWorld } from './harness.ts'

export interface ClockWorld extends ContractWorld {
  readonly clock: Clock
}

type Case = readonly [name: string, run: (world: ClockWorld) => Promise<void>]

export function clockContract(name: string, makeWorld: () => Promise<ClockWorld> | ClockWorld): void {
  for (const [what, run] of CASES) {
    test(`${name}: ${what}`, async () => {
      const world = await makeWorld()
      try {
        await run(world)
      } finally {
        await world.dispose()
      }
    })
  }
}

const CASES: readonly Case[] = [
  [
    'never goes back, and goes on',
    async (world) => {
      const { clock } = world
      const startMs = clock.nowMs()
      assert.ok(Number.isFinite(startMs) && startMs >= 0)
      let beforeMs = startMs
      await world.run(() => {
        const nowMs = clock.nowMs()
        assert.ok(nowMs >= beforeMs, `${nowMs} after ${beforeMs}`)
        beforeMs = nowMs
        // Virtual time stands still while nobody waits for it.
        clock.wakeAt(nowMs + 1, () => {})
        return nowMs >= startMs + 5
      }, 'five milliseconds')
    },
  ],
  [
    'fires once, at or after the deadline',
    async (world) => {
      const { clock } = world
      for (const afterMs of [0.3, 1, 2.7, 12]) {
        const deadlineMs = clock.nowMs() + afterMs
        const firedMs: number[] = []
        clock.wakeAt(deadlineMs, () => firedMs.push(clock.nowMs()))
        await world.run(() => firedMs.length > 0, `deadline in ${afterMs} ms`)
        assert.ok((firedMs[0] as number) >= deadlineMs, `fired at ${firedMs[0]}, before ${deadlineMs}`)
        await world.idle()
        assert.equal(firedMs.length, 1)
      }
    },
  ],
  [
    'a deadline that is past, or now, fires soon but not inside the call',
    async (world) => {
      const { clock } = world
      for (const deadlineMs of [clock.nowMs(), clock.nowMs() - 1000, 0]) {
        let fired = 0
        clock.wakeAt(deadlineMs, () => fired++)
        assert.equal(fired, 0, 'fired inside the call')
        await world.run(() => fired > 0, 'a past deadline')
      }
    },
  ],
  [
    'several wake-ups are independent, and one that is cancelled does not fire',
    async (world) => {
      const { clock } = world
      const fired: string[] = []
      const nowMs = clock.nowMs()
      clock.wakeAt(nowMs + 9, () => fired.push('late'))
      clock.wakeAt(nowMs + 3, () => fired.push('early'))
      clock.wakeAt(nowMs + 3, () => fired.push('as early'))
      const cancelled = clock.wakeAt(nowMs + 6, () => fired.push('cancelled'))
      const past = clock.wakeAt(nowMs - 1, () => fired.push('cancelled at once'))
      past.cancel()
      cancelled.cancel()
      cancelled.cancel()
      await world.run(() => fired.includes('late'), 'the later wake-up')
      await world.idle()
      past.cancel()
      assert.deepEqual(fired.sort(), ['as early', 'early', 'late'])
    },
  ],
  [
    'can be set and cancelled from a wake-up, its own included',
    async (world) => {
      const { clock } = world
      let count = 0
      const other = clock.wakeAt(clock.nowMs() + 40, () => assert.fail('was cancelled'))
      let own = { cancel: (): void => {} }
      const fire = (): void => {
        count++
        own.cancel()
        other.cancel()
        if (count < 5) own = clock.wakeAt(clock.nowMs() + 1, fire)
      }
      own = clock.wakeAt(clock.nowMs() + 1, fire)
      await world.run(() => count === 5, 'five wake-ups')
      await world.idle()
      assert.equal(count, 5)
    },
  ],
  [
    'a deadline far away, or infinite, does not come early',
    async (world) => {
      const { clock } = world
      const dayMs = 24 * 3600 * 1000
      const fail = (): void => assert.fail('too early')
      const handles = [30 * dayMs, 400 * dayMs, Number.POSITIVE_INFINITY].map((ms) =>
        clock.wakeAt(clock.nowMs() + ms, fail),
      )
      await world.idle()
      for (const handle of handles) handle.cancel()
    },
  ],
]
