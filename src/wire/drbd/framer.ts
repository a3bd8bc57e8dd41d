// Splits one received stream into packets (wire-protocol.md section 2; header layouts in codec.ts). Pull-based: each `next`
// reads one packet under the context that is in force at that moment, because the handshake changes header form, features and
// digest size between one packet and the next.
//
// The announced length is checked before anything is waited for. Nothing of a packet is consumed before all of it has been
// accepted: after an error every further `next` gives the same error.

import { BadFieldError } from '../fields.ts'
import { ChunkQueue } from './chunk-queue.ts'
import { decodePacket, type PacketSource } from './codec.ts'
import { headerBytes, MAGIC_H80, MAGIC_H95, MAGIC_H100 } from './constants.ts'
import { FrameTooLargeError, WrongLengthError, WrongMagicError } from './errors.ts'
import { type LengthBounds, lengthBounds, type PacketEntry, type WireContext } from './packet.ts'
import { type Packet, packetEntryOf } from './packets.ts'

export { BadFieldError, FrameTooLargeError, WrongLengthError, WrongMagicError } from './errors.ts'

export class Framer {
  readonly #queue = new ChunkQueue()
  readonly #frame = new Frame(this.#queue)
  #context: WireContext
  /** Bounds under `#context`, as far as they were needed. */
  readonly #bounds = new Map<PacketEntry, LengthBounds>()
  /** Whether `#frame` describes the header at the front of the queue. */
  #headerRead = false
  /** What is left of the payload of an unknown packet. */
  #skipBytes = 0

  constructor(context: WireContext) {
    this.#context = context
  }

  /** Holds for every packet that `next` has not returned yet. */
  setContext(context: WireContext): void {
    this.#context = context
    this.#bounds.clear()
    this.#headerRead = false
  }

  /** The chunk belongs to the framer from now on, and to the packets that it returns: payloads are views of it. */
  push(chunk: Uint8Array): void {
    this.#queue.push(chunk)
  }

  get bufferedBytes(): number {
    return this.#queue.bufferedBytes
  }

  /** The next packet; undefined if it has not been received completely. An unknown one is returned at its header. */
  next(): Packet | undefined {
    if (this.#skipBytes > 0) this.#skip()
    const frame = this.#frame
    if (!this.#headerRead) {
      if (!frame.readHeader(this.#context.apv)) return undefined
      if (frame.entry !== undefined) this.#checkLength(frame.entry, frame.lengthBytes)
      this.#headerRead = true
    }
    const { entry, lengthBytes } = frame
    if (entry === undefined) {
      this.#headerRead = false
      this.#queue.consume(frame.headerBytes)
      this.#skipBytes = lengthBytes
      return { type: 'unknown', volume: frame.volume, command: frame.command, lengthBytes }
    }
    const packetBytes = frame.headerBytes + lengthBytes
    if (this.#queue.bufferedBytes < packetBytes) return undefined
    frame.locateFixed(this.#boundsOf(entry).fixedBytes)
    const packet = decodePacket(entry, frame, this.#context)
    this.#headerRead = false
    this.#queue.consume(packetBytes)
    return packet
  }

  #skip(): void {
    const bytes = Math.min(this.#skipBytes, this.#queue.bufferedBytes)
    this.#queue.consume(bytes)
    this.#skipBytes -= bytes
  }

  #checkLength(entry: PacketEntry, lengthBytes: number): void {
    const { lengthBytesMin, lengthBytesMax, baseBytes, multipleOf } = this.#boundsOf(entry)
    const packet = entry.type
    if (lengthBytesMin === lengthBytesMax) {
      if (lengthBytes === lengthBytesMin) return
      throw new WrongLengthError({ packet, lengthBytes, expected: `${lengthBytesMin}` })
    }
    if (lengthBytes > lengthBytesMax) throw new FrameTooLargeError({ packet, lengthBytes, lengthBytesMax })
    if (lengthBytes < lengthBytesMin) {
      throw new WrongLengthError({ packet, lengthBytes, expected: `at least ${lengthBytesMin}` })
    }
    if ((lengthBytes - baseBytes) % multipleOf !== 0) {
      throw new WrongLengthError({ packet, lengthBytes, expected: `${baseBytes} and a multiple of ${multipleOf}` })
    }
  }

  #boundsOf(entry: PacketEntry): LengthBounds {
    let bounds = this.#bounds.get(entry)
    if (bounds === undefined) {
      bounds = lengthBounds(entry, this.#context)
      this.#bounds.set(entry, bounds)
    }
    return bounds
  }
}

/** The packet at the front of the queue. One object for all packets of a stream. */
class Frame implements PacketSource {
  readonly #queue: ChunkQueue
  headerBytes = 0
  volume = 0
  command = 0
  lengthBytes = 0
  entry: PacketEntry | undefined
  fixedView: DataView
  fixedAt = 0

  constructor(queue: ChunkQueue) {
    this.#queue = queue
    this.fixedView = queue.view
  }

  /** False if there is no complete header yet. */
  readHeader(apv: number): boolean {
    const queue = this.#queue
    this.headerBytes = headerBytes(apv)
    if (queue.bufferedBytes < this.headerBytes) return false
    queue.locate(0, this.headerBytes)
    if (this.headerBytes === 16) this.#readLongHeader(queue.view, queue.viewAt, apv)
    else this.#readShortHeader(queue.view, queue.viewAt, apv)
    this.entry = packetEntryOf(this.command)
    return true
  }

  locateFixed(fixedBytes: number): void {
    this.#queue.locate(this.headerBytes, fixedBytes)
    this.fixedView = this.#queue.view
    this.fixedAt = this.#queue.viewAt
  }

  bodyBytes(offsetBytes: number, lengthBytes: number): Uint8Array {
    return this.#queue.bytes(this.headerBytes + offsetBytes, lengthBytes)
  }

  #readLongHeader(view: DataView, at: number, apv: number): void {
    const magic = view.getUint32(at)
    if (magic !== MAGIC_H100) throw new WrongMagicError({ magic, apv })
    const pad = view.getUint32(at + 12)
    if (pad !== 0) throw new BadFieldError({ field: 'header.pad', problem: `${pad} is not 0` })
    this.volume = view.getUint16(at + 4)
    this.command = view.getUint16(at + 6)
    this.lengthBytes = view.getUint32(at + 8)
  }

  #readShortHeader(view: DataView, at: number, apv: number): void {
    const magic = view.getUint32(at)
    this.volume = 0
    if (magic === MAGIC_H80) {
      this.command = view.getUint16(at + 4)
      this.lengthBytes = view.getUint16(at + 6)
    } else if (magic >>> 16 === MAGIC_H95) {
      this.command = magic & 0xffff
      this.lengthBytes = view.getUint32(at + 4)
    } else {
      throw new WrongMagicError({ magic, apv })
    }
  }
}
