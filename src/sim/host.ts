// One simulated machine: a disk that outlives everything, power that may fail, and at most one process at a time - a
// replica with its ports, which a start builds from nothing but what is on the disk. After a start the host does what a
// daemon does: attach, connect, and become Primary as soon as that is allowed, if it is told to.

import { defined } from '../base/assert.ts'
import type { Prng } from '../base/prng.ts'
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
} from '../runtime/api.ts'
import { packetArrow } from '../runtime/packet-lines.ts'
import { type Direction, PacketTracer } from '../runtime/packet-trace.ts'
import type { Packet } from '../wire/drbd/packets.ts'
import { type ClockConfig, SimClock } from './clock.ts'
import { SimDigests } from './digests.ts'
import type { SimDiskDevice } from './disk.ts'
import { SimEntropy } from './entropy.ts'
import { type HandlersConfig, SimHandlers } from './handlers.ts'
import type { HostName, SimNetwork } from './network.ts'
import { PoisoningPool } from './poisoning-pool.ts'
import type { Life, Scheduler } from './scheduler.ts'

/** Builds the code under test for a host; the simulator itself knows only its interface. */
export type CreateReplica = (settings: ResourceSettings, ports: ReplicaPorts, host: HostName) => ReplicaApi

export interface HostParts {
  readonly scheduler: Scheduler
  readonly prng: Prng
  readonly network: SimNetwork
  readonly device: SimDiskDevice
  readonly createReplica: CreateReplica
  readonly settings: ResourceSettings
  readonly clock: ClockConfig
  readonly handlers: HandlersConfig
  /** What the fencing agent of this host does to the other one. */
  killPeer(agent: 'power-off' | 'kill'): void
  /** Whether the other host has all that is on the disk of this one. */
  canSpareDisk(): boolean
  /** Called when something happened that a quiet world would not do. */
  onActivity(): void
  /** A handler command of the host is started. */
  onHandler(name: string): void
  /** The status of the replica changed. */
  onStatus(status: ResourceStatus): void
  /** The replica says that its peer breaks the protocol. */
  onProtocolError(message: string): void
  /** For each process: sees every packet of it. */
  packetChecker(): (direction: Direction, packet: Packet) => void
  /** Called just before the process dies, alone or with the power of its host. */
  onDeath(how: 'crash' | 'power-cut'): void
  /** Called when the process ended, by whatever cause. */
  onGone(): void
}

/** One life of the daemon. */
interface Process {
  readonly life: Life
  readonly replica: ReplicaApi
  readonly handlers: SimHandlers
  /** Requests that wait because the replica admits no more. */
  readonly waiting: { readonly request: ClientRequest; readonly done: ClientDone }[]
  /** Clients that hear of the end of the process. */
  readonly onGone: Set<() => void>
  /** The replica has been asked to say when it admits requests again. */
  awaitsAdmission: boolean
}

const CLAIM_RETRY_US = 1000
/** The one complaint that a fault of the network explains. */
const LATE = 'did not arrive in time'
const OPEN_DEVICES_US_MAX = 3_000
const PROMOTE_RETRY_US_MIN = 100_000
const PROMOTE_RETRY_US_MAX = 500_000
/** Without a connection a promotion would fence the peer, which may just be starting. */
const CONNECTED_STATES: ReadonlySet<string> = new Set([
  'Connected',
  'SyncSource',
  'SyncTarget',
  'PausedSyncS',
  'PausedSyncT',
  'VerifyS',
  'VerifyT',
])

export class SimHost {
  readonly name: HostName
  readonly device: SimDiskDevice
  /** The configuration that the next process reads. */
  settings: ResourceSettings
  /** Whether the host becomes Primary as soon as it may. */
  wantsPrimary = false
  /** The present process has attached and connected, as far as it could. */
  isBroughtUp = false
  readonly #parts: HostParts
  #powered = true
  #process: Process | undefined
  #starts = 0
  /** Another one after each start of the machine. */
  #bootId: bigint
  #promoting = false
  #handlersArePrompt = false
  #coarseStatus = ''
  #currentUuid = 0n

  constructor(name: HostName, parts: HostParts) {
    this.name = name
    this.device = parts.device
    this.settings = parts.settings
    this.#parts = parts
    this.#bootId = parts.prng.fork('boot').u64() >> 1n
  }

  // ---- life -----------------------------------------------------------------------------------------------------------

  get isRunning(): boolean {
    return this.#process !== undefined
  }

  get isPowered(): boolean {
    return this.#powered
  }

  /** The process of the host; a mistake of the scenario if there is none. */
  get replica(): ReplicaApi {
    return defined(this.#process, `process of host ${this.name}`).replica
  }

  /** Switches the host on, if it is off, and starts the daemon, if it does not run. */
  start(): void {
    if (!this.#powered) {
      this.#powered = true
      this.#bootId++
      this.#parts.network.powerOn(this.name)
    }
    if (this.#process !== undefined) return
    const { scheduler, network, prng, handlers, killPeer } = this.#parts
    scheduler.note(`${this.name} starts`)
    const life: Life = { alive: true }
    const prngOfLife = prng.fork(`life ${++this.#starts}`)
    const handlerPort = new SimHandlers(scheduler, prngOfLife.fork('handlers'), handlers, {
      host: this.name,
      life,
      killPeer,
      onRun: (name) => this.#parts.onHandler(name),
    })
    handlerPort.prompt = this.#handlersArePrompt
    const ports: ReplicaPorts = {
      clock: new SimClock(scheduler, prngOfLife.fork('clock'), this.#parts.clock, { host: this.name, life }),
      entropy: new SimEntropy(prngOfLife.fork('entropy')),
      bootId: this.#bootId,
      network: network.port(this.name, life),
      digests: new SimDigests(),
      handlers: handlerPort,
      buffers: new PoisoningPool(),
      openDevices: (_volume, done) => {
        const open = (): void => {
          if (!life.alive) return
          // As the daemon's disks: one that was closed with operations in its queue keeps its claim until they are done.
          if (this.device.queuedOperations > 0) {
            scheduler.after(CLAIM_RETRY_US, `${this.name} waits for its disk`, open)
            return
          }
          const disk = this.device.open(life)
          done(undefined, { data: disk, meta: disk, metaIndex: 'internal' })
        }
        scheduler.after(prng.intInclusive(0, OPEN_DEVICES_US_MAX), `${this.name} devices opened`, open)
      },
      log: (level, message) => {
        scheduler.note(`${this.name} ${level}: ${message}`)
        if (message.includes(' -> ProtocolError') && !message.includes(LATE)) this.#parts.onProtocolError(message)
      },
      onStatusChange: () => {
        if (life.alive) this.#onStatusChange()
      },
    }
    const replica = this.#parts.createReplica(this.settings, ports, this.name)
    this.#watchPackets(replica)
    const started: Process = {
      life,
      replica,
      handlers: handlerPort,
      waiting: [],
      onGone: new Set(),
      awaitsAdmission: false,
    }
    this.#process = started
    this.#parts.onActivity()
    this.#bringUp()
  }

  #watchPackets(replica: ReplicaApi): void {
    const { scheduler } = this.#parts
    const check = this.#parts.packetChecker()
    // Arrows between the hosts, beside the bytes that the network delivers.
    const tracer = new PacketTracer((record) => {
      scheduler.trace.show(scheduler.nowUs, packetArrow(record, this.name, 'a', 'b'))
    })
    replica.watchPackets((direction, stream, packet, nowMs) => {
      check(direction, packet)
      if (scheduler.trace.isFollowed) tracer.watch(direction, stream, packet, nowMs)
    })
  }

  /** From now on handlers take no longer than they need. */
  speedUpHandlers(): void {
    this.#handlersArePrompt = true
    if (this.#process !== undefined) this.#process.handlers.prompt = true
  }

  /** The process dies; the machine and its caches go on. */
  crashProcess(): void {
    if (this.#process === undefined) return
    this.#parts.onDeath('crash')
    this.#parts.scheduler.note(`${this.name} process crashes`)
    const { life } = this.#process
    this.#endProcess()
    this.#parts.network.processGone(life)
    this.device.processCrashed()
  }

  /** The machine dies, with all its caches. */
  powerCut(): void {
    if (!this.#powered) return
    this.#parts.onDeath('power-cut')
    this.#parts.scheduler.note(`${this.name} power cut`)
    this.#powered = false
    this.#parts.network.powerOff(this.name)
    this.#endProcess()
    this.device.powerCut()
  }

  /** The daemon ends in good order; `done` is called when it has. */
  stop(done: () => void = () => {}): void {
    const process = this.#process
    if (process === undefined) {
      done()
      return
    }
    this.wantsPrimary = false
    this.command({ type: 'down' }, () => {
      if (this.#process === process) {
        this.#endProcess()
        this.#parts.network.processGone(process.life)
      }
      done()
    })
  }

  #endProcess(): void {
    const process = this.#process
    if (process === undefined) return
    this.#process = undefined
    this.isBroughtUp = false
    this.#promoting = false
    this.#coarseStatus = ''
    process.life.alive = false
    process.replica.abandon()
    for (const gone of [...process.onGone]) gone()
    this.#parts.onGone()
    this.#parts.onActivity()
  }

  // ---- administration -------------------------------------------------------------------------------------------------

  command(command: AdminCommand, done: (result: AdminResult) => void = () => {}): void {
    const process = defined(this.#process, `process of host ${this.name}`)
    this.#parts.scheduler.note(`${this.name} command ${command.type}`)
    this.#parts.onActivity()
    process.replica.command(command, (result) => {
      if (!process.life.alive) return
      this.#parts.scheduler.note(`${this.name} command ${command.type}: ${result.code} ${result.text}`)
      this.#parts.onActivity()
      done(result)
    })
  }

  status(): ResourceStatus | undefined {
    return this.#process?.replica.status()
  }

  /** The generation that the host held last, also if it does not run any more; without bit 0, which tells the role. */
  get currentUuid(): bigint {
    return this.#currentUuid
  }

  /** Whether the process runs on a disk that is up to date. */
  get hasNewestData(): boolean {
    return this.status()?.volumes.every((volume) => volume.disk === 'UpToDate') ?? false
  }

  get isDiskless(): boolean {
    return this.status()?.volumes.some((volume) => volume.disk === 'Diskless') ?? false
  }

  get isPrimary(): boolean {
    return this.status()?.role === 'Primary'
  }

  /** Whether a handler command or a disk operation of the host is under way. */
  get isBusy(): boolean {
    return this.device.queuedOperations > 0 || (this.#process?.handlers.running ?? 0) > 0
  }

  /**
   * As `coprime up` does it: who cannot attach does not connect, because the peer, met without a disk, cannot know that its own
   * data are the older ones. Somebody who knows that they are not connects it all the same.
   */
  #bringUp(): void {
    const { volumes } = this.settings
    const done = (): void => {
      this.isBroughtUp = true
    }
    const attach = (index: number): void => {
      const volume = volumes[index]
      if (volume === undefined) {
        this.command({ type: 'connect', discardMyData: false }, done)
        return
      }
      this.command({ type: 'attach', volume: volume.volume }, (result) => {
        if (result.code === 0 || this.#parts.canSpareDisk()) attach(index + 1)
        else done()
      })
    }
    attach(0)
  }

  #onStatusChange(): void {
    const status = this.status()
    if (status === undefined) return
    const current = (status.volumes[0]?.uuids.current ?? 0n) & ~1n
    // Before the disk is attached the process knows of none.
    if (current !== 0n) this.#currentUuid = current
    this.#parts.onStatus(status)
    const coarse = coarseStatus(status)
    if (coarse !== this.#coarseStatus) {
      this.#coarseStatus = coarse
      this.#parts.scheduler.note(`${this.name} is ${coarse}`)
      this.#parts.onActivity()
    }
    this.#promoteSoon()
  }

  /** Not within the turn of the replica that told of the change. */
  #promoteSoon(): void {
    const process = this.#process
    if (!this.wantsPrimary || this.#promoting || process === undefined || !this.#mayPromote()) return
    this.#promoting = true
    this.#parts.scheduler.after(this.#parts.prng.intInclusive(0, 2_000), `${this.name} promotes itself`, () => {
      if (this.#process !== process) return
      if (!this.wantsPrimary || !this.#mayPromote()) {
        this.#promoting = false
        return
      }
      this.command({ type: 'primary', force: false }, (result) => {
        if (result.code === 0) this.#promoting = false
        else this.#promoteAgain(process)
      })
    })
  }

  #promoteAgain(process: Process): void {
    const delayUs = this.#parts.prng.intInclusive(PROMOTE_RETRY_US_MIN, PROMOTE_RETRY_US_MAX)
    this.#parts.scheduler.after(delayUs, `${this.name} may promote itself again`, () => {
      if (this.#process !== process) return
      this.#promoting = false
      this.#promoteSoon()
    })
  }

  #mayPromote(): boolean {
    const status = this.status()
    if (status === undefined || status.role === 'Primary') return false
    return status.volumes.every(
      ({ connection, disk, peerDisk }) =>
        CONNECTED_STATES.has(connection) && (disk === 'UpToDate' || peerDisk === 'UpToDate'),
    )
  }

  /** Looks again whether the host may become Primary; after `wantsPrimary` was set. */
  reconsiderRole(): void {
    this.#promoteSoon()
  }

  // ---- clients --------------------------------------------------------------------------------------------------------

  /** Hands a request to the replica as soon as it admits one. `gone` instead of `done` if the process ends first. */
  submit(request: ClientRequest, done: ClientDone, gone: () => void): void {
    const process = defined(this.#process, `process of host ${this.name}`)
    const onGone = (): void => {
      process.onGone.delete(onGone)
      gone()
    }
    process.onGone.add(onGone)
    const onDone: ClientDone = (error, data, dataUnused) => {
      // An answer that was under way when the process died reaches nobody.
      if (process.onGone.delete(onGone)) done(error, data, dataUnused)
    }
    process.waiting.push({ request, done: onDone })
    this.#admit(process)
  }

  #admit(process: Process): void {
    while (process.life.alive && process.waiting.length > 0 && process.replica.admits) {
      const next = process.waiting.shift()
      if (next !== undefined) process.replica.submit(next.request, next.done)
    }
    if (!process.life.alive || process.waiting.length === 0 || process.awaitsAdmission) return
    process.awaitsAdmission = true
    process.replica.onAdmission(() => {
      process.awaitsAdmission = false
      this.#admit(process)
    })
  }

  // ---- checkers -------------------------------------------------------------------------------------------------------

  /** What the disk shows at present, past the replica. */
  readDisk(sector: number, sectors: number): Uint8Array {
    return this.device.image.read(sector * SECTOR_BYTES, sectors * SECTOR_BYTES)
  }
}

/** A status without what changes in a world that is otherwise quiet (the attempts to connect). */
function coarseStatus(status: ResourceStatus): string {
  const volumes = status.volumes.map((volume) => {
    const connection = CONNECTED_STATES.has(volume.connection) ? volume.connection : 'not connected'
    const suspended = volume.suspended.length > 0 ? ` suspended(${volume.suspended.join(' ')})` : ''
    return `${connection} ${volume.disk}/${volume.peerDisk} out-of-sync ${volume.outOfSyncBlocks}${suspended}`
  })
  return `${status.role} ${volumes.join('; ')}`
}
