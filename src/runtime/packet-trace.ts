// What passes between the two hosts, for people: each packet becomes one record, made only while somebody watches
// (`Replica.watchPackets`). packet-lines.ts makes lines of them.

import type { Packet } from '../wire/drbd/packets.ts'

export type Direction = 'sent' | 'received'
export type Stream = 'data' | 'meta'
export type PacketWatcher = (direction: Direction, stream: Stream, packet: Packet, nowMs: number) => void

export type PacketKind = 'write' | 'read' | 'order' | 'barrier' | 'resync' | 'state' | 'handshake' | 'ping'

export interface PacketRecord {
  /** Milliseconds; since 1970 if a daemon tells it. */
  readonly atMs: number
  readonly direction: Direction
  readonly stream: Stream
  readonly type: string
  readonly kind: PacketKind
  readonly volume: number
  /** Sectors of 512 bytes. */
  readonly sector?: number
  readonly sizeBytes?: number
  /** The lower half of the block id, or the number of a barrier or an extent: a request and its answers share it. */
  readonly id?: number
  /** Of an answer: time since the packet that it answers. */
  readonly latencyMs?: number
}

const KINDS: ReadonlyMap<string, PacketKind> = new Map(
  Object.entries({
    write: 'P_DATA P_ZEROES P_TRIM P_WSAME P_RECV_ACK P_WRITE_ACK P_NEG_ACK P_SUPERSEDED P_RETRY_WRITE P_OUT_OF_SYNC',
    read: 'P_DATA_REQUEST P_DATA_REPLY P_NEG_DREPLY',
    order: 'P_WRITE_NOW P_LOCK_EXTENT P_LOCK_EXTENT_ACK P_IN_DOUBT P_APPLIED',
    barrier: 'P_BARRIER P_BARRIER_ACK P_UNPLUG_REMOTE',
    resync:
      'P_BITMAP P_COMPRESSED_BITMAP P_SYNC_UUID P_RS_DATA_REQUEST P_RS_DATA_REPLY P_RS_WRITE_ACK P_NEG_RS_DREPLY ' +
      'P_RS_THIN_REQ P_RS_DEALLOCATED P_CSUM_RS_REQUEST P_RS_IS_IN_SYNC P_RS_CANCEL P_OV_REQUEST P_OV_REPLY P_OV_RESULT',
    state:
      'P_STATE P_UUIDS P_SIZES P_SYNC_PARAM P_SYNC_PARAM89 P_STATE_CHG_REQ P_STATE_CHG_REPLY P_CONN_ST_CHG_REQ ' +
      'P_CONN_ST_CHG_REPLY P_PROTOCOL_UPDATE',
    ping: 'P_PING P_PING_ACK P_DELAY_PROBE',
  } satisfies Partial<Record<PacketKind, string>>).flatMap(([kind, types]) =>
    types.split(' ').map((type) => [type, kind as PacketKind] as const),
  ),
)

export const kindOf = (type: string): PacketKind => KINDS.get(type) ?? 'handshake'

/** Packets that another one answers. What waits longest is forgotten first. */
const REQUESTS = new Set(
  (
    'P_DATA P_ZEROES P_TRIM P_WSAME P_DATA_REQUEST P_RS_DATA_REQUEST P_RS_THIN_REQ P_CSUM_RS_REQUEST P_OV_REQUEST P_BARRIER ' +
    'P_PING P_LOCK_EXTENT'
  ).split(' '),
)
/** These have numbers of their own, all others are told by block ids. */
const NUMBERED_BY_THEMSELVES = ['P_PING', 'P_BARRIER', 'P_LOCK_EXTENT']
const OPEN_REQUESTS_MAX = 16_384

/** The parts that packets have in common, as far as they have them. */
interface Parts {
  readonly type: string
  readonly volume?: number
  readonly sector?: number
  readonly sizeBytes?: number
  readonly payload?: Uint8Array
  readonly blockIdLo?: number
  readonly barrier?: number
  readonly extent?: number | bigint
  readonly lengthBytes?: number
}

/** Makes records, and finds for each answer when its request passed. */
export class PacketTracer {
  readonly #emit: (record: PacketRecord) => void
  readonly #openRequests = new Map<string, number>()

  constructor(emit: (record: PacketRecord) => void) {
    this.#emit = emit
  }

  readonly watch: PacketWatcher = (direction, stream, packet, nowMs) => {
    const parts: Parts = packet
    const { type, volume = 0, sector } = parts
    const id = parts.blockIdLo ?? parts.barrier ?? (parts.extent === undefined ? undefined : Number(parts.extent))
    const sizeBytes = parts.sizeBytes ?? parts.payload?.length ?? parts.lengthBytes
    const latencyMs = this.#latency(direction, type, volume, id, nowMs)
    this.#emit({
      atMs: nowMs,
      direction,
      stream,
      type,
      kind: kindOf(type),
      volume,
      ...(sector === undefined ? {} : { sector }),
      ...(sizeBytes === undefined ? {} : { sizeBytes }),
      ...(id === undefined ? {} : { id }),
      ...(latencyMs === undefined ? {} : { latencyMs }),
    })
  }

  #latency(
    direction: Direction,
    type: string,
    volume: number,
    id: number | undefined,
    nowMs: number,
  ): number | undefined {
    const about = `${volume} ${NUMBERED_BY_THEMSELVES.find((prefix) => type.startsWith(prefix)) ?? ''} ${id}`
    if (REQUESTS.has(type)) {
      if (this.#openRequests.size >= OPEN_REQUESTS_MAX) {
        for (const oldest of this.#openRequests.keys()) {
          this.#openRequests.delete(oldest)
          break
        }
      }
      this.#openRequests.set(`${direction} ${about}`, nowMs)
      return undefined
    }
    // Not deleted: a request may have more than one answer, and ids come again only after a long time.
    const requestedMs = this.#openRequests.get(`${direction === 'sent' ? 'received' : 'sent'} ${about}`)
    // It answers a write, and is answered itself.
    if (type === 'P_WRITE_NOW') this.#openRequests.set(`${direction} ${about}`, nowMs)
    return requestedMs === undefined ? undefined : nowMs - requestedMs
  }
}

export type PacketListener = (record: PacketRecord) => void

/** Those who watch one replica. It has a watcher, and records are made, only while there is one of them. */
export class PacketAudience {
  readonly #watched: { watchPackets(watcher: PacketWatcher | undefined): void }
  readonly #originMs: number
  readonly #listeners = new Set<PacketListener>()

  /** `originMs`: what to add to the clock of the replica for the time of day, which people and traces of two hosts want. */
  constructor(watched: { watchPackets(watcher: PacketWatcher | undefined): void }, originMs: number) {
    this.#watched = watched
    this.#originMs = originMs
  }

  /** Every packet from now on, until what is returned is called. */
  add(listener: PacketListener): () => void {
    this.#listeners.add(listener)
    if (this.#listeners.size === 1) {
      const tracer = new PacketTracer((record) => {
        const shown = { ...record, atMs: this.#originMs + record.atMs }
        for (const one of this.#listeners) one(shown)
      })
      this.#watched.watchPackets(tracer.watch)
    }
    return () => {
      if (this.#listeners.delete(listener) && this.#listeners.size === 0) this.#watched.watchPackets(undefined)
    }
  }
}
