// Disks that fail while both hosts live.

import type { Prng } from '../../base/prng.ts'
import type { DiskErrorCode } from '../../runtime/ports.ts'
import { expect } from '../failure.ts'
import type { HostName } from '../network.ts'
import { scenario } from '../scenario.ts'
import { Workload } from '../workload.ts'
import type { World } from '../world.ts'

const drawHost = (prng: Prng): HostName => prng.pick(['a', 'b'] as const)

/** A disk fails under load; after a while it is good again, and the daemon of its host is started anew. */
function failUnderLoad(world: World, fail: (host: HostName) => void): void {
  world.keepAlive({ msMin: 10, msMax: 1_000 })
  const workload = new Workload(world, { requestsPerClient: 300 })
  world.runFor({ ms: world.prng.intInclusive(5, 300) })
  const name = drawHost(world.prng)
  const host = world.host(name)
  fail(name)
  world.runFor({ ms: world.prng.intInclusive(10, 2_000) })
  host.device.clearFaults()
  host.crashProcess()
  host.start()
  world.awaitInSync()
  expect(workload.confirmed > 0, 'the workload got nothing done')
}

const dataFault = (world: World, name: HostName, on: 'read' | 'write', code: DiskErrorCode): void => {
  const lengthBytes = world.deviceSectors * 512
  const times = world.prng.pick([1, 3, Number.POSITIVE_INFINITY])
  world.host(name).device.inject({ on, code, offsetBytes: 0, lengthBytes, times })
}

// Goal: an I/O error of one disk costs that disk, and no client hears of it: the peer's disk serves both hosts.
scenario('write-error-on-one-disk', { seeds: 30 }, (world) => {
  failUnderLoad(world, (name) => dataFault(world, name, 'write', 'io'))
})

scenario('read-error-on-one-disk', { seeds: 30 }, (world) => {
  failUnderLoad(world, (name) => dataFault(world, name, 'read', 'io'))
})

// Goal: a disk that runs full is as good as one that fails. Holes at the start, so that writes need space.
scenario('disk-full-on-one-host', { seeds: 20 }, (world) => {
  failUnderLoad(world, (name) => dataFault(world, name, 'write', 'no-space'))
})

// Goal: a disk that is pulled out, metadata and all, takes nothing with it.
scenario('disk-pulled-out', { seeds: 30 }, (world) => {
  failUnderLoad(world, (name) => {
    world.host(name).device.broken = 'gone'
  })
})
