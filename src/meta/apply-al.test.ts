// Goal: the decisions of apply-al: who gets bits, whose log is emptied, what becomes clean, and what must be refused with
// nothing changed. Method: the table of the specification (section 6), every row; then the edges of the bitmap.
// That drbdmeta decides the same is shown in fixtures.test.ts and test/interop/drbdmeta.test.ts.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { MIB } from '../base/units.ts'
import { AL_FREE, blockPosition, encodeTransaction, initialLog } from './activity-log.ts'
import { type ApplyAlResult, applyActivityLog } from './apply-al.ts'
import { createSuperblock } from './create.ts'
import { ActivityLogUnusableError } from './errors.ts'
import { type AlGeometry, DEFAULT_AL_GEOMETRY, internalLayout } from './layout.ts'
import {
  isClean,
  MD_MAGIC_CLEAN,
  MD_MAGIC_UNCLEAN,
  MDF_AL_CLEAN,
  MDF_PRIMARY_IND,
  type Superblock,
} from './superblock.ts'

const GEOMETRY_4X4: AlGeometry = { stripes: 4, stripeSize4k: 4 }

interface Case {
  readonly magic?: number
  readonly flags: number
  readonly laSizeSectors?: number
  readonly geometry?: AlGeometry
  readonly extents?: readonly number[]
  readonly damage?: (log: Uint8Array) => void
  readonly bitmapBytes?: Uint8Array
}

function apply(given: Case): ApplyAlResult & { readonly before: Superblock } {
  const geometry = given.geometry ?? DEFAULT_AL_GEOMETRY
  const layout = internalLayout(512 * MIB, geometry)
  const fresh = createSuperblock({ layout, geometry, alExtents: 1237, deviceUuid: 0n, kind: 'internal' })
  const before: Superblock = {
    ...fresh,
    magic: given.magic ?? MD_MAGIC_UNCLEAN,
    flags: given.flags,
    laSizeSectors: given.laSizeSectors ?? layout.usableSectors,
  }
  const logBytes = initialLog(geometry)
  if (given.extents !== undefined) {
    const slots = new Uint32Array(1237).fill(AL_FREE)
    const updates = given.extents.map((extent, slot) => ({ slot, extent }))
    logBytes.set(encodeTransaction({ trNumber: 0, slots, contextStart: 0, updates }), blockPosition(0, geometry))
  }
  given.damage?.(logBytes)
  const bitmapBytes = given.bitmapBytes ?? new Uint8Array(layout.bitmapAreaBytes)
  return { ...applyActivityLog({ superblock: before, logBytes, bitmapBytes, geometry }), before }
}

const BASE_FLAGS = 0x111 // Consistent, WasUpToDate, AL_DISABLED: kept as they are
const PRIMARY = BASE_FLAGS | MDF_PRIMARY_IND
const SECONDARY = BASE_FLAGS

function becameClean(result: ApplyAlResult & { readonly before: Superblock }): void {
  assert.ok(isClean(result.superblock))
  const { before } = result
  assert.deepEqual(result.superblock, { ...before, magic: MD_MAGIC_CLEAN, flags: before.flags | MDF_AL_CLEAN })
}

const emptied = (log: Uint8Array | undefined, geometry = DEFAULT_AL_GEOMETRY): void =>
  assert.deepEqual(log, initialLog(geometry))

test('unclean Primary with updates: bits, empty log, clean', () => {
  const result = apply({ flags: PRIMARY, extents: [3, 7] })
  becameClean(result)
  emptied(result.logBytes)
  assert.deepEqual([result.hotExtents, result.bitsSet, result.bitmapChanged], [[3, 7], 2048, true])
  const expected = new Uint8Array(result.bitmapBytes.length)
  expected.fill(0xff, 3 * 128, 4 * 128).fill(0xff, 7 * 128, 8 * 128)
  assert.deepEqual(result.bitmapBytes, expected)
})

test('unclean Primary, log all initialized: only the superblock changes', () => {
  const result = apply({ flags: PRIMARY })
  becameClean(result)
  assert.deepEqual([result.logBytes, result.bitmapChanged, result.hotExtents], [undefined, false, []])
})

test('unclean Secondary with updates: no bits, empty log, clean', () => {
  const result = apply({ flags: SECONDARY, extents: [3] })
  becameClean(result)
  emptied(result.logBytes)
  assert.deepEqual([result.hotExtents, result.bitsSet, result.bitmapChanged], [[], 0, false])
})

test('clean, but PrimaryInd and updates: the log counts all the same', () => {
  const result = apply({ magic: MD_MAGIC_CLEAN, flags: PRIMARY | MDF_AL_CLEAN, extents: [1] })
  assert.equal(result.bitsSet, 1024)
  emptied(result.logBytes)
  assert.equal(result.superblockChanged, false)
  assert.equal(result.superblock, result.before)
})

test('clean magic without the flag: the flag is set', () => {
  for (const flags of [PRIMARY, SECONDARY]) {
    const result = apply({ magic: MD_MAGIC_CLEAN, flags })
    assert.equal(result.superblockChanged, true)
    becameClean(result)
  }
})

test('a second time nothing changes', () => {
  const first = apply({ flags: PRIMARY, extents: [3] })
  const again = applyActivityLog({
    superblock: first.superblock,
    logBytes: first.logBytes as Uint8Array,
    bitmapBytes: first.bitmapBytes,
    geometry: DEFAULT_AL_GEOMETRY,
  })
  assert.deepEqual(again, {
    superblock: first.superblock,
    superblockChanged: false,
    bitmapBytes: first.bitmapBytes,
    bitmapChanged: false,
    logBytes: undefined,
    hotExtents: [],
    skippedExtents: [],
    bitsSet: 0,
    corruptBlocks: 0,
  })
})

function refused(given: Case, reason: ActivityLogUnusableError['details']['reason']): void {
  assert.throws(
    () => apply(given),
    (error: unknown) => {
      assert.ok(error instanceof ActivityLogUnusableError)
      assert.equal(error.details.reason, reason)
      return true
    },
  )
}

const allZero = (log: Uint8Array): void => {
  log.fill(0)
}
const secondTorn = (log: Uint8Array): void => {
  log[4096 + 99] = 1
}
const firstTorn = (log: Uint8Array): void => {
  log[99] = 1
}

test('unreadable log: a Primary is refused, a Secondary gets an empty log', () => {
  refused({ flags: PRIMARY, damage: allZero }, 'no-valid-block')
  refused({ flags: PRIMARY, damage: secondTorn }, 'no-valid-update')
  for (const damage of [allZero, secondTorn]) {
    const result = apply({ flags: SECONDARY, damage })
    becameClean(result)
    emptied(result.logBytes)
  }
})

test('only the very first transaction torn: accepted, the log is left as it is', () => {
  for (const flags of [PRIMARY, SECONDARY]) {
    const result = apply({ flags, damage: firstTorn })
    becameClean(result)
    assert.deepEqual([result.logBytes, result.corruptBlocks], [undefined, 1])
  }
})

test('unreadable log under the clean magic: an empty one of the old format, if geometry and start allow', () => {
  const flags = PRIMARY | MDF_AL_CLEAN
  const magic = MD_MAGIC_CLEAN
  emptied(apply({ magic, flags, damage: allZero }).logBytes)
  emptied(apply({ magic, flags, damage: (log) => log.fill(0, 0, 8192) }).logBytes)
  refused({ magic, flags, damage: allZero, geometry: GEOMETRY_4X4 }, 'no-valid-block')
  refused({ magic, flags, damage: secondTorn }, 'no-valid-update')
  refused({ magic, flags, damage: (log) => log.fill(0, 4, log.length) }, 'no-valid-block')
  const oldFormat = (log: Uint8Array): void => {
    log.fill(0)
    new DataView(log.buffer).setUint32(512 * 5, 0x83740267)
  }
  refused({ magic, flags, damage: oldFormat }, 'old-format')
  emptied(apply({ magic, flags: SECONDARY, damage: oldFormat }).logBytes)
})

test('bits: extents beyond the bitmap in use are skipped, padding within its last 4 KiB is set', () => {
  const extents = [31, 32, 33, 63, 64, 1_000_000]
  const upTo = (laSizeSectors: number): [number[], number[]] => {
    const { hotExtents, skippedExtents } = apply({ flags: PRIMARY, extents, laSizeSectors })
    return [hotExtents, skippedExtents]
  }
  assert.deepEqual(upTo(262144), [[31], [32, 33, 63, 64, 1_000_000]])
  assert.deepEqual(upTo(262145), [
    [31, 32, 33, 63],
    [64, 1_000_000],
  ])
  assert.deepEqual(upTo(8), [[31], [32, 33, 63, 64, 1_000_000]])
})

test('no size agreed yet: every extent is skipped, yet the disk becomes clean', () => {
  const result = apply({ flags: PRIMARY, extents: [0, 1], laSizeSectors: 0 })
  assert.deepEqual([result.hotExtents, result.skippedExtents, result.bitmapChanged], [[], [0, 1], false])
  becameClean(result)
  emptied(result.logBytes)
})

test('bits that are set already do not count; the bytes given are not touched', () => {
  const bitmapBytes = new Uint8Array(16384)
  bitmapBytes[3 * 128] = 0x0f
  const result = apply({ flags: PRIMARY, extents: [3], bitmapBytes })
  assert.equal(result.bitsSet, 1020)
  assert.equal(bitmapBytes[3 * 128 + 1], 0)
  const again = apply({ flags: PRIMARY, extents: [3], bitmapBytes: result.bitmapBytes })
  assert.deepEqual([again.bitsSet, again.bitmapChanged], [0, false])
  assert.equal(again.bitmapBytes, result.bitmapBytes)
  assert.deepEqual(again.hotExtents, [3])
})

test('a size beyond the bitmap that was read: no write past its end', () => {
  const result = apply({ flags: PRIMARY, extents: [31, 32], bitmapBytes: new Uint8Array(4096), laSizeSectors: 1e9 })
  assert.deepEqual([result.bitmapBytes.length, result.hotExtents, result.skippedExtents], [4096, [31], [32]])
})
