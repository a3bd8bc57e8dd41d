// The heart of the product: every 4 KiB block that differs between the two disks is under a bit of the bitmap, or an
// extent of the activity log, of at least one host - at every instant, and as the *disks* have it, since a host may crash
// at every instant and then knows nothing else. (A bit that is only in memory counts as long as its extent stands in the
// log on disk, which is exactly what the log is for; so memory need not be asked.)
//
// `check` is called after every step. It looks only at blocks that changed since the last call, and decodes metadata only
// when they changed; `checkPowerCut` asks in addition what would be left if the power failed now, on either or both hosts.

import type { Prng } from '../../base/prng.ts'
import { BLOCK_BYTES, SECTOR_BYTES } from '../../base/units.ts'
import { sameBytes } from '../bytes.ts'
import type { SimDiskImage } from '../disk-image.ts'
import { internalDataBytes, type ReadImage, type RecoveredBitmap, readRecoveredBitmap } from './recovered-bitmap.ts'

interface Side {
  readonly name: string
  readonly image: SimDiskImage
  recovered: RecoveredBitmap | undefined
  metadataChanged: boolean
}

export class OutOfSyncInvariant {
  readonly #sides: readonly [Side, Side]
  readonly #dataBytes: number
  readonly #changed = new Set<number>()
  readonly #differing = new Set<number>()

  constructor(a: { name: string; image: SimDiskImage }, b: { name: string; image: SimDiskImage }) {
    const side = (of: { name: string; image: SimDiskImage }): Side => ({
      ...of,
      recovered: undefined,
      metadataChanged: true,
    })
    this.#sides = [side(a), side(b)]
    this.#dataBytes = Math.min(internalDataBytes(a.image.sizeBytes), internalDataBytes(b.image.sizeBytes))
    for (const each of this.#sides) {
      each.image.onChange = (offsetBytes, lengthBytes) => this.#onChange(each, offsetBytes, lengthBytes)
      for (const page of each.image.pageNumbers()) this.#onChange(each, page * BLOCK_BYTES, BLOCK_BYTES)
    }
  }

  /** Blocks whose content differs at present. */
  get differingBlocks(): number {
    this.#compareChanged()
    return this.#differing.size
  }

  /** A message if the invariant is broken. */
  check(): string | undefined {
    const fresh = this.#compareChanged()
    let suspects: Iterable<number> = fresh
    for (const side of this.#sides) {
      if (!side.metadataChanged || this.#differing.size === 0) continue
      side.recovered = readRecoveredBitmap(readerOf(side.image), side.image.sizeBytes)
      side.metadataChanged = false
      suspects = this.#differing
    }
    const [a, b] = this.#sides
    for (const block of suspects) {
      if (!isCovered(block, a.recovered, b.recovered)) return complaint(block, 'after a crash now')
    }
    return undefined
  }

  /** The same for a power cut of both hosts now: the content of the caches is drawn with `prng`, nothing is changed. */
  checkPowerCut(prng: Prng): string | undefined {
    this.#compareChanged()
    const [a, b] = this.#sides
    const cut = prng.intInclusive(1, 3)
    const lostA = (cut & 1) !== 0 ? a.image.afterPowerCut(prng) : new Map<number, Uint8Array>()
    const lostB = (cut & 2) !== 0 ? b.image.afterPowerCut(prng) : new Map<number, Uint8Array>()
    const readA = overlaid(a.image, lostA)
    const readB = overlaid(b.image, lostB)
    const recoveredA = readRecoveredBitmap(readA, a.image.sizeBytes)
    const recoveredB = readRecoveredBitmap(readB, b.image.sizeBytes)
    const suspects = new Set<number>()
    for (const block of this.#differing) if (!isCovered(block, recoveredA, recoveredB)) suspects.add(block)
    for (const lost of [lostA, lostB]) {
      for (const sector of lost.keys()) {
        const block = Math.floor((sector * SECTOR_BYTES) / BLOCK_BYTES)
        if (block * BLOCK_BYTES < this.#dataBytes && !isCovered(block, recoveredA, recoveredB)) suspects.add(block)
      }
    }
    // The comparison comes last, because it costs most.
    const which = cut === 3 ? 'both hosts' : `host ${cut === 1 ? a.name : b.name}`
    for (const block of suspects) {
      if (!this.#isEqual(block, readA, readB)) return complaint(block, `after a power cut of ${which} now`)
    }
    return undefined
  }

  #onChange(side: Side, offsetBytes: number, lengthBytes: number): void {
    const end = offsetBytes + lengthBytes
    if (end > this.#dataBytes) side.metadataChanged = true
    for (let at = offsetBytes - (offsetBytes % BLOCK_BYTES); at < end && at < this.#dataBytes; at += BLOCK_BYTES) {
      this.#changed.add(at / BLOCK_BYTES)
    }
  }

  /** Brings `differing` up to date and returns the blocks that differ among those that changed. */
  #compareChanged(): number[] {
    const fresh: number[] = []
    if (this.#changed.size === 0) return fresh
    const [a, b] = this.#sides
    for (const block of this.#changed) {
      if (this.#isEqualNow(block, a.image.page(block), b.image.page(block))) this.#differing.delete(block)
      else {
        this.#differing.add(block)
        fresh.push(block)
      }
    }
    this.#changed.clear()
    return fresh
  }

  #isEqualNow(block: number, inA: Uint8Array | undefined, inB: Uint8Array | undefined): boolean {
    const lengthBytes = Math.min(BLOCK_BYTES, this.#dataBytes - block * BLOCK_BYTES)
    return sameBytes(inA ?? ZERO_BLOCK, inB ?? ZERO_BLOCK, lengthBytes)
  }

  #isEqual(block: number, readA: ReadImage, readB: ReadImage): boolean {
    const offsetBytes = block * BLOCK_BYTES
    const lengthBytes = Math.min(BLOCK_BYTES, this.#dataBytes - offsetBytes)
    return sameBytes(readA(offsetBytes, lengthBytes), readB(offsetBytes, lengthBytes), lengthBytes)
  }
}

/** A block is a page of an image. */
const ZERO_BLOCK = new Uint8Array(BLOCK_BYTES)

const readerOf =
  (image: SimDiskImage): ReadImage =>
  (offsetBytes, lengthBytes) =>
    image.read(offsetBytes, lengthBytes)

function overlaid(image: SimDiskImage, sectors: ReadonlyMap<number, Uint8Array>): ReadImage {
  return (offsetBytes, lengthBytes) => {
    const bytes = image.read(offsetBytes, lengthBytes)
    for (let at = 0; at < lengthBytes; at += SECTOR_BYTES) {
      const sector = sectors.get((offsetBytes + at) / SECTOR_BYTES)
      if (sector !== undefined) bytes.set(sector, at)
    }
    return bytes
  }
}

function isCovered(block: number, a: RecoveredBitmap | undefined, b: RecoveredBitmap | undefined): boolean {
  // Without usable metadata on a host it is resynchronised as a whole, or not attached at all.
  if (a === undefined || b === undefined || a.all || b.all) return true
  return block >= Math.min(a.blocks, b.blocks) || a.covers(block) || b.covers(block)
}

const complaint = (block: number, when: string): string => `block ${block} differs, and ${when} neither host would know`
