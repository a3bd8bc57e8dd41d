// Two hosts in a world without time or chance, for the explorer: everything that may happen next is a step that somebody
// chooses, and nothing else happens.
//
//   invoke    a client asks for its next operation
//   disk      an operation in a disk's queue is complete, in any order
//   deliver   the first packet of one of the four streams arrives (data and meta, both ways); a stream keeps its order
//
// The clock stands still once the pair is up, so no time-out interferes. What a host does depends on nothing but the steps
// that happened to it, in their order; the explorer relies on this (explore.ts).

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
  readonly image = new SimDiskImage(DEVICE_BYTES)
  readonly queue: DiskOperation[] = []
  #count = 0

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

class PairHost {
  readonly name: HostName
  readonly disk = new PairDisk()
  readonly links: PairLink[] = []
  readonly replica: ReplicaApi
  listening: ((link: Link) => void) | undefined

  constructor(name: HostName, pair: Pair, settings: ResourceSettings, createReplica: CreateReplica) {
    this.name = name
    const ports: ReplicaPorts = {
      clock: pair.clock,
      entropy: new SimEntropy(new Prng(name === 'a' ? 1 : 2)),
      network: pair.networkOf(this),
      digests: new SimDigests(),
      buffers: new PoisoningPool(),
      handlers: { run: () => {} },
      openDevices: (_volume, done) =>
        pair.soon(() => done(undefined, { data: this.disk, meta: this.disk, metaIndex: 'internal' })),
      log: () => {},
      onStatusChange: () => {},
    }
    this.replica = createReplica(settings, ports, name)
  }
}

interface Alarm {
  readonly atMs: number
  readonly fire: () => void
}

export class Pair {
  readonly hosts: { readonly a: PairHost; readonly b: PairHost }
  readonly invariant: OutOfSyncInvariant
  #nowMs = 0
  #alarms: Alarm[] = []
  #soon: (() => void)[] = []

  readonly clock: Clock = {
    nowMs: () => this.#nowMs,
    wakeAt: (atMs, fire) => {
      const alarm = { atMs, fire }
      this.#alarms.push(alarm)
      return {
        cancel: () => {
          this.#alarms = this.#alarms.filter((other) => other !== alarm)
        },
      }
    },
  }

  constructor(settings: ResourceSettings, createReplica: CreateReplica) {
    const host = (name: HostName): PairHost => new PairHost(name, this, settings, createReplica)
    this.hosts = { a: host('a'), b: host('b') }
    for (const { disk, name } of this.#all) format(disk.image, name)
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
    for (const { name, disk, links } of this.#all) {
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

  /** Everything that is nobody's choice. Alarms do not ring: the clock stands still. */
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
    for (const { name } of this.#all) {
      const data = new Uint8Array(SECTOR_BYTES)
      this.submit(name, { type: 'write', volume: 0, sector: DEVICE_SECTORS - 8, data, fua: false }, () => {})
    }
    this.#runUntil(() => this.#isIdle)
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

  #ring(): void {
    const [first] = [...this.#alarms].sort((x, y) => x.atMs - y.atMs)
    if (first === undefined) throw new CheckFailure('boot', 'nothing will happen any more', 'no-progress')
    this.#alarms = this.#alarms.filter((alarm) => alarm !== first)
    this.#nowMs = Math.max(this.#nowMs, first.atMs)
    first.fire()
  }
}

function format(image: SimDiskImage, name: HostName): void {
  const layout = internalLayout(DEVICE_BYTES, DEFAULT_AL_GEOMETRY)
  const deviceUuid = name === 'a' ? 1n : 2n
  const options = { layout, geometry: DEFAULT_AL_GEOMETRY, alExtents: 67, deviceUuid, kind: 'internal' as const }
  for (const { offsetBytes, data } of createMetadata(options)) image.write(offsetBytes, data)
}
