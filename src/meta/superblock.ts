// The superblock of v08 metadata: 4096 bytes, written as one block, no checksum. All integers big-endian.
//
//   offset  size  field                    offset  size  field
//        0     8  la_size_sect                 68     4  al_offset (signed)
//        8     8  uuid current                 72     4  al_nr_extents
//       16     8  uuid bitmap                  76     4  bm_offset (signed)
//       24     8  uuid history 0 (younger)     80     4  bm_bytes_per_bit, always 4096
//       32     8  uuid history 1 (older)       84     4  la_peer_max_bio_size
//       40     8  device_uuid                  88     4  al_stripes
//       48     8  reserved                     92     4  al_stripe_size_4k
//       56     4  flags                        96  4000  reserved, written as 0, ignored when read
//       60     4  magic
//       64     4  md_size_sect
//
// Source: metadata specification sections 2, 3 and 9.

import { assert } from '../base/assert.ts'
import { alignDown, BLOCK_BYTES, divCeil, SECTOR_BYTES, SECTORS_PER_BLOCK } from '../base/units.ts'
import {
  DRBD_ERR_DEVICE_TOO_SMALL,
  DRBD_ERR_IMPLICIT_SHRINK,
  MetadataCapacityError,
  MetadataDeviceTooSmallError,
  MetadataInvalidError,
  MetadataMagicError,
  MetadataUncleanError,
} from './errors.ts'
import type { AlGeometry, MdLayout } from './layout.ts'
import { AL_BLOCKS_MAX, AL_BLOCKS_MIN, DEFAULT_AL_GEOMETRY, INDEX_SLOT_BYTES } from './layout.ts'
import type { Uuids } from './uuids.ts'

export const SUPERBLOCK_BYTES = 4096

export const MD_MAGIC_V07 = 0x8374026a
/** v08, written by user space only; clean if MDF_AL_CLEAN is set as well. */
export const MD_MAGIC_CLEAN = 0x8374026b
/** v08, what a node writes while it is attached, and leaves behind. */
export const MD_MAGIC_UNCLEAN = 0x8374026c
export const MD_MAGIC_V09 = 0x8374026d

export const MDF_CONSISTENT = 1
export const MDF_PRIMARY_IND = 2
export const MDF_CONNECTED_IND = 4
/** "Set all bits" was begun and is not finished: at attach the whole bitmap is set. */
export const MDF_FULL_SYNC = 8
export const MDF_WAS_UPTODATE = 16
export const MDF_PEER_OUTDATED = 32
export const MDF_CRASHED_PRIMARY = 64
/** The log has been applied: set by user space, cleared by the first state change after attach. */
export const MDF_AL_CLEAN = 128
export const MDF_AL_DISABLED = 256

/** The kernel's minimum for internal and flexible external metadata devices. */
export const MD_DEVICE_SECTORS_MIN = 2048

const BITS_PER_BITMAP_SECTOR = SECTOR_BYTES * 8
const INDEXED_SECTORS = INDEX_SLOT_BYTES / SECTOR_BYTES

export interface Superblock extends Uuids {
  /** Last agreed size of the DRBD device; 0 = never negotiated. */
  readonly laSizeSectors: number
  /** Carried along, without meaning here. */
  readonly deviceUuid: bigint
  readonly flags: number
  readonly magic: number
  readonly mdSizeSectors: number
  /** Sectors relative to the superblock; negative for internal metadata, as is `bmOffset`. */
  readonly alOffset: number
  /** Slots of the activity log at the last write. Not needed to read the log. */
  readonly alExtents: number
  readonly bmOffset: number
  readonly bytesPerBit: number
  readonly peerMaxBioBytes: number
  /** Both 0 in metadata older than striping: 1 stripe of 8 blocks (`alGeometryOf`). */
  readonly alStripes: number
  readonly alStripeSize4k: number
}

export function encodeSuperblock(s: Superblock): Uint8Array {
  const bytes = new Uint8Array(SUPERBLOCK_BYTES)
  const view = new DataView(bytes.buffer)
  view.setBigUint64(0, BigInt(s.laSizeSectors))
  view.setBigUint64(8, s.current)
  view.setBigUint64(16, s.bitmap)
  view.setBigUint64(24, s.history1)
  view.setBigUint64(32, s.history2)
  view.setBigUint64(40, s.deviceUuid)
  view.setUint32(56, s.flags)
  view.setUint32(60, s.magic)
  view.setUint32(64, s.mdSizeSectors)
  view.setInt32(68, s.alOffset)
  view.setUint32(72, s.alExtents)
  view.setInt32(76, s.bmOffset)
  view.setUint32(80, s.bytesPerBit)
  view.setUint32(84, s.peerMaxBioBytes)
  view.setUint32(88, s.alStripes)
  view.setUint32(92, s.alStripeSize4k)
  return bytes
}

/**
 * Reads the fields of a v08 superblock, clean or not. What they say is not judged here (`verifySuperblock`), but for a
 * size that no number can hold.
 */
export function decodeSuperblock(bytes: Uint8Array): Superblock {
  assert(bytes.length >= SUPERBLOCK_BYTES, `a superblock has ${SUPERBLOCK_BYTES} bytes, got ${bytes.length}`)
  const view = new DataView(bytes.buffer, bytes.byteOffset, SUPERBLOCK_BYTES)
  const magic = view.getUint32(60)
  if (magic !== MD_MAGIC_CLEAN && magic !== MD_MAGIC_UNCLEAN) {
    const found = magic === MD_MAGIC_V07 ? 'v07' : magic === MD_MAGIC_V09 ? 'v09' : 'nothing'
    throw new MetadataMagicError({ magic, found })
  }
  const laSizeSectors = view.getBigUint64(0)
  if (laSizeSectors > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new MetadataInvalidError({ field: 'la_size_sect', problem: `${laSizeSectors} sectors are not possible` })
  }
  return {
    laSizeSectors: Number(laSizeSectors),
    current: view.getBigUint64(8),
    bitmap: view.getBigUint64(16),
    history1: view.getBigUint64(24),
    history2: view.getBigUint64(32),
    deviceUuid: view.getBigUint64(40),
    flags: view.getUint32(56),
    magic,
    mdSizeSectors: view.getUint32(64),
    alOffset: view.getInt32(68),
    alExtents: view.getUint32(72),
    bmOffset: view.getInt32(76),
    bytesPerBit: view.getUint32(80),
    peerMaxBioBytes: view.getUint32(84),
    alStripes: view.getUint32(88),
    alStripeSize4k: view.getUint32(92),
  }
}

/** Whether the superblock may be attached as it is; otherwise the activity log must be applied first. */
export function isClean(s: Pick<Superblock, 'magic' | 'flags'>): boolean {
  return s.magic === MD_MAGIC_CLEAN && (s.flags & MDF_AL_CLEAN) !== 0
}

/**
 * The disk state that the flags stand for. `Consistent` becomes UpToDate at once where the fencing policy is
 * `dont-care`: that is the caller's decision.
 */
export function diskStateFromFlags(flags: number): 'Inconsistent' | 'Outdated' | 'Consistent' | 'UpToDate' {
  if ((flags & MDF_CONSISTENT) === 0) return 'Inconsistent'
  if ((flags & MDF_WAS_UPTODATE) === 0) return 'Outdated'
  return (flags & MDF_PEER_OUTDATED) === 0 ? 'Consistent' : 'UpToDate'
}

/** The log geometry that the superblock names; not yet checked. */
export function alGeometryOf(s: Pick<Superblock, 'alStripes' | 'alStripeSize4k'>): AlGeometry {
  if (s.alStripes === 0 && s.alStripeSize4k === 0) return DEFAULT_AL_GEOMETRY
  return { stripes: s.alStripes, stripeSize4k: s.alStripeSize4k }
}

/** Number of bitmap bits for a device of this size. */
export function bitmapBits(deviceSectors: number): number {
  return divCeil(deviceSectors, SECTORS_PER_BLOCK)
}

/** Bytes of the bitmap area that such a device uses: whole 64-bit words, and of these whole blocks of 4 KiB. */
export function bitmapBytesInUse(deviceSectors: number): number {
  return divCeil(bitmapBits(deviceSectors), BLOCK_BYTES * 8) * BLOCK_BYTES
}

export interface VerifyContext {
  /** What the placement functions (layout.ts) give for this device today, with the geometry of `alGeometryOf`. */
  readonly layout: MdLayout
  /** Capacity of the device that holds the metadata. */
  readonly deviceBytes: number
  /** Largest possible DRBD device; default: the layout's limit. External: the minimum with the data device. */
  readonly usableSectors?: number
  /** Size asked for in the configuration; 0 or absent = none. */
  readonly configuredSectors?: number
  /** Leaves out check 6, for a look at metadata to which the log is still to be applied. */
  readonly allowUnclean?: boolean
}

/** Checks 6 to 12 and 16 of an attach, in the kernel's order; returns or throws a typed error with DRBD's number. */
export function verifySuperblock(s: Superblock, context: VerifyContext): void {
  if (context.allowUnclean !== true && !isClean(s)) {
    throw new MetadataUncleanError({ magic: s.magic, flags: s.flags }) // 6; the magic itself (7) is decode's
  }
  if (s.bytesPerBit !== BLOCK_BYTES) invalid('bm_bytes_per_bit', `${s.bytesPerBit}, must be ${BLOCK_BYTES}`) // 8
  const alSectors = verifyStripes(s) // 9
  verifyOffsets(s, alSectors) // 10
  verifyPlace(s, context)
  verifyCapacity(s, context) // 11, 12, 16
}

/** Check 9. Returns the sectors of the log. */
function verifyStripes(s: Superblock): number {
  const { stripes, stripeSize4k } = alGeometryOf(s)
  const blocks = stripes * stripeSize4k
  if (blocks < AL_BLOCKS_MIN || blocks > AL_BLOCKS_MAX) {
    invalid('al_stripes', `${stripes} stripes of ${stripeSize4k} blocks, must be ${AL_BLOCKS_MIN} to ${AL_BLOCKS_MAX}`)
  }
  return blocks * SECTORS_PER_BLOCK
}

/** Check 10: whether the offsets make sense among themselves. */
function verifyOffsets(s: Superblock, alSectorsNeeded: number): void {
  const internal = s.alOffset < 0
  if (internal && s.bmOffset > s.alOffset) {
    invalid('bm_offset', `${s.bmOffset} is behind the activity log at ${s.alOffset}`)
  }
  if (!internal && s.alOffset !== SECTORS_PER_BLOCK) {
    invalid('al_offset', `${s.alOffset}, must be negative or ${SECTORS_PER_BLOCK}`)
  }
  const alSectors = internal ? -s.alOffset : s.bmOffset - SECTORS_PER_BLOCK
  const bmSectors = internal ? s.alOffset - s.bmOffset : s.mdSizeSectors - s.bmOffset
  if (alSectors !== alSectorsNeeded) {
    const field = internal ? 'al_offset' : 'bm_offset'
    invalid(field, `leaves ${alSectors} sectors for the activity log, its blocks take ${alSectorsNeeded}`)
  }
  if (s.bmOffset % SECTORS_PER_BLOCK !== 0) invalid('bm_offset', `${s.bmOffset} is not a multiple of 4 KiB`)
  const bmSectorsNeeded = Math.floor(bitmapBits(s.laSizeSectors) / BITS_PER_BITMAP_SECTOR)
  if (bmSectors < bmSectorsNeeded) {
    invalid(
      'bm_offset',
      `leaves ${bmSectors} sectors for the bitmap, ${s.laSizeSectors} sectors take ${bmSectorsNeeded}`,
    )
  }
}

/**
 * Check 10, second half: the areas are where we are about to read and write. The kernel would follow an internal
 * bm_offset that leaves more room than needed; drbdmeta, which runs before every attach, refuses it, and so do we.
 */
function verifyPlace(s: Superblock, { layout, deviceBytes }: VerifyContext): void {
  const deviceSectors = alignDown(deviceBytes, SECTOR_BYTES) / SECTOR_BYTES
  if (s.alOffset !== layout.alOffsetSectors) {
    invalid('al_offset', `${s.alOffset}, expected ${layout.alOffsetSectors} on this device`)
  }
  if (s.bmOffset !== layout.bmOffsetSectors) {
    invalid('bm_offset', `${s.bmOffset}, expected ${layout.bmOffsetSectors} on this device`)
  }
  const sizeFixed = s.alOffset < 0 || isIndexed(layout, deviceSectors)
  if (sizeFixed ? s.mdSizeSectors !== layout.mdSizeSectors : s.mdSizeSectors > layout.mdSizeSectors) {
    invalid('md_size_sect', `${s.mdSizeSectors}, expected ${layout.mdSizeSectors} on this device`)
  }
  if (s.mdSizeSectors > deviceSectors) {
    invalid('md_size_sect', `${s.mdSizeSectors}, the device has only ${deviceSectors} sectors`)
  }
}

function verifyCapacity(s: Superblock, context: VerifyContext): void {
  const { layout, deviceBytes } = context
  const usableSectors = Math.min(context.usableSectors ?? layout.usableSectors, layout.usableSectors)
  const configuredSectors = context.configuredSectors ?? 0
  if (configuredSectors > usableSectors) {
    throw new MetadataCapacityError({
      drbdCode: DRBD_ERR_DEVICE_TOO_SMALL,
      usableSectors,
      neededSectors: configuredSectors,
    })
  }
  const deviceSectors = alignDown(deviceBytes, SECTOR_BYTES) / SECTOR_BYTES
  const slotEndSectors = layout.superblockOffsetBytes / SECTOR_BYTES + INDEXED_SECTORS
  const sectorsMin = isIndexed(layout, deviceSectors) ? slotEndSectors : MD_DEVICE_SECTORS_MIN
  if (deviceSectors < sectorsMin) {
    throw new MetadataDeviceTooSmallError({ deviceBytes, deviceBytesMin: sectorsMin * SECTOR_BYTES })
  }
  const consistent = (s.flags & MDF_CONSISTENT) !== 0
  if (consistent && configuredSectors === 0 && usableSectors < s.laSizeSectors) {
    throw new MetadataCapacityError({
      drbdCode: DRBD_ERR_IMPLICIT_SHRINK,
      usableSectors,
      neededSectors: s.laSizeSectors,
    })
  }
}

/** A slot of a shared device. Slot 0 of a device of exactly one slot is the flexible layout, number for number. */
function isIndexed(layout: MdLayout, deviceSectors: number): boolean {
  if (layout.alOffsetSectors < 0) return false
  return layout.superblockOffsetBytes > 0 || layout.mdSizeSectors !== deviceSectors
}

function invalid(field: string, problem: string): never {
  throw new MetadataInvalidError({ field, problem })
}
