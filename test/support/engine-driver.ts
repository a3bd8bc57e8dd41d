// Drives one pure Engine: carries out its effects on a small memory disk and a network behind an interface, keeps all of them
// for the assertions, and gives the test control over the time and over when each disk operation completes.
//
//   host.hold = (job) => ...     jobs for which it is true stay in the disk queue until `complete`
//   host.take()                  what happened since the last `take`, one word for each effect: 'disk.write 8+1', 'P_DATA'
//
// The disk checks its caller: two overlapping operations of which one writes are never in the queue together (ports.ts).

import assert from 'node:assert/strict'
import { Prng } from '../../src/base/prng.ts'
import type { DiskOp, Effect } from '../../src/engine/effects.ts'
import { Engine } from '../../src/engine/engine.ts'
import type { EngineEvent, SocketId } from '../../src/engine/events.ts'
import type { Volume } from '../../src/engine/volume.ts'
import { createMetadata } from '../../src/meta/create.ts'
import { DEFAULT_AL_GEOMETRY, flexibleExternalLayout, type MdLayout } from '../../src/meta/layout.ts'
import {
  decodeSuperblock,
  encodeSuperblock,
  MDF_AL_CLEAN,
  MDF_CONSISTENT,
  MDF_WAS_UPTODATE,
  type Superblock,
} from '../../src/meta/superblock.ts'
import type {
  AdminCommand,
  AdminResult,
  ClientError,
  OrderSettings,
  ResourceSettings,
  VolumeSettings,
} from '../../src/runtime/api.ts'
import type { Digests, DiskError, Entropy } from '../../src/runtime/ports.ts'
import { SimDigests } from '../../src/sim/digests.ts'
import type { Packet } from '../../src/wire/drbd/packets.ts'

const PAGE_BYTES = 4096
const META_BYTES = 1024 * 1024
/** A generation that is not "just created". */
export const GENERATION = 0x1234_5678_9abc_def0n

export const IO_ERROR: DiskError = { code: 'io', message: 'bad sector' }

/** Bytes of a device; pages that were never written read as zeroes. */
export class MemoryDisk {
  readonly #pages = new Map<number, Uint8Array>()
  readonly sizeBytes: number

  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes
  }

  read(offsetBytes: number, lengthBytes: number): Uint8Array {
    const data = new Uint8Array(lengthBytes)
    this.#each(offsetBytes, lengthBytes, (page, from, to, at) => {
      const bytes = this.#pages.get(page)
      if (bytes !== undefined) data.set(bytes.subarray(from, to), at)
    })
    return data
  }

  write(offsetBytes: number, data: Uint8Array): void {
    this.#each(offsetBytes, data.length, (page, from, to, at) => {
      let bytes = this.#pages.get(page)
      if (bytes === undefined) {
        bytes = new Uint8Array(PAGE_BYTES)
        this.#pages.set(page, bytes)
      }
      bytes.set(data.subarray(at, at + to - from), from)
    })
  }

  zero(offsetBytes: number, lengthBytes: number): void {
    this.#each(offsetBytes, lengthBytes, (page, from, to) => {
      if (to - from === PAGE_BYTES) this.#pages.delete(page)
      else this.#pages.get(page)?.fill(0, from, to)
    })
  }

  isHole(offsetBytes: number, lengthBytes: number): boolean {
    const first = Math.floor(offsetBytes / PAGE_BYTES)
    const last = Math.floor((offsetBytes + lengthBytes - 1) / PAGE_BYTES)
    for (const page of this.#pages.keys()) if (page >= first && page <= last) return false
    return true
  }

  /** Pages that differ in content. */
  differences(other: MemoryDisk): number[] {
    const pages = [...new Set([...this.#pages.keys(), ...other.#pages.keys()])].sort((a, b) => a - b)
    return pages.filter((page) => {
      const at = page * PAGE_BYTES
      return Buffer.compare(this.read(at, PAGE_BYTES), other.read(at, PAGE_BYTES)) !== 0
    })
  }

  #each(
    offsetBytes: number,
    lengthBytes: number,
    use: (page: number, from: number, to: number, at: number) => void,
  ): void {
    assert.ok(offsetBytes >= 0 && offsetBytes + lengthBytes <= this.sizeBytes, 'a disk operation inside the device')
    for (let at = 0; at < lengthBytes; ) {
      const page = Math.floor((offsetBytes + at) / PAGE_BYTES)
      const from = (offsetBytes + at) % PAGE_BYTES
      const to = Math.min(PAGE_BYTES, from + lengthBytes - at)
      use(page, from, to, at)
      at += to - from
    }
  }
}

export type DiskEffect = Extract<Effect, { readonly op: DiskOp }>

/** A disk operation that the engine ordered and that is not complete. */
export interface DiskJob {
  readonly effect: DiskEffect
  /** As `take` shows it. */
  readonly text: string
}

/** What stands behind the socket effects. */
export interface HostNetwork {
  connect(host: EngineHost): void
  cancel(host: EngineHost): void
  listen(host: EngineHost): void
  unlisten(host: EngineHost): void
  send(host: EngineHost, socket: SocketId, packet: Packet): void
  close(host: EngineHost, socket: SocketId): void
}

export interface HostOptions {
  readonly name?: string
  readonly settings?: Partial<Omit<ResourceSettings, 'volumes'>>
  /** One entry for each volume; default: one of 2048 sectors. */
  readonly volumes?: readonly VolumeOptions[]
  readonly seed?: number
  readonly digests?: Digests
  readonly entropy?: Entropy
}

export interface VolumeOptions {
  readonly dataSectors?: number
  /** Default: UpToDate in GENERATION, size known. `fresh`: as create-md leaves it. */
  readonly superblock?: Partial<Superblock> | 'fresh'
  readonly settings?: Partial<VolumeSettings>
}

export interface Answer {
  readonly error: ClientError | undefined
  readonly data: Uint8Array | undefined
}

export class EngineHost {
  readonly name: string
  readonly engine: Engine
  readonly settings: ResourceSettings
  readonly disks: { readonly data: MemoryDisk; readonly meta: MemoryDisk }[] = []
  readonly layout: MdLayout = flexibleExternalLayout(META_BYTES, DEFAULT_AL_GEOMETRY)
  network: HostNetwork | undefined
  nowMs = 1000
  /** Jobs for which it is true do not complete by themselves. */
  hold: (job: DiskJob) => boolean = () => false
  /** Devices that are asked for stay closed until `openDevices`. */
  holdDevices = false
  jobs: DiskJob[] = []
  readonly answers = new Map<number, Answer>()
  readonly results = new Map<number, AdminResult>()
  /** Names of the handlers that were started. */
  readonly handlers: string[] = []
  readonly logs: string[] = []
  readonly #open = new Set<number>()
  #trace: string[] = []
  #events: EngineEvent[] = []
  #running = false
  #nextId = 1

  constructor(options: HostOptions = {}) {
    this.name = options.name ?? 'a'
    const volumes = options.volumes ?? [{}]
    this.settings = resourceSettings(options.settings ?? {}, volumes)
    const prng = new Prng(options.seed ?? 1)
    this.engine = new Engine(this.settings, {
      entropy: options.entropy ?? prng,
      digests: options.digests ?? new SimDigests(),
    })
    for (const volume of volumes) this.disks.push(formatted(volume, this.layout))
  }

  get volume(): Volume {
    return this.volumeAt(0)
  }

  volumeAt(index: number): Volume {
    const volume = this.engine.volumes[index]
    assert.ok(volume !== undefined, `volume ${index}`)
    return volume
  }

  diskAt(index: number): { readonly data: MemoryDisk; readonly meta: MemoryDisk } {
    const disk = this.disks[index]
    assert.ok(disk !== undefined, `disk ${index}`)
    return disk
  }

  get data(): MemoryDisk {
    return this.diskAt(0).data
  }

  /** The superblock as it is on disk now. */
  get superblock(): Superblock {
    return decodeSuperblock(this.diskAt(0).meta.read(this.layout.superblockOffsetBytes, PAGE_BYTES))
  }

  // ---- events ----------------------------------------------------------------------------------------------------------

  event(event: EngineEvent): void {
    this.#events.push(event)
    if (this.#running) return
    this.#running = true
    try {
      for (let next = this.#events.shift(); next !== undefined; next = this.#events.shift()) {
        for (const effect of this.engine.step(next, this.nowMs)) this.#perform(effect)
      }
    } finally {
      this.#running = false
      this.#events = []
    }
  }

  /** Lets the time pass; every alarm rings at its time. */
  advance(ms: number): void {
    const until = this.nowMs + ms
    while (this.engine.timers.earliestMs <= until) {
      this.nowMs = Math.max(this.nowMs, this.engine.timers.earliestMs)
      this.event({ type: 'tick' })
    }
    this.nowMs = until
  }

  admin(command: AdminCommand): AdminResult | undefined {
    const id = this.#nextId++
    this.event({ type: 'admin', id, command })
    return this.results.get(id)
  }

  attach(): void {
    for (const { number } of this.engine.volumes)
      assert.deepEqual(this.admin({ type: 'attach', volume: number }), { code: 0, text: '' })
  }

  promote(force = false): void {
    assert.deepEqual(this.admin({ type: 'primary', force }), { code: 0, text: '' })
  }

  write(sector: number, data: Uint8Array, options: { readonly fua?: boolean; readonly volume?: number } = {}): number {
    const id = this.#nextId++
    this.event({ type: 'client.write', id, volume: options.volume ?? 0, sector, data, fua: options.fua ?? false })
    return id
  }

  zero(sector: number, sectors: number, options: { readonly unmap?: boolean; readonly fua?: boolean } = {}): number {
    const id = this.#nextId++
    const { unmap = false, fua = false } = options
    this.event({ type: 'client.zero', id, volume: 0, sector, sectors, unmap, fua })
    return id
  }

  read(sector: number, sectors: number): number {
    const id = this.#nextId++
    this.event({ type: 'client.read', id, volume: 0, sector, sectors })
    return id
  }

  flush(): number {
    const id = this.#nextId++
    this.event({ type: 'client.flush', id, volume: 0 })
    return id
  }

  handlerDone(exitCode: number): void {
    this.event({ type: 'handler.done', name: 'fence-peer', exitCode })
  }

  /** 'done', the code of the error, or 'open'. */
  answer(id: number): string {
    const answer = this.answers.get(id)
    return answer === undefined ? 'open' : (answer.error?.code ?? 'done')
  }

  // ---- the disk --------------------------------------------------------------------------------------------------------

  /** The only held job whose text begins so. */
  job(text: string): DiskJob {
    const found = this.jobs.filter((job) => job.text.startsWith(text))
    assert.equal(found.length, 1, `one job ${text}, there are: ${this.jobs.map((job) => job.text).join(', ')}`)
    return found[0] as DiskJob
  }

  complete(text: string, error?: DiskError): void {
    this.completeJob(this.job(text), error)
  }

  completeJob(job: DiskJob, error?: DiskError): void {
    this.jobs = this.jobs.filter((other) => other !== job)
    this.#finish(job, error)
  }

  /** Completes all that is held, also what comes from it, in order. */
  completeAll(): void {
    const { hold } = this
    this.hold = () => false
    while (this.jobs.length > 0) this.#finish(this.jobs.shift() as DiskJob, undefined)
    this.hold = hold
  }

  #submit(effect: DiskEffect): void {
    const job: DiskJob = { effect, text: this.#textOf(effect) }
    this.#checkOverlap(effect)
    this.jobs.push(job)
    if (this.hold(job)) return
    this.jobs.pop()
    this.#finish(job, undefined)
  }

  #checkOverlap(effect: DiskEffect): void {
    const range = rangeOf(effect)
    for (const other of this.jobs) {
      const present = rangeOf(other.effect)
      if (range === undefined || present === undefined || effect.volume !== other.effect.volume) continue
      if (range.device !== present.device || (!range.writes && !present.writes)) continue
      const apart = range.to <= present.from || present.to <= range.from
      assert.ok(apart, `${this.#textOf(effect)} was submitted while ${other.text} is in the queue`)
    }
  }

  #finish(job: DiskJob, error: DiskError | undefined): void {
    const { effect } = job
    if (!this.#open.has(effect.volume)) return // closed: nobody hears of it (ports.ts)
    const data = error === undefined ? this.#apply(effect) : undefined
    this.event({ type: 'disk.done', op: effect.op, error, data })
  }

  #apply(effect: DiskEffect): Uint8Array | undefined {
    const { data, meta } = this.diskAt(effect.volume)
    switch (effect.type) {
      case 'disk.read':
        return data.read(effect.offsetBytes, effect.lengthBytes)
      case 'meta.read':
        return meta.read(effect.offsetBytes, effect.lengthBytes)
      case 'disk.write':
        data.write(effect.offsetBytes, effect.data)
        return undefined
      case 'meta.write':
        meta.write(effect.offsetBytes, effect.data)
        return undefined
      case 'disk.zero':
        data.zero(effect.offsetBytes, effect.lengthBytes)
        return undefined
      default:
        return undefined
    }
  }

  // ---- effects ---------------------------------------------------------------------------------------------------------

  /** All effects since the last `take` but logs, states and contexts; `only`: those that begin with one of these. */
  take(...only: readonly string[]): string[] {
    const trace = this.#trace
    this.#trace = []
    return only.length === 0 ? trace : trace.filter((text) => only.some((prefix) => text.startsWith(prefix)))
  }

  #perform(effect: Effect): void {
    const { network } = this
    if (effect.type !== 'log' && effect.type !== 'status' && !effect.type.endsWith('context'))
      this.#trace.push(this.#textOf(effect))
    switch (effect.type) {
      case 'client.done':
        assert.ok(!this.answers.has(effect.id), `request ${effect.id} is answered once`)
        this.answers.set(effect.id, { error: effect.error, data: effect.data })
        break
      case 'admin.done':
        this.results.set(effect.id, effect.result)
        break
      case 'devices.open':
        if (!this.holdDevices) this.openDevices(effect.volume)
        break
      case 'devices.close':
        this.#open.delete(effect.volume)
        // As the replica does it: what was ordered and is not complete ends with an error.
        for (const { effect: job } of this.jobs) {
          if (job.volume !== effect.volume) continue
          const error = { code: 'gone', message: 'the device is closed' } as const
          this.#events.push({ type: 'disk.done', op: job.op, error, data: undefined })
        }
        this.jobs = this.jobs.filter((job) => job.effect.volume !== effect.volume)
        break
      case 'handler.run':
        this.handlers.push(effect.name)
        break
      case 'socket.connect':
        network?.connect(this)
        break
      case 'socket.cancel-connect':
        network?.cancel(this)
        break
      case 'socket.listen':
        network?.listen(this)
        break
      case 'socket.unlisten':
        network?.unlisten(this)
        break
      case 'socket.send':
        network?.send(this, effect.socket, effect.packet)
        break
      case 'socket.close':
        network?.close(this, effect.socket)
        break
      case 'log':
        this.logs.push(effect.message)
        break
      case 'status':
      case 'socket.context':
      case 'socket.send-context':
      case 'socket.receive-context':
        break
      default:
        this.#submit(effect)
    }
  }

  openDevices(volume: number): void {
    this.#open.add(volume)
    const { data, meta } = this.diskAt(volume)
    this.event({
      type: 'devices.opened',
      volume,
      devices: {
        dataBytes: data.sizeBytes,
        metaBytes: meta.sizeBytes,
        metaIndex: 'flexible',
        discardZeroes: true,
        isHole: (offsetBytes, lengthBytes) => data.isHole(offsetBytes, lengthBytes),
      },
    })
  }

  #textOf(effect: Effect): string {
    switch (effect.type) {
      case 'disk.read':
      case 'disk.zero':
        return `${effect.type} ${effect.offsetBytes / 512}+${effect.lengthBytes / 512}`
      case 'disk.write':
        return `${effect.type} ${effect.offsetBytes / 512}+${effect.data.length / 512}`
      case 'meta.read':
      case 'meta.write':
        return `${effect.type} ${this.#areaOf(effect.offsetBytes)}`
      case 'socket.send':
        return effect.packet.type
      case 'client.done':
        return `client.done ${effect.id}${effect.error === undefined ? '' : ` ${effect.error.code}`}`
      case 'admin.done':
        return `admin.done ${effect.result.code}`
      case 'handler.run':
        return `handler.run ${effect.name}`
      default:
        return effect.type
    }
  }

  #areaOf(offsetBytes: number): string {
    const { superblockOffsetBytes, activityLogOffsetBytes, activityLogBytes } = this.layout
    if (offsetBytes === superblockOffsetBytes) return 'superblock'
    const inLog = offsetBytes - activityLogOffsetBytes
    return inLog >= 0 && inLog < activityLogBytes ? 'log' : 'bitmap'
  }
}

interface JobRange {
  readonly device: 'data' | 'meta'
  readonly from: number
  readonly to: number
  readonly writes: boolean
}

function rangeOf(effect: DiskEffect): JobRange | undefined {
  if (effect.type === 'disk.flush' || effect.type === 'meta.flush') return undefined
  const device = effect.type.startsWith('meta') ? 'meta' : 'data'
  const lengthBytes = 'data' in effect ? effect.data.length : effect.lengthBytes
  const writes = effect.type !== 'disk.read' && effect.type !== 'meta.read'
  return { device, from: effect.offsetBytes, to: effect.offsetBytes + lengthBytes, writes }
}

function formatted(options: VolumeOptions, layout: MdLayout): { readonly data: MemoryDisk; readonly meta: MemoryDisk } {
  const dataSectors = options.dataSectors ?? 2048
  const data = new MemoryDisk(dataSectors * 512)
  const meta = new MemoryDisk(META_BYTES)
  const creation = { layout, geometry: DEFAULT_AL_GEOMETRY, alExtents: 67, deviceUuid: 7n, kind: 'flexible' } as const
  for (const write of createMetadata(creation)) meta.write(write.offsetBytes, write.data)
  const { superblock } = options
  if (superblock !== 'fresh') {
    const created = decodeSuperblock(meta.read(layout.superblockOffsetBytes, PAGE_BYTES))
    const flags = MDF_AL_CLEAN | MDF_CONSISTENT | MDF_WAS_UPTODATE
    const used = { ...created, current: GENERATION, laSizeSectors: dataSectors, flags, ...superblock }
    meta.write(layout.superblockOffsetBytes, encodeSuperblock(used))
  }
  return { data, meta }
}

export const orderSettings = (name: OrderSettings['name'], patch: Partial<OrderSettings> = {}): OrderSettings => ({
  name,
  writeNowAcks: false,
  coordinator: 'flag',
  extentBytes: 4 * 1024 * 1024,
  extentsMax: 1237,
  ...patch,
})

export function resourceSettings(
  settings: Partial<Omit<ResourceSettings, 'volumes'>>,
  volumes: readonly VolumeOptions[],
): ResourceSettings {
  return {
    name: 'r0',
    protocol: 'C',
    allowTwoPrimaries: true,
    fencing: 'dont-care',
    fencePeerHandler: true,
    onNoDataAccessible: 'io-error',
    afterSb0p: 0,
    afterSb1p: 0,
    afterSb2p: 0,
    alwaysAsbp: false,
    rrConflict: 0,
    cramHmacAlg: '',
    sharedSecret: '',
    dataIntegrityAlg: '',
    verifyAlg: '',
    csumsAlg: '',
    useRle: true,
    maxEpochSize: 2048,
    pingIntMs: 10_000,
    pingTimeoutMs: 500,
    timeoutMs: 6000,
    koCount: 7,
    connectIntMs: 10_000,
    socketCheckTimeoutMs: 100,
    inFlightBytesMax: 64 * 1024 * 1024,
    order: orderSettings('arbitration'),
    ...settings,
    volumes: volumes.map((volume, number) => ({
      volume: number,
      alExtents: 67,
      sizeSectors: 0,
      onIoError: 'detach',
      resyncRateMaxKib: 0,
      resyncRateMinKib: 0,
      ...volume.settings,
    })),
  }
}

/** Sectors that all hold the same byte. */
export const sectorsOf = (sectors: number, byte: number): Uint8Array => new Uint8Array(sectors * 512).fill(byte)
