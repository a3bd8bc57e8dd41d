// An NBD export in memory, for tests of the NBD session, server and client. Completions are scheduled by the test: at
// once, later, or one by one by hand in any order.

import assert from 'node:assert/strict'
import type { NbdExport, NbdExportRefusal, NbdExports, NbdExtent } from '../../src/nbd/exports.ts'
import type { ClientDone, ClientError, ClientRequest } from '../../src/runtime/api.ts'

const SECTOR_BYTES = 512
const BLOCK_BYTES = 4096

/** The disk itself, shared by all who have the export open. */
export class MemoryDisk {
  readonly bytes: Uint8Array
  /** Blocks of 4 KiB that were written and not zeroed with `unmap` since. */
  readonly #allocated: Uint8Array
  /** All requests, in the order of their submission. */
  readonly requests: ClientRequest[] = []
  readonly waiting: { request: ClientRequest; done: ClientDone; fail: ClientError | undefined }[] = []
  /** Error for the next request of this type. */
  readonly failures = new Map<ClientRequest['type'], ClientError>()
  /** How a completion is run; undefined: the test calls `complete`. */
  schedule: ((run: () => void) => void) | undefined
  /** Which of so many waiting requests a scheduled completion takes: the oldest, unless the test wants another order. */
  pick: (count: number) => number = () => 0
  /** Reads are answered in pieces of at most this size. */
  pieceBytesMax = 64 * 1024
  admits = true
  readOnly = false
  openCount = 0

  constructor(sizeBytes: number, schedule?: (run: () => void) => void) {
    assert.equal(sizeBytes % SECTOR_BYTES, 0)
    this.bytes = new Uint8Array(sizeBytes)
    this.#allocated = new Uint8Array(Math.ceil(sizeBytes / BLOCK_BYTES))
    this.schedule = schedule
  }

  submit(request: ClientRequest, done: ClientDone): void {
    this.requests.push(request)
    const fail = this.failures.get(request.type)
    this.failures.delete(request.type)
    this.waiting.push({ request, done, fail })
    this.schedule?.(() => this.complete(this.pick(this.waiting.length)))
  }

  /** Completes a waiting request: the oldest or the one at `index`. */
  complete(index = 0, dataUnused?: boolean): void {
    const [waiting] = this.waiting.splice(index, 1)
    assert.ok(waiting, 'nothing to complete')
    if (waiting.fail !== undefined) waiting.done(waiting.fail)
    else waiting.done(undefined, this.#run(waiting.request), dataUnused)
  }

  completeAll(): void {
    while (this.waiting.length > 0) this.complete()
  }

  extents(offsetBytes: number, lengthBytes: number, extentsMax: number): NbdExtent[] {
    const extents: NbdExtent[] = []
    let at = offsetBytes
    while (at < offsetBytes + lengthBytes && extents.length < extentsMax) {
      const hole = this.#allocated[Math.floor(at / BLOCK_BYTES)] === 0
      let end = at
      while (end < this.bytes.length && (this.#allocated[Math.floor(end / BLOCK_BYTES)] === 0) === hole) {
        end = Math.min(this.bytes.length, end - (end % BLOCK_BYTES) + BLOCK_BYTES)
      }
      extents.push({ lengthBytes: end - at, hole })
      at = end
    }
    return extents
  }

  #run(request: ClientRequest): readonly Uint8Array[] | undefined {
    if (request.type === 'flush') return undefined
    const from = request.sector * SECTOR_BYTES
    const lengthBytes = request.type === 'write' ? request.data.length : request.sectors * SECTOR_BYTES
    assert.ok(from + lengthBytes <= this.bytes.length, 'the session let a request beyond the end pass')
    if (request.type === 'read') return this.#read(from, lengthBytes)
    if (request.type === 'write') this.bytes.set(request.data, from)
    else this.bytes.fill(0, from, from + lengthBytes)
    for (let at = from; at < from + lengthBytes; at += SECTOR_BYTES) {
      const block = Math.floor(at / BLOCK_BYTES)
      const whole = block * BLOCK_BYTES >= from && (block + 1) * BLOCK_BYTES <= from + lengthBytes
      if (request.type === 'write' || !request.unmap) this.#allocated[block] = 1
      else if (whole) this.#allocated[block] = 0
    }
    return undefined
  }

  #read(from: number, lengthBytes: number): Uint8Array[] {
    const pieces: Uint8Array[] = []
    for (let at = from; at < from + lengthBytes; at += this.pieceBytesMax) {
      pieces.push(this.bytes.slice(at, Math.min(at + this.pieceBytesMax, from + lengthBytes)))
    }
    return pieces
  }
}

export class MemoryExport implements NbdExport {
  readonly volume = 0
  readonly blockSize = { minimum: 512, preferred: 4096, maximum: 32 * 1024 * 1024 }
  readonly name: string
  readonly description: string
  readonly disk: MemoryDisk

  constructor(name: string, description: string, disk: MemoryDisk) {
    this.name = name
    this.description = description
    this.disk = disk
    disk.openCount += 1
  }

  get sizeBytes(): number {
    return this.disk.bytes.length
  }

  get readOnly(): boolean {
    return this.disk.readOnly
  }

  get admits(): boolean {
    return this.disk.admits
  }

  submit(request: ClientRequest, done: ClientDone): void {
    this.disk.submit(request, done)
  }

  extents(offsetBytes: number, lengthBytes: number, extentsMax: number): NbdExtent[] {
    return this.disk.extents(offsetBytes, lengthBytes, extentsMax)
  }

  closed(): void {
    this.disk.openCount -= 1
  }
}

/** Exports by name; the first is also the default export. */
export class MemoryExports implements NbdExports {
  readonly disks = new Map<string, MemoryDisk>()
  readonly refusals = new Map<string, NbdExportRefusal>()

  constructor(disks: Readonly<Record<string, MemoryDisk>>) {
    for (const [name, disk] of Object.entries(disks)) this.disks.set(name, disk)
  }

  list(): { name: string; description: string }[] {
    return [...this.disks.keys()].map((name) => ({ name, description: describe(name) }))
  }

  open(name: string): NbdExport | NbdExportRefusal {
    const refusal = this.refusals.get(name)
    if (refusal !== undefined) return refusal
    const canonical = name === '' ? [...this.disks.keys()][0] : name
    const disk = canonical === undefined ? undefined : this.disks.get(canonical)
    if (canonical === undefined || disk === undefined) return { refused: 'unknown', text: `no export '${name}'` }
    return new MemoryExport(canonical, describe(canonical), disk)
  }
}

const describe = (name: string): string => `memory disk ${name}`
