// Goal: `auto` is as fast as the better of the two orders that it is made of, less a tenth, where both hosts fight for an
// extent and where they do not; and neither side is left behind.
// Method: closed loops of clients on both hosts, in virtual time, so that a busy machine changes nothing. What a packet costs
// the processor does not show here; what it waits for does.

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { MIB } from '../base/units.ts'
import type { OrderName } from '../runtime/api.ts'
import { Replica } from '../runtime/replica.ts'
import type { WorldChoice } from './options.ts'
import { Workload, type WorkloadConfig } from './workload.ts'
import { World } from './world.ts'

const RUN_MS = 300
const WARM_MS = 700

const WORLD: WorldChoice = {
  deviceBytes: 24 * MIB,
  network: { delayUsMin: 900, delayUsMax: 1_100, longDelayPerMille: 0, segmentBytesMax: 65_536, bufferBytes: 4 * MIB },
  disk: { latencyUsMin: 100, latencyUsMax: 300, slowPerMille: 0 },
  settings: { inFlightBytesMax: 4 * MIB },
  initialSync: 'skip',
  powerCutQuestionEvery: 0,
}

const WRITES: Partial<WorkloadConfig> = {
  clientsPerHost: 2,
  inFlightMax: 4,
  requestsPerClient: 1_000_000,
  hotBlocks: 0,
  requestSectorsMax: 8,
  pauseUsMax: 20,
  weights: { read: 0, write: 1, fua: 0, zero: 0, flush: 0 },
}

const AREAS: Readonly<Record<string, { readonly a: number; readonly b: number; readonly sectors: number }>> = {
  'a duel in one extent': { a: 0, b: 0, sectors: 8_000 },
  'a duel on a few blocks': { a: 0, b: 0, sectors: 64 },
  'distinct areas': { a: 0, b: 16_384, sectors: 8_000 },
}

interface Speed {
  readonly a: number
  readonly b: number
}

function measure(order: OrderName, area: { readonly a: number; readonly b: number; readonly sectors: number }): Speed {
  const world = new World(7, { ...WORLD, order }, (settings, ports) => new Replica(settings, ports))
  world.boot()
  const load = (host: 'a' | 'b'): Workload =>
    new Workload(world, { ...WRITES, hosts: [host], region: { sector: area[host], sectors: area.sectors } })
  const [a, b] = [load('a'), load('b')]
  world.runFor({ ms: WARM_MS })
  const before = { a: a.confirmed, b: b.confirmed }
  world.runFor({ ms: RUN_MS })
  return { a: a.confirmed - before.a, b: b.confirmed - before.b }
}

describe(`writes in ${RUN_MS} ms of virtual time`, () => {
  for (const [name, area] of Object.entries(AREAS)) {
    test(name, (context) => {
      const speeds = new Map<OrderName, number>()
      for (const order of ['coordinator', 'lock-extents', 'auto'] as const) {
        const { a, b } = measure(order, area)
        speeds.set(order, a + b)
        context.diagnostic(`${order}: ${a + b} (a ${a}, b ${b})`)
        assert.ok(Math.min(a, b) >= (a + b) / 4, `${order}: a ${a}, b ${b}`)
      }
      const [coordinator, locks, auto] = (['coordinator', 'lock-extents', 'auto'] as const).map(
        (order) => speeds.get(order) ?? 0,
      ) as [number, number, number]
      assert.ok(auto >= 0.9 * Math.max(coordinator, locks), `auto ${auto}, coordinator ${coordinator}, locks ${locks}`)
    })
  }
})
