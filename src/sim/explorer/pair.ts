// Two hosts in a world without time or chance, for the explorer: everything that may happen next is a step that somebody
// chooses, and nothing else happens.
//
//   invoke    a client asks for its next operation
//   disk      an operation in a disk's queue is complete, in any order
//   deliver   the first packet of one of the four streams arrives (data and meta, both ways); a stream keeps its order
//   alarm     a short wait of one host is over: the hold of a lock
//
// Each host has a clock of its own, which stands still but for its alarms, so no time-out of the peer or of the link
// interferes, and the two hosts may be late against each other in every way. What a host does depends on nothing but the
// steps that happened to it, in their order; the explorer relies on this (explore.ts).

import { Prng } from '../../base/prng.ts'
import { MIB, SECTOR_BYTES } from '../../base/units.ts'
import { createMetadata } from '../../meta/create.ts'
import { DEFAULT_AL_GEOMETRY, internalLayout } from '../../meta/layout.ts'
import type { ClientRequest, ReplicaApi, ReplicaPorts, ResourceSettings } from '../../runtime/api.ts'
import type { Clock, Disk, DiskDone, Link, LinkHandler, Network } from '../../runtime/ports.ts'
import { OutOfSyncInvariant } from '../checkers/out-of-sync-invariant.ts'
import { SimDigests } from '../digests.ts'
import { SimDiskImage } from '../disk-image.ts'
import { SimEntropy } from '../entropy.ts'
import { CheckFailure } from '../failure.ts'
import type { CreateReplica } from '../host.ts'
import type { HostName } from '../network.ts'
import { PoisoningPool } from '../poisoning-pool.ts'

export const DEVICE_BYTES = MIB
export const DEVICE_SECTORS = internalLayout(DEVICE_BYTES, DEFAULT_AL_GEOMETRY).usableSectors
const BOOT_STEPS_MAX = 20_000
/** A wait up to this is part of a write; what is longer is a time-out, and does not happen here. */
const ALARM_MS_MAX = 100
/** Header of protocol 100 and above: magic, volume, command, length, padding (wire-protocol.md 2.2). */
const HEADER_BYTES = 16
const HEADER_LENGTH_AT = 8

/** Something that may happen now. `host`: the only one that it happens to. */
export interface Step {
  readonly name: string
  readonly host: HostName
  take(): void
}

interface DiskOperation {
  readonly name: string
  readonly writes: boolean
  readonly offsetBytes: number
  readonly lengthBytes: number
  readonly complete: () => void
}

/** The disk of one host: what completes is visible, nothing is lost. */
class PairDisk implements Disk {
  readonly sizeBytes = DEVICE_BYTES
  readonly discardZeroes = true
  readonly image: SimDiskImage
  readonly queue: DiskOperation[] = []
  #count = 0

  constructor(image: SimDiskImage) {
    this.image = image
  }

  read(offsetBytes: number, lengthBytes: number, done: DiskDone): void {
    this.#submit('read', { offsetBytes, lengthBytes }, () => done(undefined, this.image.read(offsetBytes, lengthBytes)))
  }

  write(offsetBytes: number, data: Uint8Array, done: DiskDone): void {
    this.#submit('write', { offsetBytes, lengthBytes: data.length }, () => {
      this.image.write(offsetBytes, data)
      done(undefined)
    })
  }

  zero(offsetBytes: number, lengthBytes: number, unmap: boolean, done: DiskDone): void {
    this.#submit('zero', { offsetBytes, lengthBytes }, () => {
      this.image.zero(offsetBytes, lengthBytes, unmap)
      done(undefined)
    })
  }

  flush(done: DiskDone): void {
    this.#submit('flush', { offsetBytes: 0, lengthBytes: 0 }, () => {
      this.image.flushAll()
      done(undefined)
    })
  }

  isHole(offsetBytes: number, lengthBytes: number): boolean {
    return this.image.isHole(offsetBytes, lengthBytes)
  }

  extents(): never[] {
    return []
  }

  close(): void {}

  #submit(kind: string, range: { offsetBytes: number; lengthBytes: number }, complete: () => void): void {
    const { offsetBytes, lengthBytes } = range
    const writes = kind === 'write' || kind === 'zero'
    for (const other of this.queue) {
      const overlaps =
        offsetBytes < other.offsetBytes + other.lengthBytes && other.offsetBytes < offsetBytes + lengthBytes
      if (!overlaps || !(writes || other.writes)) continue
      throw new CheckFailure('overlapping-io', `${kind} ${offsetBytes}+${lengthBytes} submitted beside ${other.name}`)
    }
    const name = `${kind} ${offsetBytes / SECTOR_BYTES}+${lengthBytes / SECTOR_BYTES} (${++this.#count})`
    this.queue.push({ name, writes, offsetBytes, lengthBytes, complete })
  }
}

/** One end of a connection; `inbox` is what the other end has sent. */
class PairLink implements Link {
  readonly queuedBytes = 0
  readonly host: HostName
  peer: PairLink | undefined
  handler: LinkHandler | undefined
  open = true
  #inbox: Uint8Array = new Uint8Array(0)

  constructor(host: HostName) {
    this.host = host
  }

  setHandler(handler: LinkHandler): void {
    this.handler = handler
  }

  send(chunks: readonly Uint8Array[]): void {
    const peer = this.peer
    if (peer === undefined || !peer.open) return
    const parts = [peer.#inbox, ...chunks]
    const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
    let filled = 0
    for (const part of parts) {
      all.set(part, filled)
      filled += part.length
    }
    peer.#inbox = all
  }

  pauseReading(): void {}
  resumeReading(): void {}

  close(): void {
    this.open = false
  }

  get hasInput(): boolean {
    return this.open && this.#inbox.length > 0
  }

  deliverAll(): void {
    this.#deliver(this.#inbox.length)
  }

  deliverPacket(): void {
    const view = new DataView(this.#inbox.buffer, this.#inbox.byteOffset, this.#inbox.byteLength)
    this.#deliver(HEADER_BYTES + view.getUint32(HEADER_LENGTH_AT))
  }

  #deliver(lengthBytes: number): void {
    const bytes = this.#inbox.slice(0, lengthBytes)
    this.#inbox = this.#inbox.slice(lengthBytes)
    this.handler?.onData(bytes)
  }
}

/** What does not depend on a run is made once: a run is begun anew for every fork. */
const NEW_DISKS: Readonly<Record<HostName, SimDiskImage>> = { a: newDisk(1n), b: newDisk(2n) }
const BUFFERS: Readonly<Record<HostName, PoisoningPool>> = { a: new PoisoningPool(), b: new PoisoningPool() }

function newDisk(deviceUuid: bigint): SimDiskImage {
  const image = new SimDiskImage(DEVICE_BYTES)
  const layout = internalLayout(DEVICE_BYTES, DEFAULT_AL_GEOMETRY)
  const options = { layout, geometry: DEFAULT_AL_GEOMETRY, alExtents: 67, deviceUuid, kind: 'internal' as const }
  for (const { offsetBytes, data } of createMetadata(options)) image.write(offsetBytes, data)
  return image
}

interface Alarm {
  readonly atMs: number
  readonly fire: () => void
}

/** The clock of one host: time passes when somebody lets it. */
class PairClock implements Clock {
  #nowMs = 0
  #alarms: Alarm[] = []

  nowMs(): number {
    return this.#nowMs
  }

  wakeAt(atMs: number, fire: () => void): { cancel(): void } {
    const alarm = { atMs, fire }
    this.#alarms.push(alarm)
    return {
      cancel: () => {
        this.#alarms = this.#alarms.filter((other) => other !== alarm)
      },
    }
  }

  get nextAlarmMs(): number {
    return this.#alarms.reduce((earliest, { atMs }) => Math.min(earliest, atMs), Number.POSITIVE_INFINITY)
  }

  /** All alarms on the way ring, one after the other. */
  advanceTo(atMs: number): void {
    for (let next = this.#first(atMs); next !== undefined; next = this.#first(atMs)) {
      this.#alarms.splice(this.#alarms.indexOf(next), 1)
      this.#nowMs = Math.max(this.#nowMs, next.atMs)
      next.fire()
    }
    this.#nowMs = Math.max(this.#nowMs, atMs)
  }

  #first(untilMs: number): Alarm | undefined {
    let first: Alarm | undefined
    for (const alarm of this.#alarms)
      if (alarm.atMs <= untilMs && (first === undefined || alarm.atMs < first.atMs)) first = alarm
    return first
  }
}

class PairHost {
  readonly name: HostName
  readonly clock = new PairClock()
  readonly disk: PairDisk
  readonly links: PairLink[] = []
  readonly replica: ReplicaApi
  listening: ((link: Link) => void) | undefined

  constructor(name: HostName, pair: Pair, settings: ResourceSettings, createReplica: CreateReplica) {
    this.name = name
    this.disk = new PairDisk(NEW_DISKS[name].copy())
    const ports: ReplicaPorts = {
      clock: this.clock,
      entropy: new SimEntropy(new Prng(name === 'a' ? 1 : 2)),
      network: pair.networkOf(this),
      digests: new SimDigests(),
      buffers: BUFFERS[name],
      handlers: { run: () => {} },
      openDevices: (_volume, done) =>
        pair.soon(() => done(undefined, { data: this.disk, meta: this.disk, metaIndex: 'internal' })),
      log: () => {},
      onStatusChange: () => {},
    }
    this.replica = createReplica(settings, ports, name)
  }
}

export class Pair {
  readonly hosts: { readonly a: PairHost; readonly b: PairHost }
  readonly invariant: OutOfSyncInvariant
  #soon: (() => void)[] = []

  constructor(settings: ResourceSettings, createReplica: CreateReplica) {
    const host = (name: HostName): PairHost => new PairHost(name, this, settings, createReplica)
    this.hosts = { a: host('a'), b: host('b') }
    const side = (name: HostName) => ({ name, image: this.hosts[name].disk.image })
    this.invariant = new OutOfSyncInvariant(side('a'), side('b'))
    this.#boot()
  }

  get #all(): readonly [PairHost, PairHost] {
    return [this.hosts.a, this.hosts.b]
  }

  /** What happens outside of any choice: the beginning of a connection, an answer that no disk or peer has a part in. */
  soon(task: () => void): void {
    this.#soon.push(task)
  }

  networkOf(host: PairHost): Network {
    return {
      connect: (_timeoutMs, onUp, onFailure) => {
        let cancelled = false
        this.soon(() => {
          const peer = host.name === 'a' ? this.hosts.b : this.hosts.a
          if (cancelled) return
          if (peer.listening === undefined) onFailure('connection refused')
          else this.#connect(host, peer, onUp, peer.listening)
        })
        return {
          cancel: () => {
            cancelled = true
          },
        }
      },
      listen: (onLink) => {
        host.listening = onLink
      },
      stopListening: () => {
        host.listening = undefined
      },
    }
  }

  #connect(host: PairHost, peer: PairHost, onUp: (link: Link) => void, onLink: (link: Link) => void): void {
    const near = new PairLink(host.name)
    const far = new PairLink(peer.name)
    near.peer = far
    far.peer = near
    host.links.push(near)
    peer.links.push(far)
    onLink(far)
    onUp(near)
  }

  /** All that may happen now, but for the clients' next operations. Always in the same order. */
  steps(): Step[] {
    const steps: Step[] = []
    for (const { name, disk, links, clock } of this.#all) {
      const alarmMs = clock.nextAlarmMs
      if (alarmMs - clock.nowMs() <= ALARM_MS_MAX)
        steps.push({ name: `${name} waits`, host: name, take: () => clock.advanceTo(alarmMs) })
      for (const operation of disk.queue) {
        steps.push({
          name: `${name} disk ${operation.name}`,
          host: name,
          take: () => {
            disk.queue.splice(disk.queue.indexOf(operation), 1)
            operation.complete()
          },
        })
      }
      links.forEach((link, index) => {
        if (link.hasInput)
          steps.push({ name: `${name} receives ${index}`, host: name, take: () => link.deliverPacket() })
      })
    }
    return steps
  }

  submit(host: HostName, request: ClientRequest, done: (data: readonly Uint8Array[] | undefined) => void): void {
    this.hosts[host].replica.submit(request, (error, data) => {
      if (error !== undefined) throw new CheckFailure('client-contract', `${request.type} on ${host}: ${error.message}`)
      done(data)
    })
    this.settle()
  }

  pass(host: HostName, ms: number): void {
    const { clock } = this.hosts[host]
    clock.advanceTo(clock.nowMs() + ms)
    this.settle()
  }

  /** A write that is answered before anything else happens, with all that follows from it. */
  writeNow(host: HostName, sector: number): void {
    const data = new Uint8Array(SECTOR_BYTES)
    let answered = false
    this.submit(host, { type: 'write', volume: 0, sector, data, fua: false }, () => {
      answered = true
    })
    this.#runUntil(() => answered && this.#isIdle)
  }

  /** Everything that is nobody's choice. Alarms do not ring. */
  settle(): void {
    for (let task = this.#soon.shift(); task !== undefined; task = this.#soon.shift()) task()
  }

  /** Two new disks, connected and equal, both hosts Primary, the first extent of both logs hot. */
  #boot(): void {
    for (const { replica } of this.#all) {
      replica.command({ type: 'attach', volume: 0 }, () =>
        replica.command({ type: 'connect', discardMyData: false }, () => {}),
      )
    }
    this.#runUntil(() => this.#all.every(({ replica }) => replica.status().volumes[0]?.disk === 'UpToDate'))
    for (const { replica } of this.#all) {
      replica.command({ type: 'primary', force: false }, () => {})
      this.#runUntil(() => replica.status().role === 'Primary')
    }
    for (const { name } of this.#all) this.writeNow(name, DEVICE_SECTORS - 8)
  }

  get #isIdle(): boolean {
    return this.#all.every(({ disk, links }) => disk.queue.length === 0 && links.every((link) => !link.hasInput))
  }

  /** First come, first served; time passes when nothing else happens. */
  #runUntil(holds: () => boolean): void {
    for (let i = 0; i < BOOT_STEPS_MAX; i++) {
      this.settle()
      if (holds()) return
      if (!this.#runOne()) this.#ring()
    }
    throw new CheckFailure('boot', 'the pair does not come up', 'no-progress')
  }

  #runOne(): boolean {
    for (const { disk, links } of this.#all) {
      const operation = disk.queue.shift()
      if (operation !== undefined) {
        operation.complete()
        return true
      }
      const link = links.find((each) => each.hasInput)
      if (link !== undefined) {
        link.deliverAll()
        return true
      }
    }
    return false
  }

  /** The next alarm of either host; for both it is the same time then. */
  #ring(): void {
    const { a, b } = this.hosts
    const atMs = Math.min(a.clock.nextAlarmMs, b.clock.nextAlarmMs)
    if (atMs === Number.POSITIVE_INFINITY) throw new CheckFailure('boot', 'nothing will happen any more', 'no-progress')
    for (const { clock } of this.#all) clock.advanceTo(atMs)
  }
}
