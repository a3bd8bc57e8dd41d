// Faults and the moments at which they strike. A moment is a time, or the n-th time that something is seen from outside: a
// state of the connection, a write into a part of the metadata, the start of a handler. So crashes land in the middle of a
// handshake, a resync or an activity-log transaction far more often than at times drawn blindly.
//
// Faults with a duration end by themselves (`ms`); hosts that died are started again by the world (`World.keepAlive`).

import type { Prng } from '../../base/prng.ts'
import type { DiskErrorCode } from '../../runtime/ports.ts'
import { type HostName, otherHost } from '../network.ts'
import type { Pair } from './story.ts'

/** Something that can be seen on a host. */
export const SIGHTS = [
  'handshake',
  'bitmap-exchange',
  'resync',
  'connection-lost',
  'frozen',
  'log-write',
  'superblock-write',
  'bitmap-write',
  'data-write',
  'flush',
  'fencing',
  /** A client was told that its data are durable. */
  'promise',
] as const
export type Sight = (typeof SIGHTS)[number]

export type Moment =
  | { readonly afterMs: number }
  /** `delayUs` after the sight is seen for the time number `nth`; never before `afterMs`. */
  | {
      readonly sight: Sight
      readonly host: HostName
      readonly nth: number
      readonly delayUs: number
      readonly afterMs: number
    }

export type Fault =
  | { readonly type: 'cut'; readonly which: 'all' | 'one' }
  | { readonly type: 'half-open'; readonly which: 'all' | 'one' }
  | { readonly type: 'partition'; readonly from: HostName | undefined; readonly ms: number }
  /** One of the two streams stands still, the other goes on. */
  | { readonly type: 'stall'; readonly ms: number }
  | { readonly type: 'slow-network'; readonly delayUsMax: number; readonly ms: number }
  | { readonly type: 'slow-disk'; readonly host: HostName; readonly latencyUsMax: number; readonly ms: number }
  | {
      readonly type: 'disk-error'
      readonly host: HostName
      readonly on: 'read' | 'write' | 'flush'
      readonly code: DiskErrorCode
      readonly where: 'data' | 'metadata' | 'all'
      readonly times: number
      readonly ms: number
    }
  | { readonly type: 'broken-disk'; readonly host: HostName; readonly code: 'gone' | 'read-only'; readonly ms: number }
  | { readonly type: 'crash' | 'power-cut'; readonly hosts: readonly HostName[]; readonly apartMs: number }
  /** The host dies, and a bit of its metadata flips before it comes back. */
  | { readonly type: 'rot'; readonly host: HostName; readonly where: 'superblock' | 'log'; readonly powerCut: boolean }
  | { readonly type: 'new-disk'; readonly host: HostName }
  | { readonly type: 'stop'; readonly host: HostName; readonly ms: number }
  | { readonly type: 'secondary'; readonly host: HostName; readonly ms: number }
  | { readonly type: 'disconnect'; readonly host: HostName; readonly force: boolean; readonly ms: number }
  | { readonly type: 'detach'; readonly host: HostName; readonly force: boolean; readonly ms: number }
  | { readonly type: 'invalidate'; readonly host: HostName }
  /** The Primary dies for good, and the other host becomes Primary. */
  | { readonly type: 'take-over'; readonly powerCut: boolean }

export interface PlannedFault {
  readonly moment: Moment
  readonly fault: Fault
}

export function drawFaults(prng: Prng, pair: Pair, lengthMs: number): PlannedFault[] {
  const faults: PlannedFault[] = prng.chance(1, 2) ? drawCombination(prng, pair, lengthMs) : []
  const count = faults.length > 0 ? prng.pick([0, 0, 1, 2]) : prng.pick([0, 1, 2, 2, 3, 4, 6])
  for (let i = 0; i < count; i++) faults.push(drawPlanned(prng, pair, lengthMs))
  // What follows on a loss is where the difficult states are: strike once more when the hosts meet again.
  if (count > 0 && prng.chance(1, 2)) {
    const moment = drawSight(prng, prng.pick(['handshake', 'bitmap-exchange', 'resync'] as const), 0)
    faults.push({ moment, fault: drawFault(prng, pair) })
  }
  return faults
}

/** Losses that only together take what an answer had promised, each in the moment that hurts most. */
function drawCombination(prng: Prng, pair: Pair, lengthMs: number): PlannedFault[] {
  const afterMs = prng.intInclusive(0, Math.ceil(lengthMs / 2))
  const host = drawHost(prng)
  const promise = {
    sight: 'promise' as const,
    host,
    nth: prng.intInclusive(1, 10),
    delayUs: prng.pick([0, 0, 50, 1_000]),
    afterMs,
  }
  const strong = otherHost(pair.weakDisk)
  switch (prng.pick([0, 0, 1, 1, 2, 3] as const)) {
    case 0:
      // All lights go out just after somebody was told that his data are safe.
      return [{ moment: promise, fault: { type: 'power-cut', hosts: [host, otherHost(host)], apartMs: 0 } }]
    case 1:
      // The same with one host left that had gone on alone.
      return [
        { moment: { afterMs }, fault: { type: drawDeath(prng), hosts: [otherHost(host)], apartMs: 0 } },
        { moment: promise, fault: { type: 'power-cut', hosts: [host], apartMs: 0 } },
      ]
    case 2: {
      // One host has no disk, and the other one dies while it writes.
      const nth = prng.intInclusive(1, 12)
      const delayUs = prng.pick([0, 20, 100, 1_000])
      return [
        {
          moment: { afterMs },
          fault: { type: 'detach', host: pair.weakDisk, force: true, ms: prng.pick([400, 9_000]) },
        },
        {
          moment: { sight: 'data-write', host: strong, nth, delayUs, afterMs: afterMs + 1 },
          fault: { type: drawDeath(prng), hosts: [strong], apartMs: 0 },
        },
      ]
    }
    default: {
      // A write has begun on one host and is under way to the other one: cut, and strike the one or the other.
      const nth = prng.intInclusive(1, 20)
      return [
        {
          moment: { sight: 'data-write', host, nth, delayUs: prng.pick([0, 50, 500]), afterMs },
          fault: { type: 'cut', which: 'all' },
        },
        {
          moment: { sight: 'connection-lost', host: drawHost(prng), nth: 1, delayUs: prng.pick([0, 20, 300]), afterMs },
          fault: { type: drawDeath(prng), hosts: prng.chance(1, 3) ? ['a', 'b'] : [drawHost(prng)], apartMs: 0 },
        },
      ]
    }
  }
}

const drawDeath = (prng: Prng): 'crash' | 'power-cut' => prng.pick(['crash', 'power-cut'] as const)

function drawPlanned(prng: Prng, pair: Pair, lengthMs: number): PlannedFault {
  const afterMs = prng.intInclusive(0, lengthMs)
  const moment = prng.chance(1, 2) ? { afterMs } : drawSight(prng, prng.pick(SIGHTS), afterMs)
  return { moment, fault: drawFault(prng, pair) }
}

function drawSight(prng: Prng, sight: Sight, afterMs: number): Moment {
  const frequent = sight === 'data-write' || sight === 'flush' || sight === 'promise'
  return {
    sight,
    host: drawHost(prng),
    nth: frequent ? prng.intInclusive(1, 20) : prng.pick([1, 1, 2, 3, 5]),
    delayUs: prng.pick([0, 0, 20, 300, 3_000, 30_000]),
    afterMs,
  }
}

const drawHost = (prng: Prng): HostName => prng.pick(['a', 'b'] as const)

/** Kinds by their weight. */
const KINDS: readonly Fault['type'][] = [
  ...(['crash', 'crash', 'crash', 'power-cut', 'power-cut', 'power-cut', 'power-cut'] as const),
  ...(['cut', 'cut', 'cut', 'half-open', 'partition', 'partition', 'stall', 'stall', 'slow-network'] as const),
  ...(['slow-disk', 'disk-error', 'disk-error', 'broken-disk', 'rot', 'new-disk', 'stop'] as const),
  ...(['secondary', 'disconnect', 'disconnect', 'detach', 'detach', 'invalidate', 'take-over'] as const),
]

function drawFault(prng: Prng, pair: Pair): Fault {
  const type = prng.pick(KINDS)
  const host = drawHost(prng)
  const ms = prng.pick([1, 30, 400, 2_500, 9_000])
  switch (type) {
    case 'cut':
    case 'half-open':
      return { type, which: prng.pick(['all', 'one'] as const) }
    case 'partition':
      return { type, from: prng.pick([undefined, undefined, 'a', 'b'] as const), ms }
    case 'stall':
      return { type, ms: prng.pick([1, 5, 30, 200]) }
    case 'slow-network':
      return { type, delayUsMax: prng.pick([20_000, 200_000]), ms }
    case 'slow-disk':
      return { type, host, latencyUsMax: prng.pick([20_000, 200_000]), ms }
    case 'disk-error':
      return {
        type,
        host: pair.weakDisk,
        on: prng.pick(['read', 'write', 'write', 'flush'] as const),
        code: prng.pick(['io', 'io', 'no-space'] as const),
        where: prng.pick(['data', 'data', 'metadata', 'all'] as const),
        times: prng.pick([1, 3, 1_000_000]),
        ms,
      }
    case 'broken-disk':
      return { type, host: pair.weakDisk, code: prng.pick(['gone', 'read-only'] as const), ms }
    case 'crash':
    case 'power-cut': {
      const hosts: readonly HostName[] = prng.chance(1, 3) ? [host, otherHost(host)] : [host]
      return { type, hosts, apartMs: prng.pick([0, 0, 20, 1_500]) }
    }
    case 'rot':
      return {
        type,
        host: pair.weakDisk,
        where: prng.pick(['superblock', 'log'] as const),
        powerCut: prng.chance(1, 2),
      }
    case 'new-disk':
    case 'invalidate':
      return { type, host: pair.weakDisk }
    case 'stop':
    case 'secondary':
      return { type, host, ms }
    case 'disconnect':
      return { type, host, force: prng.chance(1, 3), ms }
    case 'detach':
      return { type, host: pair.weakDisk, force: prng.chance(1, 3), ms }
    case 'take-over':
      if (pair.primaries.length === 1 && pair.fencing === 'resource-and-stonith') {
        return { type, powerCut: prng.chance(1, 2) }
      }
      return { type: 'cut', which: 'all' }
  }
}
