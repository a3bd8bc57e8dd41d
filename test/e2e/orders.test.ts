// Goal: what the orders of writes promise of two real daemons: distinct areas under locks cost no packet more than plain
// mirroring; of a fight over one block or one extent neither side gets less than a quarter. (How fast they are beside each
// other is measured by `npm run bench:orders`.)
// Method: closed loops of clients on both sides; packets are counted where `coprime trace` gets them from.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { PacketEvent } from '../../src/control/api.ts'
import type { OrderName } from '../../src/runtime/api.ts'
import { differenceOfDisks, SIDES, type Side } from '../support/disk-pair.ts'
import { type Lab, startLab } from '../support/lab.ts'

const LONG = process.env['COPRIME_LONG'] === '1'
const BLOCK = 4096
const EXTENT_BYTES = 4 * 1024 * 1024
const EXTENTS_PER_SIDE = 3
const WRITES_PER_SIDE = 600
const FIGHT_MS = LONG ? 10_000 : 3_000
const SHARE_MIN = 0.25

/** Each side its own extents, in turn. */
const ownPlace = (side: Side, i: number): number =>
  ((side === 'a' ? 0 : EXTENTS_PER_SIDE) + (i % EXTENTS_PER_SIDE)) * EXTENT_BYTES +
  BLOCK * (Math.floor(i / EXTENTS_PER_SIDE) % (EXTENT_BYTES / BLOCK))

/** `depth` writers on each side; each goes on as long as `goesOn`. Writes of each side. */
async function load(
  lab: Lab,
  depth: number,
  place: (side: Side, i: number) => number,
  goesOn: (side: Side, i: number) => boolean,
): Promise<Readonly<Record<Side, number>>> {
  const written = { a: 0, b: 0 }
  await Promise.all(
    SIDES.map(async (side) => {
      const client = await lab.connect(side)
      let begun = 0
      const writer = async (): Promise<void> => {
        while (goesOn(side, begun)) {
          const i = begun++
          await client.write(place(side, i), new Uint8Array(BLOCK).fill(i & 0xff))
          written[side]++
        }
      }
      await Promise.all(Array.from({ length: depth }, writer))
      await client.disconnect()
    }),
  )
  return written
}

const upTo = (writes: number) => (_side: Side, i: number) => i < writes

describe('distinct areas under lock-extents', () => {
  it('no packet but P_DATA and P_WRITE_ACK once the locks are taken', async () => {
    const lab = await startLab({ size: '32M', order: 'lock-extents' })
    try {
      // All locks, and all extents hot in the logs.
      await load(lab, 1, ownPlace, upTo(EXTENTS_PER_SIDE))
      const seen = new Map<string, number>()
      let missed = 0
      let onMark: (() => void) | undefined
      const show = (event: PacketEvent): void => {
        if ('missed' in event) missed += event.missed
        else if (event.type === 'P_DATA' && event.sizeBytes === 0) onMark?.()
        else if (event.kind !== 'ping') seen.set(event.type, (seen.get(event.type) ?? 0) + 1)
      }
      const watch = lab.control('a').watchPackets('r0', show, () => {})
      await mark(lab, (passed) => {
        onMark = passed
      })
      seen.clear()
      const written = await load(lab, 4, ownPlace, upTo(WRITES_PER_SIDE))
      await mark(lab, (passed) => {
        onMark = passed
      })
      watch.stop()
      assert.deepEqual(written, { a: WRITES_PER_SIDE, b: WRITES_PER_SIDE })
      assert.equal(missed, 0)
      // The acknowledgements of the two flushes that mark the beginning and the end may be among them or not.
      const acks = seen.get('P_WRITE_ACK') ?? 0
      assert.deepEqual([...seen.keys()].sort(), ['P_DATA', 'P_WRITE_ACK'])
      assert.equal(seen.get('P_DATA'), 2 * WRITES_PER_SIDE)
      assert.ok(acks >= 2 * WRITES_PER_SIDE && acks <= 2 * WRITES_PER_SIDE + 2, `${acks} acknowledgements`)
      const { counters } = await lab.volume('a')
      assert.ok(counters.lockRequests > 0, 'locks are in use')
    } finally {
      await lab.stop()
    }
  })
})

/** Flushes until the watcher has seen one pass: it watches, and has seen all that passed before. */
async function mark(lab: Lab, expectMark: (passed: () => void) => void): Promise<void> {
  let passed = false
  expectMark(() => {
    passed = true
  })
  const client = await lab.connect('a')
  for (let i = 0; !passed && i < 1000; i++) {
    await client.flush()
    await new Promise((resolve) => setImmediate(resolve))
  }
  await client.disconnect()
  assert.ok(passed, 'no packet was seen')
}

const FIGHTS: readonly { readonly name: string; readonly depth: number; readonly blocks: number }[] = [
  { name: 'one block', depth: 1, blocks: 1 },
  { name: 'one extent', depth: 4, blocks: 1024 },
]

describe(`neither side gets less than a quarter of the writes in ${FIGHT_MS / 1000} s`, () => {
  for (const order of ['arbitration', 'coordinator', 'lock-extents', 'auto'] satisfies OrderName[]) {
    for (const linkDelayMs of LONG ? [0, 20] : [0, 2]) {
      it(`${order}, link delay ${linkDelayMs} ms`, async (context) => {
        const lab = await startLab({ size: '16M', order, linkDelayMs })
        try {
          for (const { name, depth, blocks } of FIGHTS) {
            const place = (side: Side, i: number): number => BLOCK * ((i * (side === 'a' ? 7 : 11)) % blocks)
            const endMs = performance.now() + FIGHT_MS
            const { a, b } = await load(lab, depth, place, () => performance.now() < endMs)
            context.diagnostic(`${name}: a ${a}, b ${b}`)
            assert.ok(Math.min(a, b) >= SHARE_MIN * (a + b), `${name}: a ${a}, b ${b}`)
          }
          const differing = await differenceOfDisks(lab)
          assert.equal(differing, undefined)
        } finally {
          await lab.stop()
        }
      })
    }
  }
})
