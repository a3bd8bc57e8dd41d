// The transmission phase of one session: checked requests become requests of the export, completions become replies in
// the gather, in the order in which they complete. Source: doc/proto.md, sections "Transmission" and "Request types".

import { assert } from '../base/assert.ts'
import type { BufferPool } from '../base/buffer-pool.ts'
import { SECTOR_BYTES } from '../base/units.ts'
import type { ClientDone, ClientError, ClientRequest } from '../runtime/api.ts'
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_CACHE,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_NO_HOLE,
  NBD_CMD_FLAG_REQ_ONE,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
  NBD_EINVAL,
  NBD_EIO,
  NBD_ENOSPC,
  NBD_EPERM,
  NBD_ESHUTDOWN,
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE_BLOCK_STATUS,
  NBD_REPLY_TYPE_ERROR,
  NBD_REPLY_TYPE_NONE,
  NBD_STATE_HOLE,
  NBD_STATE_ZERO,
  NBD_SUCCESS,
} from '../wire/nbd/constants.ts'
import { encodeText } from '../wire/nbd/handshake.ts'
import {
  CHUNK_HEADER_BYTES,
  type ChunkKind,
  type Cookie,
  encodeBlockStatus,
  encodeErrorPayload,
  OFFSET_DATA_HEADER_BYTES,
  type RequestHeader,
  SIMPLE_REPLY_BYTES,
  type StatusExtent,
  writeChunkHeader,
  writeOffsetDataHeader,
  writeSimpleReply,
} from '../wire/nbd/transmission.ts'
import type { NbdExport, NbdExtent } from './exports.ts'
import type { Gather } from './gather.ts'
import type { NbdLimits } from './limits.ts'
import { type Agreement, BASE_ALLOCATION_ID } from './negotiation.ts'
import type { RequestFault } from './requests.ts'

/** Counters since the session began, for status. */
export interface TransmissionCounters {
  reads: number
  writes: number
  flushes: number
  /** TRIM and WRITE_ZEROES. */
  zeroes: number
  /** CACHE and BLOCK_STATUS. */
  others: number
  /** Requests answered with an error. */
  errors: number
  readBytes: number
  writtenBytes: number
}

/**
 * One request in flight. Slots are used again, and with them the closure that the export calls: a request costs neither.
 */
export interface Slot extends Cookie {
  cookieHigh: number
  cookieLow: number
  flags: number
  type: number
  offsetBytes: number
  lengthBytes: number
  /** Of TRIM and WRITE_ZEROES: how much has been submitted so far. */
  submittedBytes: number
  /** Of WRITE. */
  data: Uint8Array | undefined
  active: boolean
  readonly done: ClientDone
}

const ERROR_DONE: ChunkKind = { flags: NBD_REPLY_FLAG_DONE, type: NBD_REPLY_TYPE_ERROR }
const STATUS_DONE: ChunkKind = { flags: NBD_REPLY_FLAG_DONE, type: NBD_REPLY_TYPE_BLOCK_STATUS }
const NONE_DONE: ChunkKind = { flags: NBD_REPLY_FLAG_DONE, type: NBD_REPLY_TYPE_NONE }
/** Buffers that are remembered until they have been sent; a client that never lets the queue run dry gets fresh ones. */
const SENT_DATA_MAX = 1024
/** Characters of an error message that go to the client. */
const MESSAGE_CHARACTERS_MAX = 1000

export class Transmission {
  readonly agreement: Agreement
  readonly counters: TransmissionCounters = {
    reads: 0,
    writes: 0,
    flushes: 0,
    zeroes: 0,
    others: 0,
    errors: 0,
    readBytes: 0,
    writtenBytes: 0,
  }
  readonly #export: NbdExport
  readonly #structured: boolean
  readonly #gather: Gather
  readonly #limits: NbdLimits
  readonly #buffers: BufferPool
  readonly #onSettled: () => void
  readonly #freeSlots: Slot[] = []
  /** Slots in use, and the bytes of data that they hold or will hold. */
  #inFlight = 0
  #inFlightBytes = 0
  /** The client is gone: completions are counted, not answered. */
  #muted = false
  /** Data of reads, since everything was last sent. */
  #sentData: Uint8Array[] = []

  /** `onSettled` is called after each completion, its reply being in the gather. */
  constructor(options: {
    agreement: Agreement
    gather: Gather
    limits: NbdLimits
    buffers: BufferPool
    onSettled: () => void
  }) {
    this.agreement = options.agreement
    this.#export = options.agreement.export
    this.#structured = options.agreement.structuredReplies
    this.#gather = options.gather
    this.#limits = options.limits
    this.#buffers = options.buffers
    this.#onSettled = options.onSettled
  }

  get inFlight(): number {
    return this.#inFlight
  }

  get inFlightBytes(): number {
    return this.#inFlightBytes
  }

  mute(): void {
    this.#muted = true
  }

  /** Nothing of what was gathered waits to be sent any more. */
  onAllSent(): void {
    for (const data of this.#sentData) this.#buffers.give(data)
    this.#sentData.length = 0
  }

  /** Serves a request that passed the checks and is not a WRITE. */
  start(request: Readonly<RequestHeader>): void {
    switch (request.type) {
      case NBD_CMD_READ:
        this.counters.reads += 1
        if (request.lengthBytes === 0) this.#replyEmptyRead(request)
        else this.#submitRead(this.#take(request))
        break
      case NBD_CMD_FLUSH:
        this.counters.flushes += 1
        this.#submit({ type: 'flush', volume: this.#export.volume }, this.#take(request))
        break
      case NBD_CMD_TRIM:
      case NBD_CMD_WRITE_ZEROES:
        this.counters.zeroes += 1
        if (request.lengthBytes === 0) this.replySuccess(request)
        else this.#submitZero(this.#take(request))
        break
      case NBD_CMD_CACHE: // a hint, and the operating system caches by itself
        this.counters.others += 1
        this.replySuccess(request)
        break
      default:
        assert(request.type === NBD_CMD_BLOCK_STATUS, `command ${request.type} passed the checks`)
        this.counters.others += 1
        this.#replyBlockStatus(request)
    }
  }

  /** Takes a place for a WRITE whose payload is on its way. */
  beginWrite(request: Readonly<RequestHeader>): Slot {
    this.counters.writes += 1
    return this.#take(request)
  }

  submitWrite(slot: Slot, data: Uint8Array): void {
    assert(data.length === slot.lengthBytes, `${data.length} bytes of payload for a write of ${slot.lengthBytes}`)
    this.counters.writtenBytes += data.length
    if (data.length === 0) {
      this.#settle(slot, undefined)
      return
    }
    const sector = slot.offsetBytes / SECTOR_BYTES
    const fua = (slot.flags & NBD_CMD_FLAG_FUA) !== 0
    slot.data = data
    this.#submit({ type: 'write', volume: this.#export.volume, sector, data, fua }, slot)
  }

  /** The payload of a WRITE will not come any more. */
  abandonWrite(slot: Slot): void {
    this.#release(slot)
  }

  replySuccess(cookie: Cookie): void {
    const at = this.#gather.reserve(SIMPLE_REPLY_BYTES)
    writeSimpleReply(this.#gather.slab, at, cookie, NBD_SUCCESS)
  }

  replyFault(cookie: Cookie, fault: RequestFault): void {
    this.counters.errors += 1
    if (!this.#structured) {
      const at = this.#gather.reserve(SIMPLE_REPLY_BYTES)
      writeSimpleReply(this.#gather.slab, at, cookie, fault.error)
      return
    }
    const payload = encodeErrorPayload(fault.error, encodeText(fault.text.slice(0, MESSAGE_CHARACTERS_MAX)))
    this.#replyChunk(cookie, ERROR_DONE, payload)
  }

  #submitRead(slot: Slot): void {
    const sector = slot.offsetBytes / SECTOR_BYTES
    const sectors = slot.lengthBytes / SECTOR_BYTES
    this.#submit({ type: 'read', volume: this.#export.volume, sector, sectors }, slot)
  }

  /** TRIM and WRITE_ZEROES know no largest block: piece by piece, so that one request does not fill the queue below. */
  #submitZero(slot: Slot): void {
    const offsetBytes = slot.offsetBytes + slot.submittedBytes
    const lengthBytes = Math.min(slot.lengthBytes - slot.submittedBytes, this.#export.blockSize.maximum)
    slot.submittedBytes += lengthBytes
    const request: ClientRequest = {
      type: 'zero',
      volume: this.#export.volume,
      sector: offsetBytes / SECTOR_BYTES,
      sectors: lengthBytes / SECTOR_BYTES,
      unmap: slot.type === NBD_CMD_TRIM || (slot.flags & NBD_CMD_FLAG_NO_HOLE) === 0,
      fua: (slot.flags & NBD_CMD_FLAG_FUA) !== 0,
    }
    this.#submit(request, slot)
  }

  #submit(request: ClientRequest, slot: Slot): void {
    this.#export.submit(request, slot.done)
  }

  #onDone(slot: Slot, error: ClientError | undefined, data?: readonly Uint8Array[], dataUnused?: boolean): void {
    assert(slot.active, 'a request was completed twice')
    if (slot.data !== undefined && dataUnused === true) this.#buffers.give(slot.data)
    slot.data = undefined
    const isZero = slot.type === NBD_CMD_TRIM || slot.type === NBD_CMD_WRITE_ZEROES
    if (isZero && error === undefined && slot.submittedBytes < slot.lengthBytes && !this.#muted) {
      this.#submitZero(slot)
    } else {
      this.#settle(slot, error, data)
    }
  }

  #settle(slot: Slot, error: ClientError | undefined, data?: readonly Uint8Array[]): void {
    if (!this.#muted) {
      if (error !== undefined) this.replyFault(slot, { error: errorNumber(error, slot.type), text: error.message })
      else if (slot.type === NBD_CMD_READ) this.#replyRead(slot, data ?? [])
      else this.replySuccess(slot)
    }
    this.#release(slot)
    this.#onSettled()
  }

  #replyRead(slot: Slot, pieces: readonly Uint8Array[]): void {
    let lengthBytes = 0
    for (const piece of pieces) lengthBytes += piece.length
    assert(lengthBytes === slot.lengthBytes, `a read of ${slot.lengthBytes} bytes was completed with ${lengthBytes}`)
    this.counters.readBytes += lengthBytes
    if (this.#structured) {
      // All the data is here, nothing can fail any more: one chunk, which is also the last.
      const at = this.#gather.reserve(OFFSET_DATA_HEADER_BYTES)
      writeOffsetDataHeader(this.#gather.slab, at, slot, slot.offsetBytes, lengthBytes)
    } else {
      this.replySuccess(slot)
    }
    for (const piece of pieces) {
      this.#gather.append(piece)
      if (this.#sentData.length < SENT_DATA_MAX) this.#sentData.push(piece)
    }
  }

  #replyEmptyRead(cookie: Cookie): void {
    if (this.#structured)
      this.#replyChunk(cookie, NONE_DONE, new Uint8Array(0)) // a data chunk must not be empty
    else this.replySuccess(cookie)
  }

  #replyBlockStatus(request: Readonly<RequestHeader>): void {
    const extentsMax = (request.flags & NBD_CMD_FLAG_REQ_ONE) !== 0 ? 1 : this.#limits.extentsMax
    const known = this.#export.extents(request.offsetBytes, request.lengthBytes, extentsMax)
    const payload = encodeBlockStatus(BASE_ALLOCATION_ID, statusExtents(known, request.lengthBytes, extentsMax))
    this.#replyChunk(request, STATUS_DONE, payload)
  }

  #replyChunk(cookie: Cookie, kind: ChunkKind, payload: Uint8Array): void {
    const at = this.#gather.reserve(CHUNK_HEADER_BYTES)
    writeChunkHeader(this.#gather.slab, at, cookie, kind, payload.length)
    this.#gather.append(payload)
  }

  #take(request: Readonly<RequestHeader>): Slot {
    const slot = this.#freeSlots.pop() ?? this.#newSlot()
    assert(!slot.active, 'a free slot is in use')
    slot.cookieHigh = request.cookieHigh
    slot.cookieLow = request.cookieLow
    slot.flags = request.flags
    slot.type = request.type
    slot.offsetBytes = request.offsetBytes
    slot.lengthBytes = request.lengthBytes
    slot.submittedBytes = 0
    slot.active = true
    this.#inFlight += 1
    this.#inFlightBytes += dataBytes(slot)
    return slot
  }

  #release(slot: Slot): void {
    slot.active = false
    this.#inFlight -= 1
    this.#inFlightBytes -= dataBytes(slot)
    this.#freeSlots.push(slot)
  }

  #newSlot(): Slot {
    const slot: Slot = {
      cookieHigh: 0,
      cookieLow: 0,
      flags: 0,
      type: 0,
      offsetBytes: 0,
      lengthBytes: 0,
      submittedBytes: 0,
      data: undefined,
      active: false,
      done: (error, data, dataUnused) => this.#onDone(slot, error, data, dataUnused),
    }
    return slot
  }
}

/** Memory that a request needs for data. */
const dataBytes = (slot: Slot): number =>
  slot.type === NBD_CMD_READ || slot.type === NBD_CMD_WRITE ? slot.lengthBytes : 0

/** Neighbours of one state joined, cut at the end of the request; never empty, since a reply has at least one extent. */
function statusExtents(known: readonly NbdExtent[], lengthBytes: number, extentsMax: number): StatusExtent[] {
  const extents: { lengthBytes: number; status: number }[] = []
  let left = lengthBytes
  for (const extent of known) {
    const status = extent.hole ? NBD_STATE_HOLE | NBD_STATE_ZERO : 0
    const step = Math.min(extent.lengthBytes, left)
    if (step <= 0) continue
    const last = extents.at(-1)
    if (last !== undefined && last.status === status) last.lengthBytes += step
    else if (extents.length < extentsMax) extents.push({ lengthBytes: step, status })
    else break
    left -= step
  }
  if (extents.length === 0) extents.push({ lengthBytes, status: 0 }) // "data" may be said of anything
  return extents
}

function errorNumber(error: ClientError, command: number): number {
  switch (error.code) {
    case 'io':
      return NBD_EIO
    case 'no-space':
      return NBD_ENOSPC
    case 'out-of-range':
      return command === NBD_CMD_WRITE || command === NBD_CMD_WRITE_ZEROES ? NBD_ENOSPC : NBD_EINVAL
    case 'not-primary':
      return NBD_EPERM
    case 'shutting-down':
      return NBD_ESHUTDOWN
  }
}
