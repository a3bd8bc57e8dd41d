// Seeded NBD clients on both endpoints of a pair, and the record of what they asked and were told. Every sector of a write is
// unique (sim/payload.ts: writer, operation number, sector), so the checker of the simulator judges the record exactly.
//
// Time in the record: all clients live in this process, so "before" is the order in which this process submitted and got
// answers. That order is at least as strict as the readings of performance.now() at those moments (two events with the same
// reading still have an order); the readings are kept too, for people.

import type { NbdConnectionToServer } from '../../src/adapters/nbd-client.ts'
import { Prng } from '../../src/base/prng.ts'
import { SECTOR_BYTES, SECTORS_PER_BLOCK } from '../../src/base/units.ts'
import { NbdCommandError, NbdDisconnectedError } from '../../src/nbd/client/errors.ts'
import { checkRegister, splitIntoSectors } from '../../src/sim/checkers/linearizability.ts'
import { History, type LoggedRequest, toRequestRecords } from '../../src/sim/history.ts'
import {
  decodeSectors,
  describeValue,
  encodePayload,
  type SectorValue,
  writtenValue,
  ZERO_VALUE,
} from '../../src/sim/payload.ts'
import { Changes } from './bounded.ts'
import { type DiskPair, SIDES, type Side } from './disk-pair.ts'

export type OperationKind = 'read' | 'write' | 'fua' | 'zero' | 'flush'

export interface Area {
  readonly sector: number
  readonly sectors: number
}

export interface WorkloadPlan {
  readonly seed: number
  /** Requests of all clients together; Infinity: until `stop`. */
  readonly operations: number
  readonly clientsPerSide: number
  /** Of each client. */
  readonly inFlightMax: number
  /** `hotPercent` of the requests go to the first area (the hot blocks), the others to any of the areas. */
  readonly areas: Readonly<Record<Side, readonly Area[]>>
  readonly hotPercent: number
  readonly requestSectorsMax: number
  readonly weights: Readonly<Record<OperationKind, number>>
}

export const HOT_AREA: Area = { sector: 8, sectors: 3 * SECTORS_PER_BLOCK }
const REGION: Area = { sector: 8, sectors: 512 }
/** In the next activity-log extent, not at a block's border. */
const FAR_REGION: Area = { sector: 8192 + 3, sectors: 203 }

export const WORKLOAD_DEFAULTS: WorkloadPlan = {
  seed: 1,
  operations: 1000,
  clientsPerSide: 4,
  inFlightMax: 4,
  areas: { a: [HOT_AREA, REGION, FAR_REGION], b: [HOT_AREA, REGION, FAR_REGION] },
  hotPercent: 50,
  requestSectorsMax: 24,
  weights: { read: 9, write: 10, fua: 1, zero: 0, flush: 1 },
}

/** The record, with clock readings beside the order. */
export class DiskHistory {
  readonly log = new History()
  readonly completedMs = new Map<LoggedRequest, number>()
  /** What sectors hold at the beginning; zero those that are not named. */
  readonly #initial: ReadonlyMap<number, SectorValue>
  #writers: number

  constructor(initial: ReadonlyMap<number, SectorValue> = new Map(), writers = 0) {
    this.#initial = initial
    this.#writers = writers
  }

  /** A new record for the same disk, which begins with what `readBack` has seen. Only while quiet. */
  successor(): DiskHistory {
    const values = new Map(this.#initial)
    for (const request of this.log.requests) {
      if (request.kind !== 'read' || request.outcome !== 'done') continue
      for (const [index, value] of request.values.entries()) values.set(request.sector + index, value)
    }
    return new DiskHistory(values, this.#writers)
  }

  nextWriter(): number {
    return ++this.#writers
  }

  get requests(): readonly LoggedRequest[] {
    return this.log.requests
  }

  invoke(request: Pick<LoggedRequest, 'host' | 'kind' | 'sector' | 'sectors' | 'fua' | 'values'>): LoggedRequest {
    return this.log.invoke({ ...request, invokedAtUs: performance.now() * 1000 })
  }

  complete(request: LoggedRequest, outcome: 'done' | 'unknown', values = request.values): void {
    this.completedMs.set(request, performance.now())
    this.log.complete(request, outcome, values)
  }

  /** One text for each sector whose history is not that of a register; the first few with the whole history. */
  violations(shownMax = 1): string[] {
    const found: string[] = []
    for (const [sector, operations] of splitIntoSectors(toRequestRecords(this.log.requests))) {
      const violation = checkRegister(operations, this.#initial.get(sector) ?? ZERO_VALUE)
      if (violation === undefined) continue
      const head = `sector ${sector}: ${violation.message} (${violation.values.map(describeValue).join('; ')})`
      found.push(found.length < shownMax ? `${head}\n${this.describeSector(sector)}` : head)
    }
    return found
  }

  /** All that was asked of a sector, a line each: order and clock of invocation and answer, side, value. */
  describeSector(sector: number): string {
    const lines: string[] = []
    for (const request of this.log.requests) {
      const index = sector - request.sector
      if (request.kind === 'flush' || index < 0 || index >= request.sectors) continue
      const value = request.values[index]
      const completedMs = this.completedMs.get(request)?.toFixed(2) ?? '-'
      lines.push(
        `  [${request.invokedAt}, ${request.outcome === 'done' ? request.completedAt : request.outcome}] ` +
          `${(request.invokedAtUs / 1000).toFixed(2)}..${completedMs} ms ${request.host} ${request.kind} ` +
          `${request.sector}+${request.sectors}: ${value === undefined ? 'nothing' : describeValue(value)}`,
      )
    }
    return lines.join('\n')
  }

  get touchedSectors(): ReadonlySet<number> {
    const touched = new Set<number>()
    for (const { kind, sector, sectors } of this.log.requests) {
      if (kind !== 'flush') for (let i = 0; i < sectors; i++) touched.add(sector + i)
    }
    return touched
  }
}

/** How many requests were answered, refused by the server, and left without an answer. */
export interface WorkloadCounts {
  done: number
  disconnected: number
  readonly errors: Map<string, number>
}

export class DiskWorkload {
  readonly history: DiskHistory
  readonly counts: WorkloadCounts = { done: 0, disconnected: 0, errors: new Map() }
  /** Told of each answer. */
  readonly changes = new Changes()
  readonly plan: WorkloadPlan
  readonly #pair: DiskPair
  readonly #prng: Prng
  readonly #clients: WorkloadClient[] = []
  #left: number
  #connects = 0

  constructor(pair: DiskPair, history: DiskHistory, plan: Partial<WorkloadPlan>) {
    this.plan = { ...WORKLOAD_DEFAULTS, ...plan }
    this.#pair = pair
    this.history = history
    this.#left = this.plan.operations
    this.#prng = new Prng(this.plan.seed)
  }

  /** Connects the clients of the sides; they begin at once. */
  async start(sides: readonly Side[] = SIDES): Promise<void> {
    for (const side of sides) {
      for (let i = 0; i < this.plan.clientsPerSide; i++) {
        const connection = await this.#pair.connect(side)
        const prng = this.#prng.fork(`${side} ${this.#connects++}`)
        this.#clients.push(new WorkloadClient(this, side, connection, prng))
      }
    }
    for (const client of this.#clients) client.goOn()
  }

  /** No new requests from now on. */
  stop(): void {
    this.#left = 0
  }

  /** Takes one request from those that are left. */
  takeOne(): boolean {
    if (this.#left <= 0) return false
    this.#left--
    return true
  }

  /** Every request is answered, or its connection is gone. */
  get isIdle(): boolean {
    return this.#clients.every((client) => client.inFlight === 0)
  }

  /** All requests were made and answered. Rejects with the oldest ones that were not. */
  async finish(timeoutMs: number): Promise<void> {
    const idle = (): boolean => this.isIdle && (this.#left === 0 || this.#clients.every((client) => client.isGone))
    await this.changes.until(idle, timeoutMs, () => `answers to\n${this.describePending()}`)
    for (const client of this.#clients.splice(0)) await client.close()
  }

  describePending(shownMax = 12): string {
    const pending = this.history.requests.filter((request) => request.outcome === 'pending')
    const shown = pending.slice(0, shownMax).map(({ number, host, kind, sector, sectors, fua, invokedAtUs }) => {
      const agoMs = (performance.now() - invokedAtUs / 1000).toFixed(0)
      return `  ${number}: ${host} ${kind}${fua ? ' fua' : ''} ${sector}+${sectors}, asked ${agoMs} ms ago`
    })
    return [`${pending.length} requests; the oldest:`, ...shown].join('\n')
  }
}

class WorkloadClient {
  readonly #workload: DiskWorkload
  readonly #side: Side
  readonly #connection: NbdConnectionToServer
  readonly #prng: Prng
  readonly #writer: number
  readonly #kinds: OperationKind[] = []
  #operations = 0
  inFlight = 0
  isGone = false

  constructor(workload: DiskWorkload, side: Side, connection: NbdConnectionToServer, prng: Prng) {
    this.#workload = workload
    this.#side = side
    this.#connection = connection
    this.#prng = prng
    this.#writer = workload.history.nextWriter()
    for (const kind of ['read', 'write', 'fua', 'zero', 'flush'] as const) {
      for (let i = 0; i < workload.plan.weights[kind]; i++) this.#kinds.push(kind)
    }
  }

  goOn(): void {
    while (!this.isGone && this.inFlight < this.#workload.plan.inFlightMax && this.#workload.takeOne()) this.#ask()
  }

  async close(): Promise<void> {
    if (!this.isGone) await this.#connection.disconnect()
  }

  #ask(): void {
    const kind = this.#prng.pick(this.#kinds)
    const { sector, sectors } = kind === 'flush' ? { sector: 0, sectors: 0 } : this.#drawRange()
    const logged = {
      host: this.#side,
      kind: kind === 'read' || kind === 'flush' ? kind : ('write' as const),
      sector,
      sectors,
      fua: kind === 'fua',
      values: this.#valuesOf(kind, sectors),
    }
    const request = this.#workload.history.invoke(logged)
    this.inFlight++
    this.#submit(kind, sector, sectors).then(
      (data) => this.#answered(request, 'done', data),
      (error: unknown) => this.#failed(request, error),
    )
  }

  #valuesOf(kind: OperationKind, sectors: number): number[] {
    if (kind === 'read' || kind === 'flush') return []
    this.#operations++
    const value = kind === 'zero' ? ZERO_VALUE : writtenValue(this.#writer, this.#operations)
    return new Array<number>(sectors).fill(value)
  }

  async #submit(kind: OperationKind, sector: number, sectors: number): Promise<Uint8Array | undefined> {
    const [offsetBytes, lengthBytes] = [sector * SECTOR_BYTES, sectors * SECTOR_BYTES]
    const connection = this.#connection
    switch (kind) {
      case 'read':
        return connection.read(offsetBytes, lengthBytes)
      case 'flush':
        await connection.flush()
        return undefined
      case 'zero':
        if (this.#prng.chance(1, 2)) await connection.trim(offsetBytes, lengthBytes)
        else await connection.writeZeroes(offsetBytes, lengthBytes, { noHole: this.#prng.chance(1, 2) })
        return undefined
      default: {
        const data = encodePayload({ writer: this.#writer, operation: this.#operations, sector, sectors })
        await connection.write(offsetBytes, data, { fua: kind === 'fua' })
        return undefined
      }
    }
  }

  #answered(request: LoggedRequest, outcome: 'done' | 'unknown', data: Uint8Array | undefined): void {
    const { history, counts } = this.#workload
    if (data === undefined) history.complete(request, outcome)
    else history.complete(request, outcome, decodeSectors(data, request.sector))
    if (outcome === 'done') counts.done++
    this.inFlight--
    this.goOn()
    this.#workload.changes.tell()
  }

  #failed(request: LoggedRequest, error: unknown): void {
    const { counts } = this.#workload
    if (error instanceof NbdDisconnectedError) {
      this.isGone = true
      counts.disconnected++
    } else if (error instanceof NbdCommandError) {
      const key = `${this.#side} ${request.kind} ${error.message}`
      counts.errors.set(key, (counts.errors.get(key) ?? 0) + 1)
    } else throw error
    this.#answered(request, 'unknown', undefined)
  }

  /** Whole blocks, or any sectors; in the hot area, or in any. */
  #drawRange(): Area {
    const { areas, hotPercent, requestSectorsMax } = this.#workload.plan
    const own = areas[this.#side]
    const area = this.#prng.chance(hotPercent, 100) ? (own[0] as Area) : this.#prng.pick(own)
    const unit = this.#prng.chance(1, 2) ? SECTORS_PER_BLOCK : 1
    const start = Math.ceil(area.sector / unit) * unit
    const units = Math.floor((area.sector + area.sectors - start) / unit)
    const length = this.#prng.intInclusive(1, Math.max(1, Math.min(units, Math.floor(requestSectorsMax / unit))))
    return { sector: start + unit * this.#prng.intInclusive(0, units - length), sectors: length * unit }
  }
}

const READ_BACK_SECTORS_MAX = 128

/** Reads every sector that was touched through the sides, as part of the history. */
export async function readBack(pair: DiskPair, history: DiskHistory, sides: readonly Side[] = SIDES): Promise<void> {
  for (const side of sides) {
    const connection = await pair.connect(side)
    for (const { sector, sectors } of toRanges(history.touchedSectors)) {
      const request = history.invoke({ host: side, kind: 'read', sector, sectors, fua: false, values: [] })
      const data = await connection.read(sector * SECTOR_BYTES, sectors * SECTOR_BYTES)
      history.complete(request, 'done', decodeSectors(data, sector))
    }
    await connection.disconnect()
  }
}

/** Adjacent sectors together, in requests of a bounded size. */
function toRanges(sectors: ReadonlySet<number>): Area[] {
  const ranges: { sector: number; sectors: number }[] = []
  for (const sector of [...sectors].sort((x, y) => x - y)) {
    const last = ranges[ranges.length - 1]
    const fits = last !== undefined && last.sectors < READ_BACK_SECTORS_MAX
    if (fits && last.sector + last.sectors === sector) last.sectors++
    else ranges.push({ sector, sectors: 1 })
  }
  return ranges
}

/** Everything that both sides hold is durable. */
export async function flushBoth(pair: DiskPair): Promise<void> {
  for (const side of SIDES) {
    const connection = await pair.connect(side)
    await connection.flush()
    await connection.disconnect()
  }
}
