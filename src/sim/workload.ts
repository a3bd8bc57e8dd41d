// Seeded clients that keep both hosts busy: reads and unique writes, on hot blocks and all over a region, aligned and partly
// overlapping, flushes, FUA and zeroing. Each client has a bounded number of requests in flight and goes on by itself when
// its host dies and comes back.

import type { Prng } from '../base/prng.ts'
import { SECTORS_PER_BLOCK } from '../base/units.ts'
import type { PendingRequest, SimClient } from './client.ts'
import type { HostName } from './network.ts'
import type { World } from './world.ts'

export interface WorkloadConfig {
  readonly hosts: readonly HostName[]
  readonly clientsPerHost: number
  readonly inFlightMax: number
  /** Requests of each client; it stops after them. */
  readonly requestsPerClient: number
  /** Where requests go. */
  readonly region: { readonly sector: number; readonly sectors: number }
  /** Blocks at the start of the region that half of the requests go to: conflicts. 0: none. */
  readonly hotBlocks: number
  readonly requestSectorsMax: number
  /** Pause of a client between an answer and its next request. */
  readonly pauseUsMax: number
  readonly weights: Readonly<Record<RequestKind, number>>
}

export type RequestKind = 'read' | 'write' | 'fua' | 'zero' | 'flush'

export const WORKLOAD_DEFAULTS: WorkloadConfig = {
  hosts: ['a', 'b'],
  clientsPerHost: 2,
  inFlightMax: 4,
  requestsPerClient: 120,
  region: { sector: 0, sectors: 512 },
  hotBlocks: 3,
  requestSectorsMax: 24,
  pauseUsMax: 3_000,
  weights: { read: 8, write: 10, fua: 1, zero: 1, flush: 1 },
}

/** How long a client waits before it tries a host again that is down or not Primary. */
const RETRY_US = 50_000

export class Workload {
  readonly #clients: WorkloadClient[] = []
  #stopped = false

  constructor(world: World, choice: Partial<WorkloadConfig> = {}) {
    const config = { ...WORKLOAD_DEFAULTS, ...choice }
    for (const host of config.hosts) {
      for (let i = 0; i < config.clientsPerHost; i++) {
        const prng = world.workloadPrng(`${host} ${i} ${config.region.sector}`)
        this.#clients.push(new WorkloadClient(world, world.client(host), prng, config, () => this.#stopped))
      }
    }
    for (const client of this.#clients) client.goOn()
    world.onFinish(() => this.stop())
  }

  /** No new requests from now on. */
  stop(): void {
    this.#stopped = true
  }

  /** All requests were made and answered, or the workload was stopped and all is answered. */
  get isDone(): boolean {
    return this.#clients.every((client) => client.isDone)
  }

  /** Requests that were confirmed so far. */
  get confirmed(): number {
    return this.#clients.reduce((sum, client) => sum + client.confirmed, 0)
  }
}

class WorkloadClient {
  readonly #world: World
  readonly #client: SimClient
  readonly #prng: Prng
  readonly #config: WorkloadConfig
  readonly #isStopped: () => boolean
  readonly #kinds: readonly RequestKind[]
  #asked = 0
  #inFlight = 0
  /** The host is down or not Primary; a wake-up is set. */
  #waiting = false
  confirmed = 0

  constructor(world: World, client: SimClient, prng: Prng, config: WorkloadConfig, isStopped: () => boolean) {
    this.#world = world
    this.#client = client
    this.#prng = prng
    this.#config = config
    this.#isStopped = isStopped
    const kinds: RequestKind[] = []
    for (const kind of ['read', 'write', 'fua', 'zero', 'flush'] as const) {
      for (let i = 0; i < config.weights[kind]; i++) kinds.push(kind)
    }
    this.#kinds = kinds
  }

  get isDone(): boolean {
    return this.#inFlight === 0 && (this.#isStopped() || this.#asked >= this.#config.requestsPerClient)
  }

  goOn(): void {
    while (this.#inFlight < this.#config.inFlightMax) {
      if (this.#isStopped() || this.#asked >= this.#config.requestsPerClient) return
      if (!this.#client.host.isPrimary) {
        this.#waitForPrimary()
        return
      }
      this.#asked++
      this.#inFlight++
      const pauseUs = this.#prng.intInclusive(0, this.#config.pauseUsMax)
      this.#world.scheduler.after(pauseUs, `workload of ${this.#client.host.name}`, () => this.#ask())
    }
  }

  #waitForPrimary(): void {
    if (this.#waiting) return
    this.#waiting = true
    this.#world.scheduler.after(RETRY_US, `workload of ${this.#client.host.name} waits`, () => {
      this.#waiting = false
      this.goOn()
    })
  }

  #ask(): void {
    if (this.#isStopped() || !this.#client.host.isPrimary) {
      // Not asked at all: it counts for later.
      this.#asked--
      this.#inFlight--
      this.goOn()
      return
    }
    const settled = (request: PendingRequest): void => {
      this.#inFlight--
      if (request.confirmed) this.confirmed++
      this.goOn()
    }
    const kind = this.#prng.pick(this.#kinds)
    if (kind === 'flush') this.#client.flush(settled)
    else if (kind === 'read') this.#client.read(this.#drawRange(), settled)
    else if (kind === 'zero') this.#client.zero({ ...this.#drawRange(), unmap: this.#prng.chance(1, 2) }, settled)
    else this.#client.write({ ...this.#drawRange(), fua: kind === 'fua' }, settled)
  }

  /** Whole blocks, or any sectors; on the hot blocks, or anywhere in the region. */
  #drawRange(): { sector: number; sectors: number } {
    const { region, hotBlocks, requestSectorsMax } = this.#config
    const hot = hotBlocks > 0 && this.#prng.chance(1, 2)
    const spaceSectors = hot ? Math.min(region.sectors, hotBlocks * SECTORS_PER_BLOCK) : region.sectors
    const unit = this.#prng.chance(1, 2) ? SECTORS_PER_BLOCK : 1
    const lengthMax = Math.max(1, Math.floor(Math.min(requestSectorsMax, spaceSectors) / unit))
    const sectors = Math.min(spaceSectors, this.#prng.intInclusive(1, lengthMax) * unit)
    const places = Math.floor((spaceSectors - sectors) / unit)
    return { sector: region.sector + this.#prng.intInclusive(0, places) * unit, sectors }
  }
}
