// "create-md": the writes that make a device carry fresh metadata, in the order in which they must reach it. The
// superblock comes last, so that a crash on the way leaves no metadata rather than half of it.
// Source: metadata specification sections 2.2, 5.4 and 7; the bytes are those of drbdmeta's create-md.

import { assert } from '../base/assert.ts'
import { BLOCK_BYTES, MIB } from '../base/units.ts'
import { initialLog } from './activity-log.ts'
import { MetadataGeometryError } from './errors.ts'
import { type AlGeometry, alBlocks, DEFAULT_AL_GEOMETRY, MD_BLOCK_BYTES, type MdLayout } from './layout.ts'
import { encodeSuperblock, MD_MAGIC_CLEAN, MDF_AL_CLEAN, type Superblock } from './superblock.ts'
import { UUID_JUST_CREATED } from './uuids.ts'

const ZERO_CHUNK_BYTES = MIB

export interface CreateMetadataOptions {
  readonly layout: MdLayout
  readonly geometry: AlGeometry
  readonly alExtents: number
  readonly deviceUuid: bigint
  readonly kind: 'internal' | 'flexible' | 'indexed'
}

export interface MetadataWrite {
  readonly offsetBytes: number
  /** Several writes may share one buffer. */
  readonly data: Uint8Array
}

/** The superblock of metadata that has never been attached. */
export function createSuperblock(options: CreateMetadataOptions): Superblock {
  const { layout, geometry, kind } = options
  assert(layout.activityLogBytes === alBlocks(geometry) * MD_BLOCK_BYTES, 'the layout was made for another geometry')
  assert((kind === 'internal') === layout.alOffsetSectors < 0, `the layout is not one of ${kind} metadata`)
  const { stripes, stripeSize4k } = geometry
  const isDefault = stripes === DEFAULT_AL_GEOMETRY.stripes && stripeSize4k === DEFAULT_AL_GEOMETRY.stripeSize4k
  if (kind === 'indexed' && !isDefault) {
    throw new MetadataGeometryError(`indexed metadata has 1 stripe of 8 blocks, not ${stripes} of ${stripeSize4k}`)
  }
  return {
    laSizeSectors: 0,
    current: UUID_JUST_CREATED,
    bitmap: 0n,
    history1: 0n,
    history2: 0n,
    deviceUuid: options.deviceUuid,
    flags: MDF_AL_CLEAN,
    magic: MD_MAGIC_CLEAN,
    mdSizeSectors: layout.mdSizeSectors,
    alOffset: layout.alOffsetSectors,
    alExtents: options.alExtents,
    bmOffset: layout.bmOffsetSectors,
    bytesPerBit: BLOCK_BYTES,
    peerMaxBioBytes: 0,
    alStripes: stripes,
    alStripeSize4k: stripeSize4k,
  }
}

/** The bitmap area zeroed, the whole log initialised, the superblock. */
export function createMetadata(options: CreateMetadataOptions): MetadataWrite[] {
  const { layout, geometry } = options
  const superblock = encodeSuperblock(createSuperblock(options))
  const writes: MetadataWrite[] = []
  const zeroes = new Uint8Array(Math.min(ZERO_CHUNK_BYTES, layout.bitmapAreaBytes))
  for (let done = 0; done < layout.bitmapAreaBytes; done += zeroes.length) {
    const lengthBytes = Math.min(zeroes.length, layout.bitmapAreaBytes - done)
    writes.push({ offsetBytes: layout.bitmapOffsetBytes + done, data: zeroes.subarray(0, lengthBytes) })
  }
  writes.push({ offsetBytes: layout.activityLogOffsetBytes, data: initialLog(geometry) })
  writes.push({ offsetBytes: layout.superblockOffsetBytes, data: superblock })
  return writes
}
