// What a host would know after a crash: the bitmap of its disk, with the activity log folded in if it was Primary. Reads
// internal metadata of format v08 straight from an image. Written from the metadata specification (sections 1.1, 2, 3, 5,
// 6.2 and 7) and on purpose not with the decoders of src/meta: a checker shares nothing with what it checks.

import { BLOCK_BYTES, SECTOR_BYTES } from '../../base/units.ts'
import { crc32cRegister } from '../digests.ts'

export type ReadImage = (offsetBytes: number, lengthBytes: number) => Uint8Array

const MD_BLOCK_BYTES = 4096
const EXTENT_BLOCKS = 1024
const MAGIC_CLEAN = 0x8374026b
const MAGIC_UNCLEAN = 0x8374026c
const FLAG_PRIMARY = 0x002
const FLAG_FULL_SYNC = 0x008
const FLAG_AL_DISABLED = 0x100
const UUID_JUST_CREATED = 4n
const AL_MAGIC = 0x69cb65a2
const AL_TYPE_INITIALIZED = 0xffff
const AL_UPDATES = 64
const AL_CONTEXT = 919
const AL_FREE = 0xffffffff
const AL_SLOTS_MAX = 65534
const AL_BLOCKS = 8

export interface RecoveredBitmap {
  /** Blocks of the device as last agreed; 0 if it never was. */
  readonly blocks: number
  /** Everything will be resynchronised, whatever the bits say. */
  readonly all: boolean
  covers(block: number): boolean
}

/** Where the metadata of an image begin, and with them the bitmap: data end there. */
export function internalDataBytes(imageBytes: number, logBlocks = AL_BLOCKS): number {
  const superblock = superblockOffset(imageBytes)
  return superblock - logBlocks * MD_BLOCK_BYTES - MD_BLOCK_BYTES * Math.ceil(imageBytes / (128 * 1024 * 1024))
}

const superblockOffset = (imageBytes: number): number => imageBytes - (imageBytes % MD_BLOCK_BYTES) - MD_BLOCK_BYTES

/** The generation that an image holds and the one that it went on from, without the bit that tells the role; undefined if there is none. */
export function generationsOf(
  read: ReadImage,
  imageBytes: number,
): { readonly current: bigint; readonly bitmap: bigint } | undefined {
  const superblock = viewOf(read(superblockOffset(imageBytes), SECTOR_BYTES))
  const magic = superblock.getUint32(60)
  if (magic !== MAGIC_CLEAN && magic !== MAGIC_UNCLEAN) return undefined
  return { current: superblock.getBigUint64(8) & ~1n, bitmap: superblock.getBigUint64(16) & ~1n }
}

/** Undefined if there is no usable superblock. */
export function readRecoveredBitmap(read: ReadImage, imageBytes: number): RecoveredBitmap | undefined {
  const md = superblockOffset(imageBytes)
  const superblock = viewOf(read(md, MD_BLOCK_BYTES))
  const magic = superblock.getUint32(60)
  if (magic !== MAGIC_CLEAN && magic !== MAGIC_UNCLEAN) return undefined
  if (!isPlausible(superblock, imageBytes)) return undefined
  const sizeSectors = Number(superblock.getBigUint64(0))
  const current = superblock.getBigUint64(8)
  const flags = superblock.getUint32(56)
  const blocks = Math.ceil((sizeSectors * SECTOR_BYTES) / BLOCK_BYTES)
  const wasPrimary = (flags & FLAG_PRIMARY) !== 0
  const all =
    blocks === 0 ||
    current === 0n ||
    current === UUID_JUST_CREATED ||
    (flags & FLAG_FULL_SYNC) !== 0 ||
    (wasPrimary && (flags & FLAG_AL_DISABLED) !== 0)
  const bits = read(md + superblock.getInt32(76) * SECTOR_BYTES, alignedTo512(Math.ceil(blocks / 8)))
  const log = { offsetBytes: md + superblock.getInt32(68) * SECTOR_BYTES, blocks: logBlocksOf(superblock) }
  const hot = wasPrimary ? hotExtents(read, log) : new Set<number>()
  return {
    blocks,
    all,
    covers: (block) =>
      all || (((bits[block >> 3] ?? 0) >> (block & 7)) & 1) === 1 || hot.has(Math.floor(block / EXTENT_BLOCKS)),
  }
}

/** Whether the areas are where they have to be on this device: no host attaches it otherwise. */
function isPlausible(superblock: DataView, imageBytes: number): boolean {
  const logBlocks = logBlocksOf(superblock)
  const logBytes = -superblock.getInt32(68) * SECTOR_BYTES
  const bitmapAt = superblockOffset(imageBytes) + superblock.getInt32(76) * SECTOR_BYTES
  return (
    superblock.getBigUint64(0) * BigInt(SECTOR_BYTES) <= BigInt(imageBytes) &&
    logBytes === logBlocks * MD_BLOCK_BYTES &&
    bitmapAt === internalDataBytes(imageBytes, logBlocks)
  )
}

const logBlocksOf = (superblock: DataView): number =>
  (superblock.getUint32(88) || 1) * (superblock.getUint32(92) || AL_BLOCKS)

interface LogPlace {
  readonly offsetBytes: number
  readonly blocks: number
}

/** Number of the block of the log that was written last; undefined if there is none. Default geometry. */
export function newestLogBlock(read: ReadImage, imageBytes: number): number | undefined {
  const md = superblockOffset(imageBytes)
  let newest: { block: number; transaction: number } | undefined
  for (let block = 0; block < AL_BLOCKS; block++) {
    const view = viewOf(read(md - (AL_BLOCKS - block) * MD_BLOCK_BYTES, MD_BLOCK_BYTES))
    if (view.getUint32(0) !== AL_MAGIC || view.getUint16(12) === AL_TYPE_INITIALIZED) continue
    const transaction = view.getUint32(4)
    if (newest === undefined || ((transaction - newest.transaction) | 0) > 0) newest = { block, transaction }
  }
  return newest?.block
}

/** Section 5.5: the slots after all valid transactions, oldest first. */
function hotExtents(read: ReadImage, log: LogPlace): Set<number> {
  const transactions: DataView[] = []
  for (let block = 0; block < log.blocks; block++) {
    const bytes = read(log.offsetBytes + block * MD_BLOCK_BYTES, MD_BLOCK_BYTES)
    const view = viewOf(bytes)
    if (view.getUint32(0) !== AL_MAGIC || view.getUint16(12) === AL_TYPE_INITIALIZED) continue
    const stored = view.getUint32(8)
    view.setUint32(8, 0)
    if (crc32cRegister(0, bytes) === stored) transactions.push(view)
  }
  // Numbers wrap: the signed difference of 32 bits tells which is younger.
  transactions.sort((a, b) => (a.getUint32(4) - b.getUint32(4)) | 0)
  const slots = new Map<number, number>()
  for (const view of transactions) {
    applyContext(view, slots)
    applyUpdates(view, slots)
  }
  const extents = new Set<number>()
  for (const extent of slots.values()) if (extent !== AL_FREE) extents.add(extent)
  return extents
}

function applyContext(view: DataView, slots: Map<number, number>): void {
  const size = view.getUint16(16)
  const first = view.getUint16(18)
  for (let i = 0; i < AL_CONTEXT; i++) {
    const slot = first + i
    if (slot < size) slots.set(slot, view.getUint32(420 + i * 4))
  }
}

function applyUpdates(view: DataView, slots: Map<number, number>): void {
  const count = view.getUint16(14)
  for (let i = 0; i < AL_UPDATES; i++) {
    const slot = view.getUint16(36 + i * 2)
    if (i >= count && slot === 0xffff) continue
    if (slot < AL_SLOTS_MAX) slots.set(slot, view.getUint32(164 + i * 4))
  }
}

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
const alignedTo512 = (bytes: number): number => Math.ceil(bytes / SECTOR_BYTES) * SECTOR_BYTES
