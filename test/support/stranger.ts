// Somebody who connects to a port and does not behave: raw bytes out, everything that comes back kept (up to a bound), and
// what became of the connection.

import { createConnection, type Socket } from 'node:net'
import { encodePacket } from '../../src/wire/drbd/codec.ts'
import { Framer } from '../../src/wire/drbd/framer.ts'
import type { WireContext } from '../../src/wire/drbd/packet.ts'
import type { Packet } from '../../src/wire/drbd/packets.ts'
import { Changes, within } from './bounded.ts'

/** `localAddress`: where it comes from. */
export type Where =
  | { readonly host: string; readonly port: number; readonly localAddress?: string }
  | { readonly path: string }

const CONNECT_MS = 5_000
const KEPT_BYTES_MAX = 1024 * 1024

export class Stranger {
  readonly #socket: Socket
  readonly #changes = new Changes()
  readonly #connected: Promise<void>
  #received: Buffer[] = []
  #receivedBytes = 0
  #closedMs: number | undefined
  readonly openedMs = performance.now()

  constructor(where: Where) {
    const socket = createConnection(where)
    this.#socket = socket
    this.#connected = new Promise((resolve, reject) => {
      socket.once('connect', resolve)
      socket.once('error', reject)
    })
    this.#connected.catch(() => {})
    socket.on('error', () => {}) // a reset is an answer as good as any; `close` follows
    socket.on('data', (chunk) => {
      this.#receivedBytes += chunk.length
      if (this.#receivedBytes <= KEPT_BYTES_MAX) this.#received.push(chunk)
      this.#changes.tell()
    })
    socket.on('close', () => {
      this.#closedMs = performance.now()
      this.#changes.tell()
    })
  }

  /** Rejects if nobody listens. */
  async connected(): Promise<this> {
    await within(CONNECT_MS, 'a connection', this.#connected)
    return this
  }

  send(...chunks: readonly Uint8Array[]): this {
    for (const chunk of chunks) if (this.#socket.writable) this.#socket.write(chunk)
    return this
  }

  get isClosed(): boolean {
    return this.#closedMs !== undefined
  }

  /** Sends the chunk over and over until the other end stops to take it for `stuckMs`, or closes. Bytes that it took. */
  async flood(chunk: Uint8Array, bytesMax: number, stuckMs: number): Promise<number> {
    const socket = this.#socket
    let sentBytes = 0
    while (sentBytes < bytesMax && !this.isClosed && socket.writable) {
      sentBytes += chunk.length
      if (socket.write(chunk)) continue
      const drained = await within(
        stuckMs,
        'room',
        new Promise((resolve) => {
          socket.once('drain', () => resolve(true))
          socket.once('close', () => resolve(true))
        }),
      ).catch(() => false)
      if (drained === false) break
    }
    return socket.bytesWritten - socket.writableLength
  }

  /** Milliseconds from the connection to its end by the other side. */
  async closedAfter(timeoutMs: number, what: string): Promise<number> {
    await this.#changes.until(() => this.isClosed, timeoutMs, `the end of a connection: ${what}`)
    return (this.#closedMs ?? 0) - this.openedMs
  }

  async untilReceived(bytes: number, timeoutMs: number): Promise<Buffer> {
    const there = (): boolean => this.#receivedBytes >= bytes || this.isClosed
    await this.#changes.until(there, timeoutMs, () => `${bytes} bytes; ${this.#receivedBytes} are there`)
    if (this.#receivedBytes < bytes) throw new Error(`closed after ${this.#receivedBytes} of ${bytes} bytes`)
    return Buffer.concat(this.#received)
  }

  /** The first packets that came, all under one context. */
  async packets(count: number, context: WireContext, timeoutMs: number, skipBytes = 0): Promise<Packet[]> {
    for (let bytes = skipBytes + 1; ; ) {
      const all = await this.untilReceived(bytes, timeoutMs)
      const framer = new Framer(context)
      framer.push(new Uint8Array(all.subarray(skipBytes)))
      const packets: Packet[] = []
      for (let next = framer.next(); next !== undefined && packets.length < count; next = framer.next()) {
        packets.push(next)
      }
      if (packets.length === count) return packets
      bytes = all.length + 1
    }
  }

  destroy(): void {
    this.#socket.destroy()
  }
}

export function packetBytes(packet: Packet, context: WireContext): Buffer {
  const out: Uint8Array[] = []
  encodePacket(packet, context, out)
  return Buffer.concat(out)
}
