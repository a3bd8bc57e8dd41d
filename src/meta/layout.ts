// Where the three areas of v08 metadata stand on a device: superblock (SB), activity log (AL), bitmap (BM). All of them
// start on multiples of 4 KiB. AL bytes = stripes * stripeSize4k * 4096 (default 32 KiB).
//
//   internal   | data ........ | BM | AL | SB | 0..7 unused sectors |     BM = 4 KiB for each begun 128 MiB of the device
//   flexible   | SB | AL | BM .......................... whole device |
//   indexed    the same, in slot `index` of 128 MiB: | SB | AL 32 KiB | BM |
//
// Source: metadata specification section 1 (checked there against drbdmeta).

import { alignDown, divCeil, MIB, SECTOR_BYTES } from '../base/units.ts'
import { MetadataDeviceTooSmallError, MetadataGeometryError } from './errors.ts'

export const MD_BLOCK_BYTES = 4096
/** 1 PiB: the largest device that the flexible forms support. */
export const USABLE_SECTORS_MAX = 2 ** 41
/** One 512-byte sector of bitmap covers 16 MiB. */
export const SECTORS_PER_BITMAP_SECTOR = 32768
export const AL_BLOCKS_MIN = 8
export const AL_BLOCKS_MAX = 4_194_304
export const INDEX_SLOT_BYTES = 128 * MIB
export const INDEX_MAX = 255
/** Smallest device for internal metadata that drbdmeta accepts. The kernel wants 1 MiB (`verifySuperblock`). */
export const INTERNAL_DEVICE_BYTES_MIN = 69_632

const SECTORS_PER_MD_BLOCK = MD_BLOCK_BYTES / SECTOR_BYTES
const BITMAP_BLOCK_COVERS_BYTES = 128 * MIB
const U32_MAX = 0xffff_ffff

export interface AlGeometry {
  /** Number of stripes the log is spread over. */
  readonly stripes: number
  /** Blocks of 4 KiB in each stripe. */
  readonly stripeSize4k: number
}

export const DEFAULT_AL_GEOMETRY: AlGeometry = { stripes: 1, stripeSize4k: 8 }

export interface MdLayout {
  /** Absolute byte offsets on the device that holds the metadata. */
  readonly superblockOffsetBytes: number
  readonly activityLogOffsetBytes: number
  readonly activityLogBytes: number
  readonly bitmapOffsetBytes: number
  /** Reserved for the bitmap; not always a multiple of 4 KiB on a flexible external device. */
  readonly bitmapAreaBytes: number
  /** Largest size of the DRBD device. External: the metadata's limit only; take the minimum with the data device. */
  readonly usableSectors: number
  /** As stored in the superblock: unsigned, and two signed offsets in sectors relative to the superblock. */
  readonly mdSizeSectors: number
  readonly alOffsetSectors: number
  readonly bmOffsetSectors: number
}

export function internalLayout(deviceBytes: number, geometry: AlGeometry): MdLayout {
  const activityLogBytes = alBlocks(geometry) * MD_BLOCK_BYTES
  const sizeBytes = alignDown(Math.max(0, deviceBytes), SECTOR_BYTES)
  const superblockOffsetBytes = alignDown(sizeBytes, MD_BLOCK_BYTES) - MD_BLOCK_BYTES
  // From the size of the whole device, metadata included: never too short, one block too many at times.
  const bitmapAreaBytes = MD_BLOCK_BYTES * divCeil(sizeBytes, BITMAP_BLOCK_COVERS_BYTES)
  const activityLogOffsetBytes = superblockOffsetBytes - activityLogBytes
  const bitmapOffsetBytes = activityLogOffsetBytes - bitmapAreaBytes
  if (sizeBytes < INTERNAL_DEVICE_BYTES_MIN || bitmapOffsetBytes <= 0) {
    const metadataBytes = bitmapAreaBytes + activityLogBytes + MD_BLOCK_BYTES
    const deviceBytesMin = Math.max(INTERNAL_DEVICE_BYTES_MIN, metadataBytes + MD_BLOCK_BYTES)
    throw new MetadataDeviceTooSmallError({ deviceBytes, deviceBytesMin })
  }
  return {
    superblockOffsetBytes,
    activityLogOffsetBytes,
    activityLogBytes,
    bitmapOffsetBytes,
    bitmapAreaBytes,
    usableSectors: Math.min(bitmapOffsetBytes / SECTOR_BYTES, USABLE_SECTORS_MAX),
    mdSizeSectors: (bitmapAreaBytes + activityLogBytes + MD_BLOCK_BYTES) / SECTOR_BYTES,
    alOffsetSectors: -activityLogBytes / SECTOR_BYTES,
    bmOffsetSectors: -(activityLogBytes + bitmapAreaBytes) / SECTOR_BYTES,
  }
}

export function flexibleExternalLayout(mdDeviceBytes: number, geometry: AlGeometry): MdLayout {
  const sectors = alignDown(Math.max(0, mdDeviceBytes), SECTOR_BYTES) / SECTOR_BYTES
  if (sectors > U32_MAX) {
    throw new MetadataGeometryError(`a metadata device of ${mdDeviceBytes} bytes is larger than the format can say`)
  }
  return externalLayout({ superblockOffsetBytes: 0, mdSizeSectors: sectors, geometry })
}

/** Slot `index` of a shared metadata device. Whether the device reaches to the slot's end is for `verifySuperblock`. */
export function indexedLayout(index: number): MdLayout {
  if (!Number.isInteger(index) || index < 0 || index > INDEX_MAX) {
    throw new MetadataGeometryError(`metadata slot ${index} is not one of 0 to ${INDEX_MAX}`)
  }
  return externalLayout({
    superblockOffsetBytes: index * INDEX_SLOT_BYTES,
    mdSizeSectors: INDEX_SLOT_BYTES / SECTOR_BYTES,
    geometry: DEFAULT_AL_GEOMETRY,
  })
}

/** Number of 4 KiB blocks in the activity log's ring. */
export function alBlocks(geometry: AlGeometry): number {
  const { stripes, stripeSize4k } = geometry
  const blocks = stripes * stripeSize4k
  const whole = Number.isInteger(stripes) && Number.isInteger(stripeSize4k) && stripes > 0 && stripeSize4k > 0
  if (!whole || blocks < AL_BLOCKS_MIN || blocks > AL_BLOCKS_MAX) {
    throw new MetadataGeometryError(
      `activity log of ${stripes} stripes with ${stripeSize4k} blocks: the product must be ${AL_BLOCKS_MIN} to ${AL_BLOCKS_MAX}`,
    )
  }
  return blocks
}

function externalLayout(place: {
  readonly superblockOffsetBytes: number
  readonly mdSizeSectors: number
  readonly geometry: AlGeometry
}): MdLayout {
  const { superblockOffsetBytes, mdSizeSectors } = place
  const activityLogBytes = alBlocks(place.geometry) * MD_BLOCK_BYTES
  const alOffsetSectors = SECTORS_PER_MD_BLOCK
  const bmOffsetSectors = alOffsetSectors + activityLogBytes / SECTOR_BYTES
  const bitmapSectors = mdSizeSectors - bmOffsetSectors
  if (bitmapSectors <= 0) {
    const deviceBytesMin = bmOffsetSectors * SECTOR_BYTES + MD_BLOCK_BYTES
    throw new MetadataDeviceTooSmallError({ deviceBytes: mdSizeSectors * SECTOR_BYTES, deviceBytesMin })
  }
  return {
    superblockOffsetBytes,
    activityLogOffsetBytes: superblockOffsetBytes + alOffsetSectors * SECTOR_BYTES,
    activityLogBytes,
    bitmapOffsetBytes: superblockOffsetBytes + bmOffsetSectors * SECTOR_BYTES,
    bitmapAreaBytes: bitmapSectors * SECTOR_BYTES,
    usableSectors: Math.min(bitmapSectors * SECTORS_PER_BITMAP_SECTOR, USABLE_SECTORS_MAX),
    mdSizeSectors,
    alOffsetSectors,
    bmOffsetSectors,
  }
}
