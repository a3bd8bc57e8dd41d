// A Primary that loses the last UpToDate data it can reach, with on-no-data-accessible suspend-io: no client hears of it.

import { expect } from '../failure.ts'
import { type HostName, otherHost } from '../network.ts'
import { scenario } from '../scenario.ts'
import { Workload } from '../workload.ts'
import type { World } from '../world.ts'

const STEPS_MAX = 500_000
const MS_MAX = 60_000
const SUSPEND = {
  settings: { onNoDataAccessible: 'suspend-io' },
  volume: { onIoError: 'detach' },
  handlers: { fencingAgent: 'kill' },
} as const

function breakDisk(world: World, name: HostName): void {
  const host = world.host(name)
  host.device.broken = world.prng.pick(['io', 'gone'] as const)
  const isDiskless = (): boolean => host.status()?.volumes[0]?.disk === 'Diskless'
  world.runUntil(isDiskless, { stepsMax: STEPS_MAX, msMax: MS_MAX, what: `${name} without its disk` })
}

function awaitSuspended(world: World, name: HostName, suspended: boolean): void {
  const isSo = (): boolean => world.host(name).status()?.volumes[0]?.suspended.includes('no-data') === suspended
  world.runUntil(isSo, { stepsMax: STEPS_MAX, msMax: MS_MAX, what: `${name} ${suspended ? '' : 'not '}suspended` })
}

function attachAgain(world: World, name: HostName): void {
  const host = world.host(name)
  host.device.clearFaults()
  host.command({ type: 'attach', volume: 0 }, ({ code, text }) => {
    if (code !== 0) world.report('attach', `${name}: ${code} ${text}`)
  })
}

function expectNoError(world: World, name: HostName, ...kinds: ('read' | 'flush')[]): void {
  const failed = world.history.requests.find(
    ({ host, outcome, kind }) =>
      host === name && outcome === 'unknown' && (kinds.length === 0 || kinds.some((k) => k === kind)),
  )
  expect(failed === undefined, `a client of ${name} heard of it: #${failed?.number} ${failed?.kind}`)
}

/** One disk fails under load, then the peer's process dies and comes back, some times; then the disk is attached again. */
function loseThePeer(world: World, name: HostName): void {
  world.keepAlive({ msMin: 100, msMax: 4_000 })
  // That the new disks are in sync has to be on both of them before one is lost for good.
  const isSettled = (): boolean => world.hosts.every((host) => !host.isBusy)
  world.runUntil(isSettled, { stepsMax: STEPS_MAX, what: 'disks at rest' })
  const workload = new Workload(world, { requestsPerClient: 4_000 })
  world.runFor({ ms: world.prng.intInclusive(5, 200) })
  breakDisk(world, name)
  for (let round = 0; round < 3; round++) {
    world.runFor({ ms: world.prng.intInclusive(0, 300) })
    world.host(otherHost(name)).crashProcess()
    awaitSuspended(world, name, true)
    awaitSuspended(world, name, false)
  }
  world.runFor({ ms: world.prng.intInclusive(0, 300) })
  attachAgain(world, name)
  world.awaitInSync()
  expect(workload.confirmed > 0, 'the workload got nothing done')
}

// Goal: a diskless host waits for the peer whenever that is away, and each request has its effect once. A write of which the
// crashed peer, a Primary itself, had not told whether it was applied ends with an error; nothing else does.
scenario('suspended-until-the-peer-is-back', { seeds: 40, world: SUSPEND }, (world) => {
  const name = world.prng.pick(['a', 'b'] as const)
  loseThePeer(world, name)
  expectNoError(world, name, 'read', 'flush')
})

// Goal: where only one host is Primary nothing at all ends with an error.
const ONE_PRIMARY = { ...SUSPEND, primaries: ['a'] } as const
scenario('suspended-until-the-secondary-is-back', { seeds: 40, world: ONE_PRIMARY }, (world) => {
  loseThePeer(world, 'a')
  expectNoError(world, 'a')
})

// Goal: the same for a host that is alone when its disk fails: it goes on when the disk is back.
scenario('suspended-until-the-disk-is-back', { seeds: 40, world: SUSPEND }, (world) => {
  const name = world.prng.pick(['a', 'b'] as const)
  new Workload(world, { requestsPerClient: 4_000, hosts: [name] })
  world.runFor({ ms: world.prng.intInclusive(5, 200) })
  world.host(otherHost(name)).crashProcess()
  world.runFor({ ms: world.prng.intInclusive(0, 1_000) })
  breakDisk(world, name)
  awaitSuspended(world, name, true)
  world.runFor({ ms: world.prng.intInclusive(0, 2_000) })
  attachAgain(world, name)
  awaitSuspended(world, name, false)
  world.runFor({ ms: world.prng.intInclusive(0, 300) })
  world.host(otherHost(name)).start()
  world.awaitInSync()
  expectNoError(world, name)
})
