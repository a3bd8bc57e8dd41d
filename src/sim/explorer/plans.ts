// The small scenarios that the explorer walks: who asks for what, and what has to be answered before. The ranges of two
// writes are equal, one inside the other, or overlap in part; which host holds the resolve-conflicts flag follows from the
// handshake, so every pair of ranges is there with its hosts exchanged.

import { KIB } from '../../base/units.ts'
import type { OrderName, ResourceSettings } from '../../runtime/api.ts'
import type { HostName } from '../network.ts'

export interface Operation {
  readonly host: HostName
  /** `pause`: no request; the clock of the host goes on by PAUSE_MS. */
  readonly kind: 'write' | 'zero' | 'read' | 'pause'
  readonly sector: number
  readonly sectors: number
  /** Operations that must have been answered first: those of the same client. */
  readonly after: readonly number[]
}

export type Plan = readonly Operation[]

/** Longer than `auto` needs to take a shared extent back. */
export const PAUSE_MS = 2_000

/** A write that is over before the plan begins, into the extent of its ranges. */
interface Beginning {
  readonly host: HostName
  readonly sector: number
}

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
const EXTENT_BYTES = 64 * KIB
const EXTENT_SECTORS = EXTENT_BYTES / 512
/** In the extent of the ranges, beside them. */
const BESIDE = 64

/** What the locks are like when a plan begins: without a beginning nobody has that of the ranges. */
const HELD: readonly Beginning[] = [{ host: 'b', sector: BESIDE }]
/** Twice handed over by either host. */
const sharing = (sector: number): readonly Beginning[] =>
  (['a', 'b', 'a', 'b', 'a', 'b'] as const).map((host) => ({ host, sector }))
const SHARED = sharing(BESIDE)
const NEXT_SHARED = sharing(EXTENT_SECTORS + BESIDE)

const ALL_ORDERS: readonly OrderName[] = ['arbitration', 'coordinator', 'lock-extents', 'auto']
const LOCKING: readonly OrderName[] = ['lock-extents', 'auto']
const WITHOUT_LOCKS: readonly OrderName[] = ['arbitration', 'coordinator']

export interface NamedPlan {
  readonly name: string
  readonly plan: Plan
  readonly beginning: readonly Beginning[]
  /** Under which it says something. */
  readonly orders: readonly OrderName[]
  /** A test run has time for it. */
  readonly short: boolean
}

/** What is explored under an order of its own. */
export interface Variant {
  readonly name: string
  readonly order: OrderName
  readonly writeNowAcks: boolean
}

export const variants: readonly Variant[] = [
  { name: 'arbitration', order: 'arbitration', writeNowAcks: false },
  { name: 'coordinator', order: 'coordinator', writeNowAcks: false },
  { name: 'coordinator with write-now-acks', order: 'coordinator', writeNowAcks: true },
  { name: 'lock-extents', order: 'lock-extents', writeNowAcks: false },
  { name: 'auto', order: 'auto', writeNowAcks: false },
]

interface PlanChoice {
  readonly beginning?: readonly Beginning[]
  readonly orders?: readonly OrderName[]
  readonly short?: boolean
}

const named = (name: string, plan: Plan, { beginning = [], orders = ALL_ORDERS, short = false }: PlanChoice = {}) => ({
  name,
  plan,
  beginning,
  orders,
  short,
})

/** In a short run not all ranges, which few orders tell apart. */
const SHORT: ReadonlySet<string> = new Set(['equal', 'partial'])

/** Two writes, and a read beside or behind them. */
const twoWrites = ([ranges, [a, b]]: [string, readonly [Range, Range]]): NamedPlan[] => {
  const short = SHORT.has(ranges)
  const both: Plan = [write('a', a), write('b', b)]
  return [
    named(`two-writes-${ranges}`, both, { short }),
    named(`write-and-zero-${ranges}`, [write('a', a), zero('b', b)]),
    named(`two-writes-${ranges}-read-a`, [...both, read('a', ALL)]),
    named(`two-writes-${ranges}-read-b`, [...both, read('b', ALL)]),
    // One client that looks on both hosts, one after the other.
    named(`write-${ranges}-read-b-a`, [write('a', a), read('b', ALL), read('a', ALL, [1])], { short }),
    named(`write-${ranges}-read-a-b`, [write('a', a), read('a', ALL), read('b', ALL, [1])], { short }),
    named(`write-of-b-${ranges}-read-a-b`, [write('b', a), read('a', ALL), read('b', ALL, [1])], { short }),
    named(`write-of-b-${ranges}-read-b-a`, [write('b', a), read('b', ALL), read('a', ALL, [1])], { short }),
    named(`two-writes-${ranges}-held`, both, { beginning: HELD, orders: LOCKING, short }),
    named(`two-writes-${ranges}-shared`, both, { beginning: SHARED, orders: ['auto'], short }),
  ]
}

/**
 * The second write of host a comes when its first one is answered; and both at once. Locks do not look at ranges, so these are
 * the same for all of them, and many.
 */
const threeWrites = ([ranges, [a, b]]: [string, readonly [Range, Range]]): NamedPlan[] => [
  named(`three-writes-${ranges}`, [write('a', a), write('b', b), write('a', a, [0])], {
    orders: ranges === 'equal' ? ALL_ORDERS : WITHOUT_LOCKS,
  }),
  named(`three-writes-${ranges}-at-once`, [write('a', a), write('b', b), write('a', b)], { orders: WITHOUT_LOCKS }),
]

const pause = (host: HostName): Operation => ({ host, kind: 'pause', sector: 0, sectors: 0, after: [] })
const BORDER: Range = [EXTENT_SECTORS - 2, 4]
const BEYOND: Range = [EXTENT_SECTORS, 4]
/** Behind the pause: to a write that is under way it would be a time-out. */
const SAME_LATER: Plan = [write('a', [8, 2], [0]), write('b', [8, 2], [0])]
const SPANNING: Plan = [write('a', BORDER), write('b', BORDER)]

/** What only locks can do wrong. */
const special: readonly NamedPlan[] = [
  named('two-writes-spanning', SPANNING, { orders: LOCKING }),
  named('two-writes-spanning-held', SPANNING, { beginning: HELD, orders: LOCKING }),
  named('two-writes-spanning-shared', SPANNING, { beginning: SHARED, orders: ['auto'] }),
  // One host needs a lock as well, the other one, which may write at once in the next extent, does not.
  named('two-writes-spanning-next-shared', [write('a', BORDER), write('b', BEYOND)], {
    beginning: NEXT_SHARED,
    orders: ['auto'],
  }),
  // The other host writes, and the coordinator, whichever it is, has not for a while: the extent is taken back.
  named('two-writes-taken-back-by-a', [pause('a'), ...SAME_LATER], { beginning: SHARED, orders: ['auto'] }),
  named('two-writes-taken-back-by-b', [pause('b'), ...SAME_LATER], { beginning: SHARED, orders: ['auto'] }),
]

/** All plans by name. */
export const plans: ReadonlyMap<string, NamedPlan> = new Map(
  [...[...RANGES].flatMap(twoWrites), ...[...RANGES].flatMap(threeWrites), ...special].map((each) => [each.name, each]),
)

export function settingsOfPlans({ order, writeNowAcks }: Variant): ResourceSettings {
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
    order: { name: order, writeNowAcks, coordinator: 'flag', extentBytes: EXTENT_BYTES, extentsMax: 1237 },
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
