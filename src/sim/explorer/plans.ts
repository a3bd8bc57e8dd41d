// The small scenarios that the explorer walks: who asks for what, and what has to be answered before. The ranges of two
// writes are equal, one inside the other, or overlap in part; which host holds the resolve-conflicts flag follows from the
// handshake, so every pair of ranges is there with its hosts exchanged.

import { MIB } from '../../base/units.ts'
import type { OrderName, ResourceSettings } from '../../runtime/api.ts'
import type { HostName } from '../network.ts'

export interface Operation {
  readonly host: HostName
  readonly kind: 'write' | 'zero' | 'read'
  readonly sector: number
  readonly sectors: number
  /** Operations that must have been answered first: those of the same client. */
  readonly after: readonly number[]
}

export type Plan = readonly Operation[]

type Range = readonly [sector: number, sectors: number]

const write = (host: HostName, [sector, sectors]: Range, after: readonly number[] = []): Operation => ({
  host,
  kind: 'write',
  sector,
  sectors,
  after,
})
const zero = (host: HostName, range: Range): Operation => ({ ...write(host, range), kind: 'zero' })
const read = (host: HostName, range: Range, after: readonly number[] = []): Operation => ({
  ...write(host, range, after),
  kind: 'read',
})

const RANGES: ReadonlyMap<string, readonly [Range, Range]> = new Map([
  [
    'equal',
    [
      [8, 2],
      [8, 2],
    ],
  ],
  [
    'inside',
    [
      [8, 4],
      [9, 2],
    ],
  ],
  [
    'around',
    [
      [9, 2],
      [8, 4],
    ],
  ],
  [
    'partial',
    [
      [8, 3],
      [10, 3],
    ],
  ],
  [
    'partial-mirrored',
    [
      [10, 3],
      [8, 3],
    ],
  ],
])
const ALL: Range = [8, 5]

export interface NamedPlan {
  readonly name: string
  readonly plan: Plan
  /** A test run has time for it. */
  readonly short: boolean
}

/** All plans by name. */
export const plans: ReadonlyMap<string, NamedPlan> = new Map(
  [...RANGES]
    .flatMap(([ranges, [a, b]]): NamedPlan[] => [
      { name: `two-writes-${ranges}`, plan: [write('a', a), write('b', b)], short: true },
      { name: `write-and-zero-${ranges}`, plan: [write('a', a), zero('b', b)], short: false },
      { name: `two-writes-${ranges}-read-a`, plan: [write('a', a), write('b', b), read('a', ALL)], short: false },
      { name: `two-writes-${ranges}-read-b`, plan: [write('a', a), write('b', b), read('b', ALL)], short: false },
      // One client that looks on both hosts, one after the other.
      { name: `write-${ranges}-read-b-a`, plan: [write('a', a), read('b', ALL), read('a', ALL, [1])], short: true },
      { name: `write-${ranges}-read-a-b`, plan: [write('a', a), read('a', ALL), read('b', ALL, [1])], short: true },
      // The second write of host a comes when its first one is answered; and both at once.
      { name: `three-writes-${ranges}`, plan: [write('a', a), write('b', b), write('a', a, [0])], short: false },
      { name: `three-writes-${ranges}-at-once`, plan: [write('a', a), write('b', b), write('a', b)], short: false },
    ])
    .map((named) => [named.name, named]),
)

export function settingsOfPlans(order: OrderName): ResourceSettings {
  return {
    name: 'r0',
    protocol: 'C',
    allowTwoPrimaries: true,
    fencing: 'resource-and-stonith',
    fencePeerHandler: true,
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
    useRle: false,
    maxEpochSize: 2_048,
    pingIntMs: 10_000,
    pingTimeoutMs: 500,
    timeoutMs: 6_000,
    koCount: 7,
    connectIntMs: 1_000,
    socketCheckTimeoutMs: 0,
    inFlightBytesMax: 1_048_576,
    onNoDataAccessible: 'io-error',
    order: { name: order, writeNowAcks: false, coordinator: 'flag', extentBytes: 4 * MIB, extentsMax: 1237 },
    volumes: [
      {
        volume: 0,
        alExtents: 67,
        sizeSectors: 0,
        onIoError: 'detach',
        resyncRateMaxKib: 0,
        resyncRateMinKib: 250,
      },
    ],
  }
}
