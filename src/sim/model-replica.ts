// A replica that is right by construction, and wrong on demand: the subject on which the simulator itself is tested. It is
// neither DRBD nor fast. Host a orders everything: it executes one request after the other, each on both disks and flushed
// before it is answered; host b forwards what its clients ask. When b comes (back), a copies its whole disk. Each `Mistake`
// breaks one rule that a checker must miss.
//
// Frames on the one link, big-endian: u32 length of the rest, u8 type, u32 id, u32 sector, u32 sectors, payload.

import { SECTOR_BYTES } from '../base/units.ts'
import type {
  AdminCommand,
  AdminResult,
  ClientDone,
  ClientRequest,
  ReplicaApi,
  ReplicaPorts,
  ResourceSettings,
  ResourceStatus,
  VolumeStatus,
} from '../runtime/api.ts'
import type { Disk, Link } from '../runtime/ports.ts'
import { internalDataBytes } from './checkers/recovered-bitmap.ts'

export type Mistake =
  | 'none'
  /** Host b answers a read that it has seen before with what it was told then. */
  | 'caches-reads'
  /** Writes are answered before they are anywhere. */
  | 'answers-early'
  /** A write is not sent to the peer now and then. */
  | 'forgets-peer'
  /** Writes are submitted without waiting for the ones before. */
  | 'overlaps'
  /** Every hundredth request is never answered. */
  | 'forgets-answer'
  /** Throws at the fiftieth request. */
  | 'throws'
  /** Changes a write's buffer before the disk is done with it. */
  | 'changes-buffer'

const READ = 1
const WRITE = 2
const FLUSH = 3
const APPLY = 4
const APPLIED = 5
const REPLY = 6
const IN_SYNC = 7
const PING = 8
/** Not on the wire: a read of which the end comes with the peer's answer. */
const COPY = 9

const HEADER_BYTES = 17
const SYNC_CHUNK_SECTORS = 128
const PING_MS = 400
const SILENCE_MS = 2_000

interface Frame {
  readonly type: number
  readonly id: number
  readonly sector: number
  readonly sectors: number
  readonly payload: Uint8Array
}

interface Job {
  readonly type: number
  readonly sector: number
  readonly sectors: number
  readonly data: Uint8Array
  readonly done: (data: Uint8Array) => void
}

export class ModelReplica implements ReplicaApi {
  readonly admits = true
  readonly #settings: ResourceSettings
  readonly #ports: ReplicaPorts
  readonly #orders: boolean
  readonly #mistake: Mistake
  #disk: Disk | undefined
  #link: Link | undefined
  #received = new Uint8Array()
  #lastReceivedMs = 0
  #isPrimary = false
  #inSync = false
  #ids = 0
  #count = 0
  readonly #jobs: Job[] = []
  #working = false
  /** Host a: what waits for the peer to have applied a write. Host b: what waits for a reply. */
  readonly #awaited = new Map<number, (payload: Uint8Array | undefined) => void>()
  /** Host b: requests that wait for a connection. */
  #held: (() => void)[] = []
  readonly #cache = new Map<string, Uint8Array>()

  constructor(settings: ResourceSettings, ports: ReplicaPorts, host: 'a' | 'b', mistake: Mistake = 'none') {
    this.#settings = settings
    this.#ports = ports
    this.#orders = host === 'a'
    this.#mistake = mistake
  }

  onAdmission(): void {}

  /** Its messages are not packets. */
  watchPackets(): void {}

  abandon(): void {
    this.#link = undefined
  }

  command(command: AdminCommand, done: (result: AdminResult) => void): void {
    const finish = (): void => {
      this.#ports.clock.wakeAt(this.#ports.clock.nowMs(), () => done({ code: 0, text: 'done' }))
    }
    if (command.type === 'attach') {
      this.#ports.openDevices(command.volume, (_error, devices) => {
        this.#disk = devices?.data
        finish()
      })
      return
    }
    if (command.type === 'connect') {
      if (this.#orders) {
        this.#ports.network.listen(
          (link) => this.#onLink(link),
          () => {},
        )
      } else this.#connect()
      this.#watch()
    } else if (command.type === 'primary') this.#isPrimary = true
    else if (command.type === 'secondary') this.#isPrimary = false
    this.#ports.onStatusChange()
    finish()
  }

  submit(request: ClientRequest, done: ClientDone): void {
    this.#count++
    if (this.#mistake === 'throws' && this.#count === 50) throw new TypeError('a mistake of the model')
    if (this.#mistake === 'forgets-answer' && this.#count % 100 === 0) return
    if (!this.#isPrimary) {
      done({ code: 'not-primary', message: 'not primary' })
      return
    }
    const job = toJob(request, (data) => done(undefined, request.type === 'read' ? [data] : undefined))
    if (this.#orders) this.#enqueue(job)
    else if (this.#inSync) this.#forward(job, done)
    else this.#held.push(() => this.#forward(job, done))
  }

  status(): ResourceStatus {
    const connected = this.#link !== undefined
    const connection = this.#inSync
      ? 'Connected'
      : connected
        ? this.#orders
          ? 'SyncSource'
          : 'SyncTarget'
        : 'WFConnection'
    const synced = this.#inSync ? 'UpToDate' : connected ? 'Inconsistent' : 'DUnknown'
    const volume = {
      ...EMPTY_VOLUME,
      connection,
      disk: this.#orders || this.#inSync ? 'UpToDate' : 'Outdated',
      peerDisk: this.#orders ? synced : connected ? 'UpToDate' : 'DUnknown',
    }
    return {
      name: this.#settings.name,
      role: this.#isPrimary ? 'Primary' : 'Secondary',
      peerRole: 'Unknown',
      connection,
      connectionReason: undefined,
      agreedProtocolVersion: 0,
      resolveConflicts: this.#orders,
      order: 'arbitration',
      coordinates: undefined,
      inFlightBytes: 0,
      packets: { sent: 0, received: 0 },
      volumes: [volume],
    }
  }

  // ---- connection -----------------------------------------------------------------------------------------------------

  #connect(): void {
    this.#ports.network.connect(
      this.#settings.connectIntMs,
      (link) => this.#onLink(link),
      () => this.#ports.clock.wakeAt(this.#ports.clock.nowMs() + 100, () => this.#connect()),
    )
  }

  #onLink(link: Link): void {
    this.#dropLink()
    this.#link = link
    this.#received = new Uint8Array()
    this.#lastReceivedMs = this.#ports.clock.nowMs()
    link.setHandler({
      onData: (chunk) => this.#onData(chunk),
      onDrain: () => {},
      onClose: () => {
        if (this.#link === link) this.#onLinkLost()
      },
    })
    if (this.#orders) this.#enqueueSync(0)
    this.#ports.onStatusChange()
  }

  #dropLink(): void {
    if (this.#link === undefined) return
    this.#link.close()
    this.#onLinkLost()
  }

  #onLinkLost(): void {
    this.#link = undefined
    this.#inSync = false
    const waiting = [...this.#awaited.values()]
    this.#awaited.clear()
    for (const lost of waiting) lost(undefined)
    if (!this.#orders) this.#connect()
    this.#ports.onStatusChange()
  }

  /** Silence is a dead link. */
  #watch(): void {
    this.#ports.clock.wakeAt(this.#ports.clock.nowMs() + PING_MS, () => {
      if (this.#link !== undefined && this.#ports.clock.nowMs() - this.#lastReceivedMs > SILENCE_MS) this.#dropLink()
      this.#send(PING, 0, 0, 0)
      this.#watch()
    })
  }

  #send(type: number, id: number, sector: number, sectors: number, payload: Uint8Array = new Uint8Array()): void {
    const header = new Uint8Array(HEADER_BYTES)
    const view = new DataView(header.buffer)
    view.setUint32(0, HEADER_BYTES - 4 + payload.length)
    header[4] = type
    view.setUint32(5, id)
    view.setUint32(9, sector)
    view.setUint32(13, sectors)
    this.#link?.send([header, payload])
  }

  #onData(chunk: Uint8Array): void {
    this.#lastReceivedMs = this.#ports.clock.nowMs()
    const bytes = new Uint8Array(this.#received.length + chunk.length)
    bytes.set(this.#received)
    bytes.set(chunk, this.#received.length)
    const view = new DataView(bytes.buffer)
    let at = 0
    while (bytes.length - at >= HEADER_BYTES) {
      const lengthBytes = 4 + view.getUint32(at)
      if (bytes.length - at < lengthBytes) break
      const payload = bytes.slice(at + HEADER_BYTES, at + lengthBytes)
      const type = bytes[at + 4] as number
      this.#onFrame({
        type,
        id: view.getUint32(at + 5),
        sector: view.getUint32(at + 9),
        sectors: view.getUint32(at + 13),
        payload,
      })
      at += lengthBytes
    }
    this.#received = bytes.slice(at)
  }

  #onFrame({ type, id, sector, sectors, payload }: Frame): void {
    if (type === APPLIED || type === REPLY) {
      const awaited = this.#awaited.get(id)
      this.#awaited.delete(id)
      awaited?.(payload)
    } else if (type === APPLY) {
      const link = this.#link
      this.#writeAndFlush(sector, payload, () => {
        if (this.#link === link) this.#send(APPLIED, id, 0, 0)
      })
    } else if (type === IN_SYNC) {
      this.#inSync = true
      const held = this.#held
      this.#held = []
      for (const forward of held) forward()
      this.#ports.onStatusChange()
    } else if (type !== PING) {
      const link = this.#link
      this.#enqueue({
        type,
        sector,
        sectors,
        data: payload,
        done: (data) => {
          if (this.#link === link) this.#send(REPLY, id, 0, 0, data)
        },
      })
    }
  }

  // ---- host b ---------------------------------------------------------------------------------------------------------

  #forward(job: Job, done: ClientDone): void {
    const range = `${job.sector}+${job.sectors}`
    const cached = this.#cache.get(range)
    if (this.#mistake === 'caches-reads' && job.type === READ && cached !== undefined) {
      job.done(cached)
      return
    }
    const id = ++this.#ids
    this.#awaited.set(id, (payload) => {
      if (payload === undefined) {
        done({ code: 'io', message: 'connection lost' })
        return
      }
      if (job.type === READ) this.#cache.set(range, payload)
      job.done(payload)
    })
    this.#send(job.type, id, job.sector, job.sectors, job.data)
  }

  // ---- host a ---------------------------------------------------------------------------------------------------------

  #enqueue(job: Job): void {
    this.#jobs.push(job)
    this.#work()
  }

  #work(): void {
    if (this.#working && this.#mistake !== 'overlaps') return
    const job = this.#jobs.shift()
    if (job === undefined) return
    this.#working = true
    const finished = (data: Uint8Array): void => {
      job.done(data)
      if (job.type === COPY) return
      this.#working = false
      this.#work()
    }
    if (job.type === FLUSH) finished(job.data)
    else if (job.type === READ || job.type === COPY) {
      this.#disk?.read(job.sector * SECTOR_BYTES, job.sectors * SECTOR_BYTES, (_error, data) =>
        finished(data ?? job.data),
      )
    } else if (this.#mistake === 'answers-early') {
      job.done(new Uint8Array())
      this.#writeBoth(job, () => {
        this.#working = false
        this.#work()
      })
    } else this.#writeBoth(job, () => finished(new Uint8Array()))
  }

  #writeBoth(job: Job, done: () => void): void {
    let waiting = 2
    const one = (): void => {
      if (--waiting === 0) done()
    }
    this.#count++
    const forget = this.#mistake === 'forgets-peer' && this.#count % 40 === 0
    this.#writeAndFlush(job.sector, job.data, one)
    if (this.#link === undefined || forget) one()
    else {
      const id = ++this.#ids
      this.#awaited.set(id, one)
      this.#send(APPLY, id, job.sector, job.sectors, this.#mistake === 'changes-buffer' ? job.data.slice() : job.data)
    }
    if (this.#mistake === 'changes-buffer') job.data[0] = (job.data[0] as number) ^ 1
  }

  #writeAndFlush(sector: number, data: Uint8Array, done: () => void): void {
    const disk = this.#disk
    disk?.write(sector * SECTOR_BYTES, data, () => disk.flush(() => done()))
  }

  /** Copies the disk to the peer, a chunk at a time, with nothing in between. */
  #enqueueSync(sector: number): void {
    const link = this.#link
    const end = Math.floor(internalDataBytes(this.#disk?.sizeBytes ?? 0) / SECTOR_BYTES)
    const sectors = Math.min(SYNC_CHUNK_SECTORS, end - sector)
    const copied = (data: Uint8Array): void => {
      // The next job must not start before this chunk is on the peer's disk.
      const goOn = (): void => {
        this.#working = false
        this.#work()
      }
      if (this.#link !== link) {
        goOn()
        return
      }
      const id = ++this.#ids
      this.#awaited.set(id, (payload) => {
        if (payload === undefined) {
          goOn()
          return
        }
        if (sector + sectors < end) this.#enqueueSync(sector + sectors)
        else {
          this.#inSync = true
          this.#send(IN_SYNC, 0, 0, 0)
          this.#ports.onStatusChange()
        }
        goOn()
      })
      this.#send(APPLY, id, sector, sectors, data)
    }
    this.#jobs.push({ type: COPY, sector, sectors, data: new Uint8Array(), done: copied })
    this.#work()
  }
}

function toJob(request: ClientRequest, done: (data: Uint8Array) => void): Job {
  switch (request.type) {
    case 'read':
      return { type: READ, sector: request.sector, sectors: request.sectors, data: new Uint8Array(), done }
    case 'flush':
      return { type: FLUSH, sector: 0, sectors: 0, data: new Uint8Array(), done }
    case 'write': {
      const { sector, data } = request
      return { type: WRITE, sector, sectors: data.length / SECTOR_BYTES, data, done }
    }
    case 'zero': {
      const data = new Uint8Array(request.sectors * SECTOR_BYTES)
      return { type: WRITE, sector: request.sector, sectors: request.sectors, data, done }
    }
  }
}

const EMPTY_VOLUME: VolumeStatus = {
  volume: 0,
  disk: 'Diskless',
  peerDisk: 'DUnknown',
  connection: 'StandAlone',
  sizeSectors: 0,
  outOfSyncBlocks: 0,
  resyncTotalBlocks: 0,
  resyncLeftBlocks: 0,
  verifyTotalBlocks: 0,
  verifyDoneBlocks: 0,
  resyncBytes: 0,
  resyncHoleBytes: 0,
  uuids: { current: 0n, bitmap: 0n, history1: 0n, history2: 0n },
  suspended: [],
  counters: {
    readRequests: 0,
    writeRequests: 0,
    sentBytes: 0,
    receivedBytes: 0,
    diskReadBytes: 0,
    diskWrittenBytes: 0,
    activityLogWrites: 0,
    bitmapWrites: 0,
    superseded: 0,
    retried: 0,
    writeNows: 0,
    lockRequests: 0,
    lockHandovers: 0,
    orderSwitches: 0,
  },
}
