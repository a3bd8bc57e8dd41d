// What is special to one order of writes from two Primaries; every other scenario plays under each of them with --order.

import { MIB } from '../../base/units.ts'
import type { OrderName } from '../../runtime/api.ts'
import { ORDER_NAMES } from '../../wire/drbd/constants.ts'
import type { PendingRequest } from '../client.ts'
import { expect } from '../failure.ts'
import type { SimHost } from '../host.ts'
import { type HostName, otherHost } from '../network.ts'
import type { WorldChoice } from '../options.ts'
import { scenario } from '../scenario.ts'
import { Workload, type WorkloadConfig } from '../workload.ts'
import type { World } from '../world.ts'
import { loseDisk, stepBack } from './steps.ts'

const CROWDED_WEIGHTS = { read: 6, write: 10, fua: 1, zero: 1, flush: 1 }
/** Few blocks, partly overlapping, many at once. */
const CROWDED: Partial<WorkloadConfig> = {
  region: { sector: 5, sectors: 96 },
  hotBlocks: 2,
  requestSectorsMax: 30,
  inFlightMax: 6,
  pauseUsMax: 500,
  weights: CROWDED_WEIGHTS,
}

const MOSTLY_READ = { ...CROWDED, requestsPerClient: 150, weights: { ...CROWDED_WEIGHTS, read: 12 } }

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

/** Hosts die in the middle of writes of both, four times, and come back. */
function loseMidWrite(world: World, pickVictim: () => HostName): void {
  world.keepAlive({ msMin: 10, msMax: 2_000 })
  const workload = new Workload(world, { ...CROWDED, requestsPerClient: 400 })
  const busy = (): number => total(world, 'writeNows') + total(world, 'lockRequests') + workload.confirmed
  for (let round = 0; round < 4; round++) {
    const before = busy()
    // The workload may have come to its end.
    for (let i = 0; i < 50 && busy() === before; i++) world.runFor({ ms: 5 })
    runShortly(world)
    const victim = world.host(pickVictim())
    if (world.prng.chance(1, 2)) victim.powerCut()
    else victim.crashProcess()
    world.awaitInSync()
  }
  expect(workload.confirmed > 0, 'the workload got nothing done')
}

// Goal: who decides dies with writes of the other host in every stage: on the way, asked, ordered, acknowledged.
for (const [name, order] of [
  ['winner-of-conflicts-lost-mid-write', 'arbitration'],
  ['coordinator-lost-mid-write', 'coordinator'],
  ['coordinator-lost-mid-write-under-auto', 'auto'],
] as const)
  scenario(name, { seeds: 40, world: { order } }, (world) => loseMidWrite(world, () => coordinatorOf(world)))

// Goal: the other host dies: what was decided stays, the rest was never there.
for (const [name, order] of [
  ['loser-of-conflicts-lost-mid-write', 'arbitration'],
  ['asking-host-lost-mid-write', 'coordinator'],
  ['asking-host-lost-mid-write-under-auto', 'auto'],
] as const)
  scenario(name, { seeds: 40, world: { order } }, (world) => loseMidWrite(world, () => otherHost(coordinatorOf(world))))

// Goal: a host dies with locks: the other one goes on, also with writes that wait for them.
scenario('lock-holder-lost', { seeds: 60, world: { order: 'lock-extents' } }, (world) =>
  loseMidWrite(world, () => world.prng.pick(['a', 'b'] as const)),
)

// Goal: the link breaks and comes back before anybody goes on alone, again and again, and the coordinator may be the other
// host then: frozen writes are executed once, where their order puts them; nobody holds a lock after a break.
for (const [name, order, counter] of [
  ['link-flaps-under-arbitration', 'arbitration', undefined],
  ['link-flaps-under-coordinator', 'coordinator', 'writeNows'],
  ['link-flaps-under-lock-extents', 'lock-extents', 'lockRequests'],
  ['link-flaps-under-auto', 'auto', 'lockRequests'],
] as const)
  scenario(name, { seeds: 50, world: { order, handlers: { fencingAgent: 'fails' } } }, (world) => {
    const workload = new Workload(world, { ...CROWDED, requestsPerClient: 300 })
    for (let round = 0; round < 8; round++) {
      runShortly(world)
      world.network.cut()
      world.awaitInSync()
    }
    world.runUntil(() => workload.isDone, { stepsMax: 4_000_000, what: 'the end of the workload' })
    if (counter !== undefined) expectUsed(world, [order], counter)
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

// Goal: a host that comes back with another order of writes is refused by both, each names both; when the configurations agree
// again, the two find back to each other.
scenario('different-orders-are-refused', { seeds: 12, world: { order: 'coordinator' } }, (world) => {
  const [a, b] = [world.host('a'), world.host('b')]
  const { settings } = b
  const own = settings.order.name
  const other = world.prng.pick(ORDER_NAMES.filter((name) => name !== own))
  const restart = (order: OrderName): void => {
    b.stop()
    world.runUntil(() => !b.isRunning, { stepsMax: 500_000, what: 'the end of the daemon' })
    b.settings = { ...settings, order: { ...settings.order, name: order } }
    b.start()
  }
  world.settle(world.client('a').write({ sector: 8, text: 'before' }))
  restart(other)
  const isRefused = (host: SimHost): boolean => host.status()?.connection === 'StandAlone'
  world.runUntil(() => isRefused(a) && isRefused(b), { stepsMax: 500_000, msMax: 20_000, what: 'two refusals' })
  for (const host of [a, b]) {
    const reason = host.status()?.connectionReason ?? ''
    expect(reason.includes(own) && reason.includes(other), `${host.name}: "${reason}", ${own} and ${other}`)
  }
  restart(own)
  a.command({ type: 'connect', discardMyData: false })
  world.awaitInSync()
})

/** Near to each other, and quick: what an order costs shows. */
const NEAR: WorldChoice = {
  network: { delayUsMin: 100, delayUsMax: 200, longDelayPerMille: 0, segmentBytesMax: 65_536, bufferBytes: 4 * MIB },
  disk: { latencyUsMin: 50, latencyUsMax: 150, slowPerMille: 0, flushUsMax: 200 },
  settings: { inFlightBytesMax: 4 * MIB },
  initialSync: 'skip',
  powerCutQuestionEvery: 0,
}
/** Without an end, in the smallest extent that there may be. */
const DUEL: Partial<WorkloadConfig> = {
  clientsPerHost: 2,
  inFlightMax: 4,
  requestsPerClient: 1_000_000,
  region: { sector: 0, sectors: 128 },
  hotBlocks: 0,
  requestSectorsMax: 8,
  pauseUsMax: 20,
  weights: { read: 0, write: 1, fua: 0, zero: 0, flush: 0 },
}

// Goal: two hosts that fight for an extent without a pause take turns: neither starves, turns are neither so short that locks
// move whenever there is nothing in them, nor so long that the other host waits for a multiple of what the change costs.
scenario('duel-under-locks-is-fair', { seeds: 10, world: { ...NEAR, order: 'lock-extents' } }, (world) => {
  const [a, b] = (['a', 'b'] as const).map((host) => new Workload(world, { ...DUEL, hosts: [host] }))
  const counted = (): readonly [number, number, number] => [
    a?.confirmed ?? 0,
    b?.confirmed ?? 0,
    total(world, 'lockHandovers'),
  ]
  world.runFor({ ms: 300 })
  const before = counted()
  world.runFor({ ms: 300 })
  const [ofA, ofB, handovers] = counted().map((now, i) => now - (before[i] ?? 0)) as [number, number, number]
  if (world.options.settings.order.name !== 'lock-extents') return
  const what = `a ${ofA}, b ${ofB} writes, ${handovers} hand-overs in 300 ms`
  expect(Math.min(ofA, ofB) * 4 >= ofA + ofB, `a side starves: ${what}`, 'fairness')
  expect(handovers <= 200, `locks go to and fro: ${what}`, 'fairness')
  expect(handovers >= 30, `turns are long: ${what}`, 'fairness')
})

// Goal: an extent that both hosts fight for is shared: no lock moves any more, the other host asks. When that one is alone in
// it, it has the lock again: nothing is asked, nothing moves.
scenario('contested-extents-are-shared-and-locked-again', { seeds: 10, world: { ...NEAR, order: 'auto' } }, (world) => {
  const duel = new Workload(world, DUEL)
  const during = (ms: number): { readonly moved: number; readonly asked: number } => {
    const before = [total(world, 'lockHandovers'), total(world, 'writeNows')]
    world.runFor({ ms })
    return {
      moved: total(world, 'lockHandovers') - (before[0] ?? 0),
      asked: total(world, 'writeNows') - (before[1] ?? 0),
    }
  }
  world.runFor({ ms: 120 })
  const shared = during(60)
  duel.stop()
  // Later, and too little to try anything.
  world.runFor({ ms: 1_200 })
  const slowly = { clientsPerHost: 1, inFlightMax: 1, pauseUsMax: 40_000 }
  const alone = new Workload(world, { ...DUEL, ...slowly, hosts: [otherHost(coordinatorOf(world))] })
  world.runFor({ ms: 2_000 })
  const locked = during(300)
  if (world.options.settings.order.name !== 'auto') return
  expect(alone.confirmed > 0 && shared.moved === 0 && shared.asked > 0, `duel: ${JSON.stringify(shared)}`, 'auto')
  expect(locked.moved === 0 && locked.asked === 0, `alone: ${JSON.stringify(locked)}`, 'auto')
})

// Goal: writes of which each overlaps the next one in part, but not the one after: one waits for a disk, and a later one, which
// does not meet what it waits for, may not pass it.
scenario(
  'chains-of-overlapping-writes',
  {
    seeds: 20,
    world: {
      order: 'coordinator',
      network: { delayUsMin: 20, delayUsMax: 100, longDelayPerMille: 0 },
      disk: { latencyUsMin: 20, latencyUsMax: 4_000, slowPerMille: 0 },
    },
  },
  (world) => {
    const workload = new Workload(world, {
      clientsPerHost: 3,
      inFlightMax: 4,
      requestsPerClient: 150,
      region: { sector: 8, sectors: 40 },
      hotBlocks: 0,
      requestSectorsMax: 7,
      pauseUsMax: 50,
      weights: { read: 2, write: 10, fua: 0, zero: 1, flush: 0 },
    })
    world.runUntil(() => workload.isDone, { stepsMax: 4_000_000, what: 'the end of the workload' })
  },
)

// Goal: a host becomes Primary while the other one's writes are under way that did not reckon with it: it writes at once, in the
// same place. The word that it may comes on another stream than those writes, and can overtake them.
scenario(
  'promotion-meets-writes',
  {
    seeds: 20,
    world: {
      order: 'coordinator',
      // Disks that are quicker than the link: a promotion writes into the superblock and the log first.
      network: { delayUsMin: 50, delayUsMax: 5_000, longDelayPerMille: 0 },
      disk: { latencyUsMin: 5, latencyUsMax: 20, slowPerMille: 0, flushUsMax: 20 },
    },
  },
  (world) => {
    const name = coordinatorOf(world)
    const host = world.host(name)
    const client = world.client(name)
    const region = { sector: 8, sectors: 96 }
    for (let round = 0; round < 6; round++) {
      stepBack(world, host)
      const other = new Workload(world, {
        hosts: [otherHost(name)],
        requestsPerClient: 2_000,
        inFlightMax: 8,
        region,
        hotBlocks: 0,
        requestSectorsMax: 4,
        pauseUsMax: 20,
        weights: { read: 0, write: 1, fua: 0, zero: 0, flush: 0 },
      })
      runShortly(world)
      world.wantPrimary(name)
      world.runUntil(() => host.isPrimary, { stepsMax: 500_000, what: 'the promotion' })
      other.stop()
      world.settle(client.write(region))
      world.runUntil(() => other.isDone, { stepsMax: 500_000, what: 'the end of the writes before it' })
      // Nobody writes over it any more.
      const readers = [client, world.client(otherHost(name))]
      for (const read of readers.map((each) => each.read(region))) world.settle(read)
    }
  },
)

/** Disks that take their time, each another one, on hosts that are near to each other. */
const SLOW_DISKS: WorldChoice = {
  network: { delayUsMin: 20, delayUsMax: 100, longDelayPerMille: 0 },
  disk: { latencyUsMin: 20, latencyUsMax: 20_000, slowPerMille: 0 },
}

/** Both processes at the same moment, or, if what is at stake is durable, the power of both. */
function bothDie(world: World, durable: boolean): void {
  for (const host of world.hosts) {
    if (durable) host.powerCut()
    else host.crashProcess()
  }
}

// Goal: a write of the other host that was answered is on both disks: it is there whoever is the source after both have died.
for (const writeNowAcks of [false, true]) {
  const world = (seed: number): WorldChoice => {
    const coordinator = (['flag', 'local', 'peer'] as const)[seed % 3] ?? 'flag'
    const order = { name: 'coordinator' as const, writeNowAcks, coordinator, extentBytes: MIB, extentsMax: 16 }
    return { ...SLOW_DISKS, settings: { order } }
  }
  const name = `both-hosts-die-at-an-answer${writeNowAcks ? '-with-write-now-acks' : ''}`
  scenario(name, { seeds: 15, world }, (world) => {
    world.keepAlive({ msMin: 10, msMax: 300 })
    for (let round = 0; round < 6; round++) {
      world.runUntil(() => world.hosts.every((host) => host.isPrimary), { stepsMax: 500_000, what: 'two Primaries' })
      const client = world.client(otherHost(coordinatorOf(world)))
      const fua = world.prng.chance(1, 2)
      world.settle(client.write({ sector: 8, sectors: 8, fua }))
      bothDie(world, fua)
      world.awaitInSync()
    }
  })
}

// Goal: what a reader of the coordinator has seen is on both disks, too, also before its writer has an answer. (The checkers would
// forgive it: for a write that was not answered they allow more than the orders do.)
scenario(
  'both-hosts-die-at-a-read',
  {
    seeds: 15,
    world: (seed) => {
      const coordinator = seed % 2 === 0 ? ('local' as const) : ('peer' as const)
      const order = { name: 'coordinator' as const, writeNowAcks: false, coordinator, extentBytes: MIB, extentsMax: 16 }
      const network = { delayUsMin: 500, delayUsMax: 3_000, longDelayPerMille: 0 }
      return {
        ...SLOW_DISKS,
        network,
        disk: { latencyUsMin: 20, latencyUsMax: 1_000, slowPerMille: 0 },
        settings: { order },
      }
    },
  },
  (world) => {
    world.keepAlive({ msMin: 10, msMax: 300 })
    const read = (host: HostName): string => {
      const request = world.client(host).read({ sector: 10 })
      world.settle(request)
      return String(request.data)
    }
    let before = ''
    for (let round = 0; round < 6; round++) {
      world.runUntil(() => world.hosts.every((host) => host.isPrimary), { stepsMax: 500_000, what: 'two Primaries' })
      const coordinator = coordinatorOf(world)
      // The first one, at the disk of the other host, holds up the second one there; only that one writes sector 10.
      world.client(coordinator).write({ sector: 8, sectors: 2 })
      world.client(otherHost(coordinator)).write({ sector: 9, sectors: 2 })
      world.runFor({ ms: world.prng.intInclusive(0, 6) })
      const seen = read(coordinator)
      bothDie(world, false)
      world.awaitInSync()
      world.runUntil(() => world.hosts.some((host) => host.isPrimary), { stepsMax: 500_000, what: 'a Primary' })
      const after = read(world.host('a').isPrimary ? 'a' : 'b')
      expect(seen === before || after === seen, 'what was read is gone after the crash of both', 'durability')
      before = after
    }
  },
)

// Goal: the coordinator has written and acknowledged a write of the other host, whose own disk is still at work on an earlier one
// in the same place, and dies: the write is answered when it is there, too, and not before.
scenario(
  'acknowledged-and-held-up-here',
  {
    seeds: 15,
    world: {
      order: 'coordinator',
      network: { delayUsMin: 20, delayUsMax: 100, longDelayPerMille: 0 },
      disk: { latencyUsMin: 20, latencyUsMax: 200, slowPerMille: 0 },
    },
  },
  (world) => {
    world.keepAlive({ msMin: 10, msMax: 300 })
    for (let round = 0; round < 4; round++) {
      world.runUntil(() => world.hosts.every((host) => host.isPrimary), { stepsMax: 500_000, what: 'two Primaries' })
      const coordinator = coordinatorOf(world)
      const asking = world.host(otherHost(coordinator))
      const [client, other] = [world.client(asking.name), world.client(coordinator)]
      // From here on the extent is in the logs of both.
      for (const each of [client, other]) world.settle(each.write({ sector: 8 }))
      const fast = asking.device.config
      asking.device.config = { ...fast, latencyUsMin: 30_000, latencyUsMax: 40_000 }
      other.write({ sector: 8, sectors: 2 })
      const write = client.write({ sector: 9, sectors: 2 })
      world.runFor({ ms: world.prng.intInclusive(1, 40) })
      world.host(coordinator).crashProcess()
      asking.device.config = fast
      world.settle(write)
      world.settle(client.read({ sector: 8, sectors: 4 }))
      world.awaitInSync()
    }
  },
)

// Goal: a coordinator without a disk refuses writes that ask, at once: the other host does not wait for a time-out.
scenario('coordinator-without-a-disk', { seeds: 20, world: { order: 'coordinator' } }, (world) => {
  const coordinator = coordinatorOf(world)
  const client = world.client(otherHost(coordinator))
  const requests: PendingRequest[] = []
  for (let i = 0; i < 12; i++) requests.push(client.write({ sector: 8 + (i % 4), sectors: 4 }))
  world.runFor({ ms: world.prng.intInclusive(0, 4) })
  world.host(coordinator).command({ type: 'detach', volume: 0, force: true })
  for (let i = 0; i < 12; i++) {
    requests.push(client.write({ sector: 8 + (i % 4), sectors: 4 }))
    world.runFor({ ms: 1 })
  }
  const bounds = { stepsMax: 500_000, msMax: 1_500, what: 'answers to writes that were refused' }
  world.runUntil(() => requests.every((request) => request.settled), bounds)
  world.host(coordinator).command({ type: 'attach', volume: 0 })
  world.awaitInSync()
})

// Goal: a host without a disk reads through the other one, whose writes wait for the very locks that this host's writes have:
// nobody waits in a circle, which only a time-out would end.
scenario('diskless-host-under-locks', { seeds: 15, world: { ...SLOW_DISKS, order: 'lock-extents' } }, (world) => {
  const host = world.host(world.prng.pick(['a', 'b'] as const))
  loseDisk(world, host)
  runConnected(world, new Workload(world, MOSTLY_READ))
  host.command({ type: 'attach', volume: 0 })
  world.awaitInSync()
})

// Goal: the other host's disk goes while both write in a shared extent: without one it does not ask first, and both know that.
scenario('disk-lost-in-a-shared-extent', { seeds: 30, world: { ...SLOW_DISKS, order: 'auto' } }, (world) => {
  const host = world.host(otherHost(coordinatorOf(world)))
  const workload = new Workload(world, MOSTLY_READ)
  const isShared = (): boolean => total(world, 'writeNows') > 0
  world.runUntil(() => isShared() || workload.isDone, { stepsMax: 1_000_000, what: 'a shared extent' })
  expectUsed(world, ['auto'], 'writeNows')
  loseDisk(world, host)
  runConnected(world, workload)
  host.command({ type: 'attach', volume: 0 })
  world.awaitInSync()
})

/** To the end of the workload; the connection has no reason to end before. */
function runConnected(world: World, workload: Workload): void {
  let lost = false
  world.observer = {
    onStatus: (_host, { connection }) => {
      lost ||= connection !== 'Connected'
    },
  }
  world.runUntil(() => workload.isDone || lost, { stepsMax: 4_000_000, what: 'the end of the workload' })
  expect(!lost, 'the connection was lost without a fault', 'progress')
  world.observer = {}
}

// Goal: writes are under way in more extents than a host keeps locks: none of these is forgotten while it is in use.
scenario(
  'more-extents-in-use-than-locks',
  {
    seeds: 10,
    world: {
      ...SLOW_DISKS,
      settings: {
        order: { name: 'lock-extents', writeNowAcks: false, coordinator: 'flag', extentBytes: 65_536, extentsMax: 16 },
        inFlightBytesMax: 4 * MIB,
      },
    },
  },
  (world) => {
    const clients = (['a', 'b'] as const).map((name) => world.client(name))
    for (let round = 0; round < 5; round++) {
      const requests: PendingRequest[] = []
      for (let extent = 0; extent < 40; extent++) {
        for (const client of clients) requests.push(client.write({ sector: 128 * extent + 8, sectors: 8 }))
        if (world.prng.chance(1, 4)) world.runFor({ ms: 1 })
      }
      for (const request of requests) world.settle(request)
    }
  },
)
