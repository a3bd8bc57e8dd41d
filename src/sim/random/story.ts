// A whole story drawn from one seed: what the two machines are like, what their clients do, and what goes wrong when. Drawn
// before anything runs, so that a story can be printed, and so that what happens in the world does not change what is drawn.
//
// What belongs together is drawn together, because a fault is only worth something where the contract promises something:
//
//   two Primaries     protocol C, fencing resource-and-stonith; every fault
//   one Primary       protocol C; with that fencing every fault and the other host may take over; with weaker fencing, where
//                     nobody may take over, as DRBD promises nothing then
//
// The hosts differ in what may differ: clocks, disks, time-outs, bytes in flight, resync rates, size of the activity log.

import type { Prng } from '../../base/prng.ts'
import { KIB, MIB } from '../../base/units.ts'
import type { FencingPolicy, ResourceSettings } from '../../runtime/api.ts'
import type { FencingAgent } from '../handlers.ts'
import type { HostName } from '../network.ts'
import type { HostDifferences, WorldChoice } from '../options.ts'
import type { WorkloadConfig } from '../workload.ts'
import { drawFaults, type PlannedFault } from './faults.ts'

export interface Story {
  readonly world: WorldChoice
  readonly workloads: readonly Partial<WorkloadConfig>[]
  /** A host that died is started again after a time between these. */
  readonly restart: { readonly msMin: number; readonly msMax: number }
  /** How long faults may strike. */
  readonly lengthMs: number
  readonly faults: readonly PlannedFault[]
}

/** What kind of pair it is; decides which faults may be drawn. */
export interface Pair {
  readonly primaries: readonly HostName[]
  readonly fencing: FencingPolicy
  readonly deviceBytes: number
  /** The only one whose disk fails: if both do, nothing is promised but what an administrator can save. */
  readonly weakDisk: HostName
}

const SMALL_BYTES = 8 * MIB
/** More extents of 4 MiB than the smallest activity log has slots. */
const WIDE_BYTES = 320 * MIB
const EXTENT_SECTORS = 8192

export function drawStory(prng: Prng): Story {
  const pair = drawPair(prng.fork('pair'))
  const lengthMs = prng.pick([50, 400, 1_500, 4_000, 12_000])
  return {
    world: drawWorld(prng.fork('world'), pair),
    workloads: drawWorkloads(prng.fork('workload'), pair, lengthMs),
    restart: prng.pick([
      { msMin: 0, msMax: 300 },
      { msMin: 50, msMax: 2_000 },
      { msMin: 500, msMax: 8_000 },
    ]),
    lengthMs,
    faults: drawFaults(prng.fork('faults'), pair, lengthMs),
  }
}

export function describeStory(story: Story): string[] {
  return [
    `story of ${story.lengthMs} ms, restarts after ${story.restart.msMin} to ${story.restart.msMax} ms`,
    ...story.workloads.map((workload) => `workload ${JSON.stringify(workload)}`),
    ...story.faults.map((planned) => `fault ${JSON.stringify(planned)}`),
  ]
}

function drawPair(prng: Prng): Pair {
  const deviceBytes = prng.chance(1, 6) ? WIDE_BYTES : prng.pick([SMALL_BYTES, SMALL_BYTES + 2560])
  const common = { deviceBytes, weakDisk: prng.pick(['a', 'b'] as const) }
  if (!prng.chance(1, 5)) return { ...common, primaries: ['a', 'b'], fencing: 'resource-and-stonith' }
  const fencing = prng.pick(['resource-and-stonith', 'resource-and-stonith', 'resource-only', 'dont-care'] as const)
  return { ...common, primaries: [prng.pick(['a', 'b'] as const)], fencing }
}

function drawWorld(prng: Prng, { primaries, fencing, deviceBytes }: Pair): WorldChoice {
  const agents: readonly FencingAgent[] = ['kill', 'kill', 'power-off', 'power-off', 'power-off', 'fails', 'hangs']
  const settings: Partial<Omit<ResourceSettings, 'volumes'>> = {
    allowTwoPrimaries: primaries.length === 2 || prng.chance(1, 2),
    fencing,
    socketCheckTimeoutMs: prng.pick([0, 100]),
  }
  return {
    deviceBytes,
    settings,
    volume: { alExtents: 67, onIoError: prng.pick(['detach', 'detach', 'detach', 'call-local-io-error']) },
    differences: { a: drawDifferences(prng), b: drawDifferences(prng) },
    handlers: {
      fencingAgent: prng.pick(agents),
      ...prng.pick([{}, { delayUsMin: 100, delayUsMax: 3_000 }, { delayUsMin: 1_000_000, delayUsMax: 4_000_000 }]),
    },
    initialSync: deviceBytes === SMALL_BYTES && prng.chance(1, 12) ? 'full' : 'skip',
    primaries,
    powerCutQuestionEvery: 60,
  }
}

function drawDifferences(prng: Prng): HostDifferences {
  return {
    pingIntMs: prng.pick([500, 1_000, 1_000, 5_000]),
    pingTimeoutMs: prng.pick([300, 500, 1_000]),
    timeoutMs: prng.pick([1_000, 2_000, 6_000]),
    koCount: prng.pick([1, 3, 7]),
    connectIntMs: prng.pick([300, 1_000, 3_000]),
    inFlightBytesMax: prng.pick([64 * KIB, 256 * KIB, 4 * MIB]),
    maxEpochSize: prng.pick([1, 8, 2_048]),
    useRle: prng.chance(1, 2),
    volume: {
      alExtents: prng.pick([67, 67, 128]),
      resyncRateMaxKib: prng.pick([0, 0, 0, 4_000]),
    },
  }
}

/**
 * Half of the stories have one more workload on a single block or two, with many reads: stale and torn values show there and
 * nowhere else.
 */
function drawWorkloads(prng: Prng, pair: Pair, lengthMs: number): Partial<WorkloadConfig>[] {
  const wide = pair.deviceBytes === WIDE_BYTES
  const requests = prng.pick([20, 60, 120])
  const pauseUsMax = Math.ceil((prng.pick([1, 1, 2]) * Math.min(lengthMs, 4_000) * 1000) / requests)
  const common = { hosts: ['a', 'b'] as const, pauseUsMax: prng.pick([200, 3_000, pauseUsMax]) }
  const main: Partial<WorkloadConfig> = {
    ...common,
    clientsPerHost: prng.pick([1, 2, 3]),
    inFlightMax: prng.pick([1, 3, 8]),
    requestsPerClient: requests,
    region: drawRegion(prng, wide),
    hotBlocks: prng.pick([0, 1, 3]),
    requestSectorsMax: prng.pick([8, 24, 24, 120]),
    weights: {
      read: prng.pick([2, 8, 16]),
      write: 10,
      fua: prng.pick([0, 1, 4]),
      zero: prng.pick([0, 1, 4]),
      flush: prng.pick([0, 1, 3]),
    },
  }
  if (prng.chance(1, 2)) return [main]
  const hot: Partial<WorkloadConfig> = {
    ...common,
    clientsPerHost: 2,
    inFlightMax: prng.pick([1, 2, 4]),
    requestsPerClient: prng.pick([20, 50]),
    // Not aligned: blocks and sectors of its requests overlap in part.
    region: { sector: 700, sectors: prng.pick([4, 8, 20]) },
    hotBlocks: 0,
    requestSectorsMax: prng.pick([4, 8, 12]),
    weights: { read: 14, write: 8, fua: 1, zero: 1, flush: prng.pick([0, 1]) },
  }
  return [main, hot]
}

function drawRegion(prng: Prng, wide: boolean): { sector: number; sectors: number } {
  if (wide && prng.chance(2, 3)) return { sector: 0, sectors: 78 * EXTENT_SECTORS }
  return prng.pick([
    { sector: 0, sectors: 512 },
    { sector: 3, sectors: 60 },
    // Across the border of two extents, and all over the device.
    { sector: EXTENT_SECTORS - 60, sectors: 120 },
    { sector: 0, sectors: 15_000 },
  ])
}
