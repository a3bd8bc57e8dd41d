// What is special to one order of writes from two Primaries; every other scenario plays under each of them with --order.

import type { OrderName } from '../../runtime/api.ts'
import { expect } from '../failure.ts'
import { type HostName, otherHost } from '../network.ts'
import { scenario } from '../scenario.ts'
import { Workload, type WorkloadConfig } from '../workload.ts'
import type { World } from '../world.ts'

/** Few blocks, partly overlapping, many at once. */
const CROWDED: Partial<WorkloadConfig> = {
  region: { sector: 5, sectors: 96 },
  hotBlocks: 2,
  requestSectorsMax: 30,
  inFlightMax: 6,
  pauseUsMax: 500,
  weights: { read: 6, write: 10, fua: 1, zero: 1, flush: 1 },
}

type Counter = 'writeNows' | 'lockRequests' | 'lockHandovers' | 'orderSwitches'

const total = (world: World, counter: Counter): number =>
  world.hosts.reduce((sum, host) => sum + (host.status()?.volumes[0]?.counters[counter] ?? 0), 0)

/** The order did its work, if it is one of these: the command line may have chosen another one. */
function expectUsed(world: World, orders: readonly OrderName[], counter: Counter): void {
  if (orders.includes(world.options.settings.order.name)) expect(total(world, counter) > 0, `no ${counter}`)
}

/** The host that coordinates, while both are connected. */
const coordinatorOf = (world: World): HostName => (world.host('a').status()?.coordinates === true ? 'a' : 'b')

/** Some milliseconds, now and then only microseconds: in the middle of a packet exchange. */
function runShortly(world: World): void {
  world.runFor({
    ms: world.prng.chance(1, 2) ? world.prng.intInclusive(1, 60) : world.prng.intInclusive(1, 999) / 1000,
  })
}

// Goal: the coordinator dies with writes of the other host in every stage: asked, ordered, acknowledged.
scenario('coordinator-lost-mid-write', { seeds: 60, world: { order: 'coordinator' } }, (world) => {
  world.keepAlive({ msMin: 10, msMax: 2_000 })
  const workload = new Workload(world, { ...CROWDED, requestsPerClient: 400 })
  for (let round = 0; round < 4; round++) {
    const before = total(world, 'writeNows')
    // The workload may have come to its end.
    for (let i = 0; i < 50 && total(world, 'writeNows') === before; i++) world.runFor({ ms: 5 })
    runShortly(world)
    const victim = world.host(coordinatorOf(world))
    if (world.prng.chance(1, 2)) victim.powerCut()
    else victim.crashProcess()
    world.awaitInSync()
  }
  expect(workload.confirmed > 0, 'the workload got nothing done')
})

// Goal: the host that asks dies: what the coordinator has ordered stays, the rest was never there.
scenario('asking-host-lost-mid-write', { seeds: 40, world: { order: 'coordinator' } }, (world) => {
  world.keepAlive({ msMin: 10, msMax: 2_000 })
  const workload = new Workload(world, { ...CROWDED, requestsPerClient: 400 })
  for (let round = 0; round < 4; round++) {
    runShortly(world)
    const victim = world.host(otherHost(coordinatorOf(world)))
    if (world.prng.chance(1, 2)) victim.powerCut()
    else victim.crashProcess()
    world.awaitInSync()
  }
  expect(workload.confirmed > 0, 'the workload got nothing done')
})

// Goal: the link breaks and comes back before anybody goes on alone, again and again, and the coordinator may be the other
// host then: frozen writes are executed once, where their order puts them.
scenario(
  'link-flaps-under-coordinator',
  { seeds: 80, world: { order: 'coordinator', handlers: { fencingAgent: 'fails' } } },
  (world) => {
    const workload = new Workload(world, { ...CROWDED, requestsPerClient: 300 })
    for (let round = 0; round < 8; round++) {
      runShortly(world)
      world.network.cut()
      world.awaitInSync()
    }
    world.runUntil(() => workload.isDone, { stepsMax: 4_000_000, what: 'the end of the workload' })
    expectUsed(world, ['coordinator'], 'writeNows')
  },
)

// Goal: the same with locks, which nobody holds after a break.
scenario(
  'link-flaps-under-locks',
  { seeds: 60, world: { order: 'auto', handlers: { fencingAgent: 'fails' } } },
  (world) => {
    const workload = new Workload(world, { ...CROWDED, requestsPerClient: 300 })
    for (let round = 0; round < 8; round++) {
      runShortly(world)
      world.network.cut()
      world.awaitInSync()
    }
    world.runUntil(() => workload.isDone, { stepsMax: 4_000_000, what: 'the end of the workload' })
    expectUsed(world, ['lock-extents', 'auto'], 'lockRequests')
  },
)

// Goal: a host dies with locks: the other one goes on, also with writes that wait for them.
scenario('lock-holder-lost', { seeds: 60, world: { order: 'lock-extents' } }, (world) => {
  world.keepAlive({ msMin: 10, msMax: 2_000 })
  const workload = new Workload(world, { ...CROWDED, requestsPerClient: 300 })
  for (let round = 0; round < 4; round++) {
    runShortly(world)
    const victim = world.host(world.prng.pick(['a', 'b'] as const))
    if (world.prng.chance(1, 2)) victim.powerCut()
    else victim.crashProcess()
    world.awaitInSync()
  }
  expect(workload.confirmed > 0, 'the workload got nothing done')
})

// Goal: writes over many extents, in both directions and on both hosts, neither wait for each other in a circle nor for ever.
scenario('spanning-writes', { seeds: 40, world: { order: 'lock-extents' } }, (world) => {
  const order = { ...world.options.settings.order }
  const sectors = 4 * Math.min(order.extentBytes / 512, 2_048)
  const workload = new Workload(world, {
    clientsPerHost: 3,
    requestsPerClient: 80,
    region: { sector: 3, sectors },
    hotBlocks: 0,
    // Not so large that a slow link of the seed makes the peer look dead.
    requestSectorsMax: 320,
    weights: { read: 2, write: 10, fua: 0, zero: 4, flush: 1 },
  })
  world.runUntil(() => workload.isDone, { stepsMax: 4_000_000, what: 'the end of the workload' })
  expectUsed(world, ['lock-extents', 'auto'], 'lockHandovers')
})

// Goal: both hosts fight for one extent, then one leaves it alone, then both again: it is shared, locked, shared; all is one disk.
scenario('ping-pong-duel', { seeds: 40, world: { order: 'auto' } }, (world) => {
  const fight = (hosts: readonly HostName[], requestsPerClient: number): Workload =>
    new Workload(world, { ...CROWDED, hosts, requestsPerClient })
  for (let round = 0; round < 2; round++) {
    const duel = fight(['a', 'b'], 250)
    world.runUntil(() => duel.isDone, { stepsMax: 4_000_000, what: 'the end of the duel' })
    const single = fight([world.prng.pick(['a', 'b'] as const)], 60)
    world.runUntil(() => single.isDone, { stepsMax: 4_000_000, what: 'the end of the single workload' })
    world.runFor({ ms: world.prng.intInclusive(0, 3_000) })
    const again = fight([world.prng.pick(['a', 'b'] as const)], 60)
    world.runUntil(() => again.isDone, { stepsMax: 4_000_000, what: 'the end of the single workload' })
  }
  expectUsed(world, ['lock-extents', 'auto'], 'lockRequests')
})

// Goal: a host becomes Secondary and Primary again while the other one writes; nobody writes unordered at either change.
scenario('role-change-under-load', { seeds: 60, world: { order: 'coordinator' } }, (world) => {
  const workload = new Workload(world, { ...CROWDED, requestsPerClient: 300 })
  for (let round = 0; round < 5; round++) {
    runShortly(world)
    const name = world.prng.pick(['a', 'b'] as const)
    const host = world.host(name)
    let changed = false
    host.wantsPrimary = false
    host.command({ type: 'secondary' }, () => {
      changed = true
    })
    world.runUntil(() => changed, { stepsMax: 1_000_000, what: 'the demotion' })
    runShortly(world)
    world.wantPrimary(name)
    world.runUntil(() => host.isPrimary, { stepsMax: 1_000_000, what: 'the promotion' })
  }
  world.runUntil(() => workload.isDone, { stepsMax: 4_000_000, what: 'the end of the workload' })
})
