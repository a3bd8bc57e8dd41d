// Reads the captures (format: captures/README.md) and runs their streams through framers as the two kernels did: the context
// of each stream follows the packets of its connection (features, integrity algorithm).

import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { defined } from '../../../src/base/assert.ts'
import type { Prng } from '../../../src/base/prng.ts'
import type { WireContext } from '../../../src/wire/drbd/codec.ts'
import { APV_HANDSHAKE } from '../../../src/wire/drbd/constants.ts'
import { Framer } from '../../../src/wire/drbd/framer.ts'
import type { Packet, PacketOf } from '../../../src/wire/drbd/packets.ts'
import { repositoryRoot } from '../../support/root.ts'

export const capturesFolder = join(repositoryRoot, 'test/golden/drbd/captures')
export const captureNames: readonly string[] = readdirSync(capturesFolder)
  .filter((file) => file.endsWith('.jsonl.gz'))
  .map((file) => file.slice(0, -'.jsonl.gz'.length))
  .sort()

export type Node = 'a' | 'b'
export type Direction = 'a>b' | 'b>a'

export interface SeenPacket {
  readonly connection: number
  readonly kind: 'data' | 'meta'
  readonly sender: Node
  readonly packet: Packet
  /** The context in force when it was read. */
  readonly context: WireContext
  /** The bytes it was read from. */
  readonly raw: Uint8Array
}

export interface Replay {
  readonly packets: readonly SeenPacket[]
  /** Bytes at the end of a stream that are no whole packet. */
  readonly leftOver: readonly { readonly connection: number; readonly direction: Direction; readonly bytes: number }[]
}

export interface CaptureEvent {
  readonly t: number
  readonly c?: number
  readonly ev?: string
  readonly d?: Direction
  readonly b?: string
  readonly from?: Node
  readonly already?: boolean
  readonly kind?: 'data' | 'meta'
}

const DIGEST_BYTES = new Map([
  ['', 0],
  ['crc32c', 4],
  ['md5', 16],
  ['sha1', 20],
  ['sha256', 32],
])

/** What the two nodes have agreed on over one data connection. */
class Session {
  readonly features = new Map<Node, PacketOf<'P_CONNECTION_FEATURES'>>()
  readonly integrityBytes = new Map<Node, number>()
  agreed: { readonly apv: number; readonly features: number } | undefined

  context(sender: Node): WireContext {
    if (this.agreed === undefined) return HANDSHAKE
    return { ...this.agreed, integrityBytes: this.integrityBytes.get(sender) ?? 0 }
  }

  onPacket(sender: Node, packet: Packet): void {
    if (packet.type === 'P_PROTOCOL' || packet.type === 'P_PROTOCOL_UPDATE') {
      this.integrityBytes.set(sender, defined(DIGEST_BYTES.get(packet.integrityAlg), packet.integrityAlg))
    }
    if (packet.type !== 'P_CONNECTION_FEATURES') return
    this.features.set(sender, packet)
    const { a, b } = Object.fromEntries(this.features) as { [K in Node]?: PacketOf<'P_CONNECTION_FEATURES'> }
    if (a === undefined || b === undefined) return
    this.agreed = { apv: Math.min(a.protocolMax, b.protocolMax), features: (a.features & b.features) >>> 0 }
  }
}

const HANDSHAKE: WireContext = { apv: APV_HANDSHAKE, features: 0, integrityBytes: 0 }

class Stream {
  readonly framer = new Framer(HANDSHAKE)
  readonly sender: Node
  readonly direction: Direction
  pending: Uint8Array = new Uint8Array(0)
  /** Nothing more can be read before the other side's features are known. */
  sentFeatures = false

  constructor(direction: Direction) {
    this.direction = direction
    this.sender = direction === 'a>b' ? 'a' : 'b'
  }
}

interface Connection {
  readonly id: number
  readonly already: boolean
  kind: 'data' | 'meta' | undefined
  readonly session: Session
  readonly streams: Readonly<Record<Direction, Stream>>
}

/** With `rechunk` the chunks are cut anew, at random. */
export function replay(name: string, rechunk?: Prng): Replay {
  const player = new Player(rechunk)
  for (const event of readEvents(name)) player.onEvent(event)
  return player.finish()
}

function readEvents(name: string): CaptureEvent[] {
  const text = gunzipSync(readFileSync(join(capturesFolder, `${name}.jsonl.gz`))).toString('utf8')
  return text
    .split('\n')
    .filter((line) => line !== '')
    .slice(1)
    .map((line) => JSON.parse(line) as CaptureEvent)
}

/** Follows the streams of a recording, or of connections that go on now, event by event. */
export class Player {
  #packets: SeenPacket[] = []
  readonly #connections = new Map<number, Connection>()
  readonly #rechunk: Prng | undefined
  /** The session that the meta connection belongs to: the last one that was agreed on. */
  #session = new Session()

  constructor(rechunk?: Prng) {
    this.#rechunk = rechunk
  }

  onEvent(event: CaptureEvent): void {
    if (event.ev === 'open') this.#onOpen(event)
    if (event.d === undefined || event.b === undefined) return
    const connection = defined(this.#connections.get(defined(event.c, 'c')), `connection ${event.c}`)
    const stream = connection.streams[event.d]
    const received = Buffer.from(event.b, 'base64')
    stream.pending = Buffer.concat([stream.pending, received])
    for (const chunk of this.#cut(received)) {
      stream.framer.push(chunk)
      this.#drain(connection, stream)
    }
  }

  /** Packets since the last call. */
  take(): readonly SeenPacket[] {
    const packets = this.#packets
    this.#packets = []
    return packets
  }

  finish(): Replay {
    const leftOver = [...this.#connections.values()].flatMap((connection) =>
      Object.values(connection.streams)
        .filter((stream) => stream.framer.bufferedBytes > 0)
        .map(({ direction, framer }) => ({ connection: connection.id, direction, bytes: framer.bufferedBytes })),
    )
    return { packets: this.#packets, leftOver }
  }

  #onOpen(event: CaptureEvent): void {
    const id = defined(event.c, 'c')
    const session = new Session()
    if (event.already === true && event.kind === 'data') {
      // The handshake is not in the capture; all of these begin with connected kernels of default configuration.
      session.agreed = { apv: 101, features: 15 }
      this.#session = session
    }
    const streams = { 'a>b': new Stream('a>b'), 'b>a': new Stream('b>a') }
    this.#connections.set(id, { id, already: event.already === true, kind: event.kind, session, streams })
  }

  #drain(connection: Connection, stream: Stream): void {
    for (;;) {
      const { session } = connection
      if (stream.sentFeatures && session.agreed === undefined) return
      const context = this.#contextOf(connection, stream)
      stream.framer.setContext(context)
      const before = stream.framer.bufferedBytes
      const packet = stream.framer.next()
      if (packet === undefined) return
      const rawBytes = before - stream.framer.bufferedBytes
      const raw = stream.pending.subarray(0, rawBytes)
      stream.pending = stream.pending.subarray(rawBytes)
      if (packet.type === 'P_INITIAL_DATA') connection.kind = 'data'
      if (packet.type === 'P_INITIAL_META') connection.kind = 'meta'
      const kind = defined(connection.kind, `kind of connection ${connection.id}`)
      this.#packets.push({ connection: connection.id, kind, sender: stream.sender, packet, context, raw })
      session.onPacket(stream.sender, packet)
      if (packet.type !== 'P_CONNECTION_FEATURES') continue
      stream.sentFeatures = true
      if (session.agreed === undefined) continue
      this.#session = session
      for (const other of Object.values(connection.streams)) if (other !== stream) this.#drain(connection, other)
    }
  }

  #contextOf(connection: Connection, stream: Stream): WireContext {
    const session = connection.kind === 'meta' ? this.#session : connection.session
    return connection.kind === undefined ? HANDSHAKE : session.context(stream.sender)
  }

  #cut(chunk: Uint8Array): Uint8Array[] {
    const prng = this.#rechunk
    if (prng === undefined) return [chunk]
    const parts: Uint8Array[] = []
    for (let at = 0; at < chunk.length; ) {
      const length = prng.pick([1, 2, 7, 16, 41, 333, 1460, 5000])
      parts.push(chunk.subarray(at, at + length))
      at += length
    }
    return parts
  }
}
