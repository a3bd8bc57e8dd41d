// Goal: the simulator's disk, network and clock fulfil the ports, so that they cannot lie about the real ones.
// Method: the contract suites that the daemon's adapters pass as well, on several seeds and configurations each.

import assert from 'node:assert/strict'

import { Prng } from '../../src/base/prng.ts'
import { SimClock } from '../../src/sim/clock.ts'
import { DISK_DEFAULTS, type DiskConfig, SimDiskDevice } from '../../src/sim/disk.ts'
import { NETWORK_DEFAULTS, type NetworkConfig, SimNetwork } from '../../src/sim/network.ts'
import { Scheduler } from '../../src/sim/scheduler.ts'
import { Trace } from '../../src/sim/trace.ts'
import { clockContract } from './clock-contract.ts'
import { CONTRACT_DISK_BYTES, type DiskWorld, diskContract } from './disk-contract.ts'
import type { ContractWorld } from './harness.ts'
import { type LinkWorld, linkContract } from './link-contract.ts'

const STEPS_MAX = 200_000
const IDLE_US = 500_000

/** Virtual time. What the simulated parts report about their caller fails the test, unless it is expected. */
class VirtualWorld implements ContractWorld {
  readonly scheduler = new Scheduler(new Trace())
  readonly reports: string[] = []
  readonly report = (checker: string, message: string): void => void this.reports.push(`${checker}: ${message}`)
  /** Reports that a test provokes on purpose. */
  readonly #provoked: RegExp | undefined

  constructor(provoked?: RegExp) {
    this.#provoked = provoked
  }

  run(until: () => boolean, what: string): void {
    for (let steps = 0; !until(); steps++) {
      assert.ok(steps < STEPS_MAX, `did not happen in ${STEPS_MAX} steps: ${what}`)
      assert.ok(this.scheduler.runNext(), `nothing will happen any more: ${what}`)
    }
  }

  idle(): void {
    const untilUs = this.scheduler.nowUs + IDLE_US
    for (;;) {
      const nextAtUs = this.scheduler.nextAtUs()
      if (nextAtUs === undefined || nextAtUs > untilUs) break
      this.scheduler.runNext()
    }
    this.scheduler.advanceTo(untilUs)
  }

  dispose(): void {
    const unexpected = this.reports.filter((report) => this.#provoked?.test(report) !== true)
    assert.deepEqual(unexpected, [])
  }
}

// ---- disk -----------------------------------------------------------------------------------------------------------

function diskWorld(seed: number, config: Partial<DiskConfig>): DiskWorld {
  // The suite hands out ranges outside the device on purpose, and closes a disk with operations in the queue that the
  // next opening overlaps.
  const world = new VirtualWorld(/is not sectors inside the device|overlapping-io/)
  const device = new SimDiskDevice(world.scheduler, new Prng(seed), world.report, {
    name: 'disk',
    sizeBytes: CONTRACT_DISK_BYTES,
    config: { ...DISK_DEFAULTS, ...config },
  })
  let disk = device.open({ alive: true })
  return {
    run: (until, what) => world.run(until, what),
    idle: () => world.idle(),
    dispose: () => world.dispose(),
    disk,
    knowsHoles: true,
    reopen: () => {
      disk.close()
      disk = device.open({ alive: true })
      return disk
    },
  }
}

for (const seed of [1, 2, 3]) diskContract(`sim disk, seed ${seed}`, () => diskWorld(seed, {}))
diskContract('sim disk, slow and reordering', () =>
  diskWorld(4, { latencyUsMin: 0, latencyUsMax: 100_000, slowPerMille: 300 }),
)
diskContract('sim disk that cannot discard', () => diskWorld(5, { discardZeroes: false }))

// ---- network --------------------------------------------------------------------------------------------------------

function linkWorld(seed: number, choice: Partial<NetworkConfig>): LinkWorld {
  const world = new VirtualWorld()
  const config = { ...NETWORK_DEFAULTS, ...choice }
  const network = new SimNetwork(world.scheduler, new Prng(seed), world.report, config)
  return {
    run: (until, what) => world.run(until, what),
    idle: () => world.idle(),
    dispose: () => world.dispose(),
    a: network.port('a', { alive: true }),
    b: network.port('b', { alive: true }),
    bAgain: network.port('b', { alive: true }),
    bufferBytesMax: config.bufferBytes,
  }
}

for (const seed of [1, 2, 3]) linkContract(`sim link, seed ${seed}`, () => linkWorld(seed, {}))
linkContract('sim link, small buffers and segments', () =>
  linkWorld(4, { bufferBytes: 20_000, segmentBytesMax: 1_460 }),
)
linkContract('sim link, long delays', () => linkWorld(5, { longDelayPerMille: 200, longDelayUs: 100_000 }))

// ---- clock ----------------------------------------------------------------------------------------------------------

for (const ratePpm of [-500, 0, 500]) {
  clockContract(`sim clock at ${ratePpm} ppm`, () => {
    const world = new VirtualWorld()
    const config = { startUs: 77_000_001, ratePpm, lateUsMax: 300 }
    const clock = new SimClock(world.scheduler, new Prng(6), config, { host: 'a', life: { alive: true } })
    return {
      clock,
      run: (until: () => boolean, what: string) => world.run(until, what),
      idle: () => world.idle(),
      dispose: () => world.dispose(),
    }
  })
}
