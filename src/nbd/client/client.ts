// An NBD client as a pure state machine: for tests, benches and tools of our own. Bytes in (`onData`), bytes out (through
// the same output as the server's session), and one completion for each command; many commands may be in flight.
// Source: doc/proto.md, sections "Transmission" and "Structured reply types".
//
//   expect         what comes next                                      then
//   greeting       18 bytes                                             option-reply
//   option-reply   20 bytes of header and its data                      option-reply, export-name, reply
//   export-name    10 bytes (134 with zeroes)                           reply
//   reply          header of a simple reply or a chunk                  data, payload, reply
//   payload        of a chunk without data of a read                    reply
//   data           of a read                                            reply
//   nothing        failed or closed

import { assert } from '../../base/assert.ts'
import { ReceiveBuffer } from '../../base/receive-buffer.ts'
import { KIB, MIB } from '../../base/units.ts'
import { readU16, readU32, readU64 } from '../../wire/nbd/bytes.ts'
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_CACHE,
  NBD_CMD_DISC,
  NBD_CMD_FLAG_FAST_ZERO,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_NO_HOLE,
  NBD_CMD_FLAG_REQ_ONE,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE_BLOCK_STATUS,
  NBD_REPLY_TYPE_FLAG_ERROR,
  NBD_REPLY_TYPE_NONE,
  NBD_REPLY_TYPE_OFFSET_DATA,
  NBD_REPLY_TYPE_OFFSET_HOLE,
} from '../../wire/nbd/constants.ts'
import {
  decodeGreeting,
  decodeOptionReplyHeader,
  GREETING_BYTES,
  OPTION_REPLY_HEADER_BYTES,
  type OptionReplyHeader,
} from '../../wire/nbd/handshake.ts'
import {
  decodeBlockStatus,
  decodeErrorPayload,
  emptyReplyHeader,
  OFFSET_HOLE_PAYLOAD_BYTES,
  REQUEST_BYTES,
  type ReplyHeader,
  readReplyHeader,
  replyHeaderBytes,
  type StatusExtent,
  writeRequest,
} from '../../wire/nbd/transmission.ts'
import { Gather } from '../gather.ts'
import type { NbdOutput } from '../session.ts'
import { type NbdClientError, NbdCommandError, NbdDisconnectedError, NbdProtocolError } from './errors.ts'
import { ClientNegotiation, type ClientNegotiationStep, type NbdExportInfo } from './negotiation.ts'

export interface NbdClientResult {
  /** Of a read: all of it; may be a view of a received chunk. */
  readonly data?: Uint8Array
  /** Of BLOCK_STATUS. */
  readonly extents?: readonly StatusExtent[]
}

export type NbdClientDone = (error: NbdClientError | undefined, result: NbdClientResult) => void

export interface NbdClientOptions {
  readonly exportName: string
  readonly out: NbdOutput
  /** Transmission begins. */
  onReady(info: Readonly<NbdExportInfo>): void
  /** The client is at its end: refused, broken or disconnected. Every command in flight has been completed before. */
  onFailed(error: NbdClientError): void
  /** Default true. */
  readonly structuredReplies?: boolean
  /** Use EXPORT_NAME instead of GO. Default false. */
  readonly oldExportName?: boolean
  readonly allocate?: (lengthBytes: number) => Uint8Array
}

/** A command in flight. */
interface Command {
  readonly type: number
  readonly offsetBytes: number
  readonly lengthBytes: number
  readonly done: NbdClientDone
  /** Of a read: the data, once some has come, and how many bytes of it. */
  data: Uint8Array | undefined
  receivedBytes: number
  extents: readonly StatusExtent[] | undefined
  error: NbdCommandError | undefined
}

type Expect = 'greeting' | 'option-reply' | 'export-name' | 'reply' | 'payload' | 'data' | 'nothing'

const OPTION_REPLY_BYTES_MAX = 64 * KIB
/** Of a chunk that is not data. */
const PAYLOAD_BYTES_MAX = 32 * MIB
const DIRECT_READ_BYTES_MIN = 64 * KIB

export class NbdClient {
  readonly #out: NbdOutput
  readonly #options: NbdClientOptions
  readonly #allocate: (lengthBytes: number) => Uint8Array
  readonly #input = new ReceiveBuffer()
  readonly #gather = new Gather()
  readonly #negotiation: ClientNegotiation
  readonly #commands = new Map<number, Command>()
  readonly #reply: ReplyHeader = emptyReplyHeader()
  #expect: Expect = 'greeting'
  #optionReply: OptionReplyHeader | undefined
  /** The command whose data or payload is expected. */
  #command: Command | undefined
  /** Of `data`: the place in the command's data where the next byte goes, and where this piece of data ends. */
  #dataAt = 0
  #dataEnd = 0
  /** Whether the last `target` was the place of a read. */
  #direct = false
  #nextCookie = 0
  #ready = false
  #flushAnnounced = false

  constructor(options: NbdClientOptions) {
    this.#options = options
    this.#out = options.out
    this.#allocate = options.allocate ?? ((lengthBytes) => new Uint8Array(lengthBytes))
    this.#negotiation = new ClientNegotiation(
      {
        exportName: options.exportName,
        structuredReplies: options.structuredReplies ?? true,
        oldExportName: options.oldExportName ?? false,
      },
      (bytes) => this.#gather.append(bytes),
    )
  }

  get inFlight(): number {
    return this.#commands.size
  }

  // ---- commands -----------------------------------------------------------------------------------------------------

  read(offsetBytes: number, lengthBytes: number, done: NbdClientDone): void {
    this.command(NBD_CMD_READ, 0, offsetBytes, lengthBytes, done)
  }

  /** `data` must not change before `done`. */
  write(offsetBytes: number, data: Uint8Array, fua: boolean, done: NbdClientDone): void {
    this.command(NBD_CMD_WRITE, fua ? NBD_CMD_FLAG_FUA : 0, offsetBytes, data.length, done, data)
  }

  flush(done: NbdClientDone): void {
    this.command(NBD_CMD_FLUSH, 0, 0, 0, done)
  }

  trim(offsetBytes: number, lengthBytes: number, fua: boolean, done: NbdClientDone): void {
    this.command(NBD_CMD_TRIM, fua ? NBD_CMD_FLAG_FUA : 0, offsetBytes, lengthBytes, done)
  }

  writeZeroes(
    offsetBytes: number,
    lengthBytes: number,
    how: { readonly fua?: boolean; readonly noHole?: boolean; readonly fastZero?: boolean },
    done: NbdClientDone,
  ): void {
    const flags =
      (how.fua === true ? NBD_CMD_FLAG_FUA : 0) |
      (how.noHole === true ? NBD_CMD_FLAG_NO_HOLE : 0) |
      (how.fastZero === true ? NBD_CMD_FLAG_FAST_ZERO : 0)
    this.command(NBD_CMD_WRITE_ZEROES, flags, offsetBytes, lengthBytes, done)
  }

  cache(offsetBytes: number, lengthBytes: number, done: NbdClientDone): void {
    this.command(NBD_CMD_CACHE, 0, offsetBytes, lengthBytes, done)
  }

  blockStatus(offsetBytes: number, lengthBytes: number, one: boolean, done: NbdClientDone): void {
    this.command(NBD_CMD_BLOCK_STATUS, one ? NBD_CMD_FLAG_REQ_ONE : 0, offsetBytes, lengthBytes, done)
  }

  /** Any command, also one that the server will refuse: for tests. */
  command(
    type: number,
    flags: number,
    offsetBytes: number,
    lengthBytes: number,
    done: NbdClientDone,
    payload?: Uint8Array,
  ): void {
    if (!this.#ready) {
      done(new NbdDisconnectedError('not connected'), {})
      return
    }
    const cookieLow = this.#nextCookie
    this.#nextCookie = (this.#nextCookie + 1) % 0x1_0000_0000
    this.#commands.set(cookieLow, {
      type,
      offsetBytes,
      lengthBytes,
      done,
      data: undefined,
      receivedBytes: 0,
      extents: undefined,
      error: undefined,
    })
    this.#appendRequest(type, flags, cookieLow, offsetBytes, lengthBytes)
    if (payload !== undefined) this.#gather.append(payload)
    this.#announce()
  }

  /** Tells the server that no more will come, and closes. Commands in flight fail. */
  disconnect(): void {
    if (this.#ready) this.#appendRequest(NBD_CMD_DISC, 0, 0, 0, 0)
    this.#fail(new NbdDisconnectedError('disconnected'))
  }

  // ---- input --------------------------------------------------------------------------------------------------------

  /** Received bytes; they are copied. */
  onData(chunk: Uint8Array): void {
    if (this.#expect === 'nothing') return
    this.#input.push(chunk)
    this.#pump()
  }

  /** Where the next received bytes may be put: the place of a large read, or the input buffer. Then call `onFilled`. */
  target(): Uint8Array {
    const missing = this.#expect === 'data' && this.#input.lengthBytes === 0 ? this.#dataEnd - this.#dataAt : 0
    this.#direct = missing >= DIRECT_READ_BYTES_MIN
    return this.#direct ? this.#dataOf(this.#current()).subarray(this.#dataAt, this.#dataEnd) : this.#input.room()
  }

  /** So many bytes were put at the beginning of what the last `target` gave. */
  onFilled(lengthBytes: number): void {
    if (this.#expect === 'nothing') return
    if (this.#direct) {
      this.#dataAt += lengthBytes
      this.#current().receivedBytes += lengthBytes
    } else this.#input.filled(lengthBytes)
    this.#pump()
  }

  /** The connection is gone. */
  onClose(reason: string): void {
    this.#fail(new NbdDisconnectedError(reason))
  }

  flushOutput(): void {
    this.#flushAnnounced = false
    if (this.#gather.lengthBytes > 0) this.#out.send(this.#gather.take())
  }

  #pump(): void {
    while (this.#step());
    this.#announce()
  }

  #step(): boolean {
    switch (this.#expect) {
      case 'greeting': {
        if (this.#input.lengthBytes < GREETING_BYTES) return false
        const { at, bytes } = this.#input
        this.#input.consume(GREETING_BYTES)
        this.#expect = 'option-reply'
        return this.#follow(this.#negotiation.onGreeting(decodeGreeting(bytes, at)))
      }
      case 'option-reply':
        return this.#onOptionReply()
      case 'export-name': {
        if (this.#input.lengthBytes < this.#negotiation.exportNameReplyBytes) return false
        const { at, bytes } = this.#input
        this.#input.consume(this.#negotiation.exportNameReplyBytes)
        this.#negotiation.onExportNameReply(readU64(bytes, at), readU16(bytes, at + 8))
        return this.#follow('done')
      }
      case 'reply':
        return this.#onReplyHeader()
      case 'payload':
        return this.#onPayload()
      case 'data':
        return this.#onReadData()
      case 'nothing':
        return false
    }
  }

  #onOptionReply(): boolean {
    if (this.#optionReply === undefined) {
      if (this.#input.lengthBytes < OPTION_REPLY_HEADER_BYTES) return false
      const { at, bytes } = this.#input
      this.#input.consume(OPTION_REPLY_HEADER_BYTES)
      this.#optionReply = decodeOptionReplyHeader(bytes, at)
      if (this.#optionReply === undefined) return this.#broken('an option reply without its magic number')
    }
    const header = this.#optionReply
    if (header.lengthBytes > OPTION_REPLY_BYTES_MAX)
      return this.#broken(`an option reply of ${header.lengthBytes} bytes`)
    if (this.#input.lengthBytes < header.lengthBytes) return false
    this.#optionReply = undefined
    return this.#follow(this.#negotiation.onReply(header, this.#take(header.lengthBytes)))
  }

  #follow(step: ClientNegotiationStep): boolean {
    if (step === 'go on') return true
    if (step === 'export-name') {
      this.#expect = 'export-name'
      return true
    }
    if (step === 'done') {
      this.#expect = 'reply'
      this.#ready = true
      this.#options.onReady(this.#negotiation.info)
      return true
    }
    this.#fail(step)
    return false
  }

  #onReplyHeader(): boolean {
    if (this.#input.lengthBytes < 4) return false
    const { at, bytes } = this.#input
    const magic = readU32(bytes, at)
    const headerBytes = replyHeaderBytes(magic)
    if (headerBytes === undefined) return this.#broken(`a reply that begins with 0x${magic.toString(16)}`)
    if (this.#input.lengthBytes < headerBytes) return false
    this.#input.consume(headerBytes)
    const reply = this.#reply
    readReplyHeader(bytes, at, reply)
    const command = reply.cookieHigh === 0 ? this.#commands.get(reply.cookieLow) : undefined
    if (command === undefined) return this.#broken('a reply to a request that was not sent')
    this.#command = command
    return reply.structured ? this.#onChunkHeader(command) : this.#onSimpleReply(command)
  }

  #onSimpleReply(command: Command): boolean {
    if (this.#reply.error !== 0) command.error = new NbdCommandError(this.#reply.error, '')
    else if (command.type === NBD_CMD_READ) {
      if (this.#negotiation.info.structuredReplies) return this.#broken('a simple reply to a read')
      return this.#expectData(command, 0, command.lengthBytes)
    }
    return this.#endOfReply(command)
  }

  #onChunkHeader(command: Command): boolean {
    const { type, payloadBytes } = this.#reply
    if (!this.#negotiation.info.structuredReplies) return this.#broken('a structured reply that was not agreed')
    if (type === NBD_REPLY_TYPE_NONE) {
      return payloadBytes === 0 ? this.#endOfReply(command) : this.#broken('an empty chunk that is not empty')
    }
    if (type !== NBD_REPLY_TYPE_OFFSET_DATA) {
      if (payloadBytes > PAYLOAD_BYTES_MAX) return this.#broken(`a chunk of ${payloadBytes} bytes`)
      this.#expect = 'payload'
      return true
    }
    if (command.type !== NBD_CMD_READ || payloadBytes < 9) return this.#broken('a data chunk that does not fit')
    this.#dataEnd = payloadBytes - 8 // known to be data only; the place comes next
    this.#expect = 'payload'
    return true
  }

  #onPayload(): boolean {
    const command = this.#current()
    const { type, payloadBytes } = this.#reply
    if (type === NBD_REPLY_TYPE_OFFSET_DATA) {
      if (this.#input.lengthBytes < 8) return false
      const { at, bytes } = this.#input
      this.#input.consume(8)
      const offsetBytes = readU64(bytes, at)
      return this.#expectData(command, offsetBytes - command.offsetBytes, payloadBytes - 8)
    }
    if (this.#input.lengthBytes < payloadBytes) return false
    const payload = this.#take(payloadBytes)
    if (type >= NBD_REPLY_TYPE_FLAG_ERROR) {
      const error = decodeErrorPayload(type, payload)
      if (error === undefined) return this.#broken('an error chunk that does not fit')
      command.error ??= new NbdCommandError(error.error, error.message)
      return this.#endOfReply(command)
    }
    if (type === NBD_REPLY_TYPE_OFFSET_HOLE) return this.#onHole(command, payload)
    if (type === NBD_REPLY_TYPE_BLOCK_STATUS && command.type === NBD_CMD_BLOCK_STATUS) {
      const status = decodeBlockStatus(payload)
      if (status === undefined) return this.#broken('a block status that does not fit')
      if (status.contextId === this.#negotiation.info.allocationContextId) command.extents = status.extents
      return this.#endOfReply(command)
    }
    return this.#broken(`a chunk of type ${type} for command ${command.type}`)
  }

  #onHole(command: Command, payload: Uint8Array): boolean {
    if (command.type !== NBD_CMD_READ || payload.length !== OFFSET_HOLE_PAYLOAD_BYTES) {
      return this.#broken('a hole that does not fit')
    }
    const from = readU64(payload, 0) - command.offsetBytes
    const lengthBytes = readU32(payload, 8)
    if (from < 0 || from + lengthBytes > command.lengthBytes) return this.#broken('a hole outside of the read')
    this.#dataOf(command).fill(0, from, from + lengthBytes)
    command.receivedBytes += lengthBytes
    return this.#endOfReply(command)
  }

  #expectData(command: Command, from: number, lengthBytes: number): boolean {
    if (from < 0 || from + lengthBytes > command.lengthBytes) return this.#broken('data outside of the read')
    this.#dataAt = from
    this.#dataEnd = from + lengthBytes
    this.#expect = 'data'
    return true
  }

  #onReadData(): boolean {
    const command = this.#current()
    const missing = this.#dataEnd - this.#dataAt
    if (missing > 0) {
      if (this.#input.lengthBytes === 0) return false
      const copied = this.#input.moveInto(this.#dataOf(command).subarray(0, this.#dataEnd), this.#dataAt)
      this.#dataAt += copied
      command.receivedBytes += copied
      if (this.#dataAt < this.#dataEnd) return false
    }
    return this.#endOfReply(command)
  }

  /** The chunk is complete; with the flag DONE (and a simple reply has it) also the command. */
  #endOfReply(command: Command): boolean {
    this.#command = undefined
    this.#expect = 'reply'
    if ((this.#reply.flags & NBD_REPLY_FLAG_DONE) === 0) return true
    if (command.error === undefined && command.type === NBD_CMD_READ && command.receivedBytes !== command.lengthBytes) {
      return this.#broken(`a read of ${command.lengthBytes} bytes was answered with ${command.receivedBytes}`)
    }
    this.#commands.delete(this.#reply.cookieLow)
    command.done(command.error, resultOf(command))
    return true
  }

  #take(lengthBytes: number): Uint8Array {
    const taken = new Uint8Array(lengthBytes)
    this.#input.moveInto(taken, 0)
    return taken
  }

  #dataOf(command: Command): Uint8Array {
    command.data ??= this.#allocate(command.lengthBytes)
    return command.data
  }

  #current(): Command {
    assert(this.#command !== undefined, 'a reply to no command')
    return this.#command
  }

  // ---- output and end -----------------------------------------------------------------------------------------------

  #appendRequest(type: number, flags: number, cookieLow: number, offsetBytes: number, lengthBytes: number): void {
    const at = this.#gather.reserve(REQUEST_BYTES)
    writeRequest(this.#gather.slab, at, { flags, type, cookieHigh: 0, cookieLow, offsetBytes, lengthBytes })
  }

  #announce(): void {
    if (this.#flushAnnounced || this.#gather.lengthBytes === 0) return
    this.#flushAnnounced = true
    this.#out.wantsFlush()
  }

  #broken(what: string): false {
    this.#fail(new NbdProtocolError(`the server sent ${what}`))
    return false
  }

  #fail(error: NbdClientError): void {
    if (this.#expect === 'nothing') return
    this.#expect = 'nothing'
    this.#ready = false
    this.flushOutput()
    this.#out.close()
    this.#input.consume(this.#input.lengthBytes)
    const commands = [...this.#commands.values()]
    this.#commands.clear()
    for (const command of commands) command.done(error, {})
    this.#options.onFailed(error)
  }
}

function resultOf(command: Command): NbdClientResult {
  if (command.error !== undefined) return {}
  if (command.type === NBD_CMD_READ) return { data: command.data ?? new Uint8Array(0) }
  if (command.extents !== undefined) return { extents: command.extents }
  return {}
}
