// A whole world: two hosts, a network, clients, and the checkers that look on after every step. Everything in it follows
// from one seed. A scenario drives it with runFor, runUntil and runUntilQuiet; `finish` ends all faults and demands that
// the world comes to rest as the contract says (design: safety first with faults on, then faults off and progress).

import { assert } from '../base/assert.ts'
import { Prng } from '../base/prng.ts'
import { KIB, MIB, SECTOR_BYTES } from '../base/units.ts'
import { createMetadata } from '../meta/create.ts'
import { DEFAULT_AL_GEOMETRY, internalLayout } from '../meta/layout.ts'
import type { ResourceSettings, ResourceStatus } from '../runtime/api.ts'
import { Administrator } from './administrator.ts'
import { BarrierAcks } from './checkers/barrier-acks.ts'
import { checkMemory, limitsFor, type MemoryLimits } from './checkers/bounded-memory.ts'
import { checkHistory } from './checkers/durability.ts'
import { checkOneWriter, isConnected } from './checkers/one-writer.ts'
import { OutOfSyncInvariant } from './checkers/out-of-sync-invariant.ts'
import { checkAnswered, checkConverged } from './checkers/progress.ts'
import { generationsOf } from './checkers/recovered-bitmap.ts'
import { checkReplicasEqual } from './checkers/replicas-equal.ts'
import { type PendingRequest, SimClient } from './client.ts'
import { type OperationKind, SimDiskDevice } from './disk.ts'
import { CheckFailure, type FailureKind } from './failure.ts'
import { History } from './history.ts'
import { type CreateReplica, SimHost } from './host.ts'
import { type HostName, otherHost, SimNetwork } from './network.ts'
import { drawOptions, settingsOf, type WorldChoice, type WorldOptions } from './options.ts'
import { Scheduler } from './scheduler.ts'
import { Trace } from './trace.ts'

/** Largest request of a simulated client. */
export const REQUEST_BYTES_MAX = MIB
const MEMORY_CHECK_EVERY = 32
const READ_BACK_SECTORS_MAX = (64 * KIB) / SECTOR_BYTES
const STEPS_MAX = 3_000_000
const NO_GENERATIONS = { current: 0n, bitmap: 0n, history1: 0n, history2: 0n }
/** A whole resync of the largest device of the scenarios, at the slowest rate that they draw. */
const IN_SYNC_MS_MAX = 300_000

/** What a story may want to see as it happens; called in the middle of a turn: schedule, do not act. */
export interface WorldObserver {
  onStatus?(host: HostName, status: ResourceStatus): void
  onSubmit?(host: HostName, kind: OperationKind, offsetBytes: number): void
  onHandler?(host: HostName, name: string): void
  onPromise?(host: HostName): void
}

export class World {
  readonly options: WorldOptions
  readonly scheduler: Scheduler
  readonly network: SimNetwork
  readonly history = new History()
  /** The scenario's own generator. */
  readonly prng: Prng
  /** Virtual time without any activity after which the world counts as quiet. Longer than any time-out of the protocol. */
  readonly quietMs: number
  observer: WorldObserver = {}
  /** Hosts whose metadata was damaged on purpose: the administrator may have to make them anew. */
  readonly damaged = new Set<HostName>()
  readonly #hosts: { readonly a: SimHost; readonly b: SimHost }
  readonly #workloadPrng: Prng
  readonly #invariant: OutOfSyncInvariant
  readonly #whatIfPrng: Prng
  readonly #memoryLimits: MemoryLimits
  #keepAlive: { readonly msMin: number; readonly msMax: number } | undefined
  #failure: CheckFailure | undefined
  #lastActivityUs = 0
  #writers = 0
  /** Hosts that lost their power since both disks were last known to be equal. */
  readonly #cachesLost = new Set<HostName>()
  /** Hosts whose process has a disk with the newest data. */
  readonly #withData = new Set<HostName>()
  /** Hosts that are dead and will be started again. */
  #restartsDue = 0
  /** Hosts that are to be Primary when faults have ended. */
  #primaries: readonly HostName[]
  /** Called by `finish` before anything else, for workloads to stop. */
  readonly #onFinish: (() => void)[] = []

  constructor(seed: number, choice: WorldChoice, createReplica: CreateReplica, trace = new Trace()) {
    const root = new Prng(seed)
    const options = drawOptions(seed, root.fork('options'), choice)
    this.options = options
    this.#primaries = options.primaries
    this.scheduler = new Scheduler(trace)
    this.prng = root.fork('scenario')
    this.#workloadPrng = root.fork('workload')
    this.#whatIfPrng = root.fork('what-if')
    const report = (checker: string, message: string): void => this.report(checker, message)
    this.network = new SimNetwork(this.scheduler, root.fork('network'), report, options.network)
    const device = (name: HostName): SimDiskDevice =>
      new SimDiskDevice(this.scheduler, root.fork(`disk ${name}`), report, {
        name: `disk ${name}`,
        sizeBytes: options.deviceBytes,
        config: options.disks[name],
      })
    const host = (name: HostName): SimHost =>
      this.#createHost(name, device(name), root.fork(`host ${name}`), createReplica)
    this.#hosts = { a: host('a'), b: host('b') }
    const { a, b } = this.#hosts
    this.#invariant = new OutOfSyncInvariant({ name: 'a', image: a.device.image }, { name: 'b', image: b.device.image })
    const both = (['a', 'b'] as const).map((name) => settingsOf(options, name))
    const most = (of: (settings: ResourceSettings) => number): number => Math.max(...both.map(of))
    this.#memoryLimits = limitsFor({
      inFlightBytesMax: most((each) => each.inFlightBytesMax),
      requestBytesMax: REQUEST_BYTES_MAX,
      deviceBytes: options.deviceBytes,
    })
    const retryMs = most((each) => Math.max(each.connectIntMs, each.pingIntMs))
    this.quietMs = 2 * retryMs + most((each) => each.timeoutMs * Math.max(1, each.koCount)) + 1_000
  }

  host(name: HostName): SimHost {
    return this.#hosts[name]
  }

  get hosts(): readonly SimHost[] {
    return [this.#hosts.a, this.#hosts.b]
  }

  /** A new client of a host, with a writer number of its own. */
  client(name: HostName): SimClient {
    return new SimClient({
      scheduler: this.scheduler,
      host: this.host(name),
      history: this.history,
      report: (checker, message) => this.report(checker, message),
      writer: ++this.#writers,
      onActivity: () => this.#onActivity(),
      onPromise: () => this.observer.onPromise?.(name),
      settle: (request) => this.settle(request),
    })
  }

  /** A generator for a workload; each call gives another one. */
  workloadPrng(name: string): Prng {
    return this.#workloadPrng.fork(name)
  }

  get nowMs(): number {
    return this.scheduler.nowUs / 1000
  }

  /** Sectors that clients may use. */
  get deviceSectors(): number {
    return internalLayout(this.options.deviceBytes, DEFAULT_AL_GEOMETRY).usableSectors
  }

  /** Blocks that differ between the disks at present. */
  get differingBlocks(): number {
    return this.#invariant.differingBlocks
  }

  // ---- time -----------------------------------------------------------------------------------------------------------

  /** Executes one event and lets the checkers look; false if nothing will ever happen again. */
  step(): boolean {
    if (!this.scheduler.runNext()) return false
    this.#check()
    return true
  }

  runFor({ ms }: { ms: number }): void {
    const untilUs = this.scheduler.nowUs + Math.round(ms * 1000)
    for (;;) {
      const nextAtUs = this.scheduler.nextAtUs()
      if (nextAtUs === undefined || nextAtUs > untilUs) break
      this.step()
    }
    this.scheduler.advanceTo(untilUs)
  }

  /** Runs until `predicate` holds; no progress if it does not within `stepsMax` and `msMax` of virtual time. */
  runUntil(predicate: () => boolean, options: { stepsMax: number; msMax?: number; what?: string }): void {
    const { stepsMax, msMax = Number.POSITIVE_INFINITY, what = 'the awaited state' } = options
    const untilMs = this.nowMs + msMax
    for (let steps = 0; !predicate(); steps++) {
      if (this.nowMs > untilMs) throw this.#noProgress(`${what} was not reached in ${msMax} ms`)
      if (steps >= stepsMax) throw this.#noProgress(`${what} was not reached in ${stepsMax} steps`)
      if (!this.step()) throw this.#noProgress(`${what} was not reached, and nothing will happen any more`)
    }
  }

  /** Runs until no disk, client, handler or command has been active for `quietMs`. */
  runUntilQuiet({ stepsMax }: { stepsMax: number }): void {
    this.#onActivity()
    this.runUntil(() => this.#isQuiet(), { stepsMax, what: 'a quiet world' })
  }

  /** Runs until a request is answered. */
  settle(request: PendingRequest, stepsMax = 200_000): void {
    this.runUntil(() => request.settled, { stepsMax, what: 'the answer to a request' })
  }

  // ---- beginning and end ----------------------------------------------------------------------------------------------

  /** Creates metadata on both disks, starts both hosts and waits until they are in sync and have the roles they want. */
  boot(): void {
    for (const host of this.hosts) this.#format(host)
    for (const host of this.hosts) host.start()
    const [a] = this.hosts as readonly [SimHost, SimHost]
    const bounds = { stepsMax: STEPS_MAX, what: 'a connection after boot' }
    this.runUntil(() => this.#everyVolume((volume) => volume.connection === 'Connected'), bounds)
    if (this.options.initialSync === 'skip') {
      for (const { volume } of this.options.settings.volumes) {
        a.command({ type: 'new-current-uuid', volume, clearBitmap: true }, (result) => {
          if (result.code !== 0) this.report('boot', `new-current-uuid: ${result.code} ${result.text}`)
        })
      }
    } else {
      this.host(this.options.primaries[0] ?? 'a').command({ type: 'primary', force: true }, (result) => {
        if (result.code !== 0) this.report('boot', `primary --force: ${result.code} ${result.text}`)
      })
    }
    this.awaitInSync()
    for (const name of this.options.primaries) this.wantPrimary(name)
    this.runUntil(() => this.options.primaries.every((name) => this.host(name).isPrimary), {
      stepsMax: STEPS_MAX,
      what: 'the wanted roles after boot',
    })
    this.scheduler.note('world is up')
  }

  /** Runs until both hosts are connected and both disks up to date. */
  awaitInSync({ stepsMax = STEPS_MAX, msMax = IN_SYNC_MS_MAX } = {}): void {
    this.runUntil(() => this.#everyVolume(isInSync), { stepsMax, msMax, what: 'both disks in sync' })
  }

  wantPrimary(name: HostName): void {
    this.host(name).wantsPrimary = true
    this.host(name).reconsiderRole()
  }

  /** From now on a host that dies, by whatever cause, is started again after a while, as a service manager would. */
  keepAlive(options: { msMin: number; msMax: number }): void {
    this.#keepAlive = options
  }

  /** Whether a host runs on data that are as new as those of the other one, dead or alive, or newer. */
  hasAllOf(name: HostName, other: HostName): boolean {
    const host = this.host(name)
    if (!host.hasNewestData) return false
    // An UpToDate disk of an older generation is what a host believes that has not met its peer yet.
    const { current, bitmap, history1, history2 } = host.status()?.volumes[0]?.uuids ?? NO_GENERATIONS
    return [current, bitmap, history1, history2].some((uuid) => (uuid & ~1n) === this.host(other).currentUuid)
  }

  /** Also if nobody has gone on since both had the same. */
  #canSpareDisk(name: HostName): boolean {
    const other = otherHost(name)
    return this.hasAllOf(other, name) || this.host(other).currentUuid === this.host(name).currentUuid
  }

  /** From now on another host is to be Primary. */
  moveRole(from: HostName, to: HostName): void {
    this.#primaries = this.#primaries.map((name) => (name === from ? to : name))
    this.host(from).wantsPrimary = false
    this.host(to).wantsPrimary = true
  }

  onFinish(call: () => void): void {
    this.#onFinish.push(call)
  }

  /** Faults end; the world must come to rest, connected, equal, with every request answered and nothing lost. */
  finish({ stepsMax = 2_000_000 }: { stepsMax?: number } = {}): void {
    this.scheduler.note('faults end')
    for (const call of this.#onFinish) call()
    this.network.heal()
    for (const host of this.hosts) {
      host.device.clearFaults()
      host.speedUpHandlers()
      host.start()
      if (this.#primaries.includes(host.name)) this.wantPrimary(host.name)
    }
    new Administrator(this).start()
    this.runUntilQuiet({ stepsMax })
    this.checkAtRest()
    this.readBack()
    this.checkHistory()
  }

  /** The checks of a world that is quiet with both hosts up. */
  checkAtRest(): void {
    const running = this.hosts.filter((host) => host.isRunning)
    const waiting = checkAnswered(this.history.requests, new Set(running.map((host) => host.name)))
    if (waiting !== undefined) throw this.#noProgress(waiting)
    const statuses = new Map(this.hosts.flatMap((host) => [[host.name as string, host.status()] as const]))
    const known = new Map([...statuses].flatMap(([name, status]) => (status === undefined ? [] : [[name, status]])))
    const apart = checkConverged(known)
    if (apart !== undefined) throw this.#noProgress(apart)
    const [a, b] = this.hosts as readonly [SimHost, SimHost]
    const difference = checkReplicasEqual(a.device.image, b.device.image, this.deviceSectors * SECTOR_BYTES)
    if (difference !== undefined) throw new CheckFailure('replicas-equal', difference)
  }

  /** Reads every sector that clients touched, through every Primary, so that the checkers see what is there in the end. */
  readBack(): void {
    const touched = new Set<number>()
    for (const { kind, sector, sectors } of this.history.requests) {
      if (kind !== 'flush') for (let i = 0; i < sectors; i++) touched.add(sector + i)
    }
    const requests: PendingRequest[] = []
    for (const host of this.hosts) {
      if (!host.isPrimary) continue
      const client = this.client(host.name)
      for (const range of toRanges(touched)) requests.push(client.read(range))
    }
    for (const request of requests) {
      this.settle(request)
      if (!request.confirmed) this.report('read-back', `a read at the end failed: ${request.error}`)
    }
    this.#throwFailure()
  }

  checkHistory(): void {
    const violation = checkHistory(this.history)
    if (violation !== undefined) throw new CheckFailure(violation.checker, violation.message)
  }

  /** A checker found something: the present step ends the run. */
  report(checker: string, message: string, kind: FailureKind = 'wrong-result'): void {
    this.#failure ??= new CheckFailure(checker, message, kind)
  }

  // ---- inside ---------------------------------------------------------------------------------------------------------

  #createHost(name: HostName, device: SimDiskDevice, prng: Prng, createReplica: CreateReplica): SimHost {
    device.onActivity = () => this.#onActivity()
    device.onSubmit = (kind, offsetBytes) => this.observer.onSubmit?.(name, kind, offsetBytes)
    return new SimHost(name, {
      scheduler: this.scheduler,
      prng,
      network: this.network,
      device,
      createReplica,
      settings: settingsOf(this.options, name),
      clock: { ...this.options.clocks[name], startUs: prng.intInclusive(0, 1_000_000_000) },
      handlers: this.options.handlers,
      killPeer: (agent) => {
        const peer = this.host(otherHost(name))
        if (agent === 'kill') peer.crashProcess()
        else peer.powerCut()
      },
      canSpareDisk: () => this.#canSpareDisk(name),
      onActivity: () => this.#onActivity(),
      onHandler: (handler) => this.observer.onHandler?.(name, handler),
      onStatus: (status) => this.#onStatus(name, status),
      // Both are of ours, and the network does not change what it carries.
      onProtocolError: (message) => this.report('protocol', `${name}: ${message}`),
      packetChecker: () => {
        const barriers = new BarrierAcks((message) => this.report('barrier-acks', `${name}: ${message}`))
        device.onWritten = (offsetBytes, lengthBytes) => barriers.onWritten(offsetBytes, lengthBytes)
        return (direction, packet) => barriers.onPacket(direction, packet)
      },
      onDeath: (how) => this.#onDeath(name, how),
      onGone: () => this.#onGone(name, prng),
    })
  }

  /**
   * As long as another running process has the newest data, nothing may be lost. If there is none, the history is judged as
   * one after a loss from here on (checkers/durability.ts).
   */
  #onDeath(name: HostName, how: 'crash' | 'power-cut'): void {
    const other = otherHost(name)
    this.history.unaware.delete(name)
    // Who has lost its cache and met nobody since has only what was flushed, whatever it says of its disk.
    const survives = this.hasAllOf(other, name) && !this.#cachesLost.has(other)
    this.#withData.delete(name)
    if (how === 'power-cut') this.#cachesLost.add(name)
    if (survives) return
    // Whose cache was lost comes back as good as the other one, unless that one has gone on alone since, and says so on disk.
    const isPeer =
      this.#cachesLost.has(other) && this.#generationsOnDisk(name)?.current === this.#generationsOnDisk(other)?.current
    this.history.lose(how === 'power-cut' || isPeer ? 'unflushed' : 'unanswered')
    const status = this.host(other).status()
    if (status !== undefined && isConnected(status)) this.history.unaware.add(other)
  }

  /**
   * A host without the disk that had the newest data goes on with those of a peer that dies, or is dead already, if it has
   * noticed nothing yet, or has done nothing alone: what that one lost with its cache is then lost for good, and a flush says so
   * (decision 012).
   */
  #onDiskLost(name: HostName): void {
    const other = otherHost(name)
    if (this.hasAllOf(other, name)) return
    const [own, left] = [this.#generationsOnDisk(name), this.#generationsOnDisk(other)]
    // The disk may have been lost at the very write of a new generation.
    if (own?.current !== left?.current && own?.bitmap !== left?.current) return
    this.history.lose(this.#cachesLost.has(other) ? 'unflushed' : 'unanswered')
  }

  #generationsOnDisk(name: HostName): ReturnType<typeof generationsOf> {
    const { image } = this.host(name).device
    return generationsOf((offsetBytes, lengthBytes) => image.read(offsetBytes, lengthBytes), image.sizeBytes)
  }

  #onStatus(name: HostName, status: ResourceStatus): void {
    this.#checkWriters()
    const host = this.host(name)
    if (!isConnected(status)) this.history.unaware.delete(name)
    if (host.hasNewestData) this.#withData.add(name)
    else if (host.isDiskless && this.#withData.delete(name)) this.#onDiskLost(name)
    if (this.#cachesLost.size + this.damaged.size > 0 && this.#everyVolume(isInSync)) {
      this.#cachesLost.clear()
      // What was damaged has been read all the same, or has not mattered, and is written anew.
      this.damaged.clear()
    }
    this.observer.onStatus?.(name, status)
  }

  /** With fencing that freezes there is never more than one line of generations that is written to. */
  #checkWriters(): void {
    if (this.options.settings.fencing !== 'resource-and-stonith') return
    const [a, b] = this.hosts as readonly [SimHost, SimHost]
    const violation = checkOneWriter(a.status(), b.status())
    if (violation !== undefined) this.report('one-writer', violation)
  }

  #onGone(name: HostName, prng: Prng): void {
    if (this.#keepAlive === undefined) return
    const { msMin, msMax } = this.#keepAlive
    this.#restartsDue++
    this.scheduler.after(prng.intInclusive(msMin * 1000, msMax * 1000), `${name} is started again`, () => {
      this.#restartsDue--
      this.host(name).start()
    })
  }

  #onActivity(): void {
    this.#lastActivityUs = this.scheduler.nowUs
  }

  #isQuiet(): boolean {
    if (this.scheduler.nowUs - this.#lastActivityUs < this.quietMs * 1000) return false
    return this.#restartsDue === 0 && this.hosts.every((host) => !host.isBusy)
  }

  /** Creates the metadata of a host that does not run, as `create-md` does; `newDisk`: on a disk that was never used. */
  replaceMetadata(name: HostName, { newDisk }: { newDisk: boolean }): void {
    const host = this.host(name)
    assert(!host.isRunning, `${name} runs on the metadata that are to be replaced`)
    this.scheduler.note(`${name} gets new metadata${newDisk ? ' on a new disk' : ''}`)
    if (newDisk) host.device.image.replace()
    this.#format(host)
    this.damaged.delete(name)
  }

  #format(host: SimHost): void {
    const { image } = host.device
    const layout = internalLayout(image.sizeBytes, DEFAULT_AL_GEOMETRY)
    const writes = createMetadata({
      layout,
      geometry: DEFAULT_AL_GEOMETRY,
      alExtents: settingsOf(this.options, host.name).volumes[0]?.alExtents ?? 1237,
      deviceUuid: this.prng.u64(),
      kind: 'internal',
    })
    for (const { offsetBytes, data } of writes) image.write(offsetBytes, data)
    image.flushAll()
  }

  #everyVolume(holds: (volume: VolumeStatus) => boolean): boolean {
    return this.hosts.every((host) => host.status()?.volumes.every(holds) ?? false)
  }

  #check(): void {
    this.#throwFailure()
    const broken = this.#invariant.check() ?? this.#askPowerCut()
    if (broken !== undefined) throw new CheckFailure('out-of-sync-invariant', broken)
    if (this.scheduler.steps % MEMORY_CHECK_EVERY === 0) this.#checkMemory()
  }

  #askPowerCut(): string | undefined {
    const often = this.options.powerCutQuestionEvery
    if (often === 0) return undefined
    // The answer costs as much as there is in the caches: ask less often then.
    const [a, b] = this.hosts as readonly [SimHost, SimHost]
    const every = often + ((a.device.image.dirtySectors + b.device.image.dirtySectors) >> 3)
    if (!this.#whatIfPrng.chance(1, every)) return undefined
    return this.#invariant.checkPowerCut(this.#whatIfPrng)
  }

  #checkMemory(): void {
    for (const host of this.hosts) {
      const use = {
        host: host.name,
        linkQueueBytes: this.network.queuedBytesMax(host.name),
        diskQueueBytes: host.device.queuedBytes,
        diskQueueOperations: host.device.queuedOperations,
        inFlightBytes: host.status()?.inFlightBytes ?? 0,
      }
      const over = checkMemory(use, this.#memoryLimits)
      if (over !== undefined) throw new CheckFailure('bounded-memory', over)
    }
  }

  #throwFailure(): void {
    if (this.#failure !== undefined) throw this.#failure
  }

  #noProgress(message: string): CheckFailure {
    return new CheckFailure('progress', `${message}\n${this.describe().join('\n')}`, 'no-progress')
  }

  /** One line for each host. */
  describe(): string[] {
    return this.hosts.map((host) => {
      const status = host.status()
      if (status === undefined) return `${host.name}: ${host.isPowered ? 'no process' : 'no power'}`
      const volumes = status.volumes.map(
        (v) =>
          `volume ${v.volume} ${v.connection} ${v.disk}/${v.peerDisk} out-of-sync ${v.outOfSyncBlocks} ${v.suspended}`,
      )
      const reason = status.connectionReason === undefined ? '' : ` (${status.connectionReason})`
      return `${host.name}: ${status.connection}${reason} ${status.role}/${status.peerRole} ${volumes.join('; ')}`
    })
  }
}

type VolumeStatus = NonNullable<ReturnType<SimHost['status']>>['volumes'][number]

const isInSync = ({ connection, disk, peerDisk, outOfSyncBlocks }: VolumeStatus): boolean =>
  connection === 'Connected' && disk === 'UpToDate' && peerDisk === 'UpToDate' && outOfSyncBlocks === 0

/** Adjacent sectors together, in requests of a bounded size. */
function toRanges(sectors: ReadonlySet<number>): { sector: number; sectors: number }[] {
  const ranges: { sector: number; sectors: number }[] = []
  for (const sector of [...sectors].sort((x, y) => x - y)) {
    const last = ranges[ranges.length - 1]
    if (last !== undefined && last.sector + last.sectors === sector && last.sectors < READ_BACK_SECTORS_MAX)
      last.sectors++
    else ranges.push({ sector, sectors: 1 })
  }
  return ranges
}
