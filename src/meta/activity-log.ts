// The activity log: a ring of 4 KiB blocks that says which 4 MiB extents of the device may have writes in flight ("hot").
// Each block is one transaction: some slots of a table get new extents, and a window of the table as it was before is
// repeated, so that the ring always holds the complete table. All integers big-endian.
//
//   offset  size  field
//        0     4  magic 0x69CB65A2
//        4     4  tr_number, +1 for each block written, wraps at 2^32
//        8     4  crc32c of the 4096 bytes with this field 0: preset 0, no final complement
//       12     2  transaction_type: 0 = update, 0xFFFF = initialized (empty)
//       14     2  n_updates, 0 to 64
//       16     2  context_size: slots of the table (al-extents)
//       18     2  context_start_slot_nr: the slot that context[0] describes
//       20    16  reserved
//       36   128  update_slot_nr[64], unused 0xFFFF
//      164   256  update_extent_nr[64], unused 0xFFFFFFFF
//      420  3676  context[919], beyond the end of the table 0xFFFFFFFF
//
// Source: metadata specification section 5 (checked there against drbdmeta and against logs of a running kernel).

import { assert } from '../base/assert.ts'
import { crc32cRaw } from '../base/crc32c.ts'
import type { AlGeometry } from './layout.ts'
import { alBlocks } from './layout.ts'

export const AL_BLOCK_BYTES = 4096
/** Slot changes in one transaction. */
export const AL_UPDATES_MAX = 64
/** Table entries repeated in one transaction. */
export const AL_CONTEXT_MAX = 919
/** A slot without an extent. */
export const AL_FREE = 0xffff_ffff
export const AL_EXTENT_BITMAP_BYTES = 128
export const AL_EXTENTS_MIN = 67
export const AL_EXTENTS_MAX = 65534

export const AL_MAGIC = 0x69cb65a2
const TYPE_UPDATE = 0
const TYPE_INITIALIZED = 0xffff
const SLOT_UNUSED = 0xffff
const CRC_OFFSET = 8
const UPDATE_SLOTS_OFFSET = 36
const UPDATE_EXTENTS_OFFSET = 164
const CONTEXT_OFFSET = 420

export interface AlUpdate {
  readonly slot: number
  /** Extent number, or AL_FREE. */
  readonly extent: number
}

export interface AlTransaction {
  readonly trNumber: number
  /** The table before this transaction; its length is al-extents. */
  readonly slots: Uint32Array
  /** First slot of the window that this block repeats (`nextContextStart` for the one after). */
  readonly contextStart: number
  readonly updates: readonly AlUpdate[]
}

export function encodeTransaction(transaction: AlTransaction): Uint8Array {
  const { slots, contextStart, updates } = transaction
  assert(slots.length <= AL_EXTENTS_MAX, `a table of ${slots.length} slots, at most ${AL_EXTENTS_MAX} are possible`)
  assert(updates.length <= AL_UPDATES_MAX, `${updates.length} updates in one transaction, at most ${AL_UPDATES_MAX}`)
  assert(contextStart < slots.length, `context from slot ${contextStart} of ${slots.length}`)
  const bytes = new Uint8Array(AL_BLOCK_BYTES)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, AL_MAGIC)
  view.setUint32(4, transaction.trNumber)
  view.setUint16(12, TYPE_UPDATE)
  view.setUint16(14, updates.length)
  view.setUint16(16, slots.length)
  view.setUint16(18, contextStart)
  // Padding must be all ones: zeroes would be replayed as "slot 0 := extent 0".
  bytes.fill(0xff, UPDATE_SLOTS_OFFSET)
  for (let i = 0; i < updates.length; i++) {
    const update = updates[i] as AlUpdate
    assert(update.slot < slots.length, `update of slot ${update.slot} of ${slots.length}`)
    view.setUint16(UPDATE_SLOTS_OFFSET + 2 * i, update.slot)
    view.setUint32(UPDATE_EXTENTS_OFFSET + 4 * i, update.extent)
  }
  const contextEnd = Math.min(contextStart + AL_CONTEXT_MAX, slots.length)
  for (let slot = contextStart, at = CONTEXT_OFFSET; slot < contextEnd; slot++, at += 4) {
    view.setUint32(at, slots[slot] as number)
  }
  view.setUint32(CRC_OFFSET, crc32cRaw(bytes))
  return bytes
}

/** Where the window of the next transaction starts: the windows go round the table. */
export function nextContextStart(contextStart: number, slots: number): number {
  const next = contextStart + AL_CONTEXT_MAX
  return next >= slots ? 0 : next
}

/** The block that fills the log of fresh metadata, and after the log has been applied. */
export function initialBlock(): Uint8Array {
  const bytes = new Uint8Array(AL_BLOCK_BYTES)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, AL_MAGIC)
  view.setUint16(12, TYPE_INITIALIZED)
  view.setUint32(CRC_OFFSET, crc32cRaw(bytes))
  return bytes
}

/** A whole log of initial blocks. */
export function initialLog(geometry: AlGeometry): Uint8Array {
  const bytes = new Uint8Array(alBlocks(geometry) * AL_BLOCK_BYTES)
  const block = initialBlock()
  for (let at = 0; at < bytes.length; at += AL_BLOCK_BYTES) bytes.set(block, at)
  return bytes
}

/** Byte offset within the log of the block that holds transaction `trNumber`; ring order goes across the stripes. */
export function blockPosition(trNumber: number, geometry: AlGeometry): number {
  const t = trNumber % alBlocks(geometry)
  const { stripes, stripeSize4k } = geometry
  return ((t % stripes) * stripeSize4k + Math.floor(t / stripes)) * AL_BLOCK_BYTES
}

/** `al-extents` as the kernel takes it: within the format, and such that all but one block hold the table once. */
export function alExtentsClamped(wanted: number, geometry: AlGeometry): number {
  const max = Math.min(AL_EXTENTS_MAX, (alBlocks(geometry) - 1) * AL_CONTEXT_MAX)
  return Math.max(AL_EXTENTS_MIN, Math.min(max, Math.floor(wanted)))
}

export type AlBlock =
  | { readonly type: 'invalid'; readonly reason: 'magic' | 'checksum' }
  | { readonly type: 'initialized'; readonly trNumber: number }
  | {
      readonly type: 'update'
      readonly trNumber: number
      /** 0; anything else but 0xFFFF is taken for an update too. */
      readonly transactionType: number
      readonly crc: number
      /** As stored; `updates` does not depend on it. */
      readonly updatesStored: number
      readonly contextSize: number
      readonly contextStart: number
      /** Entries that name a slot. */
      readonly updates: readonly AlUpdate[]
      /** The entries of the window that lie within the table; `context[0]` is slot `contextStart`. */
      readonly context: Uint32Array
    }

/** Reads one block of 4096 bytes. Only magic and checksum decide whether it is valid. */
export function decodeBlock(bytes: Uint8Array): AlBlock {
  assert(bytes.length === AL_BLOCK_BYTES, `a block of the log has ${AL_BLOCK_BYTES} bytes, got ${bytes.length}`)
  const view = new DataView(bytes.buffer, bytes.byteOffset, AL_BLOCK_BYTES)
  if (view.getUint32(0) !== AL_MAGIC) return { type: 'invalid', reason: 'magic' }
  const crc = view.getUint32(CRC_OFFSET)
  if (crc !== checksumOf(bytes)) return { type: 'invalid', reason: 'checksum' }
  const trNumber = view.getUint32(4)
  const transactionType = view.getUint16(12)
  if (transactionType === TYPE_INITIALIZED) return { type: 'initialized', trNumber }

  const updates: AlUpdate[] = []
  for (let i = 0; i < AL_UPDATES_MAX; i++) {
    const slot = view.getUint16(UPDATE_SLOTS_OFFSET + 2 * i)
    if (slot !== SLOT_UNUSED) updates.push({ slot, extent: view.getUint32(UPDATE_EXTENTS_OFFSET + 4 * i) })
  }
  const contextSize = view.getUint16(16)
  const contextStart = view.getUint16(18)
  const context = new Uint32Array(Math.max(0, Math.min(AL_CONTEXT_MAX, contextSize - contextStart)))
  for (let i = 0; i < context.length; i++) context[i] = view.getUint32(CONTEXT_OFFSET + 4 * i)
  const updatesStored = view.getUint16(14)
  return { type: 'update', trNumber, transactionType, crc, updatesStored, contextSize, contextStart, updates, context }
}

const FOUR_ZEROES = new Uint8Array(4)

function checksumOf(bytes: Uint8Array): number {
  const head = crc32cRaw(bytes.subarray(0, CRC_OFFSET))
  return crc32cRaw(bytes.subarray(CRC_OFFSET + 4), crc32cRaw(FOUR_ZEROES, head))
}

/**
 * ok               there are updates; `hotExtents` is what they amount to
 * all-initialized  every block is valid and none is an update: nothing is hot
 * first-torn       the same, but the first block of the ring is corrupt: the very first transaction was torn
 * no-valid-update  no update, and other blocks are corrupt: what was hot is not known
 * no-valid-block   not one block is valid
 */
export type ReplayStatus = 'ok' | 'all-initialized' | 'first-torn' | 'no-valid-update' | 'no-valid-block'

export interface Replay {
  readonly status: ReplayStatus
  /** Ascending, each once. Empty unless `ok`. */
  readonly hotExtents: number[]
  readonly blocks: number
  readonly corruptBlocks: number
  readonly updateBlocks: number
  /** Of the newest update; undefined if there is none. */
  readonly newestTrNumber: number | undefined
}

type UpdateBlock = Extract<AlBlock, { type: 'update' }>

/** Reads the whole log. Gaps and corrupt blocks between valid ones are tolerated; a torn newest block is left out. */
export function replay(logBytes: Uint8Array, geometry: AlGeometry): Replay {
  const blocks = alBlocks(geometry)
  assert(logBytes.length === blocks * AL_BLOCK_BYTES, `a log of ${blocks} blocks in ${logBytes.length} bytes`)
  const updates: UpdateBlock[] = []
  let corruptBlocks = 0
  let firstCorrupt = false
  for (let t = 0; t < blocks; t++) {
    const at = blockPosition(t, geometry)
    const block = decodeBlock(logBytes.subarray(at, at + AL_BLOCK_BYTES))
    if (block.type === 'update') updates.push(block)
    if (block.type !== 'invalid') continue
    corruptBlocks++
    if (t === 0) firstCorrupt = true
  }
  const counts = { blocks, corruptBlocks, updateBlocks: updates.length }
  if (updates.length === 0) {
    const status = statusWithoutUpdates({ blocks, corruptBlocks, firstCorrupt })
    return { status, hotExtents: [], ...counts, newestTrNumber: undefined }
  }
  const newestTrNumber = sortOldestFirst(updates)
  return { status: 'ok', hotExtents: hotExtentsOf(updates), ...counts, newestTrNumber }
}

function statusWithoutUpdates(found: {
  readonly blocks: number
  readonly corruptBlocks: number
  readonly firstCorrupt: boolean
}): ReplayStatus {
  if (found.corruptBlocks === 0) return 'all-initialized'
  if (found.corruptBlocks === found.blocks) return 'no-valid-block'
  return found.corruptBlocks === 1 && found.firstCorrupt ? 'first-torn' : 'no-valid-update'
}

/**
 * Sorts by transaction number and returns the newest. Numbers wrap, so they are compared by signed difference; measured
 * from the newest that gives a total order whatever the log holds. Positions do not help: with a ring that is not a
 * power of two long, the wrap of the number leaves a seam in it.
 */
function sortOldestFirst(updates: UpdateBlock[]): number {
  let newest = (updates[0] as UpdateBlock).trNumber
  for (const { trNumber } of updates) if (((trNumber - newest) | 0) > 0) newest = trNumber
  updates.sort((a, b) => ((a.trNumber - newest) | 0) - ((b.trNumber - newest) | 0))
  return newest
}

function hotExtentsOf(updatesOldestFirst: readonly UpdateBlock[]): number[] {
  const table = new Uint32Array(AL_EXTENTS_MAX).fill(AL_FREE)
  for (const { contextStart, context, updates } of updatesOldestFirst) {
    // First the context, which holds the values before this transaction, then the updates. Slots behind the largest
    // possible table are damage: a write to a typed array beyond its end is no write.
    for (let i = 0; i < context.length; i++) table[contextStart + i] = context[i] as number
    for (const { slot, extent } of updates) table[slot] = extent
  }
  const hot = new Set<number>()
  for (const extent of table) if (extent !== AL_FREE) hot.add(extent)
  return [...hot].sort((a, b) => a - b)
}
