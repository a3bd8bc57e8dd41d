// Hosts that die and come back, under load.

import type { Prng } from '../../base/prng.ts'
import { expect } from '../failure.ts'
import { type HostName, otherHost } from '../network.ts'
import { scenario } from '../scenario.ts'
import { Workload } from '../workload.ts'
import type { World } from '../world.ts'
import { expectText } from './steps.ts'

const drawHost = (prng: Prng): HostName => prng.pick(['a', 'b'] as const)

/** Lets the workload run a while, then strikes; `rounds` times, with the world back in sync in between. */
function strikeUnderLoad(world: World, rounds: number, strike: (host: HostName) => void): void {
  world.keepAlive({ msMin: 100, msMax: 4_000 })
  const workload = new Workload(world, { requestsPerClient: 400 })
  for (let round = 0; round < rounds; round++) {
    world.runFor({ ms: world.prng.intInclusive(5, 400) })
    strike(drawHost(world.prng))
    world.awaitInSync()
  }
  expect(workload.confirmed > 0, 'the workload got nothing done')
}

// Goal: a write that the client was told is done survives the loss of the host that took it.
// Method: one write, power cut at a random moment, read from the survivor.
scenario('confirmed-write-survives-power-cut', { seeds: 100 }, (world) => {
  const write = world.client('a').write({ sector: 8, text: 'hello' })
  world.runFor({ ms: world.prng.intInclusive(0, 60) })
  world.host('a').powerCut()
  world.runUntilQuiet({ stepsMax: 200_000 })
  if (write.confirmed) {
    const seen = world.client('b').readText({ sector: 8 })
    expect(seen === 'hello', `the survivor has "${seen}"`, 'durability')
  }
})

// Goal: the death of a process loses nothing, and the survivor goes on as soon as it is fenced.
// Method: kill either process under load, start it again after a while.
scenario('process-crash-under-load', { seeds: 60 }, (world) => {
  strikeUnderLoad(world, 3, (name) => {
    world.host(name).crashProcess()
    world.runFor({ ms: world.prng.intInclusive(0, 3_000) })
    world.host(name).start()
  })
})

// Goal: the same when the machine loses its cache.
scenario('power-cut-under-load', { seeds: 60 }, (world) => {
  strikeUnderLoad(world, 3, (name) => {
    world.host(name).powerCut()
    world.runFor({ ms: world.prng.intInclusive(0, 5_000) })
    world.host(name).start()
  })
})

// Goal: after a power cut of both, all that was flushed is there, and both disks become equal again.
// Method: both fail at once or one shortly after the other, and come back in either order.
scenario('power-cut-of-both', { seeds: 80 }, (world) => {
  strikeUnderLoad(world, 2, (name) => {
    world.host(name).powerCut()
    if (world.prng.chance(1, 2)) world.runFor({ ms: world.prng.intInclusive(0, 2_000) })
    world.host(otherHost(name)).powerCut()
    const first = drawHost(world.prng)
    world.host(first).start()
    world.runFor({ ms: world.prng.intInclusive(0, 2_000) })
    world.host(otherHost(first)).start()
  })
})

// Goal: a flush is answered when the data are stable on both disks, also if one of them is much slower.
// Method: the power of both is cut as soon as it is answered; which disk is the source then is open.
scenario('power-cut-right-after-a-flush', { seeds: 40, world: { initialSync: 'skip' } }, (world) => {
  const slow = world.host(drawHost(world.prng))
  const client = world.client(drawHost(world.prng))
  slow.device.config = { ...slow.device.config, flushUsMax: 100_000 }
  for (const { name } of world.hosts) world.settle(world.client(name).write({ sector: 8, sectors: 8 }))
  world.settle(client.write({ sector: 8, text: 'flushed' }))
  world.settle(client.flush())
  for (const host of world.hosts) host.powerCut()
  slow.device.config = world.options.disks[slow.name]
  for (const host of world.hosts) host.start()
  world.awaitInSync()
  expectText(world, 'a', 8, 'flushed')
})

// Goal: both processes die at once (a bad update); caches stay, so nothing acknowledged may be lost.
scenario('process-crash-of-both', { seeds: 40 }, (world) => {
  strikeUnderLoad(world, 2, () => {
    world.host('a').crashProcess()
    world.host('b').crashProcess()
    world.host('a').start()
    world.runFor({ ms: world.prng.intInclusive(0, 500) })
    world.host('b').start()
  })
})

// Goal: a host that comes back is brought up to date while the other one goes on writing, and may crash again meanwhile.
// Method: the fallen host misses many writes; the workload never stops; sometimes the target falls once more.
scenario('resync-under-load', { seeds: 40, world: { deviceBytes: 24 * 1024 * 1024 } }, (world) => {
  const region = { sector: 0, sectors: 30_000 }
  const workload = new Workload(world, { region, requestSectorsMax: 200, requestsPerClient: 500 })
  world.keepAlive({ msMin: 500, msMax: 4_000 })
  world.runFor({ ms: world.prng.intInclusive(5, 100) })
  const fallen = drawHost(world.prng)
  world.host(fallen).crashProcess()
  world.runFor({ ms: world.prng.intInclusive(500, 3_000) })
  world.host(fallen).start()
  if (world.prng.chance(1, 2)) {
    world.runFor({ ms: world.prng.intInclusive(0, 2_500) })
    if (world.prng.chance(1, 2)) world.host(fallen).powerCut()
    else world.host(fallen).crashProcess()
    world.runFor({ ms: world.prng.intInclusive(0, 1_000) })
    world.host(fallen).start()
  }
  world.awaitInSync()
  expect(workload.confirmed > 0, 'the workload got nothing done')
})
