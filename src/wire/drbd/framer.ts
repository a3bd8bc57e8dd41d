// Splits one received stream into packets (wire-protocol.md section 2; header layouts in codec.ts). Pull-based: each `next`
// reads one packet under the context that is in force at that moment, because the handshake changes header form, features and
// digest size between one packet and the next.
//
// The announced length is checked before anything is waited for. Nothing of a packet is consumed before all of it has been
// accepted: after an error every further `next` gives the same error.
//
// Packets hold nothing of the receive buffer: payloads are copied out, into memory of the pool; the rest of a large one is
// received in its place (`target`), without a copy.

import { BufferPool } from '../../base/buffer-pool.ts'
import { ReceiveBuffer } from '../../base/receive-buffer.ts'
import { KIB } from '../../base/units.ts'
import { BadFieldError } from '../fields.ts'
import { decodePacket, type PacketSource } from './codec.ts'
import { headerBytes, MAGIC_H80, MAGIC_H95, MAGIC_H100 } from './constants.ts'
import { FrameTooLargeError, WrongLengthError, WrongMagicError } from './errors.ts'
import { type LengthBounds, lengthBounds, type PacketEntry, type WireContext } from './packet.ts'
import { type Packet, packetEntryOf } from './packets.ts'

export { BadFieldError, FrameTooLargeError, WrongLengthError, WrongMagicError } from './errors.ts'

/** From this size on the rest of a payload is worth a read of its own into its place. */
const DIRECT_BYTES_MIN = 64 * KIB
const EMPTY = new Uint8Array(0)

export class Framer {
  readonly #pool: BufferPool
  readonly #buffer = new ReceiveBuffer()
  readonly #frame: Frame
  #context: WireContext
  /** Bounds under `#context`, as far as they were needed. */
  readonly #bounds = new Map<PacketEntry, LengthBounds>()
  /** Whether `#frame` describes the header at the front of the buffer. */
  #headerRead = false
  /** The context under which that header was read. */
  #packetContext: WireContext
  /** What is left of the payload of an unknown packet. */
  #skipBytes = 0
  /** Whether the last `target` was the place of a payload. */
  #direct = false

  /** `pool`: for payloads of data packets; whoever used one last may give it back. */
  constructor(context: WireContext, pool = new BufferPool(0)) {
    this.#context = context
    this.#packetContext = context
    this.#pool = pool
    this.#frame = new Frame(this.#buffer, pool)
  }

  /** Holds from the next packet on; also for one that has begun, unless its payload is being received in its place. */
  setContext(context: WireContext): void {
    this.#context = context
    this.#bounds.clear()
    if (this.#frame.inPlace === undefined) this.#headerRead = false
  }

  /** Received bytes; they are copied. */
  push(chunk: Uint8Array): void {
    const payload = this.#frame.inPlace
    if (payload === undefined) {
      this.#buffer.push(chunk)
      return
    }
    const fillBytes = Math.min(payload.length - this.#frame.inPlaceBytes, chunk.length)
    payload.set(chunk.subarray(0, fillBytes), this.#frame.inPlaceBytes)
    this.#frame.inPlaceBytes += fillBytes
    if (fillBytes < chunk.length) this.#buffer.push(chunk.subarray(fillBytes))
  }

  /** Where the next received bytes may be put; then `filled` says how many. Never empty. */
  target(): Uint8Array {
    const payload = this.#payloadInPlace()
    this.#direct = payload !== undefined
    return payload?.subarray(this.#frame.inPlaceBytes) ?? this.#buffer.room()
  }

  /** So many bytes were put at the beginning of what the last `target` gave. */
  filled(lengthBytes: number): void {
    if (this.#direct) this.#frame.inPlaceBytes += lengthBytes
    else this.#buffer.filled(lengthBytes)
  }

  /** Received and not returned in a packet yet. */
  get bufferedBytes(): number {
    return this.#buffer.lengthBytes + this.#frame.inPlaceBytes
  }

  /** The next packet; undefined if it has not been received completely. An unknown one is returned at its header. */
  next(): Packet | undefined {
    if (this.#skipBytes > 0) this.#skip()
    const frame = this.#frame
    if (!this.#headerRead) {
      if (!frame.readHeader(this.#context.apv)) return undefined
      if (frame.entry !== undefined) this.#checkLength(frame.entry, frame.lengthBytes)
      this.#headerRead = true
      this.#packetContext = this.#context
    }
    const { entry, lengthBytes } = frame
    if (entry === undefined) {
      this.#headerRead = false
      this.#buffer.consume(frame.headerBytes)
      this.#skipBytes = lengthBytes
      return { type: 'unknown', volume: frame.volume, command: frame.command, lengthBytes }
    }
    const packetBytes = frame.headerBytes + lengthBytes
    if (this.bufferedBytes < packetBytes) return undefined
    const consumeBytes = packetBytes - frame.inPlaceBytes
    const packet = decodePacket(entry, frame, this.#packetContext)
    this.#headerRead = false
    frame.inPlace = undefined
    frame.inPlaceBytes = 0
    this.#buffer.consume(consumeBytes)
    return packet
  }

  /**
   * The payload of the packet at the front, if it is large and not all here: from now on it is received in its place. What
   * has been received of it is the end of the buffer.
   */
  #payloadInPlace(): Uint8Array | undefined {
    const frame = this.#frame
    if (frame.inPlace !== undefined) return frame.inPlaceBytes < frame.inPlace.length ? frame.inPlace : undefined
    if (!this.#headerRead || frame.entry?.fastLayout !== 'data') return undefined
    const headBytes = frame.headerBytes + this.#boundsOf(frame.entry).fixedBytes + this.#context.integrityBytes
    const payloadBytes = frame.headerBytes + frame.lengthBytes - headBytes
    const hereBytes = this.#buffer.lengthBytes - headBytes
    if (hereBytes < 0 || payloadBytes - hereBytes < DIRECT_BYTES_MIN) return undefined
    const payload = this.#pool.take(payloadBytes)
    const { bytes, at } = this.#buffer
    payload.set(bytes.subarray(at + headBytes, at + headBytes + hereBytes))
    this.#buffer.dropLast(hereBytes)
    frame.inPlace = payload
    frame.inPlaceBytes = hereBytes
    return payload
  }

  #skip(): void {
    const bytes = Math.min(this.#skipBytes, this.#buffer.lengthBytes)
    this.#buffer.consume(bytes)
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

/** The packet at the front of the buffer. One object for all packets of a stream. */
class Frame implements PacketSource {
  readonly #buffer: ReceiveBuffer
  readonly #pool: BufferPool
  headerBytes = 0
  volume = 0
  command = 0
  lengthBytes = 0
  entry: PacketEntry | undefined
  /** Received in its place, as far as it is here: not in the buffer. */
  inPlace: Uint8Array | undefined
  inPlaceBytes = 0

  constructor(buffer: ReceiveBuffer, pool: BufferPool) {
    this.#buffer = buffer
    this.#pool = pool
  }

  get fixedView(): DataView {
    return this.#buffer.view
  }

  get fixedAt(): number {
    return this.#buffer.at + this.headerBytes
  }

  /** False if there is no complete header yet. */
  readHeader(apv: number): boolean {
    const buffer = this.#buffer
    this.headerBytes = headerBytes(apv)
    if (buffer.lengthBytes < this.headerBytes) return false
    if (this.headerBytes === 16) this.#readLongHeader(buffer.view, buffer.at, apv)
    else this.#readShortHeader(buffer.view, buffer.at, apv)
    this.entry = packetEntryOf(this.command)
    return true
  }

  bodyBytes(offsetBytes: number, lengthBytes: number): Uint8Array {
    if (lengthBytes === 0) return EMPTY
    const at = this.fixedAt + offsetBytes
    return this.#buffer.bytes.slice(at, at + lengthBytes)
  }

  payload(offsetBytes: number): Uint8Array {
    if (this.inPlace !== undefined) return this.inPlace
    if (this.lengthBytes === offsetBytes) return EMPTY
    const payload = this.#pool.take(this.lengthBytes - offsetBytes)
    const at = this.fixedAt + offsetBytes
    payload.set(this.#buffer.bytes.subarray(at, at + payload.length))
    return payload
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
