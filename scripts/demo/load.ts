// What the clients do: writes of each host in an area of its own, and writes of both to the same blocks.

import { setTimeout as sleep } from 'node:timers/promises'
import type { Prng } from '../../src/base/prng.ts'
import { SECTORS_PER_BLOCK } from '../../src/base/units.ts'
import type { Client, Range } from './clients.ts'

/** Of one host. It keeps the log small enough to be judged in seconds, whatever the machine can do. */
const REQUESTS_PER_SECOND_MAX = 4000
const OWN_AREA_WORKERS = 6
const CONTESTED_WORKERS = 6
const READERS = 2
const OWN_SECTORS_MAX = 48
const CONTESTED_SECTORS_MAX = 16
const PAIRS_AT_ONCE = 12

export interface LoadAreas {
  readonly own: Range
  readonly contested: Range | undefined
}

/** A load on one host that runs until it is stopped, or the host dies. */
export class Load {
  readonly #client: Client
  readonly #beganMs = performance.now()
  readonly #ended: Promise<unknown>
  #requests = 0
  #running = true

  constructor(client: Client, prng: Prng, areas: LoadAreas) {
    this.#client = client
    const { own, contested } = areas
    const workers = repeat(OWN_AREA_WORKERS, () =>
      this.#work(() => client.write(randomRange(prng, own, OWN_SECTORS_MAX))),
    )
    if (contested !== undefined) {
      workers.push(
        ...repeat(CONTESTED_WORKERS, () =>
          this.#work(() => client.write(randomRange(prng, contested, CONTESTED_SECTORS_MAX))),
        ),
        ...repeat(READERS, () => this.#work(() => client.read(randomRange(prng, contested, CONTESTED_SECTORS_MAX)))),
      )
    }
    this.#ended = Promise.all(workers)
  }

  /** Resolves when every request has its answer, or has failed. */
  async stop(): Promise<void> {
    this.#running = false
    await this.#ended
  }

  /** Resolves when the host has died under it. */
  async hostLost(): Promise<void> {
    await this.#ended
  }

  async #work(request: () => Promise<boolean>): Promise<void> {
    while (this.#running && this.#client.isConnected) {
      await request()
      this.#requests++
      const earlyMs = this.#beganMs + (1000 * this.#requests) / REQUESTS_PER_SECOND_MAX - performance.now()
      if (earlyMs > 1) await sleep(earlyMs)
    }
  }
}

export interface PairCounts {
  readonly equal: number
  readonly overlapping: number
  readonly inside: number
}

/** Pairs of writes, one from each host, sent at the same moment to the same blocks. */
export async function conflictingPairs(
  clients: readonly [Client, Client],
  prng: Prng,
  how: { readonly area: Range; readonly pairs: number; onPair(done: number): void },
): Promise<PairCounts> {
  const counts = { equal: 0, overlapping: 0, inside: 0 }
  let begun = 0
  let done = 0
  const worker = async (): Promise<void> => {
    while (begun < how.pairs) {
      begun++
      const kind = prng.pick(['equal', 'overlapping', 'inside'] as const)
      const [first, second] = conflict(prng, how.area, kind)
      const swap = prng.chance(1, 2)
      await Promise.all([clients[swap ? 1 : 0].write(first), clients[swap ? 0 : 1].write(second)])
      counts[kind]++
      how.onPair(++done)
    }
  }
  await Promise.all(repeat(PAIRS_AT_ONCE, worker))
  return counts
}

function conflict(prng: Prng, area: Range, kind: keyof PairCounts): readonly [Range, Range] {
  const blocks = prng.intInclusive(1, 4)
  const sectors = blocks * SECTORS_PER_BLOCK
  const last = area.sectors - 2 * sectors
  const sector = area.sector + prng.intInclusive(0, Math.floor(last / SECTORS_PER_BLOCK)) * SECTORS_PER_BLOCK
  const first = { sector, sectors }
  switch (kind) {
    case 'equal':
      return [first, first]
    case 'overlapping':
      return [first, { sector: sector + prng.intInclusive(1, sectors - 1), sectors }]
    case 'inside': {
      const inner = prng.intInclusive(1, sectors - 2)
      return [first, { sector: sector + prng.intInclusive(1, sectors - inner - 1), sectors: inner }]
    }
  }
}

function randomRange(prng: Prng, area: Range, sectorsMax: number): Range {
  const sectors = prng.intInclusive(1, sectorsMax)
  return { sector: area.sector + prng.intInclusive(0, area.sectors - sectors), sectors }
}

const repeat = <T>(times: number, make: () => T): T[] => Array.from({ length: times }, make)
