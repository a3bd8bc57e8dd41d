// Text forms of the metadata, character for character those of drbdmeta 9.22 in its v08 mode: `dump-md` (which
// `restore-md` reads back), the decoded activity log that `dump-md -v` appends, and the line of `get-gi`.
//
// The header lines with date and host are left out. drbdmeta prints `flags 0x00000000` whatever the superblock says, so
// that dump and restore lose the flags; `trueFlags` prints what is there.
// Source: metadata specification sections 3 and 12.

import { AL_BLOCK_BYTES, type AlBlock, decodeBlock } from './activity-log.ts'
import { type AlGeometry, alBlocks, type MdLayout } from './layout.ts'
import {
  bitmapBytesInUse,
  isClean,
  MDF_CONNECTED_IND,
  MDF_CONSISTENT,
  MDF_CRASHED_PRIMARY,
  MDF_FULL_SYNC,
  MDF_PEER_OUTDATED,
  MDF_PRIMARY_IND,
  MDF_WAS_UPTODATE,
  type Superblock,
} from './superblock.ts'

const WORD_BYTES = 8
const WORDS_PER_LINE = 4
/** A run is told as one only from here on. */
const RUN_WORDS_MIN = 8
const WORD_COVERS_KIB = 256
/** 8 MiB of storage. */
const COMMENT_EVERY_WORDS = 32

export interface DumpOptions {
  /** Print the superblock's flags instead of drbdmeta's zero. */
  readonly trueFlags?: boolean
}

/** `bitmapBytes`: the bitmap area, at least as much of it as is in use. */
export function dumpText(
  superblock: Superblock,
  bitmapBytes: Uint8Array,
  layout: MdLayout,
  options: DumpOptions = {},
): string {
  const laSizeSectors = Math.min(superblock.laSizeSectors, layout.usableSectors)
  const lines: string[] = []
  if (laSizeSectors < superblock.laSizeSectors) {
    lines.push(`# la-size-sect was too big (${superblock.laSizeSectors}), truncated (${laSizeSectors})!`)
  }
  lines.push('# DRBD meta data dump', '#', '', 'version "v08";', '')
  if (!isClean(superblock)) {
    lines.push("This_is_an_unclean_meta_data_dump._Don't_trust_the_bitmap.")
    lines.push('# You should "apply-al" first, if you plan to restore this.', '')
  }
  const inUse = bitmapBytes.subarray(0, bitmapBytesInUse(laSizeSectors))
  pushFields(lines, superblock, layout, {
    laSizeSectors,
    flags: options.trueFlags === true ? superblock.flags : 0,
    bitmapBytesInUse: inUse.length,
  })
  const bitsSet = pushBitmap(lines, inUse)
  lines.push(`# bits-set ${bitsSet};`, '')
  return lines.join('\n')
}

function pushFields(
  lines: string[],
  s: Superblock,
  layout: MdLayout,
  shown: { readonly laSizeSectors: number; readonly flags: number; readonly bitmapBytesInUse: number },
): void {
  const uuids = [s.current, s.bitmap, s.history1, s.history2].map((uuid) => `0x${hex64(uuid)};`)
  lines.push(
    `# md_size_sect ${s.mdSizeSectors}`,
    `# md_offset ${layout.superblockOffsetBytes}`,
    `# al_offset ${layout.activityLogOffsetBytes}`,
    `# bm_offset ${layout.bitmapOffsetBytes}`,
    '',
    'uuid {',
    `    ${uuids.join(' ')}`,
    `    flags 0x${hex32(shown.flags)};`,
    '}',
    `# al-extents ${s.alExtents};`,
    `la-size-sect ${shown.laSizeSectors};`,
    `bm-byte-per-bit ${s.bytesPerBit};`,
    `device-uuid 0x${hex64(s.deviceUuid)};`,
    `la-peer-max-bio-size ${s.peerMaxBioBytes};`,
    `al-stripes ${s.alStripes === 0 ? 1 : s.alStripes};`,
    `al-stripe-size-4k ${s.alStripeSize4k === 0 ? 8 : s.alStripeSize4k};`,
    `# bm-bytes ${shown.bitmapBytesInUse};`,
  )
}

/** Four words to a line; from a line's start on, equal words are told as a run. Returns the number of set bits. */
function pushBitmap(lines: string[], bytes: Uint8Array): bigint {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const words = Math.floor(bytes.length / WORD_BYTES)
  let bitsSet = 0n
  lines.push('bm {')
  for (let at = 0; at < words; ) {
    if (at % COMMENT_EVERY_WORDS === 0) lines.push(`   # at ${at * WORD_COVERS_KIB}kB`)
    const run = runLength(view, at, words)
    if (run >= RUN_WORDS_MIN) {
      const word = view.getBigUint64(at * WORD_BYTES, true)
      lines.push(`    ${run} times 0x${hex64(word)};`)
      bitsSet += BigInt(run * popCount64(word))
      at += run
      continue
    }
    const line: string[] = []
    for (const end = Math.min(at + WORDS_PER_LINE, words); at < end; at++) {
      const word = view.getBigUint64(at * WORD_BYTES, true)
      line.push(`0x${hex64(word)};`)
      bitsSet += BigInt(popCount64(word))
    }
    lines.push(`    ${line.join(' ')}`)
  }
  lines.push('}')
  return bitsSet
}

/** How many words from `at` on are equal, in whole lines. */
function runLength(view: DataView, at: number, words: number): number {
  const low = view.getUint32(at * WORD_BYTES, true)
  const high = view.getUint32(at * WORD_BYTES + 4, true)
  let end = at + 1
  while (
    end < words &&
    view.getUint32(end * WORD_BYTES, true) === low &&
    view.getUint32(end * WORD_BYTES + 4, true) === high
  ) {
    end++
  }
  return end - at - ((end - at) % WORDS_PER_LINE)
}

/** What `dump-md` with ten times `-v` appends: the blocks of the log in the order in which they are on disk. */
export function dumpActivityLog(logBytes: Uint8Array, geometry: AlGeometry): string {
  const lines = ['# al {']
  for (let index = 0; index < alBlocks(geometry); index++) {
    const at = index * AL_BLOCK_BYTES
    pushLogBlock(lines, index, decodeBlock(logBytes.subarray(at, at + AL_BLOCK_BYTES)))
  }
  lines.push('# }', '')
  return lines.join('\n')
}

function pushLogBlock(lines: string[], index: number, block: AlBlock): void {
  const title = `#     block ${pad(index, 2)} {`
  if (block.type === 'invalid') lines.push(`${title} INVALID }`)
  if (block.type === 'initialized') lines.push(`${title} INITIALIZED }`)
  if (block.type !== 'update') return
  lines.push(
    title,
    '# \tmagic: 0x69cb65a2',
    `# \ttype: 0x${block.transactionType.toString(16).padStart(4, '0')}`,
    `# \ttr: ${pad(block.trNumber, 10)}`,
    `# \tactive set size: ${block.contextSize}`,
  )
  block.context.forEach((extent, i) => {
    lines.push(`# \t${pad(i, 2)}: ${pad(block.contextStart + i, 10)} ${pad(extent, 10)}`)
  })
  lines.push(`# \tupdates: ${block.updatesStored}`)
  block.updates.forEach(({ slot, extent }, i) => {
    lines.push(`# \t${pad(i, 2)}: ${pad(slot, 10)} ${pad(extent, 10)}`)
  })
  lines.push(`# \tcrc32c: 0x${block.crc.toString(16).padStart(8, '0')}`, '#     }')
}

/** The four identifiers, then Consistent, WasUpToDate, PrimaryInd, ConnectedInd, FullSync, PeerOutDated, CrashedPrimary. */
export function getGi(superblock: Superblock): string {
  const { current, bitmap, history1, history2, flags } = superblock
  const flagsShown = [
    MDF_CONSISTENT,
    MDF_WAS_UPTODATE,
    MDF_PRIMARY_IND,
    MDF_CONNECTED_IND,
    MDF_FULL_SYNC,
    MDF_PEER_OUTDATED,
    MDF_CRASHED_PRIMARY,
  ].map((flag) => ((flags & flag) === 0 ? '0' : '1'))
  return [...[current, bitmap, history1, history2].map(hex64), ...flagsShown].join(':')
}

const hex64 = (value: bigint): string => value.toString(16).toUpperCase().padStart(16, '0')
const hex32 = (value: number): string => (value >>> 0).toString(16).toUpperCase().padStart(8, '0')
const pad = (value: number, width: number): string => value.toString().padStart(width, ' ')

function popCount64(word: bigint): number {
  let count = 0
  for (const half of [Number(word & 0xffff_ffffn), Number(word >> 32n)]) {
    for (let rest = half | 0; rest !== 0; rest &= rest - 1) count++
  }
  return count
}
