// One NBD session as a pure state machine: bytes in; bytes, requests and close out. Nothing waits inside: the owner
// pushes received chunks (`onData`), the export calls back when a request is done, replies are gathered and leave when
// the owner's turn ends (`flushOutput`).
//
//   expect         what comes next                       then
//   client-flags   u32                                   option
//   option         16 bytes of header                    option-data, option-skip
//   option-data    data of the option                    option, request (GO, EXPORT_NAME), nothing (ABORT)
//   option-skip    too much data of an option            option
//   request        28 bytes of header                    request, payload, payload-skip, nothing (DISC)
//   payload        payload of a write                    request
//   payload-skip   payload of a refused write            request
//   nothing        input is dropped; the session ends when its requests are done
//
// Back-pressure: `#hasRoom` decides before each option and request. If there is no room the session leaves received
// bytes in its queue and `wantsData` is false; the owner stops reading from the socket.
// Source: doc/proto.md of the NBD project.

import { assert } from '../base/assert.ts'
import { BufferPool } from '../base/buffer-pool.ts'
import { ReceiveBuffer } from '../base/receive-buffer.ts'
import { KIB } from '../base/units.ts'
import { readU32 } from '../wire/nbd/bytes.ts'
import {
  NBD_CMD_DISC,
  NBD_CMD_WRITE,
  NBD_ESHUTDOWN,
  NBD_FLAG_C_FIXED_NEWSTYLE,
  NBD_FLAG_C_NO_ZEROES,
  NBD_FLAG_FIXED_NEWSTYLE,
  NBD_FLAG_NO_ZEROES,
} from '../wire/nbd/constants.ts'
import { CLIENT_FLAGS_BYTES, decodeOptionHeader, encodeGreeting, OPTION_HEADER_BYTES } from '../wire/nbd/handshake.ts'
import { emptyRequestHeader, REQUEST_BYTES, type RequestHeader, readRequest } from '../wire/nbd/transmission.ts'
import type { NbdExports } from './exports.ts'
import { Gather } from './gather.ts'
import { type NbdLimits, nbdLimits } from './limits.ts'
import { Negotiation, type NegotiationStep } from './negotiation.ts'
import { checkRequest, type RequestFault } from './requests.ts'
import { type Slot, Transmission, type TransmissionCounters } from './transmission.ts'

/** The socket as a session sees it. */
export interface NbdOutput {
  /** Queues bytes in order; the chunks must not change until they are gone. */
  send(chunks: readonly Uint8Array[]): void
  /** Bytes queued by `send` and not yet handed to the operating system. */
  readonly queuedBytes: number
  /** There is something to send: call `flushOutput()` when this turn ends. Not called again before that. */
  wantsFlush(): void
  /** Sends what is queued, then closes. No further call comes. */
  close(): void
}

export interface NbdSessionOptions {
  readonly exports: NbdExports
  readonly out: NbdOutput
  readonly limits?: Partial<NbdLimits>
  /** Memory for payloads of writes. */
  readonly buffers?: BufferPool
}

export interface NbdSessionStatus {
  readonly phase: 'negotiation' | 'transmission' | 'closed'
  /** Canonical name; undefined before transmission. */
  readonly exportName: string | undefined
  readonly structuredReplies: boolean
  readonly requestsInFlight: number
  readonly bytesInFlight: number
  readonly counters: Readonly<TransmissionCounters>
  /** Why the session ended, if it was not by agreement. */
  readonly closeReason: string | undefined
}

type Expect =
  | 'client-flags'
  | 'option'
  | 'option-data'
  | 'option-skip'
  | 'request'
  | 'payload'
  | 'payload-skip'
  | 'nothing'

const SHUTTING_DOWN: RequestFault = { error: NBD_ESHUTDOWN, text: 'the server is shutting down' }
/** From this size on the rest of a payload is worth a read of its own into its place. */
const DIRECT_READ_BYTES_MIN = 64 * KIB
const NO_COUNTERS: TransmissionCounters = {
  reads: 0,
  writes: 0,
  flushes: 0,
  zeroes: 0,
  others: 0,
  errors: 0,
  readBytes: 0,
  writtenBytes: 0,
}

export class NbdSession {
  readonly #exports: NbdExports
  readonly #out: NbdOutput
  readonly #limits: NbdLimits
  readonly #buffers: BufferPool
  readonly #input = new ReceiveBuffer()
  readonly #gather = new Gather()
  readonly #request: RequestHeader = emptyRequestHeader()
  #expect: Expect = 'client-flags'
  #negotiation: Negotiation | undefined
  #transmission: Transmission | undefined
  /** The option whose data is expected. */
  #option = { option: 0, lengthBytes: 0 }
  /** Of `option-skip` and `payload-skip`: bytes still to come, and the answer to a refused write. */
  #skipBytes = 0
  #refused: { cookieHigh: number; cookieLow: number; fault: RequestFault } | undefined
  /** The write whose payload is expected, its memory once that was needed, and how much of it is filled. */
  #writing: Slot | undefined
  #payload: Uint8Array | undefined
  #payloadBytes = 0
  /** Whether the last `target` was the place of a payload. */
  #direct = false
  #pumping = false
  #flushAnnounced = false
  /** The client will send no more. */
  #inputEnded = false
  #shuttingDown = false
  /** `out.close` was called, or the client is gone: nothing is sent any more. */
  #ended = false
  /** The export was told that the session is over. */
  #exportClosed = false
  #closeReason: string | undefined

  constructor(options: NbdSessionOptions) {
    this.#exports = options.exports
    this.#out = options.out
    this.#limits = nbdLimits(options.limits)
    this.#buffers = options.buffers ?? new BufferPool(0)
  }

  /** Greets the client: in NBD the server speaks first. */
  start(): void {
    this.#gather.append(encodeGreeting(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES))
    this.#announce()
  }

  /** Received bytes; they are copied. */
  onData(chunk: Uint8Array): void {
    if (this.#expect === 'nothing') return
    this.#input.push(chunk)
    this.#pump()
  }

  /** Where the next received bytes may be put: the place of a large payload, or the input buffer. Then call `onFilled`. */
  target(): Uint8Array {
    const payload = this.#payloadInPlace()
    this.#direct = payload !== undefined
    return payload ?? this.#input.room()
  }

  /** So many bytes were put at the beginning of what the last `target` gave. */
  onFilled(lengthBytes: number): void {
    if (this.#expect === 'nothing') return
    if (this.#direct) this.#payloadBytes += lengthBytes
    else this.#input.filled(lengthBytes)
    this.#pump()
  }

  #payloadInPlace(): Uint8Array | undefined {
    const slot = this.#writing
    if (slot === undefined || this.#input.lengthBytes > 0) return undefined
    if (slot.lengthBytes - this.#payloadBytes < DIRECT_READ_BYTES_MIN) return undefined
    this.#payload ??= this.#buffers.take(slot.lengthBytes)
    return this.#payload.subarray(this.#payloadBytes)
  }

  /** The client will send no more: what it asked for is still answered, as after DISC. */
  onEnd(): void {
    if (this.#expect === 'nothing') return
    this.#inputEnded = true
    this.#pump()
  }

  /** The connection is gone. Requests in flight complete without an answer. */
  onClose(): void {
    this.#ended = true
    this.#stopInput()
    this.#transmission?.mute()
    this.#tellExport()
  }

  /** There may be room again: the output was sent, or the export admits requests again. */
  resume(): void {
    if (this.#out.queuedBytes === 0 && this.#gather.lengthBytes === 0) this.#transmission?.onAllSent()
    this.#pump()
  }

  /** From now on requests are answered with ESHUTDOWN; the session closes when those in flight are done. */
  shutDown(): void {
    if (this.#ended || this.#shuttingDown) return
    this.#shuttingDown = true
    this.#closeReason = SHUTTING_DOWN.text
    this.#pump()
  }

  /** Sends all that was gathered. */
  flushOutput(): void {
    this.#flushAnnounced = false
    if (this.#gather.lengthBytes === 0) return
    const chunks = this.#gather.take()
    if (!this.#ended) this.#out.send(chunks)
  }

  /** Whether the owner shall read from the socket. Never false for good: it turns true when requests are done. */
  get wantsData(): boolean {
    switch (this.#expect) {
      case 'nothing':
        return false
      case 'payload':
      case 'payload-skip':
      case 'option-data':
      case 'option-skip':
        return true // has its place already
      default:
        return this.#hasRoom()
    }
  }

  get status(): NbdSessionStatus {
    const transmission = this.#transmission
    return {
      phase: this.#ended ? 'closed' : transmission === undefined ? 'negotiation' : 'transmission',
      exportName: transmission?.agreement.export.name,
      structuredReplies: transmission?.agreement.structuredReplies ?? false,
      requestsInFlight: transmission?.inFlight ?? 0,
      bytesInFlight: transmission?.inFlightBytes ?? 0,
      counters: transmission?.counters ?? NO_COUNTERS,
      closeReason: this.#closeReason,
    }
  }

  // ---- input --------------------------------------------------------------------------------------------------------

  /** Works through the input as far as bytes and room reach. One loop at a time: a completion inside it changes nothing. */
  #pump(): void {
    if (this.#pumping) return
    this.#pumping = true
    while (this.#step());
    this.#pumping = false
    if (this.#inputEnded) this.#stopAtInputEnd()
    this.#endIfDone()
    this.#announce()
  }

  /** No more will come: if the loop stopped for want of bytes, not of room, that was all. */
  #stopAtInputEnd(): void {
    if (this.#expect === 'nothing') return
    if (!this.wantsData && this.#input.lengthBytes >= REQUEST_BYTES) return
    this.#closeReason ??= 'the client closed its stream'
    this.#stopInput()
  }

  /** One item of the input; false if it needs more bytes or room. */
  #step(): boolean {
    switch (this.#expect) {
      case 'client-flags':
        return this.#onClientFlags()
      case 'option':
        return this.#onOptionHeader()
      case 'option-data':
        return this.#onOptionData()
      case 'request':
        return this.#onRequest()
      case 'payload':
        return this.#onPayload()
      case 'option-skip':
      case 'payload-skip':
        return this.#onSkip()
      case 'nothing':
        return false
    }
  }

  #hasRoom(): boolean {
    const queuedBytes = this.#out.queuedBytes + this.#gather.lengthBytes
    const transmission = this.#transmission
    if (transmission === undefined) return queuedBytes < this.#limits.bytesMax
    if (!this.#shuttingDown && !transmission.agreement.export.admits) return false
    if (transmission.inFlight === 0 && queuedBytes === 0) return true // no limit may stop the only request
    if (transmission.inFlight >= this.#limits.requestsMax) return false
    return transmission.inFlightBytes + queuedBytes < this.#limits.bytesMax
  }

  #onClientFlags(): boolean {
    if (this.#input.lengthBytes < CLIENT_FLAGS_BYTES) return false
    const { at } = this.#input
    this.#input.consume(CLIENT_FLAGS_BYTES)
    const flags = readU32(this.#input.bytes, at)
    if ((flags & ~(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES)) !== 0) {
      return this.#fail(`unknown client flags 0x${flags.toString(16)}`)
    }
    const noZeroes = (flags & NBD_FLAG_C_NO_ZEROES) !== 0
    this.#negotiation = new Negotiation({ exports: this.#exports, gather: this.#gather, noZeroes })
    this.#expect = 'option'
    return true
  }

  #onOptionHeader(): boolean {
    if (this.#input.lengthBytes < OPTION_HEADER_BYTES || !this.#hasRoom()) return false
    const { at } = this.#input
    this.#input.consume(OPTION_HEADER_BYTES)
    const header = decodeOptionHeader(this.#input.bytes, at)
    if (header === undefined) return this.#fail('an option without its magic number')
    this.#option = header
    if (header.lengthBytes <= this.#limits.optionBytesMax) {
      this.#expect = 'option-data'
      return true
    }
    if (header.lengthBytes > this.#limits.optionSkipBytesMax) {
      return this.#fail(`option ${header.option} with ${header.lengthBytes} bytes of data`)
    }
    this.#expect = 'option-skip'
    this.#skipBytes = header.lengthBytes
    return true
  }

  #onOptionData(): boolean {
    if (this.#input.lengthBytes < this.#option.lengthBytes) return false
    const data = new Uint8Array(this.#option.lengthBytes)
    this.#input.moveInto(data, 0)
    return this.#follow(this.#negotiating().onOption(this.#option.option, data))
  }

  /** What follows from an option. */
  #follow(step: NegotiationStep): boolean {
    if (step === 'go on') {
      this.#expect = 'option'
      return true
    }
    if (step === 'client left') {
      this.#stopInput() // the end comes when the requests in flight are done
      return false
    }
    if ('refuse' in step) return this.#fail(step.refuse)
    this.#transmission = new Transmission({
      agreement: step,
      gather: this.#gather,
      limits: this.#limits,
      buffers: this.#buffers,
      onSettled: () => this.#onSettled(),
    })
    this.#negotiation = undefined
    this.#expect = 'request'
    return true
  }

  #onRequest(): boolean {
    if (this.#input.lengthBytes < REQUEST_BYTES || !this.#hasRoom()) return false
    const request = this.#request
    const { at } = this.#input
    this.#input.consume(REQUEST_BYTES)
    if (!readRequest(this.#input.bytes, at, request)) return this.#fail('a request without its magic number')
    if (request.type === NBD_CMD_DISC) {
      this.#stopInput() // the end comes when the requests in flight are done
      return false
    }
    const transmission = this.#transmitting()
    const fault = this.#shuttingDown ? SHUTTING_DOWN : checkRequest(request, transmission.agreement)
    if (request.type === NBD_CMD_WRITE) return this.#onWrite(request, fault)
    if (fault !== undefined) transmission.replyFault(request, fault)
    else transmission.start(request)
    return true
  }

  /** A WRITE has payload, also if it is refused. */
  #onWrite(request: RequestHeader, fault: RequestFault | undefined): boolean {
    if (fault === undefined) {
      this.#writing = this.#transmitting().beginWrite(request)
      this.#payload = undefined
      this.#payloadBytes = 0
      this.#expect = 'payload'
      return true
    }
    if (request.lengthBytes > this.#limits.payloadSkipBytesMax) {
      return this.#fail(`a write of ${request.lengthBytes} bytes: ${fault.text}`)
    }
    this.#refused = { cookieHigh: request.cookieHigh, cookieLow: request.cookieLow, fault }
    this.#skipBytes = request.lengthBytes
    this.#expect = 'payload-skip'
    return true
  }

  #onPayload(): boolean {
    const slot = this.#writing
    assert(slot !== undefined, 'payload without a write')
    if (this.#payload === undefined && this.#input.lengthBytes === 0 && slot.lengthBytes > 0) return false
    this.#payload ??= this.#buffers.take(slot.lengthBytes)
    const data = this.#payload
    this.#payloadBytes += this.#input.moveInto(data, this.#payloadBytes)
    if (this.#payloadBytes < data.length) return false
    this.#writing = undefined
    this.#payload = undefined
    this.#expect = 'request'
    this.#transmitting().submitWrite(slot, data)
    return true
  }

  #onSkip(): boolean {
    const lengthBytes = Math.min(this.#skipBytes, this.#input.lengthBytes)
    this.#input.consume(lengthBytes)
    this.#skipBytes -= lengthBytes
    if (this.#skipBytes > 0) return false
    if (this.#expect === 'option-skip') {
      return this.#follow(this.#negotiating().onOversizedOption(this.#option.option, this.#option.lengthBytes))
    }
    const refused = this.#refused
    assert(refused !== undefined, 'skipped the payload of no write')
    this.#refused = undefined
    this.#expect = 'request'
    this.#transmitting().replyFault(refused, refused.fault)
    return true
  }

  // ---- completions and the end --------------------------------------------------------------------------------------

  #onSettled(): void {
    if (this.#ended) this.#tellExport()
    else this.#pump()
  }

  #announce(): void {
    if (this.#flushAnnounced || this.#ended || this.#gather.lengthBytes === 0) return
    this.#flushAnnounced = true
    this.#out.wantsFlush()
  }

  /** The soft end: after ABORT, DISC, the end of the client's stream or a shut-down, once nothing is in flight. */
  #endIfDone(): void {
    if (this.#ended || !(this.#shuttingDown || this.#expect === 'nothing')) return
    const waiting = this.#writing === undefined ? 0 : 1 // its payload may never come
    if (this.#transmission !== undefined && this.#transmission.inFlight > waiting) return
    this.#end()
  }

  /** Hard end, after something that the specification forbids. */
  #fail(reason: string): false {
    this.#closeReason = reason
    this.#transmission?.mute()
    this.#end()
    return false
  }

  #end(): void {
    this.#stopInput()
    this.flushOutput()
    this.#ended = true
    this.#out.close()
    this.#tellExport()
  }

  #stopInput(): void {
    this.#expect = 'nothing'
    this.#input.consume(this.#input.lengthBytes)
    this.#payload = undefined
    if (this.#writing !== undefined) this.#transmission?.abandonWrite(this.#writing)
    this.#writing = undefined
  }

  #tellExport(): void {
    const transmission = this.#transmission
    if (transmission === undefined || transmission.inFlight > 0 || this.#exportClosed) return
    this.#exportClosed = true
    transmission.agreement.export.closed()
  }

  #negotiating(): Negotiation {
    assert(this.#negotiation !== undefined, 'an option outside of negotiation')
    return this.#negotiation
  }

  #transmitting(): Transmission {
    assert(this.#transmission !== undefined, 'a request outside of transmission')
    return this.#transmission
  }
}
