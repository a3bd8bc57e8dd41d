// Goal: create-md leaves what drbdmeta's leaves. Method: write to a device in memory and compare with the fixtures that
// drbdmeta made; the order of the writes.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { repositoryRoot } from '../../test/support/root.ts'
import { MIB } from '../base/units.ts'
import { createMetadata } from './create.ts'
import { MetadataGeometryError } from './errors.ts'
import { DEFAULT_AL_GEOMETRY, flexibleExternalLayout, indexedLayout, internalLayout } from './layout.ts'
import { decodeSuperblock, verifySuperblock } from './superblock.ts'

const fixture = (name: string): Uint8Array =>
  new Uint8Array(readFileSync(join(repositoryRoot, 'test/golden/metadata-fixtures', `${name}.bin`)))

const options = { geometry: DEFAULT_AL_GEOMETRY, alExtents: 257, deviceUuid: 0n }

test('internal: the bytes of drbdmeta, whatever was there before', () => {
  const examples: [string, number][] = [
    ['01-internal-16MiB-fresh', 16 * MIB],
    ['02-internal-16MiB-plus-5-sectors-fresh', 16 * MIB + 2560],
  ]
  for (const [name, deviceBytes] of examples) {
    const layout = internalLayout(deviceBytes, DEFAULT_AL_GEOMETRY)
    const device = new Uint8Array(deviceBytes).fill(0xee, 0, layout.superblockOffsetBytes + 4096)
    for (const write of createMetadata({ ...options, layout, kind: 'internal' }))
      device.set(write.data, write.offsetBytes)
    assert.deepEqual(device.subarray(layout.bitmapOffsetBytes), fixture(name))
    const rest = device.subarray(0, layout.bitmapOffsetBytes)
    assert.equal(Buffer.compare(rest, Buffer.alloc(rest.length, 0xee)), 0)
  }
})

test('indexed: the bytes of drbdmeta, in slot 1; other slots are not touched', () => {
  const layout = indexedLayout(1)
  const writes = createMetadata({ ...options, layout, kind: 'indexed' })
  const device = new Uint8Array(128 * MIB).fill(0xee)
  for (const { offsetBytes, data } of writes) {
    assert.ok(offsetBytes >= 128 * MIB && offsetBytes + data.length <= 256 * MIB)
    device.set(data, offsetBytes - 128 * MIB)
  }
  assert.deepEqual(device.subarray(0, 45056), fixture('08-indexed-slot1'))
  const bitmap = device.subarray(36864)
  assert.equal(Buffer.compare(bitmap, Buffer.alloc(bitmap.length)), 0)
})

test('order: bitmap, log, superblock last; what was written can be verified', () => {
  const deviceBytes = 3 * MIB + 512
  const layout = flexibleExternalLayout(deviceBytes, DEFAULT_AL_GEOMETRY)
  const writes = createMetadata({ ...options, deviceUuid: 99n, alExtents: 1237, layout, kind: 'flexible' })
  let at = layout.bitmapOffsetBytes
  for (const { offsetBytes, data } of writes.slice(0, -2)) {
    assert.equal(offsetBytes, at)
    assert.ok(data.every((byte) => byte === 0))
    at += data.length
  }
  assert.equal(at, deviceBytes)
  const [log, last] = writes.slice(-2)
  assert.deepEqual([log?.offsetBytes, log?.data.length], [4096, 32768])
  assert.equal(last?.offsetBytes, 0)
  const superblock = decodeSuperblock(last?.data ?? new Uint8Array(4096))
  verifySuperblock(superblock, { layout, deviceBytes })
  assert.deepEqual([superblock.current, superblock.deviceUuid, superblock.alExtents], [4n, 99n, 1237])
})

test('a log that is striped otherwise: its stripes are in the superblock; indexed metadata has none', () => {
  const geometry = { stripes: 4, stripeSize4k: 4 }
  const layout = internalLayout(64 * MIB, geometry)
  const writes = createMetadata({ ...options, geometry, layout, kind: 'internal' })
  const superblock = decodeSuperblock(writes.at(-1)?.data ?? new Uint8Array(4096))
  assert.deepEqual([superblock.alStripes, superblock.alStripeSize4k], [4, 4])
  const striped = { stripes: 2, stripeSize4k: 4 }
  assert.throws(
    () => createMetadata({ ...options, geometry: striped, layout: indexedLayout(0), kind: 'indexed' }),
    MetadataGeometryError,
  )
})
