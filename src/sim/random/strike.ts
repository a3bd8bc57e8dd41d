// Carries out the faults of a story: waits for their moments, strikes, and takes back what has an end. Everything is done in
// events of the scheduler of its own, never in the middle of a replica's turn.

import type { Prng } from '../../base/prng.ts'
import { DEFAULT_AL_GEOMETRY, internalLayout, MD_BLOCK_BYTES, type MdLayout } from '../../meta/layout.ts'
import type { ResourceStatus } from '../../runtime/api.ts'
import { newestLogBlock } from '../checkers/recovered-bitmap.ts'
import type { OperationKind } from '../disk.ts'
import { type Connection, type HostName, otherHost } from '../network.ts'
import type { World } from '../world.ts'
import type { Fault, Moment, PlannedFault, Sight } from './faults.ts'

interface Ambush {
  readonly moment: Extract<Moment, { readonly sight: Sight }>
  readonly strike: () => void
  seen: number
}

const STATE_SIGHTS: ReadonlyMap<string, Sight> = new Map([
  ['WFReportParams', 'handshake'],
  ['WFBitMapS', 'bitmap-exchange'],
  ['WFBitMapT', 'bitmap-exchange'],
  ['WFSyncUUID', 'bitmap-exchange'],
  ['SyncSource', 'resync'],
  ['SyncTarget', 'resync'],
  ['Unconnected', 'connection-lost'],
  ['WFConnection', 'connection-lost'],
])

/** Fields of the superblock whose damage an attach or a handshake can see: sizes and UUIDs, magic, places of the areas. */
const ROT_SUPERBLOCK_BYTES = [
  [0, 40],
  [60, 72],
  [76, 84],
  [88, 96],
] as const

export class Striker {
  readonly #world: World
  readonly #prng: Prng
  readonly #layout: MdLayout
  readonly #startedMs: number
  readonly #ambushes: Ambush[] = []
  /** What was last seen of each host: a sight is a change. */
  readonly #seen = new Map<HostName, string>()
  #over = false

  constructor(world: World, prng: Prng) {
    this.#world = world
    this.#prng = prng
    this.#layout = internalLayout(world.host('a').device.image.sizeBytes, DEFAULT_AL_GEOMETRY)
    this.#startedMs = world.nowMs
    world.observer = {
      onStatus: (host, status) => this.#onStatus(host, status),
      onSubmit: (host, kind, offsetBytes) => this.#onSubmit(host, kind, offsetBytes),
      onHandler: (host) => this.#onSight('fencing', host),
      onPromise: (host) => this.#onSight('promise', host),
    }
    world.onFinish(() => this.#end())
  }

  plan(faults: readonly PlannedFault[]): void {
    for (const { moment, fault } of faults) {
      const strike = (): void => {
        if (!this.#over) this.#strike(fault)
      }
      if ('sight' in moment) this.#ambushes.push({ moment, strike, seen: 0 })
      else this.#world.scheduler.after(moment.afterMs * 1000, `fault ${fault.type}`, strike)
    }
  }

  /** Faults end: what the world does not take back by itself. */
  #end(): void {
    this.#over = true
    this.#world.observer = {}
    this.#world.network.config = this.#world.options.network
    for (const host of this.#world.hosts) host.device.config = this.#world.options.disks[host.name]
    for (const connection of this.#world.network.connections) {
      if (connection.stalled) this.#world.network.resume(connection)
    }
  }

  // ---- moments --------------------------------------------------------------------------------------------------------

  #onStatus(host: HostName, status: ResourceStatus): void {
    const [volume] = status.volumes
    if (volume === undefined) return
    const frozen = volume.suspended.length > 0
    const seen = `${volume.connection} ${frozen}`
    if (this.#seen.get(host) === seen) return
    this.#seen.set(host, seen)
    if (frozen) this.#onSight('frozen', host)
    const sight = STATE_SIGHTS.get(volume.connection)
    if (sight !== undefined) this.#onSight(sight, host)
  }

  #onSubmit(host: HostName, kind: OperationKind, offsetBytes: number): void {
    if (kind === 'read') return
    if (kind === 'flush') this.#onSight('flush', host)
    else if (offsetBytes < this.#layout.bitmapOffsetBytes) this.#onSight('data-write', host)
    else if (offsetBytes < this.#layout.activityLogOffsetBytes) this.#onSight('bitmap-write', host)
    else if (offsetBytes < this.#layout.superblockOffsetBytes) this.#onSight('log-write', host)
    else this.#onSight('superblock-write', host)
  }

  #onSight(sight: Sight, host: HostName): void {
    const sinceMs = this.#world.nowMs - this.#startedMs
    for (const ambush of this.#ambushes) {
      const { moment } = ambush
      if (moment.sight !== sight || moment.host !== host || sinceMs < moment.afterMs) continue
      if (++ambush.seen !== moment.nth) continue
      this.#world.scheduler.after(moment.delayUs, `fault at ${sight} of ${host}`, ambush.strike)
    }
  }

  /** Takes a fault back after its time, unless all faults have been taken back before. */
  #until(ms: number, what: string, undo: () => void): void {
    this.#world.scheduler.after(ms * 1000, `end of ${what}`, () => {
      if (!this.#over) undo()
    })
  }

  // ---- faults ---------------------------------------------------------------------------------------------------------

  #strike(fault: Fault): void {
    const world = this.#world
    world.scheduler.note(`strikes: ${JSON.stringify(fault)}`)
    switch (fault.type) {
      case 'crash':
      case 'power-cut':
        this.#kill(fault.hosts, fault.type, fault.apartMs)
        break
      case 'rot':
        this.#rot(fault)
        break
      case 'new-disk':
        this.#replaceDisk(fault.host)
        break
      case 'take-over':
        this.#takeOver(fault.powerCut)
        break
      case 'cut':
      case 'half-open':
      case 'partition':
      case 'stall':
      case 'slow-network':
        this.#strikeNetwork(fault)
        break
      case 'slow-disk':
      case 'disk-error':
      case 'broken-disk':
        this.#strikeDisk(fault)
        break
      default:
        if (world.host(fault.host).isRunning) this.#administer(fault)
    }
  }

  #kill(hosts: readonly HostName[], how: 'crash' | 'power-cut', apartMs: number): void {
    hosts.forEach((name, index) => {
      const strike = (): void => {
        if (how === 'crash') this.#world.host(name).crashProcess()
        else this.#world.host(name).powerCut()
      }
      if (index === 0 || apartMs === 0) strike()
      else this.#until(index * apartMs, `life of ${name}`, strike)
    })
  }

  /** Only the host that the other one can do without: the format has no second copy of anything. */
  #rot({ host: name, where, powerCut }: Extract<Fault, { type: 'rot' }>): void {
    const host = this.#world.host(name)
    if (!this.#canSpare(name)) return
    if (powerCut) host.powerCut()
    else host.crashProcess()
    const { image } = host.device
    let offsetBytes: number
    if (where === 'superblock') {
      const [from, to] = this.#prng.pick(ROT_SUPERBLOCK_BYTES)
      offsetBytes = this.#layout.superblockOffsetBytes + this.#prng.intInclusive(from, to - 1)
    } else {
      // The newest block is spared: without it the log looks as if it had never been written, which is a legal state.
      const read = (at: number, length: number): Uint8Array => image.read(at, length)
      const newest = newestLogBlock(read, image.sizeBytes)
      const block = this.#prng.intInclusive(0, 7)
      if (block === newest) return
      const within = this.#prng.intInclusive(0, MD_BLOCK_BYTES - 1)
      offsetBytes = this.#layout.activityLogOffsetBytes + block * MD_BLOCK_BYTES + within
    }
    this.#world.scheduler.note(`${name}: a bit of byte ${offsetBytes} flips (${where})`)
    this.#world.damaged.add(name)
    image.rotByte(this.#prng, offsetBytes)
  }

  #replaceDisk(name: HostName): void {
    if (!this.#canSpare(name)) return
    this.#world.host(name).powerCut()
    this.#world.replaceMetadata(name, { newDisk: true })
  }

  /** Whether the other host runs on data that are as good. */
  #canSpare(name: HostName): boolean {
    return this.#world.damaged.size === 0 && this.#world.hasAllOf(otherHost(name), name)
  }

  #takeOver(powerCut: boolean): void {
    const world = this.#world
    const [primary] = world.hosts.filter((host) => host.isPrimary)
    if (primary === undefined) return
    const heir = world.host(otherHost(primary.name))
    world.moveRole(primary.name, heir.name)
    if (powerCut) primary.powerCut()
    else primary.crashProcess()
    if (heir.isRunning) heir.command({ type: 'primary', force: false })
  }

  #strikeNetwork(fault: Extract<Fault, { type: 'cut' | 'half-open' | 'partition' | 'stall' | 'slow-network' }>): void {
    const { network } = this.#world
    if (fault.type === 'partition') {
      network.partition(fault.from)
      this.#until(fault.ms, 'the partition', () => network.heal())
      return
    }
    if (fault.type === 'slow-network') {
      const before = network.config
      network.config = {
        ...before,
        delayUsMax: fault.delayUsMax,
        longDelayPerMille: 100,
        longDelayUs: fault.delayUsMax,
      }
      this.#until(fault.ms, 'the slow network', () => {
        network.config = this.#world.options.network
      })
      return
    }
    const one = this.#anyConnection()
    if (one === undefined) return
    if (fault.type === 'stall') {
      network.stall(one)
      this.#until(fault.ms, 'the stall', () => network.resume(one))
    } else if (fault.type === 'cut') network.cut(fault.which === 'one' ? one : undefined)
    else network.halfOpen(fault.which === 'one' ? one : undefined)
  }

  #anyConnection(): Connection | undefined {
    const connections = [...this.#world.network.connections]
    return connections.length === 0 ? undefined : this.#prng.pick(connections)
  }

  #strikeDisk(fault: Extract<Fault, { type: 'slow-disk' | 'disk-error' | 'broken-disk' }>): void {
    const host = this.#world.host(fault.host)
    const { device } = host
    if (fault.type === 'slow-disk') {
      device.config = { ...device.config, latencyUsMax: fault.latencyUsMax, flushUsMax: fault.latencyUsMax }
      this.#until(fault.ms, 'the slow disk', () => {
        device.config = this.#world.options.disks[fault.host]
      })
      return
    }
    if (fault.type === 'broken-disk') device.broken = fault.code
    else {
      const dataBytes = this.#layout.bitmapOffsetBytes
      const [from, to] =
        fault.where === 'data'
          ? [0, dataBytes]
          : fault.where === 'metadata'
            ? [dataBytes, device.image.sizeBytes]
            : [0, device.image.sizeBytes]
      device.inject({ on: fault.on, code: fault.code, offsetBytes: from, lengthBytes: to - from, times: fault.times })
    }
    this.#until(fault.ms, 'the broken disk', () => {
      device.clearFaults()
      if (host.isRunning && host.isDiskless) host.command({ type: 'attach', volume: 0 })
    })
  }

  #administer(fault: Extract<Fault, { type: 'stop' | 'secondary' | 'disconnect' | 'detach' | 'invalidate' }>): void {
    const host = this.#world.host(fault.host)
    switch (fault.type) {
      case 'stop': {
        const { wantsPrimary } = host
        host.stop(() => {
          host.wantsPrimary = wantsPrimary
        })
        break
      }
      case 'secondary': {
        const { wantsPrimary } = host
        host.wantsPrimary = false
        host.command({ type: 'secondary' })
        this.#until(fault.ms, 'being Secondary', () => {
          host.wantsPrimary = wantsPrimary
          host.reconsiderRole()
        })
        break
      }
      case 'disconnect':
        host.command({ type: 'disconnect', force: fault.force })
        this.#until(fault.ms, 'being disconnected', () => {
          if (host.isRunning) host.command({ type: 'connect', discardMyData: false })
        })
        break
      case 'detach':
        host.command({ type: 'detach', volume: 0, force: fault.force })
        this.#until(fault.ms, 'being detached', () => {
          if (host.isRunning) host.command({ type: 'attach', volume: 0 })
        })
        break
      case 'invalidate':
        // Nobody gives up data while it is not known that the other host has them: its disk may come back with nothing.
        if (this.#canSpare(fault.host)) host.command({ type: 'invalidate', volume: 0 })
        break
    }
  }
}
