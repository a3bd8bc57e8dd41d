// The content of a simulated disk, as two layers:
//
//   visible   what a read returns: durable content plus the writes still in the volatile cache
//   dirty     for each sector with unflushed writes: what was durable before them, and every version written since
//
// A flush makes the versions up to a point durable. A power cut picks, sector by sector, one of the durable version and
// the versions written since: so writes are lost, torn and reordered in any combination a real cache allows. Pages that
// nothing was ever written to do not exist: they read as zeroes and are holes.

import { assert } from '../base/assert.ts'
import type { Prng } from '../base/prng.ts'
import { alignDown, SECTOR_BYTES } from '../base/units.ts'

export const PAGE_BYTES = 4096
const ZERO_PAGE: Uint8Array = new Uint8Array(PAGE_BYTES)
const ZERO_SECTOR = ZERO_PAGE.subarray(0, SECTOR_BYTES)

/** Versions of one sector that the cache holds at most; the oldest is destaged when a further one comes. */
const VERSIONS_MAX = 8

interface Version {
  /** Number of the write that made this version. */
  readonly sequence: number
  readonly bytes: Uint8Array
}

interface DirtySector {
  /** The durable content. */
  base: Uint8Array
  /** Oldest first, never empty; the last one is the visible content. */
  versions: Version[]
}

export class SimDiskImage {
  readonly sizeBytes: number
  readonly #pages = new Map<number, Uint8Array>()
  readonly #dirty = new Map<number, DirtySector>()
  #sequence = 0
  /** Called after the visible content of a range changed. */
  onChange: (offsetBytes: number, lengthBytes: number) => void = () => {}

  constructor(sizeBytes: number) {
    this.sizeBytes = alignDown(sizeBytes, SECTOR_BYTES)
  }

  /** Another disk with the same content, all of it durable. */
  copy(): SimDiskImage {
    const copy = new SimDiskImage(this.sizeBytes)
    for (const [number, page] of this.#pages) copy.#pages.set(number, page.slice())
    return copy
  }

  /** Number of the last write: a flush submitted now covers the writes up to it. */
  get sequence(): number {
    return this.#sequence
  }

  get dirtySectors(): number {
    return this.#dirty.size
  }

  /** Visible content, in a buffer of its own. */
  read(offsetBytes: number, lengthBytes: number): Uint8Array {
    const bytes = new Uint8Array(lengthBytes)
    let done = 0
    while (done < lengthBytes) {
      const at = offsetBytes + done
      const within = at % PAGE_BYTES
      const take = Math.min(PAGE_BYTES - within, lengthBytes - done)
      const page = this.#pages.get((at - within) / PAGE_BYTES)
      if (page !== undefined) bytes.set(page.subarray(within, within + take), done)
      done += take
    }
    return bytes
  }

  /** Writes whole sectors into the cache. */
  write(offsetBytes: number, data: Uint8Array): void {
    this.#checkRange(offsetBytes, data.length)
    const copy = data.slice()
    const sequence = ++this.#sequence
    for (let at = 0; at < copy.length; ) {
      const take = Math.min(PAGE_BYTES - ((offsetBytes + at) % PAGE_BYTES), copy.length - at)
      this.#putPart(offsetBytes + at, sequence, copy.subarray(at, at + take))
      at += take
    }
    this.onChange(offsetBytes, copy.length)
  }

  /** Zeroes whole sectors; `unmap` makes holes of the pages that it covers completely. */
  zero(offsetBytes: number, lengthBytes: number, unmap: boolean): void {
    this.#checkRange(offsetBytes, lengthBytes)
    const sequence = ++this.#sequence
    for (let at = offsetBytes; at < offsetBytes + lengthBytes; ) {
      const take = Math.min(PAGE_BYTES - (at % PAGE_BYTES), offsetBytes + lengthBytes - at)
      if (!unmap || this.#pages.has(Math.floor(at / PAGE_BYTES)))
        this.#putPart(at, sequence, ZERO_PAGE.subarray(0, take))
      at += take
    }
    if (unmap) {
      const end = offsetBytes + lengthBytes
      for (let page = Math.ceil(offsetBytes / PAGE_BYTES); (page + 1) * PAGE_BYTES <= end; page++) {
        this.#pages.delete(page)
      }
    }
    this.onChange(offsetBytes, lengthBytes)
  }

  /** The writes numbered up to `sequence` are durable from now on. */
  flush(sequence: number): void {
    for (const [sector, dirty] of this.#dirty) {
      let covered = 0
      while (covered < dirty.versions.length && (dirty.versions[covered] as Version).sequence <= sequence) covered++
      if (covered === 0) continue
      if (covered === dirty.versions.length) this.#dirty.delete(sector)
      else {
        dirty.base = (dirty.versions[covered - 1] as Version).bytes
        dirty.versions = dirty.versions.slice(covered)
      }
    }
  }

  /** Everything written so far is durable. */
  flushAll(): void {
    this.#dirty.clear()
  }

  /** Whether no page of the range exists. */
  isHole(offsetBytes: number, lengthBytes: number): boolean {
    for (let page = Math.floor(offsetBytes / PAGE_BYTES); page * PAGE_BYTES < offsetBytes + lengthBytes; page++) {
      if (this.#pages.has(page)) return false
    }
    return true
  }

  /** The visible content of a page, not to be changed; undefined: it does not exist, which reads as zeroes. */
  page(number: number): Uint8Array | undefined {
    return this.#pages.get(number)
  }

  /** Numbers of the pages that exist, ascending. */
  pageNumbers(): number[] {
    return [...this.#pages.keys()].sort((a, b) => a - b)
  }

  /**
   * What a power cut now would leave of the cache: for each sector whose content would differ from the visible one, its
   * content. Nothing is changed, so a checker may ask again and again.
   */
  afterPowerCut(prng: Prng): Map<number, Uint8Array> {
    const survivors = new Map<number, Uint8Array>()
    const pick = survivorPicker(prng)
    for (const [sector, dirty] of this.#dirty) {
      const kept = pick(dirty)
      if (kept !== (dirty.versions[dirty.versions.length - 1] as Version).bytes) survivors.set(sector, kept)
    }
    return survivors
  }

  /** Loses the cache. */
  powerCut(prng: Prng): void {
    const survivors = this.afterPowerCut(prng)
    this.#dirty.clear()
    for (const [sector, bytes] of survivors) {
      this.#store(sector * SECTOR_BYTES, bytes)
      this.onChange(sector * SECTOR_BYTES, SECTOR_BYTES)
    }
  }

  /** Another disk is put in the place of this one: nothing was ever written to it. */
  replace(): void {
    this.#dirty.clear()
    for (const page of this.pageNumbers()) {
      this.#pages.delete(page)
      this.onChange(page * PAGE_BYTES, PAGE_BYTES)
    }
  }

  /** Silent corruption: one bit of a sector that exists flips, in the cache and on the medium. False if all are holes. */
  rot(prng: Prng, offsetBytes: number, lengthBytes: number): boolean {
    this.#checkRange(offsetBytes, lengthBytes)
    const first = offsetBytes / SECTOR_BYTES
    const candidates: number[] = []
    for (let sector = first; sector < first + lengthBytes / SECTOR_BYTES; sector++) {
      if (this.#pages.has(Math.floor((sector * SECTOR_BYTES) / PAGE_BYTES))) candidates.push(sector)
    }
    if (candidates.length === 0) return false
    this.rotByte(prng, prng.pick(candidates) * SECTOR_BYTES + prng.intInclusive(0, SECTOR_BYTES - 1))
    return true
  }

  /** One bit of this byte flips, in the cache and on the medium. */
  rotByte(prng: Prng, offsetBytes: number): void {
    const sector = Math.floor(offsetBytes / SECTOR_BYTES)
    const bytes = this.read(sector * SECTOR_BYTES, SECTOR_BYTES)
    const at = offsetBytes % SECTOR_BYTES
    bytes[at] = (bytes[at] as number) ^ (1 << prng.intInclusive(0, 7))
    this.#dirty.delete(sector)
    this.#store(sector * SECTOR_BYTES, bytes)
    this.onChange(sector * SECTOR_BYTES, SECTOR_BYTES)
  }

  /** New content for a part of a page, not longer than the page; the buffer is the image's from now on. */
  #putPart(offsetBytes: number, sequence: number, bytes: Uint8Array): void {
    const within = offsetBytes % PAGE_BYTES
    const number = (offsetBytes - within) / PAGE_BYTES
    const before = this.#pages.get(number)
    for (let at = 0; at < bytes.length; at += SECTOR_BYTES) {
      const version = { sequence, bytes: bytes.subarray(at, at + SECTOR_BYTES) }
      const sector = (offsetBytes + at) / SECTOR_BYTES
      const dirty = this.#dirty.get(sector)
      if (dirty === undefined) {
        const base = before === undefined ? ZERO_SECTOR : before.subarray(within + at, within + at + SECTOR_BYTES)
        this.#dirty.set(sector, { base, versions: [version] })
      } else {
        if (dirty.versions.length === VERSIONS_MAX) dirty.base = (dirty.versions.shift() as Version).bytes
        dirty.versions.push(version)
      }
    }
    this.#store(offsetBytes, bytes)
  }

  /** A page is never changed, only replaced: what it held before may be the durable content of its sectors. */
  #store(offsetBytes: number, bytes: Uint8Array): void {
    const within = offsetBytes % PAGE_BYTES
    const number = (offsetBytes - within) / PAGE_BYTES
    let page = bytes
    if (bytes.length < PAGE_BYTES) {
      page = this.#pages.get(number)?.slice() ?? new Uint8Array(PAGE_BYTES)
      page.set(bytes, within)
    }
    this.#pages.set(number, page)
  }

  #checkRange(offsetBytes: number, lengthBytes: number): void {
    assert(
      offsetBytes % SECTOR_BYTES === 0 && lengthBytes % SECTOR_BYTES === 0 && offsetBytes >= 0,
      `range ${offsetBytes}+${lengthBytes} is not made of sectors`,
    )
    assert(offsetBytes + lengthBytes <= this.sizeBytes, `range ${offsetBytes}+${lengthBytes} beyond ${this.sizeBytes}`)
  }
}

/**
 * How a power cut treats the cache. Coins per sector alone would practically never lose exactly one whole write, which is
 * the case that ordering mistakes need; so the kind of loss is drawn first.
 */
function survivorPicker(prng: Prng): (dirty: DirtySector) => Uint8Array {
  const last = (dirty: DirtySector): Uint8Array => (dirty.versions[dirty.versions.length - 1] as Version).bytes
  const kind = prng.intInclusive(0, 5)
  if (kind === 0) return (dirty) => dirty.base
  if (kind === 1) return last
  if (kind === 2) {
    return (dirty) => {
      const at = prng.intInclusive(0, dirty.versions.length)
      return at === 0 ? dirty.base : (dirty.versions[at - 1] as Version).bytes
    }
  }
  // One coin for each write: whole writes survive or are lost. Kind 3: even odds; 4: few survive; 5: few are lost.
  const [numerator, denominator] = kind === 3 ? [1, 2] : kind === 4 ? [1, 10] : [9, 10]
  const coins = new Map<number, boolean>()
  return (dirty) => {
    let kept = dirty.base
    for (const version of dirty.versions) {
      let coin = coins.get(version.sequence)
      if (coin === undefined) {
        coin = prng.chance(numerator, denominator)
        coins.set(version.sequence, coin)
      }
      if (coin) kept = version.bytes
    }
    return kept
  }
}
