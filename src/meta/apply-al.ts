// "apply-al": makes metadata clean before an attach. If its node was Primary when it stopped, every extent that the log
// names is marked out of sync; in any case the log is emptied and the superblock becomes clean.
//
//   log               PrimaryInd   bits set   log        superblock
//   updates           1            yes        emptied    clean
//   updates           0            no         emptied    clean
//   all initialized   any          no         as it is   clean
//   first block torn  any          no         as it is   clean
//   unreadable        0            no         emptied    clean
//   unreadable        1            the disk cannot be attached, nothing is changed
//
// "Unreadable" is no single valid block, or none with updates and corrupt ones beside the ring's first. With the magic
// CLEAN, which no kernel writes, an unreadable log of default geometry counts as an empty one of the format before 8.4,
// as drbdmeta has it (restore-md leaves such logs behind); only real transactions of that format are refused.
//
// Differences from drbdmeta 9.22, all to the safe side: it loses transactions where their numbers pass 2^31 or, in a ring
// whose length is not a power of two, 2^32, and under the clean magic if the first two blocks are damaged; here they
// count. And an agreed size above the device's limit is left for the attach to judge, where drbdmeta cuts it.
//
// Write the results in this order: bitmap, flush, log, superblock, flush. A crash in between is harmless, as setting bits
// again changes nothing.
// Source: metadata specification section 6.

import { AL_BLOCK_BYTES, AL_EXTENT_BITMAP_BYTES, AL_MAGIC, initialLog, type Replay, replay } from './activity-log.ts'
import { ActivityLogUnusableError } from './errors.ts'
import { type AlGeometry, DEFAULT_AL_GEOMETRY } from './layout.ts'
import {
  bitmapBytesInUse,
  isClean,
  MD_MAGIC_CLEAN,
  MDF_AL_CLEAN,
  MDF_PRIMARY_IND,
  type Superblock,
} from './superblock.ts'

const OLD_LOG_MAGIC = 0x83740267
const OLD_LOG_SECTOR_BYTES = 512

export interface ApplyAlInput {
  readonly superblock: Superblock
  /** The whole log area. */
  readonly logBytes: Uint8Array
  /** The bitmap area, as much of it as `bitmapBytesInUse(laSizeSectors)` or more. Not changed. */
  readonly bitmapBytes: Uint8Array
  readonly geometry: AlGeometry
}

export interface ApplyAlResult {
  readonly superblock: Superblock
  readonly superblockChanged: boolean
  /** The input's own bytes if nothing changed, else a copy. */
  readonly bitmapBytes: Uint8Array
  readonly bitmapChanged: boolean
  /** The new log, or undefined if the log stays as it is. */
  readonly logBytes: Uint8Array | undefined
  /** The extents that were marked out of sync. */
  readonly hotExtents: number[]
  /** Extents in the log that lie beyond the bitmap in use. All of them, as long as no size has been agreed. */
  readonly skippedExtents: number[]
  /** Bits that were 0 before. */
  readonly bitsSet: number
  readonly corruptBlocks: number
}

export function applyActivityLog(input: ApplyAlInput): ApplyAlResult {
  const { superblock, bitmapBytes, geometry } = input
  const found = replay(input.logBytes, geometry)
  const wasPrimary = (superblock.flags & MDF_PRIMARY_IND) !== 0
  if (wasPrimary) refuseUnreadableLog(input, found)

  const emptyLog = found.status !== 'all-initialized' && found.status !== 'first-torn'
  const marked =
    wasPrimary && found.hotExtents.length > 0
      ? markExtents(bitmapBytes, found.hotExtents, superblock.laSizeSectors)
      : { bitmapBytes, hotExtents: [], skippedExtents: [], bitsSet: 0 }
  const superblockChanged = !isClean(superblock)
  return {
    ...marked,
    superblock: superblockChanged
      ? { ...superblock, magic: MD_MAGIC_CLEAN, flags: (superblock.flags | MDF_AL_CLEAN) >>> 0 }
      : superblock,
    superblockChanged,
    bitmapChanged: marked.bitsSet > 0,
    logBytes: emptyLog ? initialLog(geometry) : undefined,
    corruptBlocks: found.corruptBlocks,
  }
}

function refuseUnreadableLog({ superblock, logBytes, geometry }: ApplyAlInput, found: Replay): void {
  const { status, blocks, corruptBlocks } = found
  if (status !== 'no-valid-block' && status !== 'no-valid-update') return
  if (superblock.magic === MD_MAGIC_CLEAN && mayBeOldFormat(logBytes, geometry)) {
    if (!hasOldTransactions(logBytes)) return
    throw new ActivityLogUnusableError({ reason: 'old-format', blocks, corruptBlocks })
  }
  throw new ActivityLogUnusableError({ reason: status, blocks, corruptBlocks })
}

/** drbdmeta's test: default geometry, and neither of the first two blocks starts as a block of today's log does. */
function mayBeOldFormat(logBytes: Uint8Array, { stripes, stripeSize4k }: AlGeometry): boolean {
  if (stripes !== DEFAULT_AL_GEOMETRY.stripes || stripeSize4k !== DEFAULT_AL_GEOMETRY.stripeSize4k) return false
  const view = new DataView(logBytes.buffer, logBytes.byteOffset, logBytes.byteLength)
  return view.getUint32(0) !== AL_MAGIC && view.getUint32(AL_BLOCK_BYTES) !== AL_MAGIC
}

/** Before 8.4 the log had 64 sectors of 512 bytes, each with a magic of its own. We do not read them. */
function hasOldTransactions(logBytes: Uint8Array): boolean {
  const view = new DataView(logBytes.buffer, logBytes.byteOffset, logBytes.byteLength)
  for (let at = 0; at < logBytes.length; at += OLD_LOG_SECTOR_BYTES) {
    if (view.getUint32(at) === OLD_LOG_MAGIC) return true
  }
  return false
}

function markExtents(
  bitmapBytes: Uint8Array,
  extents: readonly number[],
  laSizeSectors: number,
): Pick<ApplyAlResult, 'bitmapBytes' | 'hotExtents' | 'skippedExtents' | 'bitsSet'> {
  const marked = bitmapBytes.slice()
  const inUseBytes = Math.min(bitmapBytesInUse(laSizeSectors), marked.length)
  const hotExtents: number[] = []
  const skippedExtents: number[] = []
  let bitsSet = 0
  for (const extent of extents) {
    const from = extent * AL_EXTENT_BITMAP_BYTES
    if (from >= inUseBytes) {
      skippedExtents.push(extent)
      continue
    }
    hotExtents.push(extent)
    const to = Math.min(from + AL_EXTENT_BITMAP_BYTES, inUseBytes)
    for (let at = from; at < to; at++) {
      bitsSet += clearBitsOf(marked[at] as number)
      marked[at] = 0xff
    }
  }
  return { bitmapBytes: bitsSet > 0 ? marked : bitmapBytes, hotExtents, skippedExtents, bitsSet }
}

function clearBitsOf(byte: number): number {
  let count = 0
  for (let rest = ~byte & 0xff; rest !== 0; rest &= rest - 1) count++
  return count
}
