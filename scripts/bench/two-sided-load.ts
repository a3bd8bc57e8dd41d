// Writes of 4 KiB through both hosts at once, in four patterns that differ in how much the hosts meet.

import type { NbdConnectionToServer } from '../../src/adapters/nbd-client.ts'
import { Prng } from '../../src/base/prng.ts'
import { MIB } from '../../src/base/units.ts'

const BLOCK_BYTES = 4096
/** An extent of the activity log, and of the locks unless configured otherwise. */
const EXTENT_BYTES = 4 * MIB

export interface Workload {
  readonly name: string
  readonly title: string
  /** Requests in flight on each host. */
  readonly queueDepth: number
  /** Where a host writes next. `side` 0 or 1. */
  offsetBytes(prng: Prng, side: number, diskBytes: number): number
}

const blockOf = (prng: Prng, fromBytes: number, lengthBytes: number): number =>
  fromBytes + BLOCK_BYTES * prng.intInclusive(0, lengthBytes / BLOCK_BYTES - 1)

export const WORKLOADS: readonly Workload[] = [
  {
    name: 'distinct',
    title: 'distinct areas',
    queueDepth: 8,
    offsetBytes: (prng, side, diskBytes) => blockOf(prng, (side * diskBytes) / 2, diskBytes / 2),
  },
  {
    name: 'shared',
    title: '10 % shared',
    queueDepth: 8,
    offsetBytes: (prng, side, diskBytes) =>
      prng.chance(1, 10)
        ? blockOf(prng, 0, EXTENT_BYTES)
        : blockOf(prng, side === 0 ? EXTENT_BYTES : diskBytes / 2, diskBytes / 2 - EXTENT_BYTES),
  },
  { name: 'extent', title: 'one extent', queueDepth: 8, offsetBytes: (prng) => blockOf(prng, 0, EXTENT_BYTES) },
  { name: 'duel', title: 'duel on one block', queueDepth: 1, offsetBytes: () => 0 },
]

export interface SideResult {
  readonly writes: number
  readonly latenciesMs: readonly number[]
}

/** Writes through both until the time is over; requests that were begun are finished and counted. */
export async function runLoad(
  workload: Workload,
  clients: readonly NbdConnectionToServer[],
  how: { readonly diskBytes: number; readonly seconds: number; readonly seed: number },
): Promise<readonly SideResult[]> {
  const endMs = performance.now() + how.seconds * 1000
  return Promise.all(
    clients.map(async (client, side) => {
      const prng = new Prng(how.seed).fork(`side ${side}`)
      const latenciesMs: number[] = []
      const data = new Uint8Array(BLOCK_BYTES)
      const worker = async (): Promise<void> => {
        while (performance.now() < endMs) {
          const offsetBytes = workload.offsetBytes(prng, side, how.diskBytes)
          const startMs = performance.now()
          await client.write(offsetBytes, data)
          latenciesMs.push(performance.now() - startMs)
        }
      }
      prng.fill(data)
      await Promise.all(Array.from({ length: workload.queueDepth }, worker))
      return { writes: latenciesMs.length, latenciesMs }
    }),
  )
}
