// Goal: the areas are where drbdmeta and the kernel look for them. Method: the numbers that the specification lists
// (section 13, printed by the tool), and properties that must hold at any size.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { GIB, KIB, MIB } from '../base/units.ts'
import { MetadataDeviceTooSmallError, MetadataGeometryError } from './errors.ts'
import {
  alBlocks,
  DEFAULT_AL_GEOMETRY,
  flexibleExternalLayout,
  indexedLayout,
  internalLayout,
  type MdLayout,
  USABLE_SECTORS_MAX,
} from './layout.ts'
import { bitmapBits, bitmapBytesInUse } from './superblock.ts'

const TIB = 1024 * GIB

const numbers = (l: MdLayout): number[] => [
  l.superblockOffsetBytes,
  l.activityLogOffsetBytes,
  l.bitmapOffsetBytes,
  l.alOffsetSectors,
  l.bmOffsetSectors,
  l.mdSizeSectors,
  l.bitmapAreaBytes,
  l.usableSectors,
]

test('internal, default log: the worked examples', () => {
  const examples: [number, number[]][] = [
    [16 * MIB, [16773120, 16740352, 16736256, -64, -72, 80, 4 * KIB, 32688]],
    [64 * MIB, [67104768, 67072000, 67067904, -64, -72, 80, 4 * KIB, 130992]],
    [GIB, [1073737728, 1073704960, 1073672192, -64, -128, 136, 32 * KIB, 2097016]],
    [TIB, [1099511623680, 1099511590912, 1099478036480, -64, -65600, 65608, 32 * MIB, 2147418040]],
    [MIB, [1044480, 1011712, 1007616, -64, -72, 80, 4 * KIB, 1968]],
  ]
  for (const [deviceBytes, expected] of examples) {
    assert.deepEqual(numbers(internalLayout(deviceBytes, DEFAULT_AL_GEOMETRY)), expected, `${deviceBytes} bytes`)
  }
})

test('internal: bits and bitmap blocks in use of the worked examples', () => {
  const examples: [number, number, number][] = [
    [32688, 4086, 1],
    [130992, 16374, 1],
    [2097016, 262127, 8],
    [2147418040, 268427255, 8192],
  ]
  for (const [sectors, bits, blocks] of examples) {
    assert.equal(bitmapBits(sectors), bits)
    assert.equal(bitmapBytesInUse(sectors), blocks * 4096)
  }
  assert.equal(bitmapBytesInUse(0), 0)
  assert.equal(bitmapBytesInUse(262144), 4096)
  assert.equal(bitmapBytesInUse(262145), 8192)
})

test('internal: what is over after the last 4 KiB is not used', () => {
  const even = internalLayout(16 * MIB, DEFAULT_AL_GEOMETRY)
  assert.deepEqual(internalLayout(16 * MIB + 2560, DEFAULT_AL_GEOMETRY), even)
  assert.deepEqual(internalLayout(16 * MIB + 511, DEFAULT_AL_GEOMETRY), even)
})

test('internal: the bitmap area goes by the size of the whole device, metadata included', () => {
  assert.equal(internalLayout(128 * MIB, DEFAULT_AL_GEOMETRY).bitmapAreaBytes, 4 * KIB)
  const justAbove = internalLayout(128 * MIB + 512, DEFAULT_AL_GEOMETRY)
  assert.equal(justAbove.bitmapAreaBytes, 8 * KIB)
  assert.equal(bitmapBytesInUse(justAbove.usableSectors), 4 * KIB)
})

test('internal: 512 MiB with 4 stripes of 16 KiB', () => {
  const layout = internalLayout(512 * MIB, { stripes: 4, stripeSize4k: 4 })
  assert.deepEqual(numbers(layout), [536866816, 536801280, 536784896, -128, -160, 168, 16 * KIB, 1048408])
  assert.equal(layout.activityLogBytes, 64 * KIB)
})

test('internal: areas touch, end inside the device, and hold the bits of the usable size', () => {
  const sectors = fc.integer({ min: 136, max: 2 ** 33 })
  const geometry = fc.record({ stripes: fc.integer({ min: 1, max: 5 }), stripeSize4k: fc.integer({ min: 8, max: 64 }) })
  fc.assert(
    fc.property(sectors, geometry, (deviceSectors, al) => {
      const deviceBytes = deviceSectors * 512
      let l: MdLayout
      try {
        l = internalLayout(deviceBytes, al)
      } catch (error) {
        assert.ok(error instanceof MetadataDeviceTooSmallError)
        assert.ok(deviceBytes < 4096 * (alBlocks(al) + 4) + 69632)
        return
      }
      assert.equal(l.usableSectors * 512, l.bitmapOffsetBytes)
      assert.equal(l.bitmapOffsetBytes + l.bitmapAreaBytes, l.activityLogOffsetBytes)
      assert.equal(l.activityLogOffsetBytes + l.activityLogBytes, l.superblockOffsetBytes)
      const left = deviceBytes - l.superblockOffsetBytes - 4096
      assert.ok(left >= 0 && left < 4096, `${left} bytes left`)
      assert.ok(bitmapBytesInUse(l.usableSectors) <= l.bitmapAreaBytes)
      for (const at of [l.superblockOffsetBytes, l.activityLogOffsetBytes, l.bitmapOffsetBytes]) {
        assert.equal(at % 4096, 0)
      }
    }),
  )
})

test('internal: too small a device is refused', () => {
  assert.equal(internalLayout(69632, DEFAULT_AL_GEOMETRY).usableSectors, 56)
  for (const deviceBytes of [69631, 69120, 40960, 4096, 511, 0, -1]) {
    assert.throws(
      () => internalLayout(deviceBytes, DEFAULT_AL_GEOMETRY),
      (error: unknown) => {
        assert.ok(error instanceof MetadataDeviceTooSmallError)
        assert.equal(error.details.drbdCode, 112)
        return true
      },
    )
  }
  const wide = { stripes: 4, stripeSize4k: 64 } // 1 MiB of log
  assert.throws(() => internalLayout(MIB, wide), MetadataDeviceTooSmallError)
  assert.equal(internalLayout(MIB + 3 * 4096, wide).usableSectors, 8)
})

test('flexible external: usable sectors by size of the metadata device', () => {
  const examples: [number, number][] = [
    [MIB, 64749568],
    [33 * MIB, 2212233216],
    [128 * MIB, 8587575296],
  ]
  for (const [mdDeviceBytes, usableSectors] of examples) {
    const layout = flexibleExternalLayout(mdDeviceBytes, DEFAULT_AL_GEOMETRY)
    assert.equal(layout.usableSectors, usableSectors)
    assert.deepEqual(
      [layout.superblockOffsetBytes, layout.activityLogOffsetBytes, layout.bitmapOffsetBytes],
      [0, 4096, 36864],
    )
    assert.deepEqual([layout.alOffsetSectors, layout.bmOffsetSectors], [8, 72])
    assert.equal(layout.mdSizeSectors, mdDeviceBytes / 512)
    assert.equal(layout.bitmapAreaBytes, mdDeviceBytes - 36864)
  }
})

test('flexible external: need not be a multiple of 4 KiB, is limited to 1 PiB, refuses what is too small or too large', () => {
  assert.equal(flexibleExternalLayout(MIB + 512 + 100, DEFAULT_AL_GEOMETRY).bitmapAreaBytes, MIB + 512 - 36864)
  assert.equal(flexibleExternalLayout(64 * GIB, DEFAULT_AL_GEOMETRY).usableSectors, USABLE_SECTORS_MAX)
  assert.equal(flexibleExternalLayout(36864 + 512, DEFAULT_AL_GEOMETRY).usableSectors, 32768)
  for (const bytes of [36864, 4096, 0, -512]) {
    assert.throws(() => flexibleExternalLayout(bytes, DEFAULT_AL_GEOMETRY), MetadataDeviceTooSmallError)
  }
  assert.throws(() => flexibleExternalLayout(2 ** 32 * 512, DEFAULT_AL_GEOMETRY), MetadataGeometryError)
})

test('indexed: slots of 128 MiB', () => {
  assert.deepEqual(numbers(indexedLayout(0)), [0, 4096, 36864, 8, 72, 262144, 128 * MIB - 36864, 8587575296])
  const third = indexedLayout(3)
  assert.deepEqual(
    [third.superblockOffsetBytes, third.activityLogOffsetBytes, third.bitmapOffsetBytes],
    [402653184, 402657280, 402690048],
  )
  assert.equal(indexedLayout(255).superblockOffsetBytes, 255 * 134217728)
  for (const index of [-1, 256, 1.5, Number.NaN]) assert.throws(() => indexedLayout(index), MetadataGeometryError)
})

test('geometry: 8 to 4194304 whole blocks', () => {
  assert.equal(alBlocks(DEFAULT_AL_GEOMETRY), 8)
  assert.equal(alBlocks({ stripes: 8, stripeSize4k: 1 }), 8)
  assert.equal(alBlocks({ stripes: 4096, stripeSize4k: 1024 }), 4194304)
  for (const [stripes, stripeSize4k] of [
    [1, 7],
    [0, 8],
    [8, 0],
    [-1, -8],
    [4096, 1025],
    [1.5, 8],
    [Number.NaN, 8],
  ] as const) {
    assert.throws(() => alBlocks({ stripes, stripeSize4k }), MetadataGeometryError, `${stripes} x ${stripeSize4k}`)
  }
})
