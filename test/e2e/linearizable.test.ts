// Goal: the two endpoints together are one linearizable disk, with real files, sockets and timers beneath (and, in the lab,
// real processes).
// Method: clients on both sides write unique sectors on the same hot blocks, aligned and partly overlapping; the history of
// every sector is checked exactly. Afterwards, quiet and flushed, both backing files hold the same. That the method would
// notice is shown on a pair in this process whose engine answers reads without waiting for overlapping writes.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import type { OrderName } from '../../src/runtime/api.ts'
import { differenceOfDisks } from '../support/disk-pair.ts'
import {
  DiskHistory,
  DiskWorkload,
  flushBoth,
  HOT_AREA,
  readBack,
  WORKLOAD_DEFAULTS,
  type WorkloadPlan,
} from '../support/disk-workload.ts'
import { type Lab, type LabOptions, startLab } from '../support/lab.ts'
import { type Pair, startPair } from '../support/pair.ts'

const LONG = process.env['COPRIME_LONG'] === '1'
const SEED = 101
/** Tens of thousands of operations for each order, and most for the default. */
const SHORT_FORM = { seeds: [SEED], multiple: 1 }
const LONG_FORM = { seeds: [SEED], multiple: 2 }
const LONGEST_FORM = { seeds: [SEED, SEED + 1], multiple: 4 }
const FINISH_MS = LONG ? 180_000 : 60_000
const ROUNDS_MAX = 6

/** Large enough that a link of 20 ms is filled, and that most requests do not wait for each other. */
const WIDE = { sector: 8, sectors: 8192 - 8 }
const ACROSS_EXTENTS = { sector: 8192 - 100, sectors: 203 }
const AREAS = [HOT_AREA, { sector: 8, sectors: 512 }, WIDE, ACROSS_EXTENTS]

/** Half of all requests on three hot blocks: overlapping writes from both sides all the time. */
const CONTENDED: Partial<WorkloadPlan> = { areas: { a: AREAS, b: AREAS }, hotPercent: 50 }
/** Many requests in flight, some of them on the hot blocks. */
const SPREAD: Partial<WorkloadPlan> = { ...CONTENDED, clientsPerSide: 6, inFlightMax: 8, hotPercent: 4 }
/** Many readers of few writes: they see a value early on one side and late on the other, if they can. */
const READ_MOSTLY: Partial<WorkloadPlan> = {
  ...CONTENDED,
  clientsPerSide: 3,
  inFlightMax: 2,
  weights: { read: 30, write: 1, fua: 0, zero: 0, flush: 0 },
}
/** Discards and write-zeroes among the writes. Zero is written many times, so this check is not exact for reads of it. */
const ZEROING: Partial<WorkloadPlan> = {
  ...CONTENDED,
  weights: { ...WORKLOAD_DEFAULTS.weights, zero: 4 },
}

interface Scenario {
  readonly name: string
  readonly linkDelayMs: number
  readonly plan: Partial<WorkloadPlan>
  readonly operations: number
}

const SCENARIOS: readonly Scenario[] = [
  { name: 'contended', linkDelayMs: 0, plan: CONTENDED, operations: 9000 },
  { name: 'zeroing', linkDelayMs: 0, plan: ZEROING, operations: 3000 },
  { name: 'spread', linkDelayMs: 2, plan: SPREAD, operations: 5000 },
  { name: 'read-mostly', linkDelayMs: 2, plan: READ_MOSTLY, operations: 4000 },
  { name: 'spread', linkDelayMs: 20, plan: SPREAD, operations: 2500 },
  { name: 'read-mostly', linkDelayMs: 20, plan: READ_MOSTLY, operations: 3000 },
]

/** Each order of writes in a lab of its own; with write-now-acks where there is a coordinator. */
const ORDERS: readonly (Pick<LabOptions, 'writeNowAcks'> & { readonly order: OrderName })[] = [
  { order: 'arbitration' },
  { order: 'coordinator' },
  { order: 'coordinator', writeNowAcks: true },
  { order: 'lock-extents' },
  { order: 'auto', writeNowAcks: true },
]
/** What the other orders than the default play in the short form. */
const SHORT_DELAY_MS = 2

for (const { order, writeNowAcks = false } of ORDERS) {
  const scenarios = SCENARIOS.filter(
    ({ linkDelayMs }) => LONG || order === 'arbitration' || linkDelayMs === SHORT_DELAY_MS,
  )
  describe(`one disk under ${order}${writeNowAcks ? ' with write-now-acks' : ''}`, () => {
    let lab: Lab
    let operations = 0

    before(async () => {
      lab = await startLab({ size: '64M', order, writeNowAcks })
    })

    after(async () => {
      await lab?.stop()
      console.log(`${operations} operations in all`)
    })

    const { seeds, multiple } = formOf(order)
    for (const seed of seeds) {
      for (const scenario of scenarios) {
        const { name, linkDelayMs } = scenario
        test(`${name}, link delay ${linkDelayMs} ms, seed ${seed}`, async () => {
          await lab.delay(linkDelayMs)
          const plan = { ...scenario.plan, seed, operations: multiple * scenario.operations }
          operations += await runClean(lab, plan)
        })
      }
    }

    test('enough was asked, under this order', async () => {
      const least = scenarios.reduce((sum, scenario) => sum + scenario.operations, 0)
      assert.ok(operations >= least, `${operations} operations`)
      const { order: inForce } = await lab.resource('a')
      assert.equal(inForce, order)
      const counters = [(await lab.volume('a')).counters, (await lab.volume('b')).counters]
      const sum = (of: (counter: (typeof counters)[number]) => number): number =>
        counters.reduce((total, counter) => total + of(counter), 0)
      const used = {
        arbitration: sum((c) => c.superseded + c.retried),
        coordinator: sum((c) => c.writeNows),
        'lock-extents': sum((c) => c.lockHandovers),
        auto: sum((c) => c.orderSwitches),
      }
      assert.ok(used[order] > 0, `${order} had nothing to do: ${JSON.stringify(used)}`)
    })
  })
}

function formOf(order: OrderName): typeof SHORT_FORM {
  if (!LONG) return SHORT_FORM
  return order === 'arbitration' ? LONGEST_FORM : LONG_FORM
}

/** The areas of all scenarios are the same: a scenario begins with what the one before has left there. */
const carried = new WeakMap<object, DiskHistory>()

/** Runs a plan, and asserts that nothing was lost, refused or out of order. The number of operations. */
async function runClean(pair: Lab | Pair, plan: Partial<WorkloadPlan>): Promise<number> {
  const history = carried.get(pair)?.successor() ?? new DiskHistory()
  carried.set(pair, history)
  const workload = new DiskWorkload(pair, history, plan)
  await workload.start()
  await workload.finish(FINISH_MS)
  await flushBoth(pair)
  assert.equal(differenceOfDisks(pair), undefined)
  await readBack(pair, history)
  const { counts } = workload
  assert.deepEqual([...counts.errors], [], 'errors answered')
  assert.equal(counts.disconnected, 0, 'connections lost')
  assert.equal(counts.done, plan.operations)
  const violations = history.violations()
  assert.equal(
    violations.length,
    0,
    `seed ${plan.seed}: ${violations.length} sectors\n${violations.slice(0, 10).join('\n')}`,
  )
  return history.requests.length
}

describe('the test of the test', () => {
  const plan = { ...READ_MOSTLY, operations: 2000 }

  test('reads that do not wait for writes in flight are found out', async () => {
    const found: number[] = []
    for (let round = 0; round < ROUNDS_MAX && found.length === 0; round++) {
      const pair = await startPair({ linkDelayMs: 5, engine: { readRule: false } })
      try {
        const history = new DiskHistory()
        const workload = new DiskWorkload(pair, history, { ...plan, seed: 1 + round })
        await workload.start()
        await workload.finish(FINISH_MS)
        const violations = history.violations()
        if (violations.length > 0) found.push(violations.length)
      } finally {
        await pair.stop()
      }
    }
    assert.ok(found.length > 0, `no violation in ${ROUNDS_MAX} rounds without the read rule`)
    console.log(`${found[0]} sectors found not linearizable`)
  })

  test('the same with the read rule is in order', async () => {
    const pair = await startPair({ linkDelayMs: 5 })
    try {
      await runClean(pair, { ...plan, seed: 1 })
    } finally {
      await pair.stop()
    }
  })
})
