// Goal: the log that we write says at every moment which extents may be hot, and a log is read as drbdmeta reads it.
// Method: the rules of the specification (section 5) on hand-made logs; a writer with a table of its own, over many
// geometries, start numbers and table sizes, stopped or torn at a random transaction; random damage.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { crc32cRaw } from '../base/crc32c.ts'
import { Prng } from '../base/prng.ts'
import {
  AL_FREE,
  type AlUpdate,
  alExtentsClamped,
  blockPosition,
  decodeBlock,
  encodeTransaction,
  initialBlock,
  initialLog,
  nextContextStart,
  replay,
} from './activity-log.ts'
import { MetadataError } from './errors.ts'
import { type AlGeometry, alBlocks, DEFAULT_AL_GEOMETRY } from './layout.ts'

const hex = (bytes: Uint8Array): string => [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(' ')

test('positions: ring order goes across the stripes', () => {
  const blocks = (geometry: AlGeometry): number[] =>
    Array.from({ length: alBlocks(geometry) + 2 }, (_, tr) => blockPosition(tr, geometry) / 4096)
  assert.deepEqual(blocks(DEFAULT_AL_GEOMETRY), [0, 1, 2, 3, 4, 5, 6, 7, 0, 1])
  assert.deepEqual(blocks({ stripes: 2, stripeSize4k: 4 }), [0, 4, 1, 5, 2, 6, 3, 7, 0, 4])
  assert.deepEqual(blocks({ stripes: 4, stripeSize4k: 4 }).slice(0, 9), [0, 4, 8, 12, 1, 5, 9, 13, 2])
  assert.equal(blockPosition(0xffffffff, { stripes: 3, stripeSize4k: 4 }) / 4096, 1) // 2^32 - 1 = 3 (mod 12)
})

test('an initialized block: fixed bytes and checksum', () => {
  const block = initialBlock()
  assert.equal(hex(block.subarray(0, 20)), '69 cb 65 a2 00 00 00 00 70 9c c6 51 ff ff 00 00 00 00 00 00')
  assert.ok(block.subarray(20).every((byte) => byte === 0))
  assert.deepEqual(decodeBlock(block), { type: 'initialized', trNumber: 0 })
  const log = initialLog({ stripes: 4, stripeSize4k: 4 })
  assert.equal(log.length, 65536)
  assert.deepEqual(log.subarray(61440), block)
})

test('a transaction: the example of the specification, byte for byte', () => {
  const slots = new Uint32Array(1237).fill(AL_FREE)
  slots.set([0, 3, 15])
  const block = encodeTransaction({ trNumber: 2, slots, contextStart: 0, updates: [{ slot: 0, extent: 7 }] })
  assert.equal(hex(block.subarray(0, 20)), '69 cb 65 a2 00 00 00 02 a9 45 49 51 00 00 00 01 04 d5 00 00')
  assert.ok(block.subarray(20, 36).every((byte) => byte === 0))
  assert.equal(hex(block.subarray(0x24, 0x2a)), '00 00 ff ff ff ff')
  assert.equal(hex(block.subarray(0xa4, 0xac)), '00 00 00 07 ff ff ff ff')
  assert.equal(hex(block.subarray(0x1a4, 0x1b4)), '00 00 00 00 00 00 00 03 00 00 00 0f ff ff ff ff')
})

test('a transaction: full, and with the last window of the table', () => {
  const slots = Uint32Array.from({ length: 1237 }, (_, slot) => slot + 5000)
  const updates = Array.from({ length: 64 }, (_, i) => ({ slot: 1236 - i, extent: i === 0 ? AL_FREE : i }))
  const block = encodeTransaction({ trNumber: 0xffffffff, slots, contextStart: 919, updates })
  const decoded = decodeBlock(block)
  assert.ok(decoded.type === 'update')
  assert.deepEqual(decoded.updates, updates)
  assert.deepEqual(decoded.context, slots.slice(919))
  assert.deepEqual([decoded.trNumber, decoded.contextStart, decoded.contextSize], [0xffffffff, 919, 1237])
  assert.deepEqual([decoded.updatesStored, decoded.transactionType], [64, 0])
  assert.ok(block.subarray(420 + (1237 - 919) * 4).every((byte) => byte === 0xff))
})

test('a transaction: what cannot be written is our mistake', () => {
  const slots = new Uint32Array(100).fill(AL_FREE)
  const updates = Array.from({ length: 65 }, (_, slot) => ({ slot, extent: 1 }))
  assert.throws(() => encodeTransaction({ trNumber: 0, slots, contextStart: 0, updates }), /65 updates/)
  assert.throws(() => encodeTransaction({ trNumber: 0, slots, contextStart: 100, updates: [] }), /context from slot/)
  assert.throws(
    () => encodeTransaction({ trNumber: 0, slots, contextStart: 0, updates: [{ slot: 100, extent: 1 }] }),
    /slot 100 of 100/,
  )
})

test('context windows go round the table', () => {
  assert.equal(nextContextStart(0, 1237), 919)
  assert.equal(nextContextStart(919, 1237), 0)
  assert.equal(nextContextStart(0, 919), 0)
  assert.equal(nextContextStart(0, 67), 0)
  assert.equal(nextContextStart(0, 920), 919)
  assert.equal(nextContextStart(919 * 70, 65534), 919 * 71)
})

test('al-extents: clamped to what the ring can repeat', () => {
  assert.equal(alExtentsClamped(1237, DEFAULT_AL_GEOMETRY), 1237)
  assert.equal(alExtentsClamped(1, DEFAULT_AL_GEOMETRY), 67)
  assert.equal(alExtentsClamped(65534, DEFAULT_AL_GEOMETRY), 6433)
  assert.equal(alExtentsClamped(1e9, { stripes: 1, stripeSize4k: 72 }), 71 * 919)
  assert.equal(alExtentsClamped(1e9, { stripes: 1, stripeSize4k: 73 }), 65534)
})

// ---- reading --------------------------------------------------------------------------------------------------------

interface HandMade {
  readonly tr: number
  readonly updates?: readonly AlUpdate[]
  /** Table values by slot; the others are FREE. */
  readonly context?: readonly (readonly [number, number])[]
  readonly contextStart?: number
  readonly slots?: number
}

function tableOf(length: number, values: readonly (readonly [number, number])[]): Uint32Array {
  const table = new Uint32Array(length).fill(AL_FREE)
  for (const [slot, extent] of values) table[slot] = extent
  return table
}

function put(log: Uint8Array, made: HandMade, geometry = DEFAULT_AL_GEOMETRY): void {
  const trNumber = made.tr >>> 0
  const block = encodeTransaction({
    trNumber,
    slots: tableOf(made.slots ?? 67, made.context ?? []),
    contextStart: made.contextStart ?? 0,
    updates: made.updates ?? [],
  })
  log.set(block, blockPosition(trNumber, geometry))
}

function logOf(...blocks: HandMade[]): Uint8Array {
  const log = initialLog(DEFAULT_AL_GEOMETRY)
  for (const block of blocks) put(log, block)
  return log
}

const hotOf = (log: Uint8Array): number[] => replay(log, DEFAULT_AL_GEOMETRY).hotExtents

/** Changes a block and gives it a right checksum again. */
function patch(log: Uint8Array, blockIndex: number, change: (view: DataView) => void): void {
  const view = new DataView(log.buffer, log.byteOffset + blockIndex * 4096, 4096)
  change(view)
  view.setUint32(8, 0)
  view.setUint32(8, crc32cRaw(log.subarray(blockIndex * 4096, (blockIndex + 1) * 4096)))
}

test('replay: a slot that is changed twice keeps the later extent', () => {
  const one = { slot: 1, extent: 10 }
  assert.deepEqual(hotOf(logOf({ tr: 0, updates: [one] }, { tr: 1, updates: [{ slot: 1, extent: 11 }] })), [11])
})

test('replay: an update to FREE, and FREE in the context, empty a slot', () => {
  const first = { tr: 0, updates: [{ slot: 1, extent: 10 }] }
  assert.deepEqual(hotOf(logOf(first, { tr: 1, context: [[1, 10]], updates: [{ slot: 1, extent: AL_FREE }] })), [])
  assert.deepEqual(hotOf(logOf(first, { tr: 1, updates: [{ slot: 2, extent: 5 }] })), [5])
  assert.deepEqual(hotOf(logOf(first, { tr: 1, contextStart: 2, updates: [{ slot: 2, extent: 5 }] })), [5, 10])
})

test('replay: updates go over the context of the same block', () => {
  const second = { tr: 1, context: [[1, 10]] as const, updates: [{ slot: 1, extent: 77 }] }
  assert.deepEqual(hotOf(logOf({ tr: 0, updates: [{ slot: 1, extent: 10 }] }, second)), [77])
})

test('replay: duplicates count once, order is ascending', () => {
  const updates = [9, 3, 9, 100000, 3].map((extent, slot) => ({ slot, extent }))
  assert.deepEqual(hotOf(logOf({ tr: 0, updates })), [3, 9, 100000])
})

test('replay: FREE beyond the end of the table is padding, a smaller table leaves other slots alone', () => {
  const wide = { tr: 0, slots: 200, updates: [{ slot: 150, extent: 10 }] }
  assert.deepEqual(hotOf(logOf(wide, { tr: 1, slots: 100, updates: [{ slot: 2, extent: 5 }] })), [5, 10])
})

test('replay: entries behind n_updates that name a slot count, unused ones within it do not', () => {
  const log = logOf({ tr: 0, updates: [{ slot: 1, extent: 10 }] })
  patch(log, 0, (view) => view.setUint16(14, 0))
  assert.deepEqual(hotOf(log), [10])
  patch(log, 0, (view) => view.setUint16(14, 64))
  assert.deepEqual(hotOf(log), [10])
})

test('replay: slot numbers from 65534 on are skipped, in updates and in the context', () => {
  const log = logOf({
    tr: 0,
    updates: [
      { slot: 1, extent: 10 },
      { slot: 2, extent: 11 },
    ],
  })
  patch(log, 0, (view) => {
    view.setUint16(36, 65534)
    view.setUint16(16, 65535)
    view.setUint16(18, 65533)
    view.setUint32(420, 20) // slot 65533
    view.setUint32(424, 21) // slot 65534
  })
  assert.deepEqual(hotOf(log), [11, 20])
})

test('replay: an unknown type is an update; reserved bytes do not matter', () => {
  const log = logOf({ tr: 0, updates: [{ slot: 1, extent: 10 }] })
  patch(log, 0, (view) => {
    view.setUint16(12, 0x1234)
    view.setUint32(24, 0xdeadbeef)
  })
  assert.deepEqual(hotOf(log), [10])
})

test('replay: the number wraps', () => {
  const blocks = [-2, -1, 0, 1].map((tr, i) => ({ tr, contextStart: 60, updates: [{ slot: 1, extent: 10 + i }] }))
  const found = replay(logOf(...blocks), DEFAULT_AL_GEOMETRY)
  assert.deepEqual(found.hotExtents, [13])
  assert.equal(found.newestTrNumber, 1)
})

test('replay: a gap in the numbers, and a corrupt block between', () => {
  const log = logOf(
    { tr: 8, contextStart: 60, updates: [{ slot: 1, extent: 1 }] },
    { tr: 9, contextStart: 60, updates: [{ slot: 2, extent: 2 }] },
    { tr: 12, contextStart: 60, updates: [{ slot: 3, extent: 3 }] },
  )
  assert.deepEqual(hotOf(log), [1, 2, 3])
  log[4096 + 2000] = 1
  const found = replay(log, DEFAULT_AL_GEOMETRY)
  assert.deepEqual([found.hotExtents, found.corruptBlocks, found.updateBlocks, found.status], [[1, 3], 1, 2, 'ok'])
})

test('replay: logs without an update', () => {
  const status = (damage: (log: Uint8Array) => void): string => {
    const log = initialLog(DEFAULT_AL_GEOMETRY)
    damage(log)
    const found = replay(log, DEFAULT_AL_GEOMETRY)
    assert.deepEqual(found.hotExtents, [])
    assert.equal(found.newestTrNumber, undefined)
    return found.status
  }
  assert.equal(
    status(() => {}),
    'all-initialized',
  )
  assert.equal(
    status((log) => log.fill(0)),
    'no-valid-block',
  )
  assert.equal(
    status((log) => log.fill(0, 0, 4096)),
    'first-torn',
  )
  assert.equal(
    status((log) => log.fill(1, 4000, 4096)),
    'first-torn',
  )
  assert.equal(
    status((log) => log.fill(0, 4096, 8192)),
    'no-valid-update',
  )
  assert.equal(
    status((log) => log.fill(0, 0, 8192)),
    'no-valid-update',
  )
  assert.equal(
    status((log) => log.fill(0, 0, 7 * 4096)),
    'no-valid-update',
  )
})

// ---- a writer that is stopped anywhere ------------------------------------------------------------------------------

/** Writes transactions as section 5.6 has it, to a log in memory. */
class Writer {
  readonly log: Uint8Array
  readonly slots: Uint32Array
  readonly #geometry: AlGeometry
  #tr: number
  #contextStart = 0

  constructor(geometry: AlGeometry, slots: number, trStart: number) {
    this.#geometry = geometry
    this.log = initialLog(geometry)
    this.slots = new Uint32Array(slots).fill(AL_FREE)
    this.#tr = trStart >>> 0
  }

  /** `tornSectors`: only so many sectors of the block reach the disk, and the writer is gone. */
  write(updates: readonly AlUpdate[], tornSectors?: number): void {
    const { slots } = this
    const block = encodeTransaction({ trNumber: this.#tr, slots, contextStart: this.#contextStart, updates })
    const at = blockPosition(this.#tr, this.#geometry)
    this.log.set(tornSectors === undefined ? block : block.subarray(0, tornSectors * 512), at)
    if (tornSectors !== undefined) return
    for (const { slot, extent } of updates) slots[slot] = extent
    this.#contextStart = nextContextStart(this.#contextStart, slots.length)
    this.#tr = (this.#tr + 1) >>> 0
  }

  hot(): number[] {
    return [...new Set(this.slots)].filter((extent) => extent !== AL_FREE).sort((a, b) => a - b)
  }
}

function randomUpdates(prng: Prng, slots: number): AlUpdate[] {
  const used = new Set<number>()
  for (let i = prng.intInclusive(1, 64); i > 0; i--) used.add(prng.intInclusive(0, slots - 1))
  return [...used].map((slot) => ({ slot, extent: prng.chance(1, 10) ? AL_FREE : prng.intInclusive(0, 300_000) }))
}

const GEOMETRIES: readonly AlGeometry[] = [
  DEFAULT_AL_GEOMETRY,
  { stripes: 2, stripeSize4k: 4 },
  { stripes: 4, stripeSize4k: 4 },
  { stripes: 1, stripeSize4k: 73 },
  { stripes: 3, stripeSize4k: 4 },
]

test('a writer: whenever it stops, the log gives exactly its table; a torn block changes nothing', () => {
  const prng = new Prng(11)
  for (const geometry of GEOMETRIES) {
    const slotsMax = alExtentsClamped(1e9, geometry)
    for (const slots of [67, 919, 920, 1237, Math.min(slotsMax, 6433)]) {
      const writer = new Writer(geometry, slots, 0)
      const transactions = prng.intInclusive(1, 3 * alBlocks(geometry))
      for (let i = 0; i < transactions; i++) writer.write(randomUpdates(prng, slots))
      assert.deepEqual(replay(writer.log, geometry).hotExtents, writer.hot())
      writer.write(randomUpdates(prng, slots), 1)
      const found = replay(writer.log, geometry)
      assert.equal(found.corruptBlocks, 1)
      assert.deepEqual(found.hotExtents, writer.hot(), `${geometry.stripes}x${geometry.stripeSize4k}, ${slots} slots`)
    }
  }
})

test('a writer across the wrap of the number, also where the ring is not a power of two long', () => {
  const prng = new Prng(12)
  for (const geometry of GEOMETRIES) {
    for (let before = 1; before <= 30; before += 7) {
      const writer = new Writer(geometry, 1237, -before)
      for (let i = 0; i < before + 12; i++) {
        writer.write(randomUpdates(prng, 1237))
        assert.deepEqual(replay(writer.log, geometry).hotExtents, writer.hot(), `${before} before the wrap, ${i}`)
      }
    }
  }
})

test('a writer with the largest table: the other blocks hold it once', () => {
  const geometry = { stripes: 1, stripeSize4k: 73 }
  const prng = new Prng(13)
  const writer = new Writer(geometry, 65534, 0)
  for (let i = 0; i < 300; i++) writer.write(randomUpdates(prng, 65534))
  writer.write(randomUpdates(prng, 65534), 3)
  assert.deepEqual(replay(writer.log, geometry).hotExtents, writer.hot())
  assert.ok(writer.hot().length > 7000)
})

test('random damage: one byte makes one block invalid; nothing untyped is ever thrown', () => {
  const prng = new Prng(14)
  const writer = new Writer(DEFAULT_AL_GEOMETRY, 1237, 0)
  for (let i = 0; i < 20; i++) writer.write(randomUpdates(prng, 1237))
  for (let i = 0; i < 300; i++) {
    const log = writer.log.slice()
    const at = prng.intInclusive(0, log.length - 1)
    log[at] = (log[at] as number) ^ prng.intInclusive(1, 255)
    const found = replay(log, DEFAULT_AL_GEOMETRY)
    assert.equal(found.corruptBlocks, 1)
    const block = decodeBlock(log.subarray(at - (at % 4096), at - (at % 4096) + 4096))
    assert.deepEqual(block, { type: 'invalid', reason: at % 4096 < 4 ? 'magic' : 'checksum' })
  }
})

test('random contents under a right checksum are read without complaint', () => {
  const prng = new Prng(15)
  for (let i = 0; i < 50; i++) {
    const log = new Uint8Array(8 * 4096)
    for (let block = 0; block < 8; block++) {
      prng.fill(log.subarray(block * 4096, block * 4096 + 500))
      patch(log, block, (view) => view.setUint32(0, 0x69cb65a2))
    }
    try {
      const found = replay(log, DEFAULT_AL_GEOMETRY)
      assert.equal(found.corruptBlocks, 0)
      assert.ok(found.hotExtents.every((extent) => Number.isInteger(extent) && extent >= 0 && extent < AL_FREE))
    } catch (error) {
      if (!(error instanceof MetadataError)) throw error
    }
  }
})
